"""Raw rows become a task's rows: columns found and renamed, bad rows counted and named, never passed over in silence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmkit.data.sources import Row, Source
from llmkit.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

    from llmkit.recipe import DataConfig
    from llmkit.task import Task

CHUNK = 10_000
SHOWN = 5


@dataclass
class Cleaned:
    """A source's usable rows, and what was wrong with the others."""

    rows: Dataset
    bad: list[str] = field(default_factory=list)
    """`where: why`, one for each row that was left out"""


def clean(source: Source, task: Task, config: DataConfig, part: str) -> Cleaned:
    """Read `source` through `task.read_row`. Raises RecipeError for a missing column or, unless told otherwise, bad rows."""
    import datasets
    import pyarrow as pa

    bad: list[str] = []
    raw = iter(source.rows())
    head = list(itertools.islice(raw, 100))
    if not head:
        raise RecipeError(f"data.{part}: {source.name} is empty")
    names = find_columns(head, task, config, f"data.{part}: {source.name}")
    good = readable(itertools.chain(head, raw), task, names, bad)
    chunks = [pa.Table.from_pylist(chunk) for chunk in _chunks(good)]
    if bad and config.on_error == "raise":
        more = f" (and {len(bad) - SHOWN:,} more)" if len(bad) > SHOWN else ""
        fix = "mend them, or leave them out with --data.on_error skip"
        raise RecipeError(
            f"{len(bad):,} bad {'row' if len(bad) == 1 else 'rows'}: {'; '.join(bad[:SHOWN])}{more}; {fix}"
        )
    if not chunks:
        raise RecipeError(f"data.{part}: {source.name} has no usable row; {'; '.join(bad[:SHOWN])}")
    return Cleaned(datasets.Dataset(pa.concat_tables(chunks, promote_options="permissive")), bad)


def find_columns(head: list[Row], task: Task, config: DataConfig, where: str) -> dict[str, str]:
    """`{the task's column: the source's}`, from the first rows. Raises RecipeError with what is there."""
    there = list(dict.fromkeys(key for _, row in head if isinstance(row, Mapping) for key in row))
    if not there and head and not isinstance(head[0][1], Mapping):
        return {column: column for column in task.columns}  # not one row could be read: each will be named
    bare = not config.names and re.search(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", where.lower())
    hint = ", or --data.names A,B where the file has no header line" if bare else ""
    names, faults = {}, []
    needed = task.formats[0] if len(task.formats) == 1 else () if task.formats else task.columns
    for column, usual in task.columns.items():
        wanted = config.columns.get(column)
        found = [n for n in ((wanted,) if wanted else (column, *usual)) if n in there]
        if found:
            names[column] = found[0]
        elif wanted:
            faults.append(f"{where}: no column {wanted!r} (data.columns.{column}); its columns are {', '.join(there)}")
        elif column in needed:
            faults.append(
                f"{where}: no column for {column!r}; its columns are {', '.join(there)}; say --data.columns.{column} NAME{hint}"
            )
    if task.formats and not faults and not any(all(c in names for c in choice) for choice in task.formats):
        wanted = "; or ".join(", ".join(choice) for choice in task.formats)
        first = task.formats[0][0]
        faults.append(
            f"{where}: its columns are {', '.join(there)}; {task.name} reads {wanted}; say --data.columns.{first} NAME{hint}"
        )
    faults += [
        f"data.columns.{c}: the task reads no such column; it reads {', '.join(task.columns)}"
        for c in config.columns
        if c not in task.columns
    ]
    if faults:
        raise RecipeError(*faults)
    return names


def readable(raw: Iterable[Row], task: Task, names: Mapping[str, str], bad: list[str]) -> Iterator[dict[str, Any]]:
    """The rows that `task.read_row` takes; what is wrong with the others is appended to `bad`."""
    kinds: dict[str, str] = {}
    for where, row in raw:
        if isinstance(row, ValueError):
            bad.append(f"{where}: {row}")
        elif not isinstance(row, Mapping):
            bad.append(f"{where}: {type(row).__name__}, not a mapping of columns")
        else:
            try:
                found = task.read_row({column: row.get(name) for column, name in names.items()})
                for one in found if isinstance(found, list) else [found]:
                    if isinstance(one, ValueError):
                        bad.append(f"{where}: {one}")
                    else:
                        _check_kinds(one, kinds)
                        yield one
            except ValueError as e:
                bad.append(f"{where}: {e}")


def _check_kinds(row: Mapping[str, Any], kinds: dict[str, str]) -> None:
    """A column holds one kind of value, that of its first row: Arrow would refuse the whole file."""
    for column, value in row.items():
        kind = (
            "a number"
            if isinstance(value, (int, float))
            else "text"
            if isinstance(value, str)
            else type(value).__name__
        )
        if value is not None and kinds.setdefault(column, kind) != kind:
            raise ValueError(f"{column!r} is {kind}, and {kinds[column]} in the rows before")


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk
