"""What can be read: a spec (path, glob, folder, hub id, bundled name, Dataset, rows) becomes named sources of raw rows.

A raw row leaves here as `(where, mapping)`; `where` is what an error names: `my.jsonl line 12`.
"""

import csv
import functools
import glob as globbing
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmkit.data import conll
from llmkit.errors import RecipeError, raise_faults, refusing, suggest
from llmkit.recipe import is_row

Row = tuple[str, Mapping[str, Any]]
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing"},
}


MARKS_16 = ((0, 0xFF), (0, 0xFE))  # where UTF-8 ends in a UTF-16 file: at its byte-order mark


@dataclass(frozen=True)
class Source:
    """One thing to read: `rows()` yields its raw rows, `sha256` says which bytes they come from."""

    name: str
    rows: Callable[[], Iterable[Row]]
    sha256: str | None
    weight: float = 1.0


def find(spec: Any, part: str, document: str = "file", names: Sequence[str] = ()) -> list[Source]:
    """The sources that `spec` names for `part` (train, validation, test). `names` are the columns of tables without a
    header line (.csv, .tsv, and .txt with tabs). Raises RecipeError."""
    names = tuple(name.strip() for given in names for name in given.split(","))
    in_memory = hasattr(spec, "column_names") or (isinstance(spec, (list, tuple)) and spec and is_row(spec[0]))
    if in_memory:
        if not hasattr(spec, "__len__"):
            kind = type(spec).__name__
            raise RecipeError(f"data.{part}: a {kind} has no length; give a Dataset, or a file with data.streaming")
        return [Source(f"{type(spec).__name__} of {len(spec)} rows", lambda: _from_memory(spec), None)]
    if isinstance(spec, (list, tuple)):
        if not spec:
            raise RecipeError(f"data.{part}: an empty list")
        return [source for entry in spec for source in _weighted(entry, part, document, names)]
    if not isinstance(spec, (str, Path)):
        raise RecipeError(f"data.{part}: {spec!r} is no path, glob, hub id, bundled name, list or Dataset")
    return _find_named(str(spec), part, document, names)


def read(found: Sequence[Source]) -> list[Row]:
    """Every row of the sources. Raises RecipeError for what is no row of columns, and where there is none."""
    rows = [pair for source in found for pair in source.rows()]
    bad = [(where, row) for where, row in rows if not isinstance(row, Mapping)]
    is_none = "{}, not a row of columns"
    raise_faults([f"{w}: {r if isinstance(r, ValueError) else is_none.format(type(r).__name__)}" for w, r in bad[:5]])
    if not rows:
        raise RecipeError(f"{', '.join(source.name for source in found)}: is empty")
    return rows


