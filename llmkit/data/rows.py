"""From raw rows to a task's rows: columns are found and renamed, invalid rows are named, what is not read is counted."""

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset

from llmkit.data.files import RawRow
from llmkit.data.sources import Source
from llmkit.errors import UsageError, raise_faults
from llmkit.log import log, plural
from llmkit.recipe import DataConfig
from llmkit.task import Json, Row, Task

CHUNK = 10_000
SHOWN = 5
"""Invalid rows that a message lists."""
METADATA = re.compile(
    r"(.*_)?(id|uuid)|idx|index|source|dataset|attribution|lang|language|category|title|url|date|timestamp"
    r"|lemmas|upos|xpos|feats|heads|head_frames",
    re.IGNORECASE,
)
"""Keys that files usually carry beside what a task reads: they are named, without a warning."""
PLAIN_TURNS = {("role", "content"), ("from", "value")}
"""Keys of turns that are read whole: it saves time not to record them."""


class RecordedRow(Json):
    """A mapping that records which of its keys are read; so do the mappings in it, and in the lists in it."""

    __slots__ = ("nested", "read")

    def __init__(self, values: Row):
        self.update(values)
        self.read: set[str] = set()
        self.nested: tuple[tuple[str, str, list[RecordedRow]], ...] = ()

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if key not in self.read:
            self.read.add(key)
            return self._record(key, value) if type(value) in (list, dict) else value
        return value

    def get(self, key: str, default: object = None) -> Any:  # type: ignore[override]
        return self[key] if key in self else default  # noqa: SIM401

    def __iter__(self) -> Iterator[str]:  # being defined here, it makes dict(row) and {**row} call __getitem__
        return dict.__iter__(self)

    items, values = Mapping.items, Mapping.values  # type: ignore[assignment]

    def unread(self, names: Mapping[str, str]) -> Iterator[str]:
        """Yield the keys that hold something and were not read, under their `names`, such as `messages[].name`."""
        unread = (key for key in self.keys() if key not in self.read)
        yield from (names.get(key, key) for key in unread if not is_empty(peek(self, key)))
        for key, infix, parts in self.nested:  # a part of which no key was read was taken as a whole
            path = names.get(key, key) + infix
            yield from (path + inner for part in parts if part.read for inner in part.unread({}))

    def _record(self, key: str, value: Any) -> Any:
        if type(value) is dict:
            self[key] = value = RecordedRow(value)
            self.nested += ((key, ".", [value]),)
        elif {*map(type, value)} == {dict} and not {*map(tuple, value)} <= PLAIN_TURNS:
            self[key] = value = [RecordedRow(part) for part in value]
            self.nested += ((key, "[].", value),)
        return value


