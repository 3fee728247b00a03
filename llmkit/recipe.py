"""The recipe: everything a run depends on, in five parts. No part mirrors a field that a library owns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any

from llmkit.task import Task


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a row becomes features."""

    train: str | Any = None
    """file, glob, folder, hub id, bundled name (demo, fables, reviews), a weighted list of these, or a Dataset"""
    validation: Any = None
    """like train, or a fraction of it to split off by document (left out: 0.1)"""
    test: str | Any = None
    """like train; left out, the validation part gives the final figures"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """the task's column: your column, such as text: body"""
    names: tuple[str, ...] = ()
    """the columns, in order, of .csv, .tsv and tab-separated .txt files without a header line, such as text,label"""
    document: str = "file"
    """what one document of a .txt or .md file is: file, line or paragraph"""
    max_length: int | None = None
    """tokens in a row of features (left out: what the model takes, at most 512)"""
    packing: bool | None = None
    """several documents in one row, kept apart (left out: the task decides)"""
    streaming: bool = False
    """read while training, never all at once; needs training.max_steps"""
    on_error: str = "raise"
    """a bad row: raise, skip (counted), or report (each one printed)"""
    seed: int = 0
    """of splits and weighted samples"""


@dataclass(frozen=True)
class ModelConfig:
    """Which weights, or which architecture; which tokenizer; which adapter."""

    name: str | Any = None
    """run folder, folder, .gguf file, hub id, bundled name (tiny-gpt2, tiny-bert), or a model object"""
    from_scratch: bool = False
    """random weights: name gives the architecture (a type such as gpt2, llama or lstm, or a model to copy it from)"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """the model's own config fields, such as n_layer: 4"""
    tokenizer: str | Any = None
    """folder, hub id, or trained on the training rows: bpe, wordpiece, char, word"""
    tokenizer_size: int = 8000
    """vocabulary of a trained tokenizer"""
    new_characters: bool = False
    """add to a tokenizer that is not trained here the characters of the training rows that it does not know"""
    vectors: str | None = None
    """from scratch: a file of word vectors (GloVe or word2vec, as text), the first embeddings of the words it has"""
    dtype: str = "auto"
    """of the weights: auto, float32, bfloat16, float16"""
    adapter: Mapping[str, Any] = field(default_factory=dict)
    """PEFT: type (lora, …) and that method's own config fields, such as r: 8"""


@dataclass(frozen=True)
class RunConfig:
    """What is neither the task's, the data's, the model's nor TrainingArguments'."""

    output: str = "runs/run"
    """the run folder: a plain from_pretrained folder when the run ends"""
    resume: bool = False
    """go on with the run that is in output"""
    patience: int | None = None
    """stop after so many evaluations without a better one"""
    prompts: tuple[str, ...] = ()
    """continued at each evaluation, to read what the model has learned"""
    references: bool = False
    """also train the dearer reference baselines (TF-IDF + logistic regression)"""


@dataclass(frozen=True)
class Recipe:
    """A run, written down: `llmkit.run(recipe)` trains it, `recipe.yaml` keeps it."""

    task: Task
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: Mapping[str, Any] = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain mappings; an object that no file can hold becomes a line that says what it was."""
        parts = {p: _fields(getattr(self, p)) for p in ("task", "model", "data", "run")}
        parts["task"] = {"name": self.task.name_in_recipe(), **parts["task"]}
        return {**parts, "training": _plain(self.training)}


def is_row(entry: Any) -> bool:
    """Whether an entry of a list of data is a row itself, and not a source with its weight."""
    return isinstance(entry, Mapping) and not (entry and set(entry) <= {"source", "weight"})


def _fields(part: Any) -> dict[str, Any]:
    found = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    in_memory = {
        k: f"<{len(v)} rows in memory>" for k, v in found.items() if isinstance(v, list) and v and is_row(v[0])
    }
    return {k: _plain(v) for k, v in (found | in_memory).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value) if isinstance(value, (Path, Number)) else f"<{type(value).__name__} object>"
