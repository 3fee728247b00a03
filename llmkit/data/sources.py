"""Finds and reads data: a path, glob, folder, hub id, bundled name, Dataset or list becomes sources of raw rows."""

import contextlib
import functools
import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from llmkit.data import bundled, encodings, readers
from llmkit.data.files import DEFAULTS, File, RawRow, state_of, suffix_of
from llmkit.data.readers import READERS, rows_of
from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest
from llmkit.hub import require_reachable
from llmkit.recipe import DataConfig, in_memory, is_row

Spec = Any
"""A data source as a user gives it: path, glob, folder, hub id, bundled name, weighted list, Dataset or rows."""


@dataclass(frozen=True)
class Source:
    """A named source of rows: `rows()` yields its raw rows."""

    name: str
    rows: Callable[[], Iterable[RawRow]]
    digest: Callable[[], str] | None = None
    weight: float = 1.0

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file's bytes, computed when first read; None for rows in memory or from the hub."""
        return self.digest and self.digest()


def find(spec: Spec, part: str, config: DataConfig = DEFAULTS) -> list[Source]:
    """Return the sources of `part` (train, validation or test) that `spec` names. Reads no rows.

    `config` says how files are read: `document`, `names` and `encoding`. Raises UsageError if there is no such source.
    """
    encodings.check(config.encoding)
    config = replace(config, names=tuple(name.strip() for joined in config.names for name in joined.split(",")))
    spec = in_memory(spec)
    if hasattr(spec, "column_names") or (isinstance(spec, (list, tuple)) and spec and is_row(spec[0])):
        kind = type(spec).__name__
        if not hasattr(spec, "__len__"):
            raise UsageError(f"data.{part}: a {kind} has no length; give a Dataset, or a file with data.streaming")
        return [Source(f"{kind} of {len(spec)} rows", lambda: rows_of(spec))]
    if isinstance(spec, (list, tuple)):
        if not spec:
            raise UsageError(f"data.{part}: the list is empty")
        return [source for entry in spec for source in _find_weighted(entry, part, config)]
    if not isinstance(spec, (str, Path)):
        raise UsageError(f"data.{part}: {spec!r} is not a path, glob, hub id, bundled name, list or Dataset")
    return _find_named(str(spec), part, config)


def read(sources: Sequence[Source]) -> list[RawRow]:
    """Return all rows of the sources. Raises UsageError if there are none, or if a row is not a mapping of columns."""
    rows = [pair for source in sources for pair in source.rows()]
    invalid = [(where, row) for where, row in rows if not isinstance(row, Mapping)][:5]
    kind = "{}, not a row of columns"
    raise_faults([f"{w}: {r if isinstance(r, ValueError) else kind.format(type(r).__name__)}" for w, r in invalid])
    if not rows:
        raise UsageError(f"{', '.join(source.name for source in sources)} is empty")
    return rows


def has_part(spec: Spec, part: str, config: DataConfig = DEFAULTS) -> bool:
    """Whether training data that is a folder, a .json file or a bundled name has a `part` of its own (a test.csv)."""
    if not isinstance(spec, (str, Path)):
        return False
    path = Path(spec).expanduser()
    with contextlib.suppress(UsageError):
        if path.is_file():
            return suffix_of(path) == ".json" and readers.has_list(File(path, part, config))
        if path.is_dir() and not (path / "state.json").exists():  # one saved Dataset has no parts
            return bool(find(path, part, config))
        return part in bundled.TEXTS.get(str(spec), ())
    return False


# -- from a spec to sources


def _find_weighted(entry: Spec, part: str, config: DataConfig) -> list[Source]:
    """The sources of an entry of a list: a spec, or `{source: …, weight: 2}`."""
    if not isinstance(entry, Mapping):
        return find(entry, part, config)
    if not {"source"} <= entry.keys() <= {"source", "weight"}:
        raise UsageError(f"data.{part}: {dict(entry)!r}; an entry of a list is a source, or {{source: …, weight: 2}}")
    weight = entry.get("weight", 1)
    if not isinstance(weight, (int, float)) or weight <= 0:
        raise UsageError(f"data.{part}: weight {weight!r} of {entry['source']!r} is not a number above 0")
    return [replace(s, weight=s.weight * weight) for s in find(entry["source"], part, config)]