def is_empty(value: object) -> bool:
    """Whether a value of a raw row holds nothing: None, or an empty text, list or mapping."""
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table with the columns of all of them: `pa.Table.from_pylist` takes those of the first one."""
    columns = dict.fromkeys(column for keys in dict.fromkeys(map(tuple, rows)) for column in keys)
    return pa.table({column: [row.get(column) for row in rows] for column in columns})


def peek(row: Row, key: str) -> Any:
    """Return a value of a raw row without recording it as read."""
    return dict.get(row, key) if isinstance(row, dict) else row.get(key)


@dataclass
class RowReader:
    """Reads the rows of all sources of a part, which must be alike, and counts what is not read of them."""

    task: Task
    config: DataConfig
    part: str
    types: dict[str, str] = field(default_factory=dict)
    """The type of each column of the task's rows so far"""
    optional: dict[frozenset[str], set[str]] = field(default_factory=dict)
    """The optional columns of the task's rows so far, by their other columns"""
    unread: Counter[str] = field(default_factory=Counter)
    """Number of rows in which a key holds something that is not read"""
    formats: dict[str, str] = field(default_factory=dict)
    """Formats that rows have and that are not read, with the option that chooses each"""
    shapes: set[tuple[object, ...]] = field(default_factory=set)
    """Columns and types of rows that are alike"""
    logged: set[str] = field(default_factory=set)
    """Keys that a log line has named"""

    def read_dataset(self, source: Source) -> tuple[Dataset, int]:
        """Return the valid rows of `source`, and how many invalid ones were skipped.

        Raises UsageError for a missing column and, unless `data.on_error` says otherwise, for invalid rows.
        """
        invalid: list[str] = []
        chunks = [as_table(chunk) for chunk in self.valid_rows(source, invalid, CHUNK)]
        report_invalid(invalid, source, self.config, self.part)
        if not chunks:
            raise UsageError(f"data.{self.part}: {source.name} has no valid row; {'; '.join(invalid[:SHOWN])}")
        return Dataset(pa.concat_tables(chunks, promote_options="permissive")), len(invalid)

    def valid_rows(self, source: Source, invalid: list[str], size: int) -> Iterator[list[Row]]:
        """Yield the rows of `source` that `task.read_row` accepts, `size` at a time; append a line per invalid row to
        `invalid`. Raises UsageError for a missing column."""
        raw = iter(source.rows())
        head = list(itertools.islice(raw, 100))
        if not head:
            raise UsageError(f"data.{self.part}: {source.name} is empty")
        names = find_columns(head, self.task, self.config, f"data.{self.part}: {source.name}")
        rows = self._read_all(itertools.chain(head, raw), names, invalid)
        while chunk := list(itertools.islice(rows, size)):
            yield chunk

    def log_unread(self, quiet: bool = False) -> None:
        """Log the keys that are not read, in one line; `quiet` only marks them as logged. Each key is logged once."""
        new = {key: count for key, count in self.unread.items() if key not in self.logged}
        self.logged.update(new)
        if not quiet:
            choices = [f"; to read {columns} instead: {option}" for columns, option in self.formats.items()]
            log_unread(self.part, new, "".join(choices))

    def _read_all(self, raw: Iterable[RawRow], names: Mapping[str, str], invalid: list[str]) -> Iterator[Row]:
        known: dict[tuple[str, ...], tuple[dict[str, str], list[str]]] = {}
        for where, raw_row in raw:
            if not isinstance(raw_row, Mapping):
                what = f"{type(raw_row).__name__}, not a mapping of columns"
                invalid.append(f"{where}: {raw_row if isinstance(raw_row, ValueError) else what}")
                continue
            keys = tuple(raw_row)
            if (columns := known.get(keys)) is None:  # a row may have other columns than the first ones
                found = {**names, **match_columns(keys, self.task, self.config.columns)}
                columns = known[keys] = found, [key for key in keys if key not in found.values()]
            for row in self._read_row(raw_row, *columns):
                if fault := row if isinstance(row, ValueError) else self._conflict(row):
                    invalid.append(f"{where}: {fault}")
                else:
                    yield row

    def _read_row(self, raw: Row, names: Mapping[str, str], unknown: list[str]) -> Sequence[Row | ValueError]:
        """The task's rows in a raw row, an invalid one as the ValueError that says why. `unknown` are keys it has not."""
        row = RecordedRow({column: raw.get(name) for column, name in names.items()})
        try:
            rows = self.task.read_row(row)
        except ValueError as e:
            return [e]
        for key in unknown:
            if not is_empty(raw[key]):
                self.unread[key] += 1
        if row.nested or len(row.read) < len(row):
            self._count_unread(row, names)
        return [rows] if isinstance(rows, Mapping) else rows

    def _count_unread(self, row: RecordedRow, names: Mapping[str, str]) -> None:
        """Count what a task has not read of its columns, and note the formats among them."""
        read = {names[column] for column in row.read}
        unread = dict.fromkeys(key for key in row.unread(names) if key not in read)
        for columns in self.task.formats if unread.keys() - self.unread.keys() else ():
            passed = [column for column in columns if column not in row.read]
            if passed and not any(is_empty(peek(row, column)) for column in columns):
                column, name = passed[0], names[passed[0]]
                option = f"--data.columns.{column} {name} (evaluate: --column {column}={name})"
                self.formats[", ".join(names[column] for column in columns)] = option
        for key in unread:
            self.unread[key] += 1

    def _conflict(self, row: Row) -> str | None:
        """Say in which column a row is unlike the rows before: Arrow, or the task's `encode`, would fail for it."""
        shape = (*row, *map(type, row.values()))
        if shape in self.shapes:
            return None
        for column, value in row.items():
            cls = type(value)
            name = "a number" if isinstance(value, (int, float)) else {str: "text"}.get(cls, cls.__name__)
            if value is not None and self.types.setdefault(column, name) != name:
                return f"{column!r} is {name}, and {self.types[column]} in the rows before"
        optional = {c for c in self.task.columns if self.task.formats and not any(c in f for f in self.task.formats)}
        here = optional & row.keys()
        if odd := self.optional.setdefault(frozenset(row.keys() - optional), here) ^ here:
            return f"{'has' if odd & here else 'no'} {', '.join(map(repr, sorted(odd)))}, unlike the rows before"
        self.shapes.add(shape)
        return None


