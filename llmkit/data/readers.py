"""Readers of files, one for each format: a file becomes raw rows.

A raw row is `(where, mapping)`; an error names `where`, such as `my.jsonl line 12`. A row that cannot be parsed has a
ValueError in place of the mapping.
"""

import csv
import functools
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from llmkit.data import conll, encodings
from llmkit.errors import UsageError
from llmkit.log import log, plural
from llmkit.recipe import DataConfig

RawRow = tuple[str, Any]
DEFAULTS = DataConfig()
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""File name extensions of compressed files, and the name of the compression."""
PART_WORDS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing"}
"""Words in the path of a file, or in the name of a list in a .json file, that tell its part."""


@dataclass(frozen=True)
class File:
    """A file, the part that it is read for, and the name of one of its lists (.json)."""

    path: Path
    part: str
    config: DataConfig = DEFAULTS
    list_name: str = ""

    @property
    def suffix(self) -> str:
        return suffix_of(self.path)

    def lines(self, newline: str = "") -> Iterator[str]:
        """Yield the lines of a text file with their ends. Raises UsageError if it cannot be read."""
        return _lines(self.path, self.config.encoding, newline)


def suffix_of(path: Path) -> str:
    """Return `.jsonl` for a.jsonl, b.jsonl.gz and c.JSONL.zst; empty if there is no reader for it."""
    suffixes = [s for s in map(str.lower, path.suffixes) if s not in COMPRESSED]
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else ""


def state_of(path: Path) -> tuple[Path, int, int]:
    """Return what changes with a file, as the key of what is remembered of it."""
    stat = path.stat()
    return path.resolve(), stat.st_size, stat.st_mtime_ns


def of_part(names: Iterable[str], part: str) -> list[str]:
    """Return the names that have a word for `part`; for train, if there are none, those without a word for any part."""
    words = {name: set(re.split(r"[^a-z]+", name.lower())) for name in names}
    parts = {
        name: next((p for p, known in PART_WORDS.items() if words[name] & {*known.split()}), None) for name in words
    }
    chosen = [name for name in parts if parts[name] == part]
    return chosen or [name for name in parts if part == "train" and parts[name] is None]


def unreadable(path: Path) -> str:
    """Say why a file cannot be read, and what to do."""
    last = path.suffix.lower()
    if last == ".xlsx":
        code = f"pandas.read_excel({str(path)!r}, dtype=str, keep_default_na=False).to_csv({path.stem + '.csv'!r}, index=False)"
        return f'{path}: convert its first sheet: pip install openpyxl && python -c "import pandas; {code}"'
    kind = Path(path.stem).suffix if last in COMPRESSED else path.suffix
    fault = (
        f"{path}: cannot read {kind or 'a file without an extension'}; readable: {', '.join(READERS)} (and .gz, .zst)"
    )
    if last in COMPRESSED:
        fault += f"; rename lines of text to {path.stem}.txt{last}, or give parallel files as SOURCE+TARGET"
    return fault


# -- text


def open_text(path: Path, encoding: str = "utf-8-sig", newline: str = "") -> io.TextIOWrapper:
    """Open a text file, optionally compressed (.gz, .zst)."""
    file = pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower()))
    return io.TextIOWrapper(file, encoding, newline=newline)


def _lines(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    """Yield the lines of a text file, without its byte-order mark. Raises UsageError if it cannot be read."""
    try:
        with open_text(path, encoding, newline) as file:
            first = next(file, "")
            if "\0" in first and encodings.by_zeros(first.encode()):
                raise UnicodeError
            yield first.removeprefix("\ufeff")
            yield from file
    except UnicodeError:
        content = pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower())).read()
        raise UsageError(f"{path}: {encodings.fault(content, encoding)}") from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e})") from None


def _read_text(file: File) -> Iterator[RawRow]:
    if file.config.names and file.suffix == ".txt":
        yield from _read_csv(file)
    elif file.config.document == "file":
        yield str(file.path), {"text": "".join(file.lines())}
    elif file.config.document == "paragraph":
        for block in conll.blocks(file.lines()):
            yield f"{file.path} line {block[0][0]}", {"text": "\n".join(line for _, line in block)}
    else:
        lines = ((i, line.rstrip("\r\n")) for i, line in enumerate(file.lines(), 1))
        yield from ((f"{file.path} line {i}", {"text": line}) for i, line in lines if line.strip())


def read_parallel(files: Sequence[File], name: str) -> Iterator[RawRow]:
    """Yield `{source, target}` for each line of two files, or the columns of `data.names`; lines empty in both are left
    out. Raises UsageError if one has more lines."""
    columns = files[0].config.names or ("source", "target")
    counts = [sum(1 for _ in file.lines("\n")) for file in files]
    if len(columns) != len(files):
        raise UsageError(f"data.names: {plural(len(columns), 'name')} for the {len(files)} files of {name}")
    if len(set(counts)) > 1:
        each = " and ".join(f"{file.path} has {plural(n, 'line')}" for file, n in zip(files, counts, strict=True))
        raise UsageError(f"{each}; line i of one must be the translation of line i of the other")
    for i, lines in enumerate(zip(*(file.lines("\n") for file in files), strict=True), 1):
        if any(line.strip() for line in lines):
            yield f"{name} line {i}", dict(zip(columns, (line.rstrip("\r\n") for line in lines), strict=True))


# -- JSON


def _read_jsonl(file: File) -> Iterator[RawRow]:
    for i, line in enumerate(file.lines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as e:
                row = ValueError(f"not JSON ({e.msg} at column {e.colno})")
            yield f"{file.path} line {i}", row


def _read_json(file: File) -> Iterator[RawRow]:
    path, lists = file.path, _lists(file)
    if not lists:  # one row per line, in a file that is named .json
        yield from _read_jsonl(file)
        return
    names = [*lists] if len(lists) == 1 else of_part(lists, file.part)
    names = [file.list_name] if file.list_name else names
    if len(names) != 1:
        choices = ", ".join(f"'{path}[{name}]'" for name in lists)
        raise UsageError(f"data.{file.part}: {path} holds several lists of rows; give one of them: {choices}")
    if names[0] not in lists:
        raise UsageError(f"data.{file.part}: {path} has no list {names[0]!r} but {', '.join(lists) or 'one list'}")
    yield from ((f"{path} row {i}", row) for i, row in enumerate(lists[names[0]], 1))


def has_list(file: File) -> bool:
    """Whether a .json file that holds several lists of rows has one for the part."""
    lists = _lists(file)
    return len(lists) > 1 and len(of_part(lists, file.part)) == 1


def _lists(file: File) -> dict[str, list[Any]]:
    """Return the lists of rows in a .json file by their keys: of a list alone, the key is empty. Of a row per line, {}."""
    try:
        content = json.loads("".join(file.lines()))
    except json.JSONDecodeError as e:
        if e.msg == "Extra data":
            return {}
        raise UsageError(f"{file.path} line {e.lineno}: not JSON ({e.msg})") from None
    content = {"": content} if isinstance(content, list) else content if isinstance(content, Mapping) else {}
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    of_rows = {key: value for key, value in lists.items() if value and isinstance(value[0], Mapping)}
    if not of_rows and len(lists) != 1:
        raise UsageError(f"{file.path}: neither a list of rows nor a mapping that holds one")
    return of_rows or lists


# -- tables


def _read_csv(file: File) -> Iterator[RawRow]:
    """The rows of a table, with the columns of its first line, or `data.names` if it has no header line."""
    rows = _read_cells(file)
    first = next(rows, None)
    if first and isinstance(first[1], Mapping) and conll.WORD_TABLE.keys() <= {n.strip().lower() for n in first[1]}:
        yield from conll.read_word_table(itertools.chain([first], rows))
    elif first:
        yield from itertools.chain([first], rows)


def _read_cells(file: File) -> Iterator[RawRow]:
    path, names, delimiter = file.path, file.config.names, DELIMITERS[file.suffix]
    csv.field_size_limit(2**31 - 1)
    quoting, doubtful = csv.QUOTE_NONE, 0
    if file.suffix != ".txt":
        quoting, doubtful = _quoting(*state_of(path), file.config.encoding, delimiter)
    if doubtful:
        raise UsageError(f"{path} line {doubtful}: ends a quoted field that holds whole rows; {_conversion(file)}")
    reader = csv.reader(file.lines(), delimiter=delimiter, quoting=quoting, strict=True)
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
        raise UsageError(f"{path} line {reader.line_num}: not CSV ({e}); {_conversion(file)}") from None


@functools.cache
def _quoting(path: Path, size: int, modified: int, encoding: str, delimiter: str) -> tuple[int, int]:
    """Return how csv reads the quotes of a table, and a line from which on both ways may be meant, or 0.

    In a .tsv file a quote is a character (GLUE, WMT) if any in it does not enclose a field as in CSV. Both may be meant
    if a quoted field holds lines that are rows by themselves, and no line of the file has too many fields for a row.
    """
    cell = rf'(?:[^"{delimiter}\r\n]*+|"(?:[^"]|"")*+")'
    quoted_row = re.compile(rf"{cell}(?:{delimiter}{cell})*+[\r\n]*")
    taken: list[str] = []
    width = most = doubtful = 0

    def lines() -> Iterator[str]:
        for line in _lines(path, encoding):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        for values in reader:
            widths = {line.count(delimiter) + 1 for line in taken}
            width, most = width or len(values), max(most, *widths)
            if delimiter == "\t" and not quoted_row.fullmatch("".join(taken)):
                raise csv.Error
            if len(taken) > 1 and widths == {width} and any(delimiter in value for value in values):
                doubtful = doubtful or reader.line_num
            taken.clear()
    except csv.Error:
        if delimiter == "\t":
            log(f"{path}: quotes are read as characters (line {reader.line_num} is not quoted as in CSV)", "data")
            return csv.QUOTE_NONE, 0
    return csv.QUOTE_MINIMAL, doubtful if most == width else 0


def _conversion(file: File) -> str:
    """The command that makes a table with quotes as characters a .jsonl file, where nothing is quoted."""
    names, delimiter, encoding = file.config.names, DELIMITERS[file.suffix], file.config.encoding
    options = f"sep={delimiter!r}, encoding={encoding!r}, dtype=str, keep_default_na=False"
    options += f", names={[*names]}" if names else ""
    write = f"to_json({file.path.name.partition('.')[0] + '.jsonl'!r}, orient='records', lines=True)"
    code = f"import pandas; pandas.read_csv({str(file.path)!r}, {options}, quoting=3).{write}"
    return f'if a quote is a character here: python -c "{code}"; if not, leave out quoting=3'


# -- Arrow


def rows_of(rows: Any, prefix: str = "") -> Iterator[RawRow]:
    """Yield the rows of a list or Dataset; class labels become their names."""
    features = {k: getattr(f, "feature", f) for k, f in (getattr(rows, "features", None) or {}).items()}
    labels = {k: f for k, f in features.items() if hasattr(f, "int2str")}  # of a column, or of the lists in it

    def label_name(column: str, value: Any) -> Any:
        if isinstance(value, list):
            return [label_name(column, v) for v in value]
        return labels[column].int2str(value) if value is not None and value >= 0 else value

    for i, row in enumerate(rows, 1):
        yield f"{prefix}row {i}", {k: label_name(k, v) if k in labels else v for k, v in row.items()}


def _read_table(file: File) -> Iterator[RawRow]:
    path = file.path
    try:
        if file.suffix == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            with pa.memory_map(str(path)) as mapped:
                is_file = mapped.read_at(6, 0) == b"ARROW1"  # Arrow's file format; `datasets` writes the stream format
                table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped).read_all()
        loaded = datasets.Dataset(table)
    except (pa.ArrowInvalid, OSError) as e:
        raise UsageError(f"{path}: not {file.suffix[1:]} ({str(e).splitlines()[0]})") from None
    return rows_of(loaded, f"{path} ")


DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
"""Delimiters of tables; a .txt file is one if `data.names` are given."""
CONLL = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".annotated")
READERS: dict[str, Callable[[File], Iterator[RawRow]]] = {
    **dict.fromkeys((".txt", ".md"), _read_text),
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    **dict.fromkeys((".parquet", ".arrow"), _read_table),
    ".conllu": lambda file: conll.read_conllu(str(file.path), file.lines()),
    **dict.fromkeys(CONLL, lambda file: conll.read_columns(str(file.path), file.lines())),
}
"""The reader of each file name extension."""
