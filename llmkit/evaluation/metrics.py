"""Metrics through `evaluate`'s interface, with no hub: the modules `evaluate.load` would fetch are not needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mse", "mae", "ece", "kl"})


class Classification(evaluate.Metric):
    """`accuracy`, and `f1_macro` over the labels that occur in the references or predictions (scikit-learn)."""

    def __init__(self, **kwargs: Any):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Pedregosa et al. 2011, scikit-learn",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean nats of the true labels: logits (rows, labels), labels (rows,)."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]
    return float(nll.mean())


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


def intervals(task: Any, examples: np.ndarray, resamples: int = 300, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of every metric, over examples (Efron 1979)."""
    random = np.random.default_rng(seed)
    draws = [task.score(examples[random.integers(0, len(examples), len(examples))]) for _ in range(resamples)]
    return {k: tuple(np.percentile([d[k] for d in draws], [2.5, 97.5]).tolist()) for k in draws[0]}
