"""`llmkit predict`: the task's prediction for each input, one per line, in order."""

from __future__ import annotations

import contextlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.cli.io import as_json, first_column, open_output, read_rows
from llmkit.cli.options import add_table_options, positive_int
from llmkit.errors import UsageError, raise_faults
from llmkit.log import log, plural, quiet_libraries

if TYPE_CHECKING:
    from llmkit.task import Row, Task

SHOWN = 5
"""Invalid inputs that a message lists."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="Run folder, other model folder, hub id, or bundled model such as tiny-bert")
    parser.add_argument(
        "input", nargs="+", help="Texts, or one file (.txt: a text per line; .jsonl, .csv …), or - for stdin"
    )
    parser.add_argument("--out", metavar="FILE", help="Write predictions to this .jsonl file instead of stdout")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="Inputs per batch (default: 32)")
    add_table_options(parser, "[TASK=]YOURS")
    parser.add_argument("--json", action="store_true", help="Print JSON, one object per line, with the input in it")


def run(args: Namespace) -> None:
    quiet_libraries()
    from llmkit import hub, predictor, task

    answering = predictor.task_of(hub.find_model(args.model))
    if type(answering).predict is task.Task.predict:
        raise UsageError(f"a {answering.name} model does not predict; use llmkit generate")
    if args.out and any(Path(word).resolve() == Path(args.out).resolve() for word in args.input):
        raise UsageError(f"--out {args.out}: is the input; choose another file")
    inputs = read_inputs(args.input, answering, args.column, args.names, args.encoding)
    model = predictor.load(args.model)
    with open_output(args.out, "w") as out:
        for given, answer in zip(inputs, model.predict_iter(inputs, args.batch_size), strict=True):
            if args.json or args.out:
                columns = given if isinstance(given, Mapping) else {answering.predict_columns[0]: given}
                out.write(as_json({**columns, **answer}) + "\n")
            else:
                out.write(answering.format_prediction(answer, given) + "\n")
    if args.out:
        log(f"{plural(len(inputs), 'prediction')} written to {args.out}")


def read_inputs(
    words: Sequence[str], task: Task, columns: Sequence[str] = (), names: str | None = None, encoding: str = "utf-8"
) -> list[Any]:
    """Return the inputs of `task.predict` in texts, in stdin (-) or in a file.

    A task with several columns takes JSON objects as texts. `columns` holds TASK=YOURS, or YOURS alone for a task with
    one column; `names` the columns of a table without a header line. Raises UsageError that lists invalid inputs.
    """
    from llmkit.data.rows import count_unread, log_unread, match_columns, match_key, question_columns

    first, *others = task.predict_columns
    named = dict(pair.split("=", 1) if "=" in pair else (first, pair) for pair in columns)
    unknown = [c for c in named if c not in task.predict_columns] + [c for c in columns if others and "=" not in c]
    if unknown:
        fix = " ".join(f"--column {column}=YOURS" for column in task.predict_columns)
        raise UsageError(f"--column {unknown[0]}: {task.name} reads {', '.join(task.predict_columns)}; give {fix}")
    rows = read_rows(words, (names,) if names else (), encoding)
    if not others:
        choices = [*named.values()] or [first, *task.columns.get(first, ())]
        rows = [(where, {first: value}) for where, value in first_column(rows, choices)]
    elif rows and isinstance(rows[0][1], Mapping):
        where, row = rows[0]
        if missing := [column for column in named.values() if match_key(row, [column]) is None]:
            raise UsageError(f"{where}: no column {missing[0]!r}; its columns are {', '.join(row)}")
    inputs, faults, objects = [], [], []
    for where, row in rows:
        try:
            if others:
                objects.append(_parse_object(row))
                row = question_columns(objects[-1], task, {} if isinstance(row, str) else named)
            inputs += task.read_question(row)
        except ValueError as e:
            faults.append(f"{where}: {e}")
    if faults and others:
        example = as_json(dict.fromkeys(task.predict_columns, "…"))
        faults[SHOWN:] = [f"give a file with these columns, or a JSON object as text: '{example}'"]
    raise_faults(faults[: SHOWN + bool(others)])
    read = {key for keys in {*map(tuple, objects)} for key in match_columns(keys, task, named).values()}
    log_unread("input", count_unread(objects, read))
    return inputs


def _parse_object(row: str | Row) -> Row:
    """Return a row; parse a text as a JSON object. Raises ValueError if it is not one."""
    if isinstance(row, str):
        with contextlib.suppress(ValueError):
            row = json.loads(row)
    if not isinstance(row, Mapping):
        raise ValueError("not a JSON object")
    return row
