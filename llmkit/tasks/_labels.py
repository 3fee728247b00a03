"""What differs between the labels of text classification: one label per row, several, or a number.

Targets are (rows,), or (rows, labels) of 0 and 1 for several labels; logits and probabilities are (rows, labels), or
(rows, 1) for a number.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.special import expit, softmax
from sklearn.metrics import precision_recall_fscore_support

from llmkit.errors import UsageError, raise_faults, suggest
from llmkit.log import log
from llmkit.metrics import baselines, classification, retrieval
from llmkit.task import Json, Model, Row, is_number

Labels = Sequence[Any]
"""Labels of rows as they are read: a name, a list of names, or a number for each row."""


@dataclass(frozen=True)
class _Labels:
    """What the three share. The fields are options of the task; `fit` completes them."""

    labels: tuple[str, ...] = ()
    class_weights: str | Mapping[str, float] | None = None
    threshold: float | Mapping[str, float] | None = None
    label_smoothing: float = 0.0

    unused: ClassVar[tuple[str, ...]] = ()
    """Options of the task that have no effect."""

    def read(self, value: Any) -> str:
        """Return a label of a raw row as text, `1` for 1.0 and "1.0" unless that is a label. Raises ValueError if it is
        invalid."""
        label = str(value).strip()
        label = label if label in self.labels else re.sub(r"^([+-]?\d+)\.0*$", r"\1", label)
        if not isinstance(value, (str, int, float)) or label.lower() in ("", "nan"):
            raise ValueError(f"label {value!r} is neither text nor a number")
        if re.fullmatch(r"\[[-\d\s.,]+\]", label):
            raise ValueError(f"label {value!r} is a list of numbers in one text; write labels as ['1', '2']")
        if self.unknown([label]):
            expected = f"one of {', '.join(self.labels[:8])}" if self.labels else "a number"
            raise ValueError(f"label {label!r} is not {expected}")
        return label

    def unknown(self, values: Labels) -> list[str]:
        """Return the labels among `values` that the model cannot predict; none before the labels are known."""
        return sorted({*_names(values)} - {*self.labels}) if self.labels else []

    def fit(self, values: Labels) -> Self:
        """Return a copy with what the labels of the training rows teach. Raises UsageError for options that do not fit."""
        return self

    def weight(self, targets: torch.Tensor) -> torch.Tensor:
        """Return what `loss` sums over."""
        return targets.new_tensor(targets.numel())

    def details(self, targets: np.ndarray, logits: np.ndarray) -> Json:
        """Return a `report` of each label, and with one label per row the `confusion` matrix by true label."""
        return {}


class SingleLabel(_Labels):
    """One label per row: cross-entropy. Predicts the most probable label, or applies the threshold of one of two."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro", "ece", "loss")

    def fit(self, values: Labels) -> Self:
        counts = Counter(_names(values))
        labels = self.labels or tuple(sorted(counts, key=lambda n: (0, float(n), n) if is_number(n) else (1, 0, n)))
        if len(labels) < 2:
            raise UsageError(f"data.train: only one label, {next(iter(labels), '')!r}; a classifier needs two or more")
        weights: Any = self.class_weights
        if weights == "balanced":
            weights = {name: self._balanced(counts[name], len(values), len(labels)) for name in labels}
        weights = _by_label("class_weights", weights, labels)
        threshold = None if self.threshold is None else self._thresholds(self.threshold, labels)
        return replace(self, labels=labels, class_weights=weights, threshold=_by_label("threshold", threshold, labels))

    def _balanced(self, count: int, num_rows: int, num_labels: int) -> float:
        """The weight that makes all labels count the same in total, as in scikit-learn."""
        return num_rows / (num_labels * max(count, 1))

    def _thresholds(self, threshold: Any, labels: Sequence[str]) -> Mapping[str, float]:
        by_label = threshold if isinstance(threshold, Mapping) else {labels[-1]: threshold}
        if (len(labels), len(by_label)) != (2, 1):
            raise UsageError(f"task.threshold: {threshold!r} is not for one of two labels; there are {len(labels)}")
        return by_label

    def encode(self, values: Labels) -> list[Any]:
        """Return the target of each row."""
        ids = {name: i for i, name in enumerate(self.labels)}
        return [ids[value] for value in values]

    def _weights(self, like: torch.Tensor) -> torch.Tensor | None:
        weights = self.class_weights
        return like.new_tensor([weights.get(n, 1.0) for n in self.labels]) if isinstance(weights, Mapping) else None

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the summed loss."""
        weights, smoothing = self._weights(logits), self.label_smoothing
        return F.cross_entropy(logits, targets, weights, reduction="sum", label_smoothing=smoothing)

    def weight(self, targets: torch.Tensor) -> torch.Tensor:
        weights = self._weights(targets.float())
        return super().weight(targets) if weights is None else weights[targets].sum()

    def predict(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of the predicted label and its probability: two (rows,)."""
        probs = softmax(logits.astype(float), axis=-1)
        predictions = probs.argmax(-1)
        for name, minimum in self.threshold.items() if isinstance(self.threshold, Mapping) else ():
            index = self.labels.index(name)
            predictions = np.where(probs[:, index] >= minimum, index, 1 - index)
        return predictions, probs[np.arange(len(predictions)), predictions]

    def prediction_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Return the metrics that need no probabilities; the first metric is one of them."""
        return classification.Classification(keep_in_memory=True).compute(predictions=predictions, references=targets)

    def score(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        """Return the `metrics`."""
        predictions, confidence = self.predict(logits)
        ece = classification.calibration_error(confidence.ravel(), (predictions == targets).ravel())
        loss = classification.cross_entropy(logits, targets)
        return {**self.prediction_scores(targets, predictions), "ece": ece, "loss": loss}

    def details(self, targets: np.ndarray, logits: np.ndarray) -> Json:
        predictions, _ = self.predict(logits)
        counts = Counter((self.labels[i], self.labels[j]) for i, j in zip(targets, predictions, strict=True))
        confusion = {a: {b: counts[a, b] for b in self.labels if counts[a, b]} for a in self.labels}
        return {"report": self._report(targets, predictions), "confusion": confusion}

    def _report(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, dict[str, float]]:
        columns = precision_recall_fscore_support(targets, predictions, labels=range(len(self.labels)), zero_division=0)
        rows = zip(self.labels, *(column.tolist() for column in columns), strict=True)
        return {name: dict(zip(("precision", "recall", "f1", "support"), row, strict=True)) for name, *row in rows}

    def answers(self, logits: np.ndarray) -> list[Row]:
        """Return the answer of `Task.predict` for each row."""
        return [{"label": self.labels[i], "score": float(p)} for i, p in zip(*self.predict(logits), strict=True)]

    def floor(self, train: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Return the first metric of a constant prediction; `train` holds the targets of the training rows."""
        return {"majority": baselines.majority_accuracy(train, targets)}

    def reference(self, train: np.ndarray, targets: np.ndarray, rows: Mapping[str, Dataset]) -> dict[str, float]:
        """Return the first metric of a simple model."""
        predictions = baselines.tfidf_predictions(rows["train"], rows["evaluation"], train)
        return {"tfidf + logistic regression": self.prediction_scores(targets, predictions)[self.metrics[0]]}


