"""From the command line to a recipe: dotted options and YAML files, applied to a recipe in that order.

One parser serves `accelerate launch recipes/x.py`, `python recipes/x.py`, `llmkit train x` and YAML files. All faults
are collected and raised together. Importing this module does not import torch. Why not a library: docs/decisions.md.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmkit.errors import UsageError, raise_faults, suggest
from llmkit.recipe import PARTS, Recipe, Typed, coerce, field_types, parse_values, read_yaml, scalar, task_name
from llmkit.tasks import TASKS, documented_fields, find_task
from llmkit.training.fields import check_training, training_fields

Values = dict[str, Any]
"""Values of fields by part, nested like YAML."""
SHORT = {
    "task": "task.name", "model": "model.name", "data": "data.train", "output": "run.output", "resume": "run.resume"
}  # fmt: skip
"""Short forms of options."""
SWITCHES = ("plan", "help")
"""Options that are not part of the recipe."""
ENCODING_HELP = "Character encoding of the file, such as cp1252, gb18030 or utf-16 (default: utf-8)"
NAMES_HELP = "Column names, in order, of a .csv, .tsv or tab-separated .txt file without a header line"


def positive_int(word: str) -> int:
    """Parse a whole number above 0, as argparse's `type`."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def add_table_options(parser: argparse.ArgumentParser, metavar: str = "TASK=YOURS") -> None:
    """Add `--column`, `--names` and `--encoding`, which say how a file is read."""
    help_text = "Your column for a column of the task, such as text=body; may be repeated"
    parser.add_argument("--column", action="append", default=[], metavar=metavar, help=help_text)
    parser.add_argument("--names", metavar="A,B", help=NAMES_HELP)
    parser.add_argument("--encoding", default="utf-8", help=ENCODING_HELP)


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """Return `{the task's column: yours}` of `--column`. Raises UsageError."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise UsageError(f"--column {wrong[0]!r}: expected TASK=YOURS, such as text=body")
    return dict(pair.split("=", 1) for pair in pairs)


@contextlib.contextmanager
def renamed_options() -> Iterator[None]:
    """Rename a recipe's options in the faults of the block to those of a verb that takes no recipe."""
    try:
        yield
    except UsageError as e:
        faults = [re.sub(r"(^|: )data\.(train|validation|test): ", r"\1", fault, count=1) for fault in e.faults]
        faults = [re.sub(r"--data\.columns\.(\w+) ", r"--column \1=", fault) for fault in faults]
        faults = [re.sub(r"\bdata\.columns\.(\w+)", r"--column \1", fault) for fault in faults]
        names = r"(?:--data\.(?=on_error|max_length)|(?:--)?data\.(?=names|encoding))(\w+)"
        faults = [re.sub(names, lambda m: f"--{m[1].replace('_', '-')}", fault) for fault in faults]
        raise UsageError(*dict.fromkeys(faults)) from None


def parse_argv(argv: Sequence[str], faults: list[str]) -> tuple[Values, list[str], list[str]]:
    """Return `(values by part, YAML files, switches)` of `--part.field value`, `--part.field=value` and short forms.

    Anything else is appended to `faults`.
    """
    values: Values = {}
    configs: list[str] = []
    switches: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            faults.append(f"{word!r}: expected --part.field value (parts: {', '.join(PARTS)})")
            continue
        option, equals, typed = word[2:].partition("=")
        option = option.replace("-", "_")
        if option in SWITCHES:
            switches.append(option)
            continue
        value = typed if equals else words.pop(0) if words and not words[0].startswith("--") else None
        path = SHORT.get(option, option).split(".")
        if option == "config" and value is not None:
            configs.append(value)
        elif option != "config" and (len(path) < 2 or path[0] not in PARTS):
            faults.append(f"{word.partition('=')[0]}: no such option; {suggest(f'--{option}', _known_options())}")
        elif value is None and not _is_switch(path):
            faults.append(f"--{option}: needs a value")
        else:
            _insert(values, path, "true" if value is None else value, ".".join(path), faults)
    return values, configs, switches


def _known_options() -> list[str]:
    fields = [f"{part}.{f.name}" for part, cls in PARTS.items() if cls for f in dataclasses.fields(cls)]
    names = [*PARTS, *SHORT, "config", *SWITCHES, *fields, *(f"training.{name}" for name in training_fields())]
    return [f"--{name}" for name in names]


def _is_switch(path: Sequence[str]) -> bool:
    """Whether an option may have no value. Values of a task, training, config or adapter field are checked later."""
    cls = PARTS.get(path[0])
    if len(path) == 2 and cls:
        return bool in field_types(typing.get_type_hints(cls).get(path[1], bool))
    return path != ["config"]


def _insert(values: Values, path: Sequence[str], value: str, option: str, faults: list[str]) -> None:
    """Set a typed value in nested mappings; a mapping typed as one value is merged with fields of it."""
    key, *rest = path
    if not rest and not isinstance(values.get(key), dict):
        values[key] = Typed(value)
        return
    if isinstance(values.get(key), Typed):
        values[key] = scalar(str(values[key]))
    fields, whole = values.setdefault(key, {}), {} if rest else scalar(value)
    if not isinstance(fields, dict) or not isinstance(whole, Mapping):
        faults.append(f"--{option}: given as one value and by its fields; give only one of them")
    elif rest:
        _insert(fields, rest, value, option, faults)
    else:
        fields.update(whole)


