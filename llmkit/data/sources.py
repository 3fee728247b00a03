"""Finds and reads data: a path, glob, folder, hub id, bundled name, Dataset or list becomes sources of raw rows.

A raw row is `(where, mapping)`; an error names `where`, such as `my.jsonl line 12`. A row that cannot be parsed has a
ValueError in place of the mapping.
"""

import contextlib
import csv
import functools
import glob
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from llmkit.data import bundled, conll
from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest
from llmkit.hub import require_reachable
from llmkit.recipe import is_row

Spec = Any
"""A data source as a user gives it: path, glob, folder, hub id, bundled name, weighted list, Dataset or rows."""
RawRow = tuple[str, Any]
PART_WORDS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing"}
"""Words in a file's path that tell its part."""


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


def find(spec: Spec, part: str, document: str = "file", names: Sequence[str] = ()) -> list[Source]:
    """Return the sources of `part` (train, validation or test) that `spec` names. Reads no rows.

    `document` says what one document of a text file is; `names` are the columns of tables without a header line (.csv,
    .tsv, and .txt with tabs). Raises UsageError if there is no such source.
    """
    names = tuple(name.strip() for joined in names for name in joined.split(","))
    if hasattr(spec, "column_names") or (isinstance(spec, (list, tuple)) and spec and is_row(spec[0])):
        kind = type(spec).__name__
        if not hasattr(spec, "__len__"):
            raise UsageError(f"data.{part}: a {kind} has no length; give a Dataset, or a file with data.streaming")
        return [Source(f"{kind} of {len(spec)} rows", lambda: _rows_in_memory(spec))]
    if isinstance(spec, (list, tuple)):
        if not spec:
            raise UsageError(f"data.{part}: the list is empty")
        return [source for entry in spec for source in _find_weighted(entry, part, document, names)]
    if not isinstance(spec, (str, Path)):
        raise UsageError(f"data.{part}: {spec!r} is not a path, glob, hub id, bundled name, list or Dataset")
    return _find_named(str(spec), part, document, names)


def read(sources: Sequence[Source]) -> list[RawRow]:
    """Return all rows of the sources. Raises UsageError if there are none, or if a row is not a mapping of columns."""
    rows = [pair for source in sources for pair in source.rows()]
    invalid = [(where, row) for where, row in rows if not isinstance(row, Mapping)][:5]
    kind = "{}, not a row of columns"
    raise_faults([f"{w}: {r if isinstance(r, ValueError) else kind.format(type(r).__name__)}" for w, r in invalid])
    if not rows:
        raise UsageError(f"{', '.join(source.name for source in sources)} is empty")
    return rows


def has_part(spec: Spec, part: str) -> bool:
    """Whether training data that is a folder or a bundled name has a `part` of its own, such as a test.csv."""
    if not isinstance(spec, (str, Path)):
        return False
    folder = Path(spec).expanduser()
    if not folder.is_dir() or (folder / "state.json").exists():  # one saved Dataset has no parts
        return part in bundled.TEXTS.get(str(spec), ())
    with contextlib.suppress(UsageError):
        return bool(find(folder, part))
    return False


# -- from a spec to sources


