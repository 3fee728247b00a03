"""Inputs and outputs of the verbs: words, stdin or the rows of a file; JSON lines, and metrics for people to read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llmkit.errors import UsageError, as_usage_error
from llmkit.log import format_number, log, plural
from llmkit.recipe import DataConfig

if TYPE_CHECKING:
    from llmkit.data.files import RawRow

WIDEST = 12
"""Columns of the widest table that is printed."""


def is_file(word: str) -> bool:
    """Whether `word` is a file, or a list of one, such as data.json[dev]."""
    # os.path: for a text longer than a file name can be, Path.is_file raises OSError
    return any(os.path.isfile(name) for name in (word, re.sub(r"\[[^][]+\]$", "", word)))  # noqa: PTH113


def read_rows(words: Sequence[str], names: Sequence[str] = (), encoding: str = "utf-8") -> list[RawRow]:
    """Return `(where, value)` of each input: a text from the command line or stdin (-), or a row of a file.

    `names` are the columns of a table without a header line. Raises UsageError for a row that is not a mapping.
    """
    from llmkit.data import sources

    if len(words) == 1 and (is_file(words[0]) or sources.is_readable(Path(sources.split_name(words[0])[0]))):
        config = DataConfig(document="line", names=tuple(names), encoding=encoding)
        return sources.read(sources.find(words[0], "test", config))
    if list(words) == ["-"]:
        lines = sys.stdin.read().splitlines()
        words = [line for line in lines if line.strip()]
        if len(words) < len(lines):
            log(f"{plural(len(lines) - len(words), 'empty line')} of the input skipped", "warning")
    return [(f"input {i}", text) for i, text in enumerate(words, 1)]


def read_texts(word: str, columns: Sequence[str] = (), encoding: str = "utf-8") -> Sequence[tuple[str, str]]:
    """Return `(where, text)` of each line of stdin (-) or row of a file, from the first of `columns` that it has.

    Raises UsageError.
    """
    values = first_column(read_rows([word], encoding=encoding), columns)
    if missing := [where for where, value in values if not isinstance(value, str)]:
        raise UsageError(f"{missing[0]}: no text in {' or '.join(columns)} ({plural(len(missing), 'such row')})")
    return values


def first_column(rows: Sequence[RawRow], columns: Sequence[str]) -> Sequence[RawRow]:
    """Return `(where, value)` of the first of `columns` that a file has; texts stay as they are.

    Logs the columns of the file that are not read. Raises UsageError.
    """
    from llmkit.data.rows import count_unread, log_unread, match_key

    if not rows or isinstance(rows[0][1], str):
        return rows
    where, first = rows[0]
    choices = [*columns, "text"] if [*first] == ["text"] else columns  # the only column of a .txt file
    name = match_key(first, choices)
    if name is None:
        raise UsageError(f"{where}: no column {' or '.join(map(repr, columns))}; its columns are {', '.join(first)}")
    log_unread("input", count_unread((row for _, row in rows), [name]))
    return [(where, row.get(name)) for where, row in rows]


def as_json(value: object) -> str:
    """Return JSON on one line, with text as it is."""
    return json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def open_output(path: str | None, mode: str) -> Iterator[TextIO]:
    """Open the file of `--out` and make its folder; without one, use stdout."""
    if path is None:
        yield sys.stdout
        return
    with as_usage_error(f"--out {path}: cannot be written", OSError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = Path(path).open(mode, encoding="utf-8")
    with file:
        yield file


def print_metrics(result: Mapping[str, Any], is_json: bool) -> None:
    """Print an evaluation as JSON; or each metric with its interval and baselines, and its details as tables."""
    if is_json:
        print(as_json(result))
        return
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        others = {other: scores[name] for other, scores in result.get("baselines", {}).items()}
        baselines = "".join(f"  {other} {format_number(score)}" for other, score in others.items())
        print(f"{name} {format_number(value)}  [{format_number(low)}, {format_number(high)}]{baselines}")
    for name, detail in result.get("details", {}).items():
        print(f"\n{_table(name, detail)}")


def _table(name: str, detail: object) -> str:
    """Format a mapping of rows as a table, or by its size if it is too wide; anything else as JSON."""
    import pandas as pd

    is_table = isinstance(detail, Mapping) and all(isinstance(row, Mapping) for row in detail.values())
    heads = list(dict.fromkeys(key for row in detail.values() for key in row)) if is_table else []
    if not heads:
        return f"{name}: {as_json(detail)}"
    if set(heads) <= set(detail):
        heads = list(detail)  # a square matrix, stored without its zeros
    if len(heads) > WIDEST:
        return f"{name}: {len(detail)} × {len(heads)}, too wide to print; use --json"
    cells = [[row.get(head, 0) for head in heads] for row in detail.values()]
    table = pd.DataFrame(cells, list(detail), heads, dtype=object).rename_axis(name, axis="columns")
    with pd.option_context("display.unicode.east_asian_width", True):
        return table.to_string(float_format="{:.4f}".format)