def _find_named(spec: str, part: str, config: DataConfig) -> list[Source]:
    path = Path(spec).expanduser()
    if path.is_file():
        return [_file(File(path, part, config))]
    if path.is_dir():
        return _folder(path, part, config)
    name, split = split_name(spec)
    if split and Path(name).expanduser().is_file():
        return [_file(File(Path(name).expanduser(), part, config, split))]
    if any(c in spec for c in "*?") or ("[" in spec and not split):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not files:
            raise UsageError(f"data.{part}: no file matches {spec!r}")
        return [_file(File(f, part, config)) for f in files]
    parallel = [Path(p).expanduser() for p in spec.split("+")]
    if len(parallel) == 2 and any(p.is_file() for p in parallel):
        return [_parallel(spec, [File(p, part, config) for p in parallel])]
    if name in bundled.TEXTS:
        return [_bundled(name, split or part, part)]
    looks_like_file = is_readable(Path(name)) or spec.startswith((".", "/", "~")) or spec.count("/") > 1
    if looks_like_file and not spec.startswith("hub:"):
        exists = path.parent.is_dir()
        siblings = [p.name for p in path.parent.iterdir() if is_readable(p)] if exists else []
        empty = f"the folder {str(path.parent)!r} {'holds no data file' if exists else 'does not exist'}"
        raise UsageError(f"data.{part}: no file {spec!r}; {suggest(path.name, siblings) if siblings else empty}")
    return [_hub(name.removeprefix("hub:"), split or part, part, spec)]


def split_name(spec: str) -> tuple[str, str]:
    """Return `("data.json", "dev")` for data.json[dev], and an empty second part for a name without brackets."""
    match = re.fullmatch(r"([^*?]+)\[([^][]+)\]", spec)
    return (match[1], match[2]) if match else (spec, "")


def is_readable(path: Path) -> bool:
    """Whether there is a reader for a file's extension."""
    return suffix_of(path) in READERS


def _file(file: File) -> Source:
    if file.suffix not in READERS:
        raise UsageError(readers.unreadable(file.path))
    if file.list_name and file.suffix != ".json":
        raise UsageError(f"data.{file.part}: {file.path} has no lists to choose from; leave out [{file.list_name}]")
    name = str(file.path) + (f"[{file.list_name}]" if file.list_name else "")
    return Source(name, functools.partial(READERS[file.suffix], file), lambda: _file_sha256(file.path))


def _parallel(spec: str, files: Sequence[File]) -> Source:
    if missing := [str(file.path) for file in files if not file.path.is_file()]:
        raise UsageError(f"data.{files[0].part}: no file {missing[0]!r} in {spec!r}")

    def digest() -> str:
        return hashlib.sha256("".join(_file_sha256(file.path) for file in files).encode()).hexdigest()

    return Source(spec, lambda: readers.read_parallel(files, spec), digest)


def _file_sha256(path: Path) -> str:
    return _cached_sha256(*state_of(path))


def _rows_sha256(rows: list[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@functools.cache
def _cached_sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(path: Path, part: str, config: DataConfig) -> list[Source]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if part not in loaded:
                raise UsageError(f"data.{part}: {path} has no split {part!r}; it has {', '.join(loaded)}")
            loaded = loaded[part]
        return [Source(str(path), lambda: rows_of(loaded))]
    files = sorted(f for f in path.rglob("*") if f.is_file() and is_readable(f) and f.name != "SOURCE.txt")
    chosen = readers.of_part([str(file.relative_to(path)) for file in files], part)
    if not chosen:
        missing = "readable file" if part == "train" else f"{part} file"
        raise UsageError(f"data.{part}: {path} has no {missing} ({', '.join(READERS)})")
    return [_file(File(path / name, part, config)) for name in chosen]


def _bundled(name: str, split: str, part: str) -> Source:
    if split not in bundled.TEXTS[name]:
        raise UsageError(f"data.{part}: {name!r} has no split {split!r}; it has {', '.join(bundled.TEXTS[name])}")
    rows, label = bundled.read_rows(name, split), f"{name}[{split}]"
    return Source(label, lambda: rows_of(rows, f"{label} "), functools.partial(_rows_sha256, rows))


def _hub(name: str, split: str, part: str, spec: str) -> Source:
    require_reachable(f"data.{part}: {spec!r} is not a file, folder or bundled name ({', '.join(bundled.TEXTS)})")
    owner, repo, config = [*name.split("/"), "", ""][:3]
    with as_usage_error(f"data.{part}: {spec!r} cannot be loaded from the hub", Exception):  # there is no common class
        loaded = datasets.load_dataset(f"{owner}/{repo}".rstrip("/"), config or None, split=split)
    return Source(spec, lambda: rows_of(loaded))
