"""Readers of files, one for each format: a file becomes raw rows.

A raw row is `(where, mapping)`; an error names `where`, such as `my.jsonl line 12`. A row that cannot be parsed has a
ValueError in place of the mapping.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet

from llmkit.data import conll, tables
from llmkit.data.files import COMPRESSED, File, RawRow
from llmkit.errors import UsageError
from llmkit.log import plural
from llmkit.recipe import in_memory

PART_WORDS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing"}
"""Words in the path of a file, or in the name of a list in a .json file, that tell its part."""


def of_part(names: Iterable[str], part: str) -> list[str]:
    """Return the names that have a word for `part`; for train, if there are none, those without a word for any part."""
    words = {name: set(re.split(r"[^a-z]+", name.lower())) for name in names}
    parts = {
        name: next((p for p, known in PART_WORDS.items() if own & {*known.split()}), "") for name, own in words.items()
    }
    chosen = [name for name in parts if parts[name] == part]
    return chosen or [name for name in parts if part == "train" and not parts[name]]


def unreadable(path: Path) -> str:
    """Say why a file cannot be read, and what to do."""
    last = path.suffix.lower()
    if last == ".xlsx":
        code = f"pandas.read_excel({str(path)!r}, dtype=str, keep_default_na=False).to_csv({path.stem + '.csv'!r}, index=False)"
        return f'{path}: convert its first sheet: pip install openpyxl && python -c "import pandas; {code}"'
    kind = (Path(path.stem).suffix if last in COMPRESSED else path.suffix) or "a file without an extension"
    fault = f"{path}: cannot read {kind}; readable: {', '.join(READERS)} (and .gz, .zst)"
    if last in COMPRESSED:
        fault += f"; rename lines of text to {path.stem}.txt{last}, or give parallel files as SOURCE+TARGET"
    return fault


# -- text


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
    rows = tables.read(file)
    first = next(rows, None)
    if first and isinstance(first[1], Mapping) and conll.WORD_TABLE.keys() <= {n.strip().lower() for n in first[1]}:
        yield from conll.read_word_table(itertools.chain([first], rows))
    elif first:
        yield from itertools.chain([first], rows)


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
        yield f"{prefix}row {i}", {k: label_name(k, v) if k in labels else in_memory(v) for k, v in row.items()}


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
