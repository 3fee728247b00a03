"""What is said of generation, in GenerationConfig's own fields: checked, and set on a model that answers by it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from llmkit.errors import RecipeError, raise_faults, suggest

MAX_NEW_TOKENS = 128
"""Where nothing is said; a checkpoint's own `max_length` is often the 20 that some script left there."""
COUNTS = ("max_new_tokens", "max_length", "num_beams", "num_return_sequences")
WANTED = {  # type, least, most, and in words
    **dict.fromkeys(COUNTS, (int, 1, math.inf, "a whole number from 1 on")),
    **dict.fromkeys(("top_p", "min_p", "typical_p"), (float, 0, 1, "a share between 0 and 1")),
    "temperature": (float, 0, math.inf, "a number from 0 on"),
    "repetition_penalty": (float, sys.float_info.min, math.inf, "more than 0 (1 is none)"),
}


def faults(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields of a GenerationConfig, before there is a model."""
    from transformers import GenerationConfig

    known = [k for k in GenerationConfig().to_dict() if not k.startswith("_")]
    found = [f"{k}: GenerationConfig has no such field; {suggest(k, known)}" for k in given if k not in known]
    for name, (kind, least, most, words) in WANTED.items():
        value = given.get(name)
        if value is not None and not (type(value) in (int, kind) and least <= value <= most):
            found.append(f"{name}: {value!r}; give {words}")
    return found


def of_task(given: Mapping[str, Any]) -> list[str]:
    """Faults of `task.generation`: with each source goes one answer."""
    from transformers import GenerationConfig

    found = faults(given)
    if given.get("num_return_sequences") not in (None, 1):
        found.append("num_return_sequences: each source has one answer; leave it out")
    return [f"task.generation.{fault}" for fault in found] or _contradictions(GenerationConfig(**given))


def set_up(model: Any, given: Mapping[str, Any]) -> None:
    """Lay the given fields over the model's generation config, which is saved with it. Raises RecipeError for what the
    model cannot do."""
    places = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 10**9
    wanted = {"max_new_tokens": min(MAX_NEW_TOKENS, places), "max_length": None, **given}
    model.generation_config.update(**wanted)
    if (tokens := wanted["max_new_tokens"]) > places:
        raise RecipeError(f"task.generation.max_new_tokens: {tokens} is more than the model's {places} positions")
    raise_faults(_contradictions(model.generation_config) if given else [])


def _contradictions(config: Any) -> list[str]:
    """What a generation config would be refused for when it is saved (a length penalty without beams, say)."""
    try:
        config.validate(strict=True)
    except ValueError as e:
        reason = " ".join(str(e).split()).removeprefix("GenerationConfig is invalid: - ")
        return [f"task.generation: {reason[:200]}"]
    return []
