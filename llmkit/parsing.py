"""From what was typed to a recipe: dotted flags and YAML become one nested mapping, laid over a recipe.

The same few functions serve `accelerate launch recipes/x.py`, `python recipes/x.py`, `llmkit train x` and YAML files.
Every fault is collected and raised once. Nothing here imports torch. Why not a library: docs/decisions.md.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkit.console import say
from llmkit.errors import RecipeError, raise_faults, refusing, suggest
from llmkit.recipe import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.task import Task
from llmkit.tasks import find_task

PARTS = {"task": Task, "model": ModelConfig, "data": DataConfig, "training": None, "run": RunConfig}
SHORT = {"task": "task.name", "model": "model.name", "data": "data.train"}
SHORT |= {"output": "run.output", "resume": "run.resume"}
SWITCHES = ("plan", "help")
TYPES = {"int": int, "float": float, "bool": bool, "None": type(None)}

REPLACED = {  # TrainingArguments of Transformers 4 that are gone, and what to write now
    "warmup_ratio": "write `warmup_steps: 0.1` (a fraction of the run)",
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "overwrite_output_dir": "choose another --output, or --resume the run that is there",
    "no_cuda": "write `use_cpu: true`",
    "jit_mode_eval": "write `torch_compile: true`",
    "output_dir": "write --output (run.output)",
    "resume_from_checkpoint": "write --resume (run.resume) with the run's own --output",
    "label_smoothing_factor": "write --task.label_smoothing, where the task has it",
    "batch_size": "write `per_device_train_batch_size`",
    "epochs": "write `num_train_epochs`",
    "lr": "write `learning_rate`",
}
WITHOUT_EFFECT = {  # gone too, but a run is the same without them: said, and left out
    "logging_dir": "every run writes log.jsonl into its output folder; for TensorBoard set TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "safetensors is the only format written",
}


@functools.cache
def training_fields() -> dict[str, str]:
    """Every TrainingArguments field and its annotation, read from the library's source: 20 ms, no torch."""
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    tree = ast.parse((Path(package) / "training_args.py").read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments").body
    return {n.target.id: ast.unparse(n.annotation) for n in body if isinstance(n, ast.AnnAssign)}


def _yaml() -> Any:
    """YAML 1.2's core schema: what ruamel adds to it, dates, are words."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor

    class Core(SafeConstructor):
        pass

    Core.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Core
    return yaml


def scalar(text: str) -> Any:
    """A typed word as YAML 1.2 reads it: `1e-4` is a number, `no` is a word. What is no YAML is the text itself."""
    from ruamel.yaml import YAMLError

    try:
        return _yaml().load(text) if text else ""
    except YAMLError:
        return text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file. Raises RecipeError with the line of a mistake."""
    from ruamel.yaml import YAMLError

    try:
        with refusing(f"{path}: cannot be read", OSError, UnicodeDecodeError):
            content = _yaml().load(Path(path).read_text(encoding="utf-8"))
    except YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not YAML ({getattr(e, 'problem', None) or e})") from None
    if not isinstance(content, Mapping):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys {', '.join(PARTS)}")
    return dict(content)


def write_yaml(content: Mapping[str, Any], path: str | Path) -> None:
    yaml = _yaml()
    yaml.default_flow_style, yaml.allow_unicode, yaml.sort_base_mapping_type_on_output = False, True, False
    with Path(path).open("w", encoding="utf-8") as file:
        yaml.dump(dict(content), file)


class Typed(str):
    """A value as it was typed: not read as YAML until the field's type is known."""


def parse_argv(argv: Sequence[str], faults: list[str]) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """`(nested mapping, YAML files, switches)` of `--part.field value`, `--part.field=value` and the short forms; what
    is none of these goes to `faults`."""
    nested: dict[str, Any] = {}
    configs: list[str] = []
    switches: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            faults.append(f"{word!r}: expected --part.field value (parts: {', '.join(PARTS)})")
            continue
        flag, has_value, value = word[2:].partition("=")
        flag = flag.replace("-", "_")
        if flag in SWITCHES:
            switches[flag] = True
            continue
        if not has_value:
            value = words.pop(0) if words and not words[0].startswith("--") else None
        path = SHORT.get(flag, flag).split(".")
        if flag == "config" and value is not None:
            configs.append(value)
        elif flag != "config" and (len(path) < 2 or path[0] not in PARTS):
            faults.append(f"--{flag}: no such option; {suggest(path[0], _flags())}")
        elif value is None and not _is_switch(path):
            faults.append(f"--{flag}: needs a value")
        else:
            _put(nested, path, "true" if value is None else value, faults)
    return nested, configs, switches


def _flags() -> list[str]:
    fields = [f"{p}.{f.name}" for p in ("model", "data", "run") for f in dataclasses.fields(PARTS[p])]
    return [*PARTS, *SHORT, "config", *SWITCHES, *fields, *(f"training.{name}" for name in training_fields())]


def _is_switch(path: Sequence[str]) -> bool:
    """Whether a flag may stand without a value; of a task or library, the field's own type tells later."""
    if len(path) == 2 and path[0] in ("model", "data", "run"):
        return bool in _alternatives(typing.get_type_hints(PARTS[path[0]]).get(path[1], bool))
    return path != ["config"]


def _put(nested: dict[str, Any], path: Sequence[str], value: str, faults: list[str]) -> None:
    *above, last = path
    for at, key in enumerate(above, 1):
        if isinstance(nested.get(key), Typed):
            nested[key] = scalar(str(nested[key]))  # a mapping typed whole, now field by field
        nested = nested.setdefault(key, {})
        if not isinstance(nested, dict):
            faults.append(f"--{'.'.join(path)}: --{'.'.join(path[:at])} was given a value already; give one of them")
            return
    fields = nested.get(last)
    whole = scalar(value) if isinstance(fields, dict) else None
    if isinstance(whole, Mapping):
        fields.update(whole)
    elif isinstance(fields, dict):
        faults.append(f"--{'.'.join(path)}: some of its fields were given already; give one of them")
    else:
        nested[last] = Typed(value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(a for arg in typing.get_args(hint) for a in _alternatives(arg))
    return (typing.get_origin(hint) or hint,)


def _coerce(value: Any, kinds: Sequence[Any], path: str, faults: list[str]) -> Any:
    """`value` as one of `kinds`, or a fault that names the path, the value and the type."""
    typed = str(value)
    if isinstance(value, Typed):
        is_text = str in kinds and not {int, float, bool, Any, Mapping} & set(kinds)
        is_text |= tuple in kinds and not typed.strip().startswith("[")  # a text of its own, whatever signs are in it
        value = typed if is_text else scalar(typed)
    if {str, Any} <= set(kinds) and isinstance(value, (int, float)):
        return typed  # the name of a file or model, `2024` too
    if Any in kinds or (value is None and type(None) in kinds):
        return value
    if tuple in kinds and isinstance(value, (list, tuple, str, int, float)):
        return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
    if float in kinds and type(value) is int:
        return float(value)
    plain = [k for k in kinds if isinstance(k, type) and not (k is int and isinstance(value, bool))]
    if isinstance(value, tuple(plain)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Mapping: "a mapping"}
    faults.append(f"{path}: {value!r} is not {' or '.join(names[k] for k in kinds if k in names)}")
    return value


def _read_open(value: Any) -> Any:
    """An open mapping's typed values, read as YAML at every depth."""
    if isinstance(value, Mapping):
        return {k: _read_open(v) for k, v in value.items()}
    return scalar(str(value)) if isinstance(value, Typed) else value


def check_training(given: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """`given` with its values as TrainingArguments' fields want them; unknown names and wrong types go to `faults`."""
    known, checked = training_fields(), {}
    for key, value in _read_open(given).items():
        kinds = [TYPES.get(part.strip()) for part in known.get(key, "").split("|")]
        if key in WITHOUT_EFFECT:
            say(f"training.{key} is not read; {WITHOUT_EFFECT[key]}", "warning")
        elif key in REPLACED:
            faults.append(f"training.{key} is not read; {REPLACED[key]}")
        elif key not in known:
            faults.append(f"training.{key}: TrainingArguments has no such field; {suggest(key, known)}")
        else:
            checked[key] = value if None in kinds else _coerce(value, kinds, f"training.{key}", faults)
    return checked


def _replace(part: Any, given: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    """A dataclass with the given fields replaced; mapping fields are merged key by key."""
    hints, names = typing.get_type_hints(type(part)), [f.name for f in dataclasses.fields(part)]
    changes = {}
    for key, value in given.items():
        kinds = _alternatives(hints[key]) if key in names else ()
        if key not in names:
            faults.append(f"{path}.{key}: no such field; {suggest(key, names)}")
        elif Mapping in kinds and isinstance(value, Mapping):
            before = getattr(part, key)
            changes[key] = {**(before if isinstance(before, Mapping) else {}), **_read_open(value)}
        elif isinstance(value, Mapping) and any(isinstance(v, Typed) for v in value.values()):
            faults.append(f"{path}.{key}.{next(iter(value))}: {path}.{key} has no fields of its own")
        else:
            changes[key] = _coerce(value, kinds, f"{path}.{key}", faults)
    try:
        return dataclasses.replace(part, **changes)
    except RecipeError as e:  # a value that the part itself refuses
        faults += e.faults
        return part


def _replace_task(task: Task | None, given: Any, faults: list[str]) -> Task | None:
    knobs = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = str(knobs.pop("name", task.name_in_recipe() if task else ""))
    if not name:
        faults.append("task: not given; choose one with --task NAME")
        return None
    try:
        task = task if task and name == task.name_in_recipe() else find_task(name)()
    except RecipeError as e:
        faults += e.faults
        return None
    return _replace(task, knobs, "task", faults)


def apply(recipe: Recipe | None, given: Mapping[str, Any]) -> Recipe:
    """`recipe` with `given` laid over it (a mapping of the five parts). Raises RecipeError with every fault.

    What belongs to a thing that is replaced goes with it: new training data clears the recipe's own validation, test
    and columns; a new model clears the recipe's own config fields.
    """
    faults: list[str] = []
    for key, value in given.items():
        if key not in PARTS:
            faults.append(f"{key}: a recipe has no such part; {suggest(key, PARTS)}")
        elif value is not None and not isinstance(value, Mapping) and key != "task":
            faults.append(f"{key}: {value!r} is not a mapping of {key}'s fields")
    raise_faults(faults)
    task = _replace_task(recipe.task if recipe else None, given.get("task") or {}, faults)
    given = {part: given.get(part) or {} for part in PARTS}
    base = recipe or Recipe(task)  # type: ignore[arg-type]
    data, model = base.data, base.model
    if "train" in given["data"]:
        data = dataclasses.replace(data, validation=None, test=None, columns={}, names=())
    if given["model"].get("name") is not None and str(given["model"]["name"]) != str(model.name):
        model = dataclasses.replace(model, config={})
    recipe = Recipe(
        task=task,  # type: ignore[arg-type]
        model=_replace(model, given["model"], "model", faults),
        data=_replace(data, given["data"], "data", faults),
        run=_replace(base.run, given["run"], "run", faults),
        training={**base.training, **check_training(given["training"], faults)},
    )
    raise_faults(faults)
    return recipe


def build_recipe(base: Recipe | None, argv: Sequence[str]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that `argv` asks for (recipe < YAML < command line), and the words `plan` and `help` if typed."""
    faults: list[str] = []
    nested, configs, switches = parse_argv(argv, faults)
    try:
        for path in configs:
            base = apply(base, read_yaml(path))
        recipe = base if "help" in switches and base else apply(base, nested)
    except RecipeError as e:
        faults += e.faults
    raise_faults(faults)
    return recipe, switches


def field_help(cls: type) -> dict[str, str]:
    """Each field's docstring (the string literal below it), for --help."""
    import inspect

    found = {}
    for owner in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = text.value.value
    return found


def describe(recipe: Recipe, usage: str) -> str:
    """The --help of a recipe: every field, its value here, what it means."""
    lines, short = [usage, ""], {path: f" (short: --{word})" for word, path in SHORT.items()}
    for part in PARTS:
        value = getattr(recipe, part)
        if part == "training":
            given = ", ".join(f"{k}={v}" for k, v in value.items())
            lines += ["--training.FIELD: any field of transformers.TrainingArguments", f"    here: {given or 'none'}"]
            continue
        texts = field_help(type(value))
        lines.append(f"--{part}.…" + short.get(f"{part}.name", ""))
        for name in (f.name for f in dataclasses.fields(value)):
            about = f"{texts.get(name, '')} [{getattr(value, name)}]{short.get(f'{part}.{name}', '')}"
            lines.append(f"    --{part}.{name:<14} {about}")
    lines += ["--config FILE         YAML with the same five keys; the command line wins over it"]
    lines += ["--plan                parameters, tokens, steps, memory and time; trains nothing"]
    return "\n".join(lines)
