"""Text classification: one label for a text or a pair of texts (sentiment, intent, entailment), several, or a number.

The labels decide which: text and whole numbers are classes, one per row; lists hold any number of classes; numbers with
a fraction, such as 3.8, are a regression. `llmkit.tasks._labels` holds what differs between the three.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from datasets import Dataset
from transformers import PretrainedConfig

from llmkit.collate import Batch, Feature
from llmkit.errors import UsageError, raise_faults, suggest
from llmkit.log import log, log_truncated
from llmkit.recipe import Recipe
from llmkit.task import (
    Columns,
    Json,
    Model,
    Outputs,
    Row,
    Rows,
    Task,
    Tokenizer,
    baseline_values,
    model_outputs,
    predict_batches,
    read_list,
    read_text,
)
from llmkit.tasks import _labels
from llmkit.tasks._labels import KINDS, MULTI, REGRESSION, SINGLE, Regression, SingleLabel


@dataclass(frozen=True)
class TextClassification(Task):
    """A text, or two, and its label. What `fit` learns is saved in the model's config, where plain Transformers reads it;
    thresholds are in recipe.yaml only."""

    problem_type: str = ""
    """single_label_classification, multi_label_classification or regression (default: found from the labels)"""
    labels: tuple[str, ...] = ()
    """Labels in the order of the logits (default: those of the training rows, sorted)"""
    pairs: bool | None = None
    """Whether a row holds two texts, text and text_pair (default: found from the training rows)"""
    class_weights: str | Mapping[str, float] | None = None
    """Weight of each label in the loss: balanced (higher for rare labels), or a number by label"""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy"""
    threshold: float | Mapping[str, float] | None = None
    """Minimum probability at which a label is predicted: a number (of two labels, for the second), or numbers by label (default: 0.5)"""
    calibrate: bool = False
    """Divide the logits after training by the temperature that fits the validation part best (Guo et al. 2017)"""

    name: ClassVar[str] = "text-classification"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("sentence", "review", "content", "body", "sentence1", "premise", "question1", "#1 String"),
        "text_pair": ("sentence2", "hypothesis", "question2", "#2 String"),
        "label": (
            "labels", "category", "class", "sentiment", "intent", "score", "similarity_score", "gold_label", "is_duplicate",
            "Quality",
        ),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "label"),)
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    @property
    def kind(self) -> SingleLabel | Regression:
        """What depends on the problem type."""
        cls = KINDS.get(self.problem_type, SingleLabel)
        return cls(self.labels, self.class_weights, self.threshold, self.label_smoothing)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.kind.metrics

    @property
    def predict_columns(self) -> tuple[str, ...]:
        return ("text", "text_pair") if self.pairs else ("text",)

    @property
    def config_fields(self) -> Json:
        labels = self.labels or ("score",)
        ids = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        return {"problem_type": self.problem_type or SINGLE, **ids}

    def check(self, recipe: Recipe) -> list[str]:
        unused = {option: value for option in self.kind.unused if (value := getattr(self, option))}
        faults = super().check(recipe)
        faults += [f"task.{o}: {v!r} has no effect in {self.problem_type}; remove it" for o, v in unused.items()]
        if self.problem_type not in ("", *KINDS):
            faults.append(f"task.problem_type: no {self.problem_type!r}; {suggest(self.problem_type, KINDS)}")
        if isinstance(self.class_weights, Mapping):
            faults += _labels.range_faults("class_weights", self.class_weights, math.inf)
        elif self.class_weights not in (None, "balanced"):
            faults.append(f"task.class_weights: {self.class_weights!r} is neither balanced nor a number by label")
        return faults + _labels.range_faults("threshold", self.threshold or {}, 1)

    def read_row(self, row: Row) -> Row:
        texts = {c: read_text(row, c) for c in ("text", "text_pair") if c in row}
        label = read_list(row.get("label"))
        if self.problem_type == MULTI and not isinstance(label, list):
            raise ValueError(f"label {label!r} is not a list of labels")
        if not isinstance(label, list) or self.problem_type not in ("", MULTI):
            return {**texts, "label": self.kind.read(label)}
        labels = list(map(self.kind.read, label))
        if len(set(labels)) < len(labels):
            raise ValueError(f"label {label!r} holds a label twice; list the names of the labels that the row has")
        return {**texts, "label": labels}

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        task, faults = self._fit(rows["train"]) if "train" in rows else self, []
        for part, dataset in rows.items():
            values = dataset["label"][:]
            if task.pairs is not None and task.pairs != ("text_pair" in dataset.column_names):
                faults.append(f"data.{part}: {'no' if task.pairs else 'a'} text_pair, unlike the training rows")
            if isinstance(values[0], list) != (task.problem_type == MULTI):
                faults.append(f"data.{part}: labels such as {values[0]!r}, unlike those of the training rows")
            elif unknown := task.kind.unknown(values):
                fix = (
                    _labels.missing_labels_fix(task.labels, unknown)
                    if task.labels and "train" in rows
                    else "remove them"
                )
                what = f"labels that are not in the training rows: {', '.join(unknown[:8])}"
                faults.append(f"data.{part}: {what}; {fix}")
        raise_faults(faults)
        return task

    def _fit(self, rows: Dataset) -> Self:
        values, problem_type = rows["label"][:], self.problem_type
        if isinstance(values[0], list):
            problem_type = MULTI
            if all(sorted(names) == ["0", "1"] for names in values):
                fix = "list the names of the labels that a row has"
                raise UsageError(f"data.train: labels are a 0 and a 1, such as [0, 1], in every row; {fix}")
        elif not (self.problem_type or self.labels) and (number := _labels.find_fraction(values)):
            problem_type, fix = REGRESSION, f"for classes, set --task.problem_type {SINGLE}"
            log(f"regression: the labels are numbers, such as {number}; {fix}", "config")
        task = replace(self, problem_type=problem_type or SINGLE, pairs="text_pair" in rows.column_names)
        raise_faults(task.check(Recipe(task)))
        return replace(task, **vars(task.kind.fit(values)))

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row[column] for row in rows for column in self.predict_columns)

    def with_checkpoint(self, folder: Path, config: PretrainedConfig | None) -> Self:
        if config is None or self.labels or self.problem_type:
            return self
        problem_type = config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE)
        labels = [] if problem_type == REGRESSION else [name for _, name in sorted((config.id2label or {}).items())]
        return replace(self, problem_type=problem_type, labels=tuple(labels))

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        texts = [list(rows[column]) for column in ("text", "text_pair") if column in rows]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")[: len(texts)] if name in encoded}
        if "label" in rows:
            columns["labels"] = self.kind.encode(rows["label"])
        truncated = [bool(e.overflowing) for e in encoded.encodings or ()]
        return {**columns, "row": list(range(len(texts[0]))), "truncated": truncated}

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        batch = super().collate(features, tokenizer, layout)
        if self.problem_type == MULTI and "labels" in batch:
            batch["labels"] = batch["labels"].float()
        return batch

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        outputs = model_outputs(self, model, batch)
        return self.kind.loss(outputs.logits.float(), batch["labels"]), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return self.kind.weight(batch["labels"])

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return logits: (rows, labels)."""
        return model_outputs(self, model, batch).logits.float()

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[target, logits ...]` of each row; with several labels per row, a target of 1 or 0 for each."""
        return np.column_stack([features["labels"][:], outputs])

    def _split(self, stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets and the logits in `stats`."""
        if self.problem_type == MULTI:
            return stats[:, : len(self.labels)].astype(int), stats[:, len(self.labels) :]
        return stats[:, 0].astype(float if self.problem_type == REGRESSION else int), stats[:, 1:]

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return self.kind.score(*self._split(stats))

    def details(self, stats: np.ndarray) -> Json:
        return self.kind.details(*self._split(stats))

    def finish(self, model: Model, folder: Path | None, stats: Callable[[], np.ndarray]) -> None:
        if self.calibrate:
            _labels.calibrate(model, *self._split(stats()))

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        known, targets = (np.asarray(features["labels"][:]) for features in (train, evaluation))
        reference = self.kind.reference(known, targets, rows) if references else {}
        return baseline_values(floor=self.kind.floor(known, targets), reference=reference)

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int) -> list[Row]:
        """Return `{"label", "score"}` of each text, or mapping of `text` and `text_pair`: its label and the probability.

        With several labels per row `{"labels", "scores"}`, of a regression `{"score"}`. Raises UsageError for one text
        where the model reads two.
        """
        rows = [{"text": text} if isinstance(text, str) else text for text in inputs]
        columns = ("text", "text_pair") if self.pairs or (self.pairs is None and "text_pair" in rows[0]) else ("text",)
        if invalid := [row for row in rows if {*row} & {"text", "text_pair"} != {*columns}]:
            raise UsageError(f"{self.name}: this model reads {' and '.join(columns)} of each input, not {invalid[0]!r}")
        texts = {column: [row[column] for row in rows] for column in columns}
        _, logits, truncated = predict_batches(self, model, tokenizer, texts, max_length)
        log_truncated(truncated, "input", max_length)
        return self.with_checkpoint(Path(), model.config).kind.answers(np.array(logits))

    def format_prediction(self, answer: Row, given: Any) -> str:
        values = [value if isinstance(value, list) else [value] for value in answer.values()]
        cells = [",".join(f"{v:.4f}" if isinstance(v, float) else v for v in value) for value in values]
        texts = [given] if isinstance(given, str) else given.values()
        return "\t".join([*cells, *(" ".join(text.split()) for text in texts)])
