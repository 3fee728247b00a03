"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.metrics.bootstrap import intervals


def test_intervals_cover_the_mean_as_the_normal_approximation_does() -> None:
    stats = np.random.default_rng(0).normal(5, 2, (400, 1))
    bounds = intervals(lambda sample: {"mean": float(sample.mean())}, stats, resamples=1000)["mean"]
    half = 1.96 * stats.std() / 20
    assert bounds == pytest.approx((stats.mean() - half, stats.mean() + half), abs=0.02)


def test_intervals_are_the_same_for_the_same_seed() -> None:
    stats = np.arange(20.0)[:, None]

    def score(sample: np.ndarray) -> dict[str, float]:
        return {"mean": float(sample.mean()), "max": float(sample.max())}

    assert intervals(score, stats) == intervals(score, stats) != intervals(score, stats, seed=1)
    assert set(intervals(score, stats)) == {"mean", "max"}