class MultiLabel(SingleLabel):
    """Any number of labels per row, each predicted on its own: binary cross-entropy, over rows and labels."""

    metrics = ("f1_micro", "f1_macro", "subset_accuracy", "ece", "loss")
    unused = ("label_smoothing",)
    weight = _Labels.weight

    def _balanced(self, count: int, num_rows: int, num_labels: int) -> float:
        """The weight that makes rows with the label count the same in total as rows without it."""
        return max(num_rows - count, 1) / max(count, 1)

    def _thresholds(self, threshold: Any, labels: Sequence[str]) -> Mapping[str, float]:
        return threshold if isinstance(threshold, Mapping) else dict.fromkeys(labels, threshold)

    def encode(self, values: Labels) -> list[Any]:
        return [[int(name in names) for name in self.labels] for names in values]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = self._weights(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")

    def predict(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each label is predicted, and the probability of that: two (rows, labels)."""
        probs, thresholds = expit(logits.astype(float)), self.threshold if isinstance(self.threshold, Mapping) else {}
        predictions = probs >= [thresholds.get(name, 0.5) for name in self.labels]
        return predictions, np.where(predictions, probs, 1 - probs)

    def prediction_scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        f1 = classification.f1_scores(*(x.sum(0) for x in (targets * predictions, predictions, targets)))
        return {**f1, "subset_accuracy": float((predictions == targets).all(-1).mean())}

    def details(self, targets: np.ndarray, logits: np.ndarray) -> Json:
        return {"report": self._report(targets, self.predict(logits)[0])}

    def answers(self, logits: np.ndarray) -> list[Row]:
        rows = [(np.flatnonzero(predicted), probs) for predicted, probs in zip(*self.predict(logits), strict=True)]
        return [{"labels": [self.labels[i] for i in at], "scores": probs[at].tolist()} for at, probs in rows]

    def floor(self, train: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        constant = np.tile(baselines.commonest_labels(train), (len(targets), 1))
        return {"commonest labels": self.prediction_scores(targets, constant)["f1_micro"]}


class Regression(_Labels):
    """A number per row: squared error."""

    metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mse")
    unused = ("labels", "class_weights", "label_smoothing", "threshold", "calibrate")

    def unknown(self, values: Labels) -> list[str]:
        return [value for value in values if not is_number(value)]

    def encode(self, values: Labels) -> list[Any]:
        return [float(value) for value in values]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(logits[:, 0], targets, reduction="sum")

    def score(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        pairs = np.column_stack([targets, logits[:, 0].astype(float)])
        return {**retrieval.correlation(pairs), "mse": float((np.diff(pairs) ** 2).mean())}

    def answers(self, logits: np.ndarray) -> list[Row]:
        return [{"score": float(number)} for number in logits[:, 0]]

    def floor(self, train: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return {"mean": 0.0}  # a constant has no correlation

    def reference(self, train: np.ndarray, targets: np.ndarray, rows: Mapping[str, Dataset]) -> dict[str, float]:
        evaluation = rows["evaluation"]
        if "text_pair" in evaluation.column_names:
            texts = (row[column] for row in rows["train"] for column in ("text", "text_pair"))
            cosines = retrieval.tfidf_cosines(texts, evaluation["text"][:], evaluation["text_pair"][:])
            return {"tfidf cosine": self.score(targets, cosines[:, None])["spearman"]}
        predictions = baselines.tfidf_predictions(rows["train"], evaluation, train)
        return {"tfidf + ridge regression": self.score(targets, predictions[:, None])["spearman"]}


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
KINDS: dict[str, type[SingleLabel | Regression]] = {SINGLE: SingleLabel, MULTI: MultiLabel, REGRESSION: Regression}
"""By `problem_type`, as in the configs of Transformers."""


def find_fraction(values: Sequence[str]) -> str | None:
    """Return the first label that is not a whole number, if all are numbers: these labels call for a regression."""
    return next((v for v in values if not float(v).is_integer()), None) if all(map(is_number, values)) else None


def range_faults(option: str, value: float | Mapping[str, float], maximum: float) -> list[str]:
    """Return the faults of an option that is a number from 0 to `maximum`, or a mapping from labels to such numbers."""
    numbers = {f"{option}.{name}": n for name, n in value.items()} if isinstance(value, Mapping) else {option: value}
    invalid = {name: n for name, n in numbers.items() if not (isinstance(n, (int, float)) and 0 <= n <= maximum)}
    return [f"task.{name}: {n!r} is not a number from 0 to {maximum:g}" for name, n in invalid.items()]


def missing_labels_fix(labels: Sequence[str], unknown: Sequence[str]) -> str:
    """Return a hint for held-out rows with labels that the training rows do not have."""
    option = json.dumps([*labels, *unknown], ensure_ascii=False)
    return f"add training rows with them, or let the model have them: --task.labels '{option}'"


def _names(values: Labels) -> list[str]:
    """The labels of all rows, one per row or several."""
    return [name for value in values for name in (value if isinstance(value, list) else [value])]


def _by_label(option: str, values: Mapping[Any, float] | None, labels: Sequence[str]) -> dict[str, float] | None:
    """An option's numbers by label. Raises UsageError for names that are not labels."""
    by_label = {str(name): value for name, value in (values or {}).items()}
    unknown = [name for name in by_label if name not in labels]
    raise_faults([f"task.{option}.{name}: no such label; {suggest(name, labels)}" for name in unknown])
    return by_label or None


def calibrate(model: Model, targets: np.ndarray, logits: np.ndarray) -> None:
    """Divide the model's logits by the temperature that fits `targets` best, in place.

    The temperature is folded into the last layer, so that plain Transformers returns calibrated probabilities too. No
    prediction changes, except under a threshold.
    """
    temperature = classification.fit_temperature(lambda t: classification.cross_entropy(logits / t, targets))
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == logits.shape[1]]
    trained = [layer for layer in layers if layer.weight.requires_grad and layer.weight.numel()]
    if not trained:
        log(f"not calibrated: no trained linear layer of {type(model).__name__} returns the logits", "warning")
        return
    with torch.no_grad():
        for parameter in trained[-1].parameters():
            parameter.div_(temperature)
    log(f"calibrated: logits divided by {temperature:.4g}, which fits the validation part best", "config")
