"""What a classifier's label may be: one of a few, several of many, or a number. Its loss, answers, what they are worth.

Targets are (rows,), of several labels (rows, labels); logits and probabilities (rows, labels), of a number (rows, 1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from sklearn.metrics import precision_recall_fscore_support

from llmkit.console import say
from llmkit.errors import RecipeError, raise_faults, suggest
from llmkit.evaluation import baselines, metrics, retrieval
from llmkit.task import is_number

if TYPE_CHECKING:
    from llmkit.tasks.text_classification import TextClassification


class One:
    """One label a row: cross entropy. The likeliest is given; of two with a threshold, what the threshold says."""

    metrics: tuple[str, ...] = ("accuracy", "f1_macro", "ece", "loss")
    idle: tuple[str, ...] = ()
    """the task's knobs that mean nothing here"""

    def __init__(self, task: TextClassification):
        self.task, self.names = task, task.labels

    def learn(self, found: Sequence[Any]) -> dict[str, Any]:
        """What the training rows teach the task: `labels`, and knobs that are numbers by label. Raises RecipeError."""
        counts = self.counts(found)
        numbers = {name: float(name) for name in counts if is_number(name)}
        names = self.names or tuple(sorted(counts, key=lambda n: (n not in numbers, numbers.get(n, 0), n)))
        if len(names) < 2:
            raise RecipeError(f"data.train: only one label, {next(iter(names), '')!r}: nothing to tell apart")
        weights, threshold = self.task.class_weights, self.task.threshold
        if weights == "balanced":
            weights = {name: self.balanced(counts[name], len(found), len(names)) for name in names}
        if threshold is not None:
            threshold = self.thresholds(threshold, names)
        return {
            "labels": names,
            "class_weights": _by_label("task.class_weights", weights, names, math.inf),
            "threshold": _by_label("task.threshold", threshold, names, 1),
        }

    def counts(self, found: Sequence[Any]) -> Counter[str]:
        return Counter(found)

    def balanced(self, count: int, rows: int, labels: int) -> float:
        """Each label weighs, in all, what another does (scikit-learn's definition)."""
        return rows / (labels * max(count, 1))

    def thresholds(self, given: Any, names: Sequence[str]) -> Any:
        if len(names) != 2 or (isinstance(given, Mapping) and len(given) != 1):
            raise RecipeError(f"task.threshold: {given!r} is for one of two labels; here are {len(names)}")
        return given if isinstance(given, Mapping) else {names[1]: given}

    def foreign(self, found: Sequence[Any]) -> list[str]:
        return sorted(self.counts(found).keys() - set(self.names))

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        at = {name: i for i, name in enumerate(self.names)}
        return [at[label] for label in labels]

    @property
    def fitted_threshold(self) -> Mapping[str, float]:
        """By label, as `learn` left it."""
        return self.task.threshold if isinstance(self.task.threshold, Mapping) else {}

    def class_weights(self, like: torch.Tensor) -> torch.Tensor | None:
        given = self.task.class_weights
        return like.new_tensor([given.get(n, 1.0) for n in self.names]) if isinstance(given, Mapping) else None

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights, smoothing = self.class_weights(logits), self.task.label_smoothing
        return F.cross_entropy(logits, targets, weights, reduction="sum", label_smoothing=smoothing)

    def weight(self, targets: torch.Tensor) -> torch.Tensor:
        weights = self.class_weights(targets.float())
        return targets.new_tensor(len(targets)) if weights is None else weights[targets].sum()

    def decide(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The index of the label given to each row, and its probability: two (rows,)."""
        probabilities = softmax(logits.astype(float), axis=-1)
        said = probabilities.argmax(-1)
        for name, least in self.fitted_threshold.items():
            at = self.names.index(name)
            said = np.where(probabilities[:, at] >= least, at, 1 - at)
        return said, probabilities[np.arange(len(said)), said]

    def nats(self, targets: np.ndarray, logits: np.ndarray) -> float:
        return metrics.cross_entropy(logits, targets)

    def worth(self, targets: np.ndarray, said: np.ndarray) -> dict[str, float]:
        """The metrics of answers alone, the first among them."""
        return metrics.Classification().compute(predictions=said, references=targets)

    def score(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        said, sure = self.decide(logits)
        ece = metrics.calibration_error(sure.ravel(), (said == targets).ravel())
        return {**self.worth(targets, said), "ece": ece, "loss": self.nats(targets, logits)}

    def details(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        said, _ = self.decide(logits)
        met = Counter((self.names[i], self.names[j]) for i, j in zip(targets, said, strict=True))
        confusion = {true: {name: met[true, name] for name in self.names if met[true, name]} for true in self.names}
        return {"report": self.report(targets, said), "confusion": confusion}

    def report(self, targets: np.ndarray, said: np.ndarray) -> dict[str, dict[str, float]]:
        columns = precision_recall_fscore_support(targets, said, labels=range(len(self.names)), zero_division=0)
        rows = zip(self.names, *(column.tolist() for column in columns), strict=True)
        return {name: dict(zip(("precision", "recall", "f1", "support"), row, strict=True)) for name, *row in rows}

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        pairs = zip(*(each.tolist() for each in self.decide(logits)), strict=True)
        return [{"label": self.names[i], "score": p} for i, p in pairs]

    def floor(self, known: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """What an answer that is always the same is worth, in the first metric."""
        return {"majority": baselines.majority_accuracy(known, targets)}

    def reference(self, known: np.ndarray, targets: np.ndarray, rows: Any) -> dict[str, float]:
        """The same of a simple model, of the targets `known` in training."""
        said = baselines.tfidf_answers(rows["train"], rows["evaluation"], known)
        return {"tfidf + logistic regression": self.worth(targets, said)[self.metrics[0]]}


class Several(One):
    """Any number of labels a row, each of them yes or no: binary cross entropy, over rows and labels."""

    metrics = ("f1_micro", "f1_macro", "subset_accuracy", "ece", "loss")
    idle = ("label_smoothing",)

    def counts(self, found: Sequence[Any]) -> Counter[str]:
        return Counter(name for names in found for name in names)

    def balanced(self, count: int, rows: int, labels: int) -> float:
        """The rows that have the label weigh, in all, what those without it do."""
        return max(rows - count, 1) / max(count, 1)

    def thresholds(self, given: Any, names: Sequence[str]) -> Any:
        return given if isinstance(given, Mapping) else dict.fromkeys(names, given)

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        return [[int(name in there) for name in self.names] for there in labels]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = self.class_weights(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")

    def weight(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.new_tensor(targets.numel())

    def decide(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each label is given, and the probability of that: two (rows, labels)."""
        probabilities = expit(logits.astype(float))
        said = probabilities >= [self.fitted_threshold.get(name, 0.5) for name in self.names]
        return said, np.where(said, probabilities, 1 - probabilities)

    def nats(self, targets: np.ndarray, logits: np.ndarray) -> float:
        return float((np.logaddexp(0, logits) - targets * logits).mean())

    def worth(self, targets: np.ndarray, said: np.ndarray) -> dict[str, float]:
        f1 = metrics.f1_scores(*(x.sum(0) for x in (targets * said, said, targets)))
        return {**f1, "subset_accuracy": float((said == targets).all(-1).mean())}

    def details(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        return {"report": self.report(targets, self.decide(logits)[0])}

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        found = [(np.flatnonzero(said), sure) for said, sure in zip(*self.decide(logits), strict=True)]
        return [{"labels": [self.names[i] for i in at], "scores": sure[at].tolist()} for at, sure in found]

    def floor(self, known: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        constant = np.tile(baselines.commonest_labels(known), (len(targets), 1))
        return {"commonest labels": self.worth(targets, constant)["f1_micro"]}


class Number(One):
    """A number a row: squared error."""

    metrics = ("spearman", "pearson", "mse")
    idle = ("labels", "class_weights", "label_smoothing", "threshold", "calibrate")

    def learn(self, found: Sequence[Any]) -> dict[str, Any]:
        return {}

    def foreign(self, found: Sequence[Any]) -> list[str]:
        return [label for label in found if not is_number(label)]

    def targets(self, labels: Sequence[Any]) -> list[Any]:
        return [float(label) for label in labels]

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(logits[:, 0], targets, reduction="sum")

    def weight(self, targets: torch.Tensor) -> torch.Tensor:
        return targets.new_tensor(len(targets))

    def score(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        said = logits[:, 0].astype(float)
        return {**retrieval.correlation(np.column_stack([targets, said])), "mse": float(((said - targets) ** 2).mean())}

    def details(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        return {}

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        return [{"score": float(x)} for x in logits[:, 0]]

    def floor(self, known: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return {"mean": 0.0}  # no constant is correlated with anything

    def reference(self, known: np.ndarray, targets: np.ndarray, rows: Any) -> dict[str, float]:
        if self.task.pairs:
            held = {**rows["evaluation"][:], "score": targets}
            return {"tfidf cosine": retrieval.tfidf_spearman(self.task.texts(rows["train"]), held)}
        said = baselines.tfidf_answers(rows["train"], rows["evaluation"], known)
        return {"tfidf + ridge regression": self.score(targets, said[:, None])["spearman"]}


def calibrate(model: Any, kind: One, targets: np.ndarray, logits: np.ndarray) -> None:
    """Divide the model's logits by the temperature that gives `targets` the least nats. It is folded into the last
    layer, so that whoever loads the folder has the calibrated probabilities; no answer changes (but by a threshold)."""
    found = metrics.temperature(lambda t: kind.nats(targets, logits / t))
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == logits.shape[1]]
    trained = [layer for layer in layers if layer.weight.requires_grad and layer.weight.numel()]
    if not trained:
        say(f"not calibrated: no layer of {type(model).__name__} was found that gives the logits", "warning")
        return
    with torch.no_grad():
        for weight in trained[-1].parameters():
            weight.div_(found)
    say(f"calibrated: logits divided by {found:.4g}, which fits the validation part best", "decided")


def _by_label(knob: str, given: Any, names: Sequence[str], most: float) -> dict[str, float] | None:
    """A knob's numbers, from 0 to `most`, by label. Raises RecipeError for others."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise RecipeError(f"{knob}: {given!r} is neither balanced nor a number by label")
    found = {str(name): value for name, value in given.items()}
    faults = [f"{knob}.{name}: no such label; {suggest(name, names)}" for name in found if name not in names]
    for name, value in found.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= most:
            faults.append(f"{knob}.{name}: {value!r} is no number from 0 to {most:g}")
    raise_faults(faults)
    return found
