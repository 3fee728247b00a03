"""The contract of a task: what one kind of problem adds to the pipeline that all of them share.

A task is a frozen dataclass. Its dataclass fields are its options and what `fit` learned from the training rows; its
class variables describe it; its methods are called in this order:

    check ► read_row ► fit ► configure ► encode ► (pack) ► (precompute) ► collate ► loss, weight
                                                                             └► predict_step ► example_stats ► score
    predict: raw inputs to answers, from a saved folder

A minimal task writes `name`, `columns`, `auto_class`, `metrics`, `encode`, `score` and `predict`: the defaults collate
its columns, take the cross-entropy of its labels and count them. CONTRIBUTING.md shows two complete tasks.

Shapes. `encode` sees at most 1,000 rows at a time and returns columns: `input_ids` holds a flat list of ids for each
row of features, `row` the index (within these rows) it came from; for several sequences in one row, such as candidate
answers, `input_ids` holds them one after the other and `lengths` the length of each. A batch holds tensors whose
`input_ids` are 2-D: (sequences, longest). Both are checked, and an error names the task and the column.

A class variable may be a property of a task whose `fit` decides it, such as the metrics of a regression. Tokenizers and
models are passed in and never kept. Imports stay at the top of a task's file; `llmkit.tasks` loads it when it is named.
"""

import ast
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from transformers import PretrainedConfig
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit.collate import IGNORED, Batch, Feature, default_collate
from llmkit.errors import UsageError, raise_faults, suggest
from llmkit.recipe import Recipe

Json = dict[str, Any]
"""JSON content by key."""
Row = Mapping[str, Any]
"""A raw row, a row as a task keeps it, an input of `predict`, or an answer: values by column."""
Outputs = Any
"""What a model returns: a ModelOutput, whose fields depend on its head."""
Columns = dict[str, list[Any]]
"""Features of several rows, by column."""
Rows = Mapping[str, Sequence[Any]]
"""Several rows, by column."""
PREDICT_ROWS = 32
"""Rows of features per forward pass of `predict_batches`, or the number of inputs if that is larger."""

REQUIRED = ("name", "columns", "auto_class", "metrics", "encode", "score")
"""Members without a default that is of use."""

_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
LIST = re.compile(rf"\[\s*(?P<items>(?:{_TEXT}(?:\s*,\s*{_TEXT})*\s*,?\s*)?)\]|\[\s*{_TEXT}.*\]", re.DOTALL)
"""A list of texts in a cell of a table, with its `items`, or what only looks like one."""

OLD_MEMBERS = {
    **{old: f"is now {new}" for old, new in {
        "aside": "non_model_columns", "asks": "predict_columns", "document": "split_group", "annotate": "precompute",
        "per_example": "example_stats", "show": "format_prediction", "ready_tokenizer": "configure",
        "ready_model": "configure", "with_config": "with_checkpoint", "after_training": "finish",
        "model_kwargs": "config_fields", "packs": "language_modeling", "whole_documents": "language_modeling",
        "check_rows": "fit, which is given the rows of all parts",
        "nats": "the function llmkit.task.label_losses", "forward": "the function llmkit.task.model_outputs",
        "steps": "the function llmkit.task.predict_batches", "replace": "dataclasses.replace",
    }.items()},
    **dict.fromkeys(("row_alone", "unused", "predicts_next", "annotations", "tokenizer_style", "can_generate", "writes",
                     "say_label", "say_labels", "loading", "snippet"), "was removed; auto_class decides"),
    "primary": "was removed; the first of metrics decides",
}  # fmt: skip
"""Members that the contract had under another name."""


def read_text(row: Row, column: str) -> str:
    """Return the text in a column of a raw row. Raises ValueError if it is missing, empty or not text."""
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"no {column!r}" if value is None else f"{column!r} is {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError(f"empty {column!r}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{column!r} holds half a character (a lone surrogate)")
    return value


