"""Metrics through `evaluate`'s interface, with no hub: the modules `evaluate.load` would fetch are not needed."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np


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


def language_model(outputs: np.ndarray, size: int) -> dict[str, float]:
    """`loss` (nats per predicted token, over all tokens of the split), `perplexity`, `bits_per_byte` of the text.

    outputs: (rows of features, 2), the summed nats and the number of predicted tokens of each; `size`: UTF-8 bytes.
    """
    nats, tokens = outputs.astype(np.float64).sum(0)
    loss = nats / tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "bits_per_byte": nats / math.log(2) / size}


def intervals(
    task: Any, outputs: np.ndarray, features: Any, rows: Any, resamples: int = 300, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of every metric, over rows of features (Efron 1979)."""
    random = np.random.default_rng(seed)
    features = features.with_format("numpy")
    draws = []
    for _ in range(resamples):
        chosen = random.integers(0, len(outputs), len(outputs))
        draws.append(task.score(outputs[chosen], features.select(chosen), rows))
    return {k: tuple(np.percentile([d[k] for d in draws], [2.5, 97.5]).tolist()) for k in draws[0]}