def _weighted(entry: Any, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    """The sources of an entry of a list: a spec, or `{source: …, weight: 2}`."""
    if not isinstance(entry, Mapping):
        return find(entry, part, document, names)
    if not {"source"} <= entry.keys() <= {"source", "weight"}:
        raise RecipeError(f"data.{part}: {dict(entry)!r}; an entry of a list is a source, or {{source: …, weight: 2}}")
    weight = entry.get("weight", 1)
    if not isinstance(weight, (int, float)) or weight <= 0:
        raise RecipeError(f"data.{part}: weight {weight!r} of {entry['source']!r} is not a number above 0")
    return [replace(s, weight=s.weight * weight) for s in find(entry["source"], part, document, names)]


def _find_named(spec: str, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    path = Path(spec).expanduser()
    if path.is_file():
        return [_file(path, document, names)]
    if path.is_dir():
        return _folder(path, part, document, names)
    if any(c in spec for c in "*?") or ("[" in spec and not spec.endswith("]")):
        files = sorted(Path(p) for p in globbing.glob(str(path), recursive=True) if Path(p).is_file())
        if not files:
            raise RecipeError(f"data.{part}: no file matches {spec!r}")
        return [_file(f, document, names) for f in files]
    from llmkit.models import bundled  # here: the room of models imports torch

    name, _, split = spec.removesuffix("]").partition("[")
    if name in bundled.TEXTS:
        return [_bundled(name, split or part, part)]
    looks_like_file = bool(_suffix(path)) or spec.startswith((".", "/", "~")) or spec.count("/") > 1
    if looks_like_file and not spec.startswith("hub:"):
        there = path.parent.is_dir()
        around = [p.name for p in path.parent.iterdir()] if there else []
        missing = f"the folder {str(path.parent)!r} {'is empty' if there else 'does not exist'}"
        hint = suggest(path.name, around) if around else missing
        raise RecipeError(f"data.{part}: no file {spec!r}; {hint}")
    return [_hub(name.removeprefix("hub:"), split or part, part, spec)]


def _bundled(name: str, split: str, part: str) -> Source:
    from llmkit.models import bundled

    if split not in bundled.TEXTS[name]:
        raise RecipeError(f"data.{part}: {name!r} has no split {split!r}; it has {', '.join(bundled.TEXTS[name])}")
    rows, label = bundled.read_text(name, split), f"{name}[{split}]"
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    return Source(label, lambda: ((f"{label} row {i}", row) for i, row in enumerate(rows, 1)), digest)


def _suffix(path: Path) -> str:
    """`.jsonl` of a.jsonl, b.jsonl.gz and c.JSONL.zst; empty where llmkit has no reader for it."""
    suffixes = [s for s in map(str.lower, path.suffixes) if s not in (".gz", ".zst")]
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else ""


def _file(path: Path, document: str, names: tuple[str, ...] = ()) -> Source:
    suffix = _suffix(path)
    if not suffix:
        what = path.suffix or "a file without ending"
        raise RecipeError(f"{path}: cannot read {what}; readable: {', '.join(READERS)} (and .gz, .zst)")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    read = functools.partial(READERS[suffix], path)
    if names and suffix in TABLES:
        read = functools.partial(_read_csv, path, *TABLES[suffix], names)
    elif suffix in (".txt", ".md"):
        read = functools.partial(_read_text, path, document)
    return Source(str(path), read, digest)


def _folder(path: Path, part: str, document: str, names: tuple[str, ...]) -> list[Source]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        import datasets

        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if part not in loaded:
                raise RecipeError(f"data.{part}: {path} has no split {part!r}; it has {', '.join(loaded)}")
            loaded = loaded[part]
        return [Source(str(path), lambda: _from_memory(loaded), None)]
    files = sorted(f for f in path.rglob("*") if f.is_file() and _suffix(f) and f.name != "SOURCE.txt")
    words = {f: set(re.split(r"[^a-z]+", str(f.relative_to(path)).lower())) for f in files}
    of = {f: next((p for p, known in SPLIT_WORDS.items() if known & words[f]), None) for f in files}
    chosen = [f for f in files if of[f] == part]
    if part == "train" and not chosen:
        chosen = [f for f in files if of[f] is None]  # files that name no part; never those of another
    if not chosen:
        what = "file to read" if part == "train" else f"{part} file"
        raise RecipeError(f"data.{part}: {path} holds no {what} ({', '.join(READERS)})")
    return [_file(f, document, names) for f in chosen]


def has_part(spec: Any, part: str) -> bool:
    """Whether what is given as training data, a folder or a bundled name, holds a part of its own (`test.csv` beside
    `train.csv`)."""
    from llmkit.models import bundled

    if not isinstance(spec, (str, Path)):
        return False
    folder = Path(spec).expanduser()
    if not folder.is_dir() or (folder / "state.json").exists():  # one saved Dataset: all of it is what was asked for
        return part in bundled.TEXTS.get(str(spec), ())
    try:
        return bool(find(folder, part))
    except RecipeError:
        return False


def _from_memory(rows: Any) -> Iterator[Row]:
    features = {k: getattr(f, "feature", f) for k, f in (getattr(rows, "features", None) or {}).items()}
    labels = {k: f for k, f in features.items() if hasattr(f, "int2str")}  # of the column, or of the lists in it

    def named(column: str, value: Any) -> Any:
        if isinstance(value, list):
            return [named(column, v) for v in value]
        return labels[column].int2str(value) if value is not None and value >= 0 else value

    for i, row in enumerate(rows, 1):
        yield f"row {i}", {k: named(k, v) if k in labels else v for k, v in row.items()}


def _hub(name: str, split: str, part: str, spec: str) -> Source:
    from llmkit.models import bundled, hub

    hub.require_reachable(f"data.{part}: {spec!r} is no file, folder or bundled name ({', '.join(bundled.TEXTS)})")
    import datasets

    owner, repo, config = [*name.split("/"), "", ""][:3]
    with refusing(f"data.{part}: {spec!r} cannot be had from the hub", Exception):  # they have no common class
        loaded = datasets.load_dataset(f"{owner}/{repo}".rstrip("/"), config or None, split=split)
    return Source(spec, lambda: _from_memory(loaded), None)


def open_text(path: Path) -> io.TextIOWrapper:
    """A text file, plain or packed."""
    import pyarrow

    # pyarrow unpacks .gz and .zst by the file's ending; a byte-order mark is no text
    return io.TextIOWrapper(pyarrow.input_stream(str(path), compression="detect"), encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with their ends. Raises RecipeError."""
    try:
        with open_text(path) as file:
            yield from file
    except UnicodeDecodeError:
        at, byte = _first_bad_byte(path)
        what, other = f"byte {at} is not UTF-8 (0x{byte:02x})", "UTF-16" if (at, byte) in MARKS_16 else "GB18030"
        raise RecipeError(f"{path}: {what}; convert it first, such as: iconv -f {other} -t UTF-8") from None
    except OSError as e:
        raise RecipeError(f"{path}: cannot be read ({e})") from None


def _first_bad_byte(path: Path) -> tuple[int, int]:
    """Where in the (unpacked) file UTF-8 ends, counted from its beginning, and the byte there."""
    import pyarrow

    content = pyarrow.input_stream(str(path), compression="detect").read()
    try:
        content.decode()
    except UnicodeDecodeError as e:
        return e.start, content[e.start]
    return len(content), 0


def _read_text(path: Path, document: str = "file") -> Iterator[Row]:
    if document == "file":
        yield str(path), {"text": "".join(_lines(path))}
    elif document == "paragraph":
        for block in conll.blocks(_lines(path)):
            yield f"{path} line {block[0][0]}", {"text": "\n".join(line for _, line in block)}
    else:
        lines = ((i, line.rstrip("\r\n")) for i, line in enumerate(_lines(path), 1))
        yield from ((f"{path} line {i}", {"text": line}) for i, line in lines if line.strip())


def _read_jsonl(path: Path) -> Iterator[Row]:
    for i, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as e:
                row = ValueError(f"not JSON ({e.msg} at column {e.colno})")
            yield f"{path} line {i}", row


def _read_json(path: Path) -> Iterator[Row]:
    try:
        content = json.loads("".join(_lines(path)))
    except json.JSONDecodeError as e:
        if e.msg == "Extra data":  # a row a line under the wrong name
            yield from _read_jsonl(path)
            return
        raise RecipeError(f"{path} line {e.lineno}: not JSON ({e.msg})") from None
    if isinstance(content, Mapping):
        content = next((v for v in content.values() if isinstance(v, list)), None)
    if not isinstance(content, list):
        raise RecipeError(f"{path}: neither a list of rows nor a mapping that holds one")
    yield from ((f"{path} row {i}", row) for i, row in enumerate(content, 1))


def _read_csv(path: Path, cut: str = ",", quoting: Any = csv.QUOTE_MINIMAL, names: Sequence[str] = ()) -> Iterator[Row]:
    """A table's rows, by the names in its first line, or by `names` where it has no such line."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_lines(path), delimiter=cut, quoting=quoting, strict=True)
    try:
        header = names or next(reader, ())
        if len(header) == 1 and not names and (sign := next((c for c in ";\t|" if c in header[0]), None)):
            raise RecipeError(f"{path}: its columns are parted by {sign!r}; save it with commas, or with tabs as .tsv")
        if twice := sorted({repr(name) for name in header if header.count(name) > 1}):
            raise RecipeError(f"{path}: {', '.join(twice)} stands twice in the header; name each column once")
        for values in filter(None, reader):
            where = f"{path} line {reader.line_num}"
            if tuple(values) == names:
                raise RecipeError(f"{where}: is a header itself; leave out data.names")
            if len(values) != len(header):  # the stock reader shifts such a row silently
                owner = "data.names" if names else "the header"
                yield where, ValueError(f"{len(values)} fields where {owner} has {len(header)}")
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as e:
        raise RecipeError(f"{path} line {reader.line_num}: not CSV ({e})") from None


def _read_table(path: Path) -> Iterator[Row]:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if _suffix(path) == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            with pa.memory_map(str(path)) as file:
                is_file = file.read_at(6, 0) == b"ARROW1"  # Arrow's file format; `datasets` writes the stream format
                table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()
        loaded = datasets.Dataset(table)
    except (pa.ArrowInvalid, OSError) as e:
        raise RecipeError(f"{path}: not {_suffix(path)[1:]} ({str(e).splitlines()[0]})") from None
    return ((f"{path} {where}", row) for where, row in _from_memory(loaded))


TABLES: dict[str, tuple[str, Any]] = {  # without a header: what parts the fields, and whether quotes may enclose one
    ".csv": (",", csv.QUOTE_MINIMAL),
    ".tsv": ("\t", csv.QUOTE_MINIMAL),
    ".txt": ("\t", csv.QUOTE_NONE),
}
CONLL = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".annotated")
READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": functools.partial(_read_csv, cut="\t"),
    ".parquet": _read_table,
    ".arrow": _read_table,
    ".conllu": lambda path: conll.read_conllu(str(path), _lines(path)),
    **dict.fromkeys(CONLL, lambda path: conll.read_columns(str(path), _lines(path))),
}