def is_number(text: str) -> bool:
    """Whether `text` is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_list(value: Any) -> Any:
    """Return the list of texts that a table's cell holds, such as `['a', 'b']`; any other value as it is.

    Raises ValueError for a list without commas, as NumPy writes it: Python would join its texts.
    """
    if not isinstance(value, str) or not (cell := LIST.fullmatch(value.strip())):
        return value
    try:
        return ast.literal_eval(cell[0] if cell["items"] is not None else "")
    except (ValueError, SyntaxError):
        raise ValueError(f"{value!r} is not a list; write one as ['a', 'b'], with commas") from None


def baseline_values(**kinds: Mapping[str, float]) -> dict[str, Json]:
    """The return value of `Task.baselines`, from `floor={name: value}` and `reference={name: value}`."""
    return {name: {"value": v, "kind": kind} for kind, values in kinds.items() for name, v in values.items()}


@dataclass(frozen=True)
class Task:
    """Base class of all tasks. The module's docstring says in which order its methods are called."""

    name: ClassVar[str]
    """The name in `--task` and recipe.yaml."""
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """Each column that the task reads, with other names that files use for it. All are required unless `formats` is set."""
    formats: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Sets of columns, one of which a row must have; the first set that is complete decides."""
    auto_class: ClassVar[str]
    """Name of the Transformers Auto class, such as AutoModelForSequenceClassification."""
    config_fields: ClassVar[Row] = {}
    """Fields of the model's config that the task sets, such as num_labels."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics that `score` returns. The first one selects the best checkpoint."""
    higher_is_better: ClassVar[bool] = True
    """Whether a larger value of the first metric is better."""
    language_modeling: ClassVar[bool] = False
    """Whether rows are running text: packed by default, and a single document is cut to make a validation part."""
    split_group: ClassVar[str | Callable[[Row], Row] | None] = None
    """Column whose equal values stay in one part of a split, such as the context of several questions; or a function
    of a row whose equal results do."""
    predict_columns: ClassVar[tuple[str, ...]] = ("text",)
    """Columns of an input of `predict`. With a single column an input is its value alone."""
    non_model_columns: ClassVar[tuple[str, ...]] = ("labels",)
    """Keys of a batch that are not passed to the model."""
    default_max_length: ClassVar[int] = 512
    """Tokens per row where neither the recipe nor the model says less."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        members = [n for base in cls.__mro__ if not issubclass(Task, base) for n in vars(base)]
        options = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
        old = [n for n in members if n in OLD_MEMBERS and n not in options]
        raise_faults([f"task {cls.__module__}:{cls.__name__}: {n} {OLD_MEMBERS[n]}" for n in old])

    def __getattr__(self, name: str) -> Any:
        hint = f"; it {OLD_MEMBERS[name]}" if name in OLD_MEMBERS else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    # -- before data is read

    def check(self, recipe: Recipe) -> list[str]:
        """Return one line for each invalid option, before any data is read. Extend it with `super().check(recipe)`."""
        smoothing = getattr(self, "label_smoothing", 0.0)  # which the default loss reads
        return [] if 0 <= smoothing <= 1 else [f"task.label_smoothing: {smoothing:g} is not between 0 and 1"]

    # -- rows

    def read_row(self, row: Row) -> Row | Sequence[Row | ValueError]:
        """Return a raw row as this task keeps it: a value of one type for each column.

        A raw row that holds several rows (the questions of an article) becomes a list; a ValueError in the list marks
        an invalid one. Raises ValueError with the reason if the row is invalid.
        """
        return {column: read_text(row, column) for column in self.columns}

    def read_question(self, row: Row) -> list[Any]:
        """Return the inputs of `predict` in a raw row, with columns resolved as for `read_row`.

        An input is a mapping of `predict_columns`, or the value alone if there is only one. Raises ValueError.
        """
        values = predict_values(self, row)
        for column, value in values.items():
            if not isinstance(value, str):
                raise ValueError(f"no text in {column!r} but {type(value).__name__}")
            if len(values) > 1 and not value.strip():
                raise ValueError(f"empty {column!r}")
        return [values if len(values) > 1 else next(iter(values.values()))]

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        """Return a copy with what `rows["train"]` teaches (labels, format), and check the other parts against it.

        `rows` is keyed by part (train, validation, test). Without a train part a fitted task only checks: this is how
        new data is evaluated. Raises UsageError with a line for each fault.
        """
        return self

    def texts(self, rows: Dataset) -> Iterator[str]:
        """Yield the texts that a new tokenizer is trained on."""
        return (row[next(iter(self.columns))] for row in rows)

    # -- tokenizer and model

    def with_checkpoint(self, folder: Path, config: PretrainedConfig | None) -> Self:
        """Return a copy with what a pretrained folder says beside its weights (pooling, labels).

        `config` is the model's config when the folder itself is used for prediction, and None when training starts
        from it (its labels are then not those of the data). Raises UsageError if the task cannot use the folder.
        """
        return self

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        """Set the tokenizer, and the model once it is loaded, up for the task (chat template, generation config)."""

    # -- features and batches

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return the features of at most 1,000 rows as columns; their number may differ from that of the rows.

        `input_ids`: a flat list of at most `max_length` ids for each row of features (of each sequence, with
        `lengths`). `row`: the index of the row it came from. `truncated` (bool), if present, is counted and dropped.
        """
        raise NotImplementedError

    def precompute(self, model: Model, batch: Batch) -> Columns:
        """Return feature columns computed by the untrained model, such as reference log-probabilities.

        Runs once, without gradients; the result is cached under the weights, so it must not depend on task options.
        """
        raise NotImplementedError

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        """Return a batch of tensors. A feature's `row` and `epoch` are the only source of randomness allowed here.

        `layout` says how packed documents are separated, see `llmkit.collate`. By default pads `input_ids` and
        `labels`: lists of one label per token, or one label per row.
        """
        return default_collate(features, tokenizer.pad_token_id, layout, is_causal(self))

    # -- training

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Return the loss in fp32 as a sum over what `weight` counts, and the model's outputs.

        By default the cross-entropy of the labels, per token (2-D) or per row (1-D).
        """
        losses, outputs = label_losses(self, model, batch, getattr(self, "label_smoothing", 0.0))
        return losses.sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        """Return the number of tokens or examples that `loss` sums over; the Trainer divides by the global sum once."""
        return (batch["labels"] != IGNORED).sum()

    def finish(self, model: Model, folder: Path | None, stats: Callable[[], np.ndarray]) -> None:
        """Adjust the trained model, before the final evaluation and before it is saved (temperature scaling).

        `stats` computes `example_stats` of the validation part. `folder` takes files that other libraries look for
        beside the model; it is None on all ranks but the first.
        """

    # -- evaluation

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return what `example_stats` needs of each row, as small as possible: (rows, ...), padded with -100.

        Runs without gradients. By default `[summed loss, number of labels]` where labels are per token, and
        `[loss, 1 if the largest logit is that of the label]` where they are per row.
        """
        losses, outputs = label_losses(self, model, batch)
        labels = batch["labels"]
        if labels.dim() == 1:
            return torch.stack([losses, outputs.logits.argmax(-1) == labels], -1)
        return torch.stack([losses.sum(-1), (labels != IGNORED).sum(-1)], -1)

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return the few numbers of each example that `score` needs: (examples, numbers).

        `outputs` holds `predict_step` of every row of `features`, in order; `rows` are the rows they came from.
        """
        return outputs

    def score(self, stats: np.ndarray) -> dict[str, float]:
        """Return the metrics of any sample of examples: of all of them, and of each bootstrap sample."""
        raise NotImplementedError

    def details(self, stats: np.ndarray) -> Json:
        """Return what metrics.json holds beside the metrics, as JSON (a report by class)."""
        return {}

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        """Return `{name: {"value": v, "kind": "floor" | "reference"}}` for the first metric.

        `train` and `evaluation` are features, `rows` the rows of the same two parts; `references` asks for the slower
        reference baselines too.
        """
        return {}

    # -- prediction

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int) -> list[Row]:
        """Return one answer for each input, in order. Inputs longer than `max_length` tokens are cut."""
        raise UsageError(f"a {self.name} model does not predict; use generate")

    def format_prediction(self, answer: Row, given: object) -> str:
        """Return an answer as one line of text."""
        return f"{answer}"


def class_faults(cls: type[Task]) -> list[str]:
    """Return one line for each rule of the contract that a task's class breaks."""
    where = f"task {cls.__module__}:{cls.__name__}"
    missing = [m for m in REQUIRED if getattr(cls, m, None) is getattr(Task, m, None)]
    similar = {m: difflib.get_close_matches(m, [n for n in vars(cls) if not hasattr(Task, n)], n=1) for m in missing}
    faults = [f"{where}: {m} is missing" + (f"; is {s[0]} meant?" if s else "") for m, s in similar.items()]
    columns = getattr(cls, "columns", {})
    if isinstance(columns, Mapping) and any(isinstance(names, str) for names in columns.values()):
        faults.append(f"{where}: columns: give the other names of a column as a tuple, such as ('review',)")
    elif not isinstance(columns, (Mapping, property)):
        faults.append(
            f"{where}: columns is a {type(columns).__name__}; give a mapping, such as {{'text': ('review',)}}"
        )
    no_default = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    faults += [f"{where}: its option {name} has no default" for name in no_default]
    options = [name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]
    if options and "__dataclass_params__" not in vars(cls):
        faults.append(f"{where}: decorate the class with @dataclass(frozen=True), for its option {options[0]}")
    if isinstance(getattr(cls, "metrics", None), str):
        faults.append(f"{where}: metrics is text; write ({cls.metrics!r},)")
    auto_class = getattr(cls, "auto_class", "")
    if isinstance(auto_class, str) and auto_class and not hasattr(transformers, auto_class):
        known = [name for name in dir(transformers) if name.startswith("AutoModel")]
        faults.append(f"{where}: auto_class: transformers has no {auto_class!r}; {suggest(auto_class, known)}")
    return faults


