"""Classification metrics, calibration error and temperature scaling."""

import math
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


class Classification(evaluate.Metric):
    """`accuracy`, and `f1_macro` over the labels that occur in references or predictions.

    An `evaluate` metric that needs no module from the hub.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        source = "van Rijsbergen 1979, Information Retrieval"
        return evaluate.MetricInfo(description=self.__doc__, citation=source, features=features)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: object) -> dict[str, float]:
        """Compute directly from arrays: no Arrow table for each of 300 bootstrap samples."""
        if predictions is None:
            return super().compute(references=references, **kwargs)
        return self._compute(predictions, references)

    def _compute(self, predictions: object, references: object) -> dict[str, float]:
        labels, indices = np.unique(np.concatenate([predictions, references]), return_inverse=True)
        predicted, true = np.split(indices, 2)
        counts = (np.bincount(x, minlength=len(labels)) for x in (true[predicted == true], predicted, true))
        return {"accuracy": float((predicted == true).mean()), "f1_macro": f1_scores(*counts)["f1_macro"]}


def f1_scores(correct: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return `f1_micro`, and `f1_macro` over the labels that occur or are predicted, from counts by label: (labels,)."""
    total = predicted + true
    by_label = 2 * correct[total > 0] / total[total > 0]
    micro = 2 * correct.sum() / max(total.sum(), 1)
    return {"f1_micro": float(micro), "f1_macro": float(by_label.mean()) if len(by_label) else 0.0}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy in nats of logits (rows, labels).

    labels: (rows,) for softmax, or (rows, labels) of 0 and 1 for the binary cross-entropy of each.
    """
    if labels.ndim == 2:
        return float((np.logaddexp(0, logits) - labels * logits).mean())
    return float(-log_softmax(logits.astype(float), axis=-1)[np.arange(len(labels)), labels].mean())


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap between confidence and accuracy, over bins of equal width.

    confidence: probability of each prediction, (predictions,); correct: whether it is right, (predictions,).
    """
    indices = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(indices, correct - confidence)).sum() / len(confidence))


def fit_temperature(loss_at: Callable[[float], float]) -> float:
    """Return the temperature between 0.05 and 20 with the lowest loss; `loss_at` is the loss of logits divided by one."""
    return math.exp(minimize_scalar(lambda t: loss_at(math.exp(t)), bounds=(-3, 3), method="bounded").x)
