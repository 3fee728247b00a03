"""Precision, recall and F1 of labeled spans."""

from collections.abc import Sequence

import numpy as np

from llmkit.data.spans import spans


def span_counts(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Count the `[correct, predicted, true]` spans of each label in a sentence: (labels + 1, 3).

    `true` and `predicted` are the tags of its words. The last row counts the spans of all other labels.
    """
    expected, found = set(spans(true)), set(spans(predicted))
    counts, indices = np.zeros((len(labels) + 1, 3)), {label: i for i, label in enumerate(labels)}
    for column, group in enumerate((found & expected, found, expected)):
        for label, _, _ in group:
            counts[indices.get(label, len(labels)), column] += 1
    return counts


def span_scores(counts: Sequence[float]) -> dict[str, float]:
    """Return `f1`, `precision` and `recall` of `[correct, predicted, true]` spans; 0 where there are none."""
    correct, predicted, true = map(float, counts)
    return {
        "f1": 2 * correct / max(predicted + true, 1),
        "precision": correct / max(predicted, 1),
        "recall": correct / max(true, 1),
    }