def log_unread(part: str, counts: Mapping[str, int], note: str = "") -> None:
    """Log in how many rows each key was not read: as a warning, unless all of them are usual metadata."""
    if counts:
        listed = ", ".join(f"{key} ({plural(count, 'row')})" for key, count in counts.items())
        is_metadata = all(METADATA.fullmatch(key.rpartition(".")[2]) for key in counts)
        log(f"{part}: columns not read: {listed}{note}", "data" if is_metadata else "warning")


def count_unread(rows: Iterable[Row], read: Container[str]) -> Counter[str]:
    """Return in how many inputs of `predict` each key holds something and is neither `read` nor usual metadata."""
    filled = (key for row in rows for key, value in row.items() if key not in read and not is_empty(value))
    return Counter(key for key in filled if not METADATA.fullmatch(key))


def report_invalid(invalid: list[str], source: Source, config: DataConfig, part: str) -> None:
    """Raise UsageError for invalid rows, or log which are skipped, as `data.on_error` says."""
    if not invalid:
        return
    shown = invalid if config.on_error == "report" else invalid[:SHOWN]
    more = [f"… and {len(invalid) - len(shown):,} more"] if len(shown) < len(invalid) else []
    count = plural(len(invalid), "invalid row")
    if config.on_error == "raise":
        fix = "correct them, or skip them with --data.on_error skip"
        raise UsageError(f"{count}: {'; '.join([*shown, *more])}; {fix}")
    log("\n         ".join([f"{part}: {count} of {source.name} skipped:", *shown, *more]), "warning")


def match_key(keys: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of `names` that is among `keys`, else the first key that differs in case or outer spaces only."""
    keys = dict.fromkeys(keys)
    folded = {str(key).strip().casefold(): key for key in reversed(keys)}
    exact = (name for name in names if name in keys)
    return next(exact, next((folded[n] for n in map(str.casefold, map(str.strip, names)) if n in folded), None))


def match_columns(keys: Iterable[str], task: Task, columns: Mapping[str, str]) -> dict[str, str]:
    """Return `{the task's column: the key that holds it}` for the keys of a row.

    `columns` (`data.columns`) names keys; a format with a column in it is chosen over the others that a row may have.
    """
    every = {column for choice in task.formats for column in choice}
    chosen = {column for choice in task.formats if columns.keys() & {*choice} for column in choice} or every
    wanted = {c: (columns[c],) if c in columns else (c, *usual) for c, usual in task.columns.items()}
    found = {c: match_key(keys, names) for c, names in wanted.items() if c in columns or c not in every - chosen}
    return {column: key for column, key in found.items() if key is not None}


def find_columns(head: Sequence[RawRow], task: Task, config: DataConfig, where: str) -> dict[str, str]:
    """Return `{the task's column: the source's}` from the first rows. Raises UsageError that lists what is there."""
    present = list(dict.fromkeys(key for _, row in head if isinstance(row, Mapping) for key in row))
    if not present and not isinstance(head[0][1], Mapping):
        return {column: column for column in task.columns}  # no row could be parsed: each will be named
    no_header = not config.names and re.search(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", where.lower())
    hint = "NAME" + (", or --data.names A,B if the file has no header line" if no_header else "")
    columns = f"its columns are {', '.join(present)}"
    needed = task.columns if not task.formats else task.formats[0] if len(task.formats) == 1 else ()
    names, faults = match_columns(present, task, config.columns), []
    for column in task.columns:
        if column not in names and column in config.columns:
            wanted = config.columns[column]
            faults.append(f"{where}: no column {wanted!r} (data.columns.{column}); {columns}")
        elif column not in names and column in needed:
            faults.append(f"{where}: no column for {column!r}; {columns}; set --data.columns.{column} {hint}")
    if task.formats and not faults and not any(all(c in names for c in choice) for choice in task.formats):
        wanted, first = "; or ".join(", ".join(choice) for choice in task.formats), task.formats[0][0]
        faults.append(f"{where}: {columns}; {task.name} reads {wanted}; set --data.columns.{first} {hint}")
    known = f"{task.name} has no such column; it reads {', '.join(task.columns)}"
    raise_faults([*faults, *(f"data.columns.{c}: {known}" for c in config.columns if c not in task.columns)])
    return names


def question_columns(row: Row, task: Task, columns: Mapping[str, str]) -> Json:
    """Return one raw row for `Task.read_question`: the task's columns that it has, under the task's names.

    `columns` maps a task's column to the row's; the others are found under their usual names.
    """
    filled = [key for key in row if row[key] is not None]
    return {column: row[key] for column, key in match_columns(filled, task, columns).items()}
