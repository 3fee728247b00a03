"""Metrics through `evaluate`'s interface, with no hub: the modules `evaluate.load` would fetch are not needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mse", "mae", "ece", "kl"})


class Classification(evaluate.Metric):
    """`accuracy`, and `f1_macro` over the labels that occur in the references or predictions."""

    def __init__(self, **kwargs: Any):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="van Rijsbergen 1979, Information Retrieval",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        """evaluate's own, but for arrays given whole: no Arrow table is built for each of 300 bootstrap samples."""
        if predictions is None:
            return super().compute(references=references, **kwargs)
        return self._compute(predictions, references)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        both, at = np.unique(np.concatenate([predictions, references]), return_inverse=True)
        said, true = np.split(at, 2)
        counts = (np.bincount(x, minlength=len(both)) for x in (true[said == true], said, true))
        return {"accuracy": float((said == true).mean()), "f1_macro": f1_scores(*counts)["f1_macro"]}


def f1_scores(right: np.ndarray, said: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`f1_micro`, and `f1_macro` over the labels that occur or are said, from the counts of each label: (labels,)."""
    both = said + true
    each = 2 * right[both > 0] / both[both > 0]
    micro = 2 * right.sum() / max(both.sum(), 1)
    return {"f1_micro": float(micro), "f1_macro": float(each.mean()) if len(each) else 0.0}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean nats of the true labels: logits (rows, labels), labels (rows,)."""
    return float(-log_softmax(logits.astype(float), axis=-1)[np.arange(len(labels)), labels].mean())


def calibration_error(sure: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): how far probabilities `sure` (answers,) and the share that was
    `right` lie apart, in bins of equal width, weighted by how many answers fall into each."""
    at = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(at, right - sure)).sum() / len(sure))


def temperature(nats: Callable[[float], float]) -> float:
    """What logits are to be divided by for the least `nats` (of such a temperature), between 0.05 and 20."""
    from scipy.optimize import minimize_scalar

    return math.exp(minimize_scalar(lambda log: nats(math.exp(log)), bounds=(-3, 3), method="bounded").x)


def language_model(examples: np.ndarray) -> dict[str, float]:
    """`loss` (nats per predicted token, over all tokens of the split), `perplexity`, and with bytes `bits_per_byte`.

    examples: (examples, 2 or 3), the summed nats, the number of predicted tokens and the UTF-8 bytes of each.
    """
    nats, tokens, *size = examples.astype(np.float64).sum(0)
    loss = nats / tokens
    scores = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
    return {**scores, "bits_per_byte": nats / math.log(2) / size[0]} if size else scores


def span_counts(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """`[right, predicted, true]` spans of each label in a sentence's tags, and of all other labels: (labels + 1, 3)."""
    from llmkit.data.tagging import spans

    found, wanted = set(spans(predicted)), set(spans(true))
    counts, at = np.zeros((len(labels) + 1, 3)), {label: i for i, label in enumerate(labels)}
    for column, these in enumerate((found & wanted, found, wanted)):
        for label, _, _ in these:
            counts[at.get(label, len(labels)), column] += 1
    return counts


def span_scores(counts: Sequence[float]) -> dict[str, float]:
    """`f1`, `precision` and `recall` of `[right, predicted, true]` spans; 0 where there are none."""
    right, predicted, true = map(float, counts)
    return {
        "f1": 2 * right / max(predicted + true, 1),
        "precision": right / max(predicted, 1),
        "recall": right / max(true, 1),
    }


def preferences(margins: np.ndarray, label_smoothing: float = 0.0) -> dict[str, float]:
    """`accuracy` (how often the chosen answer has the higher reward; a tie, up to rounding, is half right), `margin`
    (the mean by which) and `loss` (the mean of `data.pairs.log_loss`), of (pairs,) reward differences."""
    margins = margins.astype(np.float64)
    right, wrong = np.logaddexp(0, -margins), np.logaddexp(0, margins)
    return {
        "accuracy": float(1 + np.sign(margins.round(4)).mean()) / 2,
        "margin": float(margins.mean()),
        "loss": float((1 - label_smoothing) * right.mean() + label_smoothing * wrong.mean()),
    }


def intervals(task: Any, examples: np.ndarray, resamples: int = 300, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of every metric, over examples (Efron 1979)."""
    random = np.random.default_rng(seed)
    draws = [task.score(examples[random.integers(0, len(examples), len(examples))]) for _ in range(resamples)]
    return {k: tuple(np.percentile([d[k] for d in draws], [2.5, 97.5]).tolist()) for k in draws[0]}