def apply(recipe: Recipe | None, values: Mapping[str, Any], find: Callable[[str], type] = find_task) -> Recipe:
    """Return `recipe` with `values`, a mapping of the five parts, applied. Raises UsageError with every fault.

    New training data clears the recipe's own validation, test, columns and encoding; a new model clears its config fields.
    `find` returns the class of a task.
    """
    faults: list[str] = []
    for key, value in values.items():
        if key not in PARTS:
            faults.append(f"{key}: not a part of a recipe; {suggest(key, PARTS)}")
        elif value is not None and not isinstance(value, Mapping) and key != "task":
            faults.append(f"{key}: {value!r} is not a mapping of {key}'s fields")
    raise_faults(faults)
    values = {part: values.get(part) or {} for part in PARTS}
    options = dict(values["task"]) if isinstance(values["task"], Mapping) else {"name": values["task"]}
    task, name = recipe.task if recipe else None, options.pop("name", None)
    try:
        if name is not None and not (task and name == task_name(task)):
            task = find(str(name))()
        elif task is None:
            raise UsageError("task: missing; choose one with --task NAME")
    except UsageError as e:
        task = None
        faults += e.faults
    base = recipe or Recipe(task)  # type: ignore[arg-type]  # None only if there are faults
    data, model = base.data, base.model
    if "train" in values["data"]:
        data = dataclasses.replace(data, validation=None, test=None, columns={}, names=(), encoding="utf-8")
    if values["model"].get("name") is not None and str(values["model"]["name"]) != str(model.name):
        model = dataclasses.replace(model, config={})
    recipe = Recipe(
        task=task and _apply_to_part(task, options, "task", faults),
        model=_apply_to_part(model, values["model"], "model", faults),
        data=_apply_to_part(data, values["data"], "data", faults),
        run=_apply_to_part(base.run, values["run"], "run", faults),
        training=check_training({**base.training, **values["training"]}, faults),
    )
    raise_faults(faults)
    return recipe


def _apply_to_part(part: Any, values: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    """Return a dataclass with `values` in its fields; a mapping is merged with the field's own."""
    hints, names = typing.get_type_hints(type(part)), [f.name for f in dataclasses.fields(part)]
    changes = {}
    for key, value in values.items():
        allowed = field_types(hints[key]) if key in names else ()
        if key not in names:
            faults.append(f"{path}.{key}: no such field; {suggest(key, names)}")
        elif Mapping in allowed and isinstance(value, Mapping):
            before = getattr(part, key)
            changes[key] = {**(before if isinstance(before, Mapping) else {}), **parse_values(value)}
        elif isinstance(value, Mapping) and any(isinstance(v, Typed) for v in value.values()):
            faults.append(f"{path}.{key}.{next(iter(value))}: {path}.{key} has no fields of its own")
        else:
            changes[key] = coerce(value, allowed, f"{path}.{key}", faults)
    try:
        return dataclasses.replace(part, **changes)
    except UsageError as e:  # a task from elsewhere may check its values
        faults += e.faults
        return part


def build_recipe(
    base: Recipe | None, argv: Sequence[str], find: Callable[[str], type] = find_task
) -> tuple[Recipe, list[str]]:
    """Return `base` with the YAML files and options in `argv` applied, and the switches (`plan`, `help`) in it.

    `find` returns the class of a task by its name. Raises UsageError with every fault.
    """
    faults: list[str] = []
    values, configs, switches = parse_argv(argv, faults)
    try:
        for path in configs:
            base = apply(base, read_yaml(path), find)
        recipe = base if "help" in switches and base else apply(base, values, find)
    except UsageError as e:
        faults += e.faults
    raise_faults(faults)
    return recipe, switches


def field_help(cls: type) -> dict[str, str]:
    """Return the help of each field of a dataclass: the string literal below it."""
    if isinstance(texts := getattr(cls, "help", None), Mapping):  # of a class without source, see task_options
        return dict(texts)
    owners = [owner for owner in reversed(cls.__mro__) if dataclasses.is_dataclass(owner)]
    nodes = [node for owner in owners for node in ast.parse(inspect.getsource(owner)).body]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    return {name: text for node in classes for name, text in documented_fields(node).items()}


def describe(recipe: Recipe, usage: str) -> str:
    """Return the --help of a recipe: every option with its meaning and, in brackets, its value in this recipe."""
    training = ", ".join(f"{name}={value}" for name, value in recipe.training.items())
    rows = {"training.FIELD": f"Any field of transformers.TrainingArguments [{training}]"}
    rows["task NAME"] = f"{', '.join(TASKS)}, or module:Class [{task_name(recipe.task)}]"
    for part in ("data", "model", "task", "run"):
        values = getattr(recipe, part)
        texts = field_help(type(values))
        for name in (field.name for field in dataclasses.fields(values)):
            value = getattr(values, name)
            rows[f"{part}.{name}"] = texts.get(name, "") + (f" [{value}]" if value not in (None, (), {}, "") else "")
    common = {option: rows[path] for option, path in SHORT.items() if path in rows}
    common["config FILE"] = "YAML file with the same five parts; the command line overrides it"
    common["plan"] = "Print parameters, tokens, steps, memory and time, and train nothing"
    parts = ("data", "training", "model", "task", "run")
    sections = {part: {option: text for option, text in rows.items() if option.startswith(part)} for part in parts}
    lines = [usage]
    for title, section in ({"common options": common} | sections).items():
        lines += [f"\n{title.capitalize()}:", *(f"  --{option:<21} {text}" for option, text in section.items())]
    return "\n".join(lines)
