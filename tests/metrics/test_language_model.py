"""Loss, perplexity and bits per byte, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmkit.metrics.language_model import scores


def test_loss_is_per_token_of_all_examples() -> None:
    values = scores(np.array([[6.0, 2], [0.0, 4]]))  # 6 nats, 6 tokens; a mean over examples would be 1.5
    assert values == pytest.approx({"loss": 1.0, "perplexity": math.e})


def test_bits_per_byte_divides_by_bytes() -> None:
    values = scores(np.array([[8 * math.log(2), 2, 3], [0.0, 2, 1]]))
    assert values == pytest.approx({"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_byte": 2.0})


def test_perplexity_of_a_huge_loss_is_finite() -> None:
    assert scores(np.array([[1000.0, 1]]))["perplexity"] == math.exp(700)
