"""Validate GenerationConfig fields, and apply them to a model."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from llmkit.errors import UsageError, raise_faults, suggest

MAX_NEW_TOKENS = 128
"""Default of max_new_tokens: the `max_length` of a checkpoint is often a left-over default of 20."""
COUNTS = ("max_new_tokens", "max_length", "num_beams", "num_return_sequences")
LIMITS = {
    **dict.fromkeys(COUNTS, (int, 1, math.inf, "a whole number of at least 1")),
    **dict.fromkeys(("top_p", "min_p", "typical_p"), (float, 0, 1, "a number between 0 and 1")),
    "temperature": (float, 0, math.inf, "a number of at least 0"),
    "repetition_penalty": (float, sys.float_info.min, math.inf, "a number above 0 (1: no penalty)"),
}
"""Type, minimum and maximum of a field, and how a message puts it."""


def field_faults(fields: Mapping[str, Any]) -> list[str]:
    """Return a line for each unknown or invalid field of a GenerationConfig."""
    known = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    faults = [f"{n}: GenerationConfig has no such field; {suggest(n, known)}" for n in fields if n not in known]
    for name, (kind, least, most, expected) in LIMITS.items():
        value = fields.get(name)
        if value is not None and not (type(value) in (int, kind) and least <= value <= most):
            faults.append(f"{name}: {value!r} is not {expected}")
    return faults


def task_faults(fields: Mapping[str, Any]) -> list[str]:
    """Return the faults of `task.generation`, for a task that generates one answer per input."""
    faults = field_faults(fields)
    if fields.get("num_return_sequences") not in (None, 1):
        faults.append("num_return_sequences: each source has one answer; leave it out")
    return [f"task.generation.{fault}" for fault in faults] or _conflicts(GenerationConfig(**fields))


def configure_generation(model: PreTrainedModel, fields: Mapping[str, Any]) -> None:
    """Set `fields` in the model's generation config, which is saved with it. Raises UsageError if they do not fit."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 10**9
    settings = {"max_new_tokens": min(MAX_NEW_TOKENS, limit), "max_length": None, **fields}
    model.generation_config.update(**settings)
    if (tokens := settings["max_new_tokens"]) > limit:
        raise UsageError(f"task.generation.max_new_tokens: {tokens} is more than the model's {limit} positions")
    raise_faults(_conflicts(model.generation_config) if fields else [])


def _conflicts(config: GenerationConfig) -> list[str]:
    """Return the reason why Transformers would refuse to save the config, such as a length penalty without beams."""
    try:
        config.validate(strict=True)
    except ValueError as e:
        reason = " ".join(str(e).split()).removeprefix("GenerationConfig is invalid: - ")
        return [f"task.generation: {reason[:200]}"]
    return []
