"""Raw rows become a task's rows: columns found and renamed, bad rows counted and named, none passed over in silence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmkit.console import plural, say
from llmkit.data.sources import Row, Source
from llmkit.errors import RecipeError, raise_faults

if TYPE_CHECKING:
    from datasets import Dataset

    from llmkit.recipe import DataConfig
    from llmkit.task import Task

CHUNK = 10_000
SHOWN = 5


def clean(source: Source, task: Task, config: DataConfig, part: str) -> tuple[Dataset, int]:
    """The usable rows of `source`, and how many bad ones were left out. Raises RecipeError for a missing column or,
    unless told otherwise, bad rows."""
    import datasets
    import pyarrow as pa

    bad: list[str] = []
    chunks = [pa.Table.from_pylist(chunk) for chunk in usable(source, task, config, part, bad, CHUNK)]
    judge(bad, source, config, part)
    if not chunks:
        raise RecipeError(f"data.{part}: {source.name} has no usable row; {'; '.join(bad[:SHOWN])}")
    return datasets.Dataset(pa.concat_tables(chunks, promote_options="permissive")), len(bad)


def usable(source: Source, task: Task, config: DataConfig, part: str, bad: list[str], size: int) -> Iterator[list]:
    """The rows of `source` that `task.read_row` takes, `size` at a time; what is wrong with the others is appended to
    `bad`. Raises RecipeError where a column is missing."""
    raw = iter(source.rows())
    head = list(itertools.islice(raw, 100))
    if not head:
        raise RecipeError(f"data.{part}: {source.name} is empty")
    names = find_columns(head, task, config, f"data.{part}: {source.name}")
    good = _readable(itertools.chain(head, raw), task, names, bad)
    while chunk := list(itertools.islice(good, size)):
        yield chunk


def judge(bad: list[str], source: Source, config: DataConfig, part: str) -> None:
    """Raise RecipeError for bad rows, or say which are left out: as `data.on_error` has it."""
    if not bad:
        return
    count, shown = plural(len(bad), "bad row"), bad if config.on_error == "report" else bad[:SHOWN]
    more = [f"… and {len(bad) - len(shown):,} more"] if len(shown) < len(bad) else []
    if config.on_error == "raise":
        fix = "mend them, or leave them out with --data.on_error skip"
        raise RecipeError(f"{count}: {'; '.join([*shown, *more])}; {fix}")
    say("\n         ".join([f"{part}: {count} of {source.name} left out:", *shown, *more]), "warning")


def find_columns(head: list[Row], task: Task, config: DataConfig, where: str) -> dict[str, str]:
    """`{the task's column: the source's}`, from the first rows. Raises RecipeError with what is there."""
    there = list(dict.fromkeys(key for _, row in head if isinstance(row, Mapping) for key in row))
    if not there and not isinstance(head[0][1], Mapping):
        return {column: column for column in task.columns}  # not one row could be read: each will be named
    bare = not config.names and re.search(r"\.(csv|tsv|txt)(\.gz|\.zst)?$", where.lower())
    hint = "NAME" + (", or --data.names A,B where the file has no header line" if bare else "")
    have = f"its columns are {', '.join(there)}"
    needed = task.columns if not task.formats else task.formats[0] if len(task.formats) == 1 else ()
    names, faults = {}, []
    for column, usual in task.columns.items():
        wanted = config.columns.get(column)
        found = [n for n in ((wanted,) if wanted else (column, *usual)) if n in there]
        if found:
            names[column] = found[0]
        elif wanted:
            faults.append(f"{where}: no column {wanted!r} (data.columns.{column}); {have}")
        elif column in needed:
            faults.append(f"{where}: no column for {column!r}; {have}; say --data.columns.{column} {hint}")
    if task.formats and not faults and not any(all(c in names for c in choice) for choice in task.formats):
        wanted, first = "; or ".join(", ".join(choice) for choice in task.formats), task.formats[0][0]
        faults.append(f"{where}: {have}; {task.name} reads {wanted}; say --data.columns.{first} {hint}")
    known = f"the task reads no such column; it reads {', '.join(task.columns)}"
    raise_faults([*faults, *(f"data.columns.{c}: {known}" for c in config.columns if c not in task.columns)])
    return names


def _readable(raw: Iterable[Row], task: Task, names: Mapping[str, str], bad: list[str]) -> Iterator[dict[str, Any]]:
    kinds: dict[str, str] = {}
    for where, row in raw:
        for one in _read(row, task, names):
            if fault := one if isinstance(one, ValueError) else _other_kind(one, kinds):
                bad.append(f"{where}: {fault}")
            else:
                yield one


def _read(row: Any, task: Task, names: Mapping[str, str]) -> list[dict[str, Any] | ValueError]:
    """The rows that a raw row holds for the task, a bad one as the ValueError that says why."""
    if not isinstance(row, Mapping):
        return [row if isinstance(row, ValueError) else ValueError(f"{type(row).__name__}, not a mapping of columns")]
    try:
        found = task.read_row({column: row.get(name) for column, name in names.items()})
    except ValueError as e:
        return [e]
    return found if isinstance(found, list) else [found]


def _other_kind(row: Mapping[str, Any], kinds: dict[str, str]) -> str | None:
    """What is wrong with a column of another kind than in the first row: Arrow would refuse the whole file."""
    for column, value in row.items():
        kind = "a number" if isinstance(value, (int, float)) else {str: "text"}.get(type(value), type(value).__name__)
        if value is not None and kinds.setdefault(column, kind) != kind:
            return f"{column!r} is {kind}, and {kinds[column]} in the rows before"
    return None
