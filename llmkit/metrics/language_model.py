"""Loss, perplexity and bits per byte of language models."""

import math

import numpy as np


def scores(stats: np.ndarray) -> dict[str, float]:
    """Return `loss` (nats per predicted token), `perplexity` and, with bytes, `bits_per_byte`.

    stats: (examples, 2 or 3), the summed loss, number of predicted tokens and UTF-8 bytes of each example. The loss is
    that of all tokens together, not a mean over examples.
    """
    total, num_tokens, *num_bytes = stats.astype(np.float64).sum(0)
    loss = total / num_tokens
    values = {"loss": loss, "perplexity": math.exp(min(loss, 700))}  # a float holds at most exp(709)
    return {**values, "bits_per_byte": total / math.log(2) / num_bytes[0]} if num_bytes else values
