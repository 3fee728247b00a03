"""A recipe: everything a run depends on, in five parts, and its YAML form. No part mirrors a field of a library.

`training` is a mapping of `transformers.TrainingArguments` fields. Importing this module does not import torch.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import SafeConstructor

from llmkit.errors import UsageError, as_usage_error, raise_faults

Fields = Mapping[str, Any]
"""Values by the name of a field."""


@dataclass(frozen=True)
class DataConfig:
    """Which data is read, and how rows become features."""

    train: str | Any = None
    """Training data: a file, glob, folder, hub id, bundled name (demo, fables, reviews), a weighted list of these, or a Dataset"""
    validation: Any = None
    """Validation data, like train; or the fraction of train to split off by document (default: 0.1)"""
    test: str | Any = None
    """Test data, like train (default: the final metrics are those of the validation part)"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Your column for each column of the task, such as text: body"""
    names: tuple[str, ...] = ()
    """Column names, in order, of .csv, .tsv and tab-separated .txt files without a header line, such as text,label"""
    encoding: str = "utf-8"
    """Character encoding of text files, such as cp1252, gb18030 or utf-16"""
    document: str = "file"
    """What one document of a .txt or .md file is: file, line or paragraph"""
    max_length: int | None = None
    """Maximum number of tokens per row (default: the model's limit, at most 512)"""
    packing: bool | None = None
    """Put several documents into one row, separated by the attention mask (default: the task decides)"""
    streaming: bool = False
    """Read rows while training instead of loading them first; needs training.max_steps"""
    on_error: str = "raise"
    """What to do with an invalid row: raise, skip or report"""
    seed: int = 0
    """Random seed for splits and sampling"""

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            object.__setattr__(self, part, in_memory(getattr(self, part)))


@dataclass(frozen=True)
class ModelConfig:
    """Which weights or architecture, which tokenizer, which adapter."""

    name: str | Any = None
    """Pretrained model: run folder, folder, .gguf file, hub id, bundled name (tiny-gpt2, tiny-bert), or a model object"""
    from_scratch: bool = False
    """Start from random weights; name is then a model type (gpt2, llama, lstm) or a model to copy the architecture from"""
    config: Fields = field(default_factory=dict)
    """Fields of the model's own config, such as n_layer: 4"""
    tokenizer: str | Any = None
    """Tokenizer: a folder, a hub id, or a type to train on the training rows: bpe, wordpiece, char, word"""
    tokenizer_size: int = 8000
    """Vocabulary size of a tokenizer trained here"""
    new_characters: bool = False
    """Add characters of the training rows that a pretrained tokenizer does not know"""
    vectors: str | None = None
    """File of word vectors (GloVe or word2vec text format) to initialise the embeddings of a new model"""
    dtype: str = "auto"
    """Data type of the weights: auto, float32, bfloat16 or float16"""
    adapter: Fields = field(default_factory=dict)
    """PEFT adapter: type (lora, ...) and that method's own config fields, such as r: 8"""


@dataclass(frozen=True)
class RunConfig:
    """Where the run is saved, when it stops early, and what it evaluates besides."""

    output: str = "runs/run"
    """Run folder; holds a plain from_pretrained model when the run ends"""
    resume: bool = False
    """Resume the run in the output folder"""
    patience: int | None = None
    """Number of evaluations without improvement before stopping early"""
    prompts: tuple[str, ...] = ()
    """Prompts to continue at each evaluation, as samples of what the model has learned"""
    references: bool = False
    """Also train the slower reference baselines (TF-IDF + logistic regression)"""


@dataclass(frozen=True)
class Recipe:
    """A complete description of a run: `llmkit.run(recipe)` trains it, `recipe.yaml` keeps it."""

    task: Any
    """A `llmkit.task.Task`"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: Fields = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        faults = []
        if isinstance(self.task, (type, str)):
            name = self.task if isinstance(self.task, str) else self.task.__name__
            faults.append(f"task: {name!r} is not a task; give an instance, such as CausalLM()")
        for part, cls in {"model": ModelConfig, "data": DataConfig, "training": Mapping, "run": RunConfig}.items():
            if not isinstance(value := getattr(self, part), cls):
                faults.append(f"{part}: {value!r} is a {type(value).__name__}; give a {cls.__name__}")
        raise_faults(faults)

    def to_dict(self) -> Fields:
        """Return the recipe as plain mappings; an object that YAML cannot hold becomes a line that describes it."""
        parts = {p: _field_values(getattr(self, p)) for p in ("task", "model", "data", "run")}
        parts["task"] = {"name": task_name(self.task), **parts["task"]}
        return {**parts, "training": _plain(self.training)}


PARTS: dict[str, type | None] = {
    "task": None, "model": ModelConfig, "data": DataConfig, "training": None, "run": RunConfig
}  # fmt: skip
"""The parts of a recipe, with their dataclasses; a task's is its own, training's fields are TrainingArguments'."""