def _find_weighted(entry: Spec, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    """The sources of an entry of a list: a spec, or `{source: …, weight: 2}`."""
    if not isinstance(entry, Mapping):
        return find(entry, part, document, names)
    if not {"source"} <= entry.keys() <= {"source", "weight"}:
        raise UsageError(f"data.{part}: {dict(entry)!r}; an entry of a list is a source, or {{source: …, weight: 2}}")
    weight = entry.get("weight", 1)
    if not isinstance(weight, (int, float)) or weight <= 0:
        raise UsageError(f"data.{part}: weight {weight!r} of {entry['source']!r} is not a number above 0")
    return [replace(s, weight=s.weight * weight) for s in find(entry["source"], part, document, names)]


def _find_named(spec: str, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    path = Path(spec).expanduser()
    if path.is_file():
        return [_file(path, document, names)]
    if path.is_dir():
        return _folder(path, part, document, names)
    if any(c in spec for c in "*?") or ("[" in spec and not spec.endswith("]")):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not files:
            raise UsageError(f"data.{part}: no file matches {spec!r}")
        return [_file(f, document, names) for f in files]
    name, _, split = spec.removesuffix("]").partition("[")
    if name in bundled.TEXTS:
        return [_bundled(name, split or part, part)]
    looks_like_file = bool(_suffix(path)) or spec.startswith((".", "/", "~")) or spec.count("/") > 1
    if looks_like_file and not spec.startswith("hub:"):
        exists = path.parent.is_dir()
        siblings = [p.name for p in path.parent.iterdir() if _suffix(p)] if exists else []
        empty = f"the folder {str(path.parent)!r} {'holds no data file' if exists else 'does not exist'}"
        raise UsageError(f"data.{part}: no file {spec!r}; {suggest(path.name, siblings) if siblings else empty}")
    return [_hub(name.removeprefix("hub:"), split or part, part, spec)]


def _file(path: Path, document: str, names: tuple[str, ...]) -> Source:
    if not (suffix := _suffix(path)):
        kind = path.suffix or "a file without an extension"
        raise UsageError(f"{path}: cannot read {kind}; readable: {', '.join(READERS)} (and .gz, .zst)")
    read_rows = functools.partial(READERS[suffix], path)
    if names and suffix in DELIMITERS:
        read_rows = functools.partial(_read_csv, path, names)
    elif suffix in (".txt", ".md"):
        read_rows = functools.partial(_read_text, path, document)
    return Source(str(path), read_rows, functools.partial(_file_sha256, path))


def _file_sha256(path: Path) -> str:
    stat = path.stat()
    return _cached_sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def _rows_sha256(rows: list[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@functools.cache
def _cached_sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _suffix(path: Path) -> str:
    """`.jsonl` for a.jsonl, b.jsonl.gz and c.JSONL.zst; empty if there is no reader for it."""
    suffixes = [s for s in map(str.lower, path.suffixes) if s not in (".gz", ".zst")]
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else ""


def _folder(path: Path, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if part not in loaded:
                raise UsageError(f"data.{part}: {path} has no split {part!r}; it has {', '.join(loaded)}")
            loaded = loaded[part]
        return [Source(str(path), lambda: _rows_in_memory(loaded))]
    files = sorted(f for f in path.rglob("*") if f.is_file() and _suffix(f) and f.name != "SOURCE.txt")
    words = {f: set(re.split(r"[^a-z]+", str(f.relative_to(path)).lower())) for f in files}
    parts = {f: next((p for p, known in PART_WORDS.items() if words[f] & {*known.split()}), None) for f in files}
    chosen = [f for f in files if parts[f] == part]
    if part == "train" and not chosen:
        chosen = [f for f in files if parts[f] is None]  # never the files of another part
    if not chosen:
        missing = "readable file" if part == "train" else f"{part} file"
        raise UsageError(f"data.{part}: {path} has no {missing} ({', '.join(READERS)})")
    return [_file(f, document, names) for f in chosen]


def _bundled(name: str, split: str, part: str) -> Source:
    if split not in bundled.TEXTS[name]:
        raise UsageError(f"data.{part}: {name!r} has no split {split!r}; it has {', '.join(bundled.TEXTS[name])}")
    rows, label = bundled.read_rows(name, split), f"{name}[{split}]"
    return Source(label, lambda: _rows_in_memory(rows, f"{label} "), functools.partial(_rows_sha256, rows))


def _hub(name: str, split: str, part: str, spec: str) -> Source:
    require_reachable(f"data.{part}: {spec!r} is not a file, folder or bundled name ({', '.join(bundled.TEXTS)})")
    owner, repo, config = [*name.split("/"), "", ""][:3]
    with as_usage_error(f"data.{part}: {spec!r} cannot be loaded from the hub", Exception):  # there is no common class
        loaded = datasets.load_dataset(f"{owner}/{repo}".rstrip("/"), config or None, split=split)
    return Source(spec, lambda: _rows_in_memory(loaded))


def _rows_in_memory(rows: Any, prefix: str = "") -> Iterator[RawRow]:
    """The rows of a list or Dataset; class labels become their names."""
    features = {k: getattr(f, "feature", f) for k, f in (getattr(rows, "features", None) or {}).items()}
    labels = {k: f for k, f in features.items() if hasattr(f, "int2str")}  # of a column, or of the lists in it

    def label_name(column: str, value: Any) -> Any:
        if isinstance(value, list):
            return [label_name(column, v) for v in value]
        return labels[column].int2str(value) if value is not None and value >= 0 else value

    for i, row in enumerate(rows, 1):
        yield f"{prefix}row {i}", {k: label_name(k, v) if k in labels else v for k, v in row.items()}


# -- readers of files


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a UTF-8 text file, optionally compressed (.gz, .zst), without its byte-order mark."""
    return io.TextIOWrapper(pa.input_stream(str(path), compression="detect"), encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their line ends. Raises UsageError if it cannot be read."""
    try:
        with open_text(path) as file:
            yield from file
    except UnicodeDecodeError:
        raise UsageError(f"{path}: {_encoding_fault(path)}") from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e})") from None


def _encoding_fault(path: Path) -> str:
    """The first byte that is not UTF-8, counted from the beginning of the uncompressed file, and the fix."""
    try:
        pa.input_stream(str(path), compression="detect").read().decode()
    except UnicodeDecodeError as e:
        at, byte = e.start, e.object[e.start]
        other = "UTF-16" if at == 0 and byte >= 0xFE else "GB18030"  # a byte-order mark of UTF-16
        return f"byte {at} is not UTF-8 (0x{byte:02x}); convert it first, for example: iconv -f {other} -t UTF-8"
    return "changed while it was read"


def _read_text(path: Path, document: str = "file") -> Iterator[RawRow]:
    if document == "file":
        yield str(path), {"text": "".join(_lines(path))}
    elif document == "paragraph":
        for block in conll.blocks(_lines(path)):
            yield f"{path} line {block[0][0]}", {"text": "\n".join(line for _, line in block)}
    else:
        lines = ((i, line.rstrip("\r\n")) for i, line in enumerate(_lines(path), 1))
        yield from ((f"{path} line {i}", {"text": line}) for i, line in lines if line.strip())


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    for i, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as e:
                row = ValueError(f"not JSON ({e.msg} at column {e.colno})")
            yield f"{path} line {i}", row


def _read_json(path: Path) -> Iterator[RawRow]:
    try:
        content = json.loads("".join(_lines(path)))
    except json.JSONDecodeError as e:
        if e.msg == "Extra data":  # one row per line, in a file that is named .json
            yield from _read_jsonl(path)
            return
        raise UsageError(f"{path} line {e.lineno}: not JSON ({e.msg})") from None
    if isinstance(content, Mapping):
        content = next((v for v in content.values() if isinstance(v, list)), None)
    if not isinstance(content, list):
        raise UsageError(f"{path}: neither a list of rows nor a mapping that holds one")
    yield from ((f"{path} row {i}", row) for i, row in enumerate(content, 1))


def _read_csv(path: Path, names: tuple[str, ...] = ()) -> Iterator[RawRow]:
    """The rows of a table, with the columns of its first line, or `names` if it has no header line."""
    csv.field_size_limit(2**31 - 1)
    quoting = csv.QUOTE_NONE if _suffix(path) == ".txt" else csv.QUOTE_MINIMAL  # a quote in .txt is a character
    reader = csv.reader(_lines(path), delimiter=DELIMITERS[_suffix(path)], quoting=quoting, strict=True)
    try:
        header = names or next(reader, ())
        if len(header) == 1 and not names and (other := next((c for c in ";\t|" if c in header[0]), None)):
            raise UsageError(f"{path}: columns are separated by {other!r}; save it with commas, or with tabs as .tsv")
        if duplicates := sorted({repr(name) for name in header if header.count(name) > 1}):
            raise UsageError(f"{path}: {', '.join(duplicates)} is in the header twice; name each column once")
        for values in filter(None, reader):
            where = f"{path} line {reader.line_num}"
            if tuple(values) == names:
                raise UsageError(f"{where}: is a header line; leave out data.names")
            if len(values) != len(header):  # csv.DictReader would accept it
                owner = "data.names" if names else "the header"
                yield where, ValueError(f"{len(values)} fields where {owner} has {len(header)}")
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as e:
        raise UsageError(f"{path} line {reader.line_num}: not CSV ({e})") from None


def _read_table(path: Path) -> Iterator[RawRow]:
    try:
        if _suffix(path) == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            with pa.memory_map(str(path)) as file:
                is_file = file.read_at(6, 0) == b"ARROW1"  # Arrow's file format; `datasets` writes the stream format
                table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()
        loaded = datasets.Dataset(table)
    except (pa.ArrowInvalid, OSError) as e:
        raise UsageError(f"{path}: not {_suffix(path)[1:]} ({str(e).splitlines()[0]})") from None
    return _rows_in_memory(loaded, f"{path} ")


DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
"""Delimiters of tables; a .txt file is one if `names` are given."""
CONLL = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".annotated")
READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    **dict.fromkeys((".txt", ".md"), _read_text),
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    **dict.fromkeys((".parquet", ".arrow"), _read_table),
    ".conllu": lambda path: conll.read_conllu(str(path), _lines(path)),
    **dict.fromkeys(CONLL, lambda path: conll.read_columns(str(path), _lines(path))),
}
"""The reader of each file name extension."""
