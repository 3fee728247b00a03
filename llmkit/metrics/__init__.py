"""Metrics and baselines: pure functions over arrays and texts."""

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "mse", "mae", "ece", "kl"})
"""Metrics of which the smaller value is the better one."""