def task_name(task: Any) -> str:
    """The task's name in recipe.yaml: llmkit's own, or `module:Class` of a task from elsewhere."""
    cls = type(task)
    return cls.name if cls.__module__.startswith("llmkit.tasks.") else f"{cls.__module__}:{cls.__qualname__}"


def in_memory(values: Any) -> Any:
    """Return a NumPy array, pandas Series, tuple or iterator as a list, a DataFrame as a list of its rows, a NumPy number
    as Python's, and a mapping with such values; anything else as it is."""
    if hasattr(values, "iterrows"):
        return values.to_dict("records")
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, Mapping):
        return {key: in_memory(value) for key, value in values.items()}
    return list(values) if isinstance(values, (tuple, Iterator)) else values


def is_row(entry: object) -> bool:
    """Whether an entry of a list of data is a row itself, and not a source with its weight."""
    return isinstance(entry, Mapping) and not (entry and set(entry) <= {"source", "weight"})


def _field_values(part: Any) -> Fields:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    in_memory = {
        k: f"<{len(v)} rows in memory>" for k, v in values.items() if isinstance(v, list) and v and is_row(v[0])
    }
    return {k: _plain(v) for k, v in (values | in_memory).items()}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value) if isinstance(value, (Path, Number)) else f"<{type(value).__name__} object>"


# -- YAML 1.2


class _CoreSchema(SafeConstructor):
    """YAML 1.2's core schema: dates, which ruamel adds to it, stay text."""


_CoreSchema.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _CoreSchema
    return yaml


def scalar(text: str) -> Any:
    """Parse a typed word as YAML 1.2: `1e-4` is a number, `no` is text. Invalid YAML is returned as text."""
    try:
        return _yaml().load(text) if text else ""
    except YAMLError:
        return text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file. Raises UsageError with the line of a mistake."""
    try:
        with as_usage_error(f"{path}: cannot be read", OSError, UnicodeDecodeError):
            content = _yaml().load(Path(path).read_text(encoding="utf-8"))
    except YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not YAML ({getattr(e, 'problem', None) or e})") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: expected a mapping with the keys {', '.join(PARTS)}")
    return dict(content)


def write_yaml(content: Fields, path: str | Path) -> None:
    """Write a mapping as YAML 1.2, its keys in their order."""
    yaml = _yaml()
    yaml.default_flow_style, yaml.allow_unicode, yaml.sort_base_mapping_type_on_output = False, True, False  # type: ignore[assignment]
    with Path(path).open("w", encoding="utf-8") as file:
        yaml.dump(dict(content), file)


# -- values of fields


class Typed(str):
    """A value as typed on the command line: parsed as YAML once the type of its field is known."""


def field_types(hint: Any) -> tuple[Any, ...]:
    """The types that a field's annotation allows."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(t for arg in typing.get_args(hint) for t in field_types(arg))
    return (typing.get_origin(hint) or hint,)


def coerce(value: Any, allowed: Sequence[Any], path: str, faults: list[str]) -> Any:
    """Convert `value` to one of the `allowed` types, or append a fault that names the path, the value and the type."""
    typed = str(value)
    if isinstance(value, Typed):
        is_text = str in allowed and not {int, float, bool, Any, Mapping} & set(allowed)
        is_text |= tuple in allowed and not typed.strip().startswith("[")  # one text, whatever characters it holds
        value = typed if is_text else scalar(typed)
    if {str, Any} <= set(allowed) and isinstance(value, (int, float)):
        return typed  # the name of a file or model may be a number, such as 2024
    if Any in allowed or (value is None and type(None) in allowed):
        return value
    if tuple in allowed and isinstance(value, (list, tuple, str, int, float)):
        return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
    if float in allowed and type(value) is int:
        return float(value)
    plain = [t for t in allowed if isinstance(t, type) and not (t is int and isinstance(value, bool))]
    if isinstance(value, tuple(plain)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Mapping: "a mapping"}
    faults.append(f"{path}: {value!r} is not {' or '.join(names[t] for t in allowed if t in names)}")
    return value


def parse_values(value: Any) -> Any:
    """Parse the typed values of an open mapping as YAML, at every depth."""
    if isinstance(value, Mapping):
        return {k: parse_values(v) for k, v in value.items()}
    return scalar(str(value)) if isinstance(value, Typed) else value
