"""Bootstrap confidence intervals."""

from collections.abc import Callable

import numpy as np


def intervals(
    score: Callable[[np.ndarray], dict[str, float]], stats: np.ndarray, resamples: int = 300, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile bootstrap intervals of every metric, by resampling examples (Efron 1979).

    stats: (examples, numbers); score: from any sample of them to metrics.
    """
    random = np.random.default_rng(seed)
    draws = [score(stats[random.integers(0, len(stats), len(stats))]) for _ in range(resamples)]
    return {k: tuple(np.percentile([d[k] for d in draws], [2.5, 97.5]).tolist()) for k in draws[0]}
