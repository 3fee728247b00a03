"""Accuracy, margin and loss of pairs, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmkit.metrics.preference import scores


def test_scores_of_two_pairs() -> None:
    margins = np.array([math.log(3), -math.log(3)])  # sigmoid: 3/4 and 1/4
    values = scores(margins)
    assert values == pytest.approx({"accuracy": 0.5, "margin": 0.0, "loss": -(math.log(0.75) + math.log(0.25)) / 2})


def test_label_smoothing_mixes_in_the_flipped_loss() -> None:
    loss = scores(np.array([math.log(3)]), label_smoothing=0.1)["loss"]
    assert loss == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


@pytest.mark.parametrize(("margins", "accuracy"), [([0.0], 0.5), ([4e-5], 0.5), ([2e-4], 1.0), ([1.0, 0.0, -1.0], 0.5)])
def test_tie_counts_half(margins: list[float], accuracy: float) -> None:
    assert scores(np.array(margins))["accuracy"] == accuracy
