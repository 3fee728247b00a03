"""From raw rows to a task's rows: columns are found and renamed, and invalid rows are counted and named."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset

from llmkit.data.readers import RawRow
from llmkit.data.sources import Source
from llmkit.errors import UsageError, raise_faults
from llmkit.log import log, plural
from llmkit.recipe import DataConfig
from llmkit.task import Row, Task

CHUNK = 10_000
SHOWN = 5
"""Invalid rows that a message lists."""


def read_dataset(source: Source, task: Task, config: DataConfig, part: str) -> tuple[Dataset, int]:
    """Return the valid rows of `source`, and how many invalid ones were skipped.

    Raises UsageError for a missing column and, unless `data.on_error` says otherwise, for invalid rows.
    """
    invalid: list[str] = []
    chunks = [pa.Table.from_pylist(chunk) for chunk in valid_rows(source, task, config, part, invalid, CHUNK)]
    report_invalid(invalid, source, config, part)
    if not chunks:
        raise UsageError(f"data.{part}: {source.name} has no valid row; {'; '.join(invalid[:SHOWN])}")
    return Dataset(pa.concat_tables(chunks, promote_options="permissive")), len(invalid)


def valid_rows(
    source: Source, task: Task, config: DataConfig, part: str, invalid: list[str], size: int
) -> Iterator[list[Row]]:
    """Yield the rows of `source` that `task.read_row` accepts, `size` at a time; append a line per invalid row to
    `invalid`. Raises UsageError for a missing column."""
    raw = iter(source.rows())
    head = list(itertools.islice(raw, 100))
    if not head:
        raise UsageError(f"data.{part}: {source.name} is empty")
    names = find_columns(head, task, config, f"data.{part}: {source.name}")
    rows = _read_all(itertools.chain(head, raw), task, names, invalid)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


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


def find_columns(head: Sequence[RawRow], task: Task, config: DataConfig, where: str) -> dict[str, str]:
    """Return `{the task's column: the source's}` from the first rows. Raises UsageError that lists what is there."""
    present = list(dict.fromkeys(key for _, row in head if isinstance(row, Mapping) for key in row))
    if not present and not isinstance(head[0][1], Mapping):
        return {column: column for column in task.columns}  # no row could be parsed: each will be named
    no_header = not config.names and re.search(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", where.lower())
    hint = "NAME" + (", or --data.names A,B if the file has no header line" if no_header else "")
    columns = f"its columns are {', '.join(present)}"
    needed = task.columns if not task.formats else task.formats[0] if len(task.formats) == 1 else ()
    names, faults = {}, []
    for column, usual in task.columns.items():
        wanted = config.columns.get(column)
        found = [n for n in ((wanted,) if wanted else (column, *usual)) if n in present]
        if found:
            names[column] = found[0]
        elif wanted:
            faults.append(f"{where}: no column {wanted!r} (data.columns.{column}); {columns}")
        elif column in needed:
            faults.append(f"{where}: no column for {column!r}; {columns}; set --data.columns.{column} {hint}")
    if task.formats and not faults and not any(all(c in names for c in choice) for choice in task.formats):
        wanted, first = "; or ".join(", ".join(choice) for choice in task.formats), task.formats[0][0]
        faults.append(f"{where}: {columns}; {task.name} reads {wanted}; set --data.columns.{first} {hint}")
    known = f"{task.name} has no such column; it reads {', '.join(task.columns)}"
    raise_faults([*faults, *(f"data.columns.{c}: {known}" for c in config.columns if c not in task.columns)])
    return names


def question_columns(row: Row, task: Task, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return one raw row for `Task.read_question`: the task's columns that it has, under the task's names.

    `columns` maps a task's column to the row's; the others are found under their usual names.
    """
    found = {}
    for column, usual in task.columns.items():
        names = (columns[column],) if column in columns else (column, *usual)
        found[column] = next((row[n] for n in names if row.get(n) is not None), None)
    return {column: value for column, value in found.items() if value is not None}


def _read_all(raw: Iterable[RawRow], task: Task, names: Mapping[str, str], invalid: list[str]) -> Iterator[Row]:
    types: dict[str, str] = {}
    for where, raw_row in raw:
        for row in _read_row(raw_row, task, names):
            if fault := row if isinstance(row, ValueError) else _type_conflict(row, types):
                invalid.append(f"{where}: {fault}")
            else:
                yield row


def _read_row(raw: object, task: Task, names: Mapping[str, str]) -> Sequence[Row | ValueError]:
    """The task's rows in a raw row, an invalid one as the ValueError that says why."""
    if not isinstance(raw, Mapping):
        return [raw if isinstance(raw, ValueError) else ValueError(f"{type(raw).__name__}, not a mapping of columns")]
    try:
        rows = task.read_row({column: raw.get(name) for column, name in names.items()})
    except ValueError as e:
        return [e]
    return [rows] if isinstance(rows, Mapping) else rows


def _type_conflict(row: Row, types: dict[str, str]) -> str | None:
    """Say which column has another type than in the rows before: Arrow would reject the whole file for it."""
    for column, value in row.items():
        name = "a number" if isinstance(value, (int, float)) else {str: "text"}.get(type(value), type(value).__name__)
        if value is not None and types.setdefault(column, name) != name:
            return f"{column!r} is {name}, and {types[column]} in the rows before"
    return None