def misspelled_members(cls: type[Task]) -> list[str]:
    """Return one line for each attribute of a class whose name is close to a member of the contract that it lacks."""
    members = {m for m in {*vars(Task), *Task.__annotations__} if not m.startswith("_")}
    lacking = sorted(members - {*vars(cls)})
    extra = [m for m in vars(cls) if not m.startswith("_") and m not in members]
    similar = {m: difflib.get_close_matches(m, lacking, n=1, cutoff=0.85) for m in extra}
    return [f"{cls.__name__}.{m} is not part of the contract; did you mean {s[0]}?" for m, s in similar.items() if s]


def predict_values(task: Task, row: Row) -> Json:
    """Return the `predict_columns` of a row. Raises ValueError if one is missing."""
    if missing := [column for column in task.predict_columns if row.get(column) is None]:
        raise ValueError(f"no {' and no '.join(missing)}; {task.name} reads {', '.join(task.predict_columns)}")
    return {column: row[column] for column in task.predict_columns}


def is_causal(task: Task) -> bool:
    """Whether the task's model predicts the next token, and can therefore generate."""
    return task.auto_class == "AutoModelForCausalLM"


def model_outputs(task: Task, model: Model, batch: Batch) -> Outputs:
    """Call the model with the batch, without the task's `non_model_columns`."""
    return model(**{name: tensor for name, tensor in batch.items() if name not in task.non_model_columns})


