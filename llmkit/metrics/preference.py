"""Accuracy, margin and loss of a reward on pairs of answers."""

import numpy as np


def scores(margins: np.ndarray, label_smoothing: float = 0.0) -> dict[str, float]:
    """Return `accuracy`, `margin` and `loss` of (pairs,) differences: reward of the chosen minus the rejected answer.

    accuracy: share of pairs whose chosen answer has the higher reward; a tie (to four decimals) counts half. margin:
    mean difference. loss: mean negative log-likelihood under the Bradley-Terry model, where a share `label_smoothing`
    of the pairs is labelled the wrong way round (Mitchell 2023).
    """
    margins = margins.astype(np.float64)
    losses, flipped_losses = np.logaddexp(0, -margins), np.logaddexp(0, margins)
    return {
        "accuracy": float(1 + np.sign(margins.round(4)).mean()) / 2,
        "margin": float(margins.mean()),
        "loss": float((1 - label_smoothing) * losses.mean() + label_smoothing * flipped_losses.mean()),
    }