def token_losses(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of each label in fp32, in the shape of `labels`, 0 where the label is -100.

    logits: (rows, length, classes) or (rows, classes); labels: (rows, length) or (rows,).
    """
    logits, flat = logits.float().flatten(0, -2), labels.flatten()
    return F.cross_entropy(logits, flat, reduction="none", label_smoothing=label_smoothing).view_as(labels)


def label_losses(task: Task, model: Model, batch: Batch, label_smoothing: float = 0.0) -> tuple[torch.Tensor, Outputs]:
    """Cross-entropy of each label, (rows, length) or (rows,), and the model's outputs.

    The logits of a causal model predict the label of the next position: the length is then one less.
    """
    outputs, labels = model_outputs(task, model, batch), batch["labels"]
    logits = outputs.logits
    if is_causal(task):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return token_losses(logits, labels, label_smoothing), outputs


def predict_batches(
    task: Task, model: Model, tokenizer: Tokenizer, rows: Rows, max_length: int
) -> tuple[list[Json], list[np.ndarray], int]:
    """Encode, collate and run inputs of `Task.predict`, given as rows without labels.

    Returns their features, `predict_step` of each, and the number of inputs that were truncated.
    """
    columns = task.encode(rows, tokenizer, max_length)
    truncated = sum(columns.pop("truncated", []))
    features = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    outputs: list[np.ndarray] = []
    size = max(PREDICT_ROWS, *map(len, rows.values()))
    for start in range(0, len(features), size):
        batch = task.collate(features[start : start + size], tokenizer, "padded")
        with torch.no_grad():
            step = task.predict_step(model, {name: tensor.to(model.device) for name, tensor in batch.items()})
        outputs += [*step.float().cpu().numpy()]
    return features, outputs, truncated
