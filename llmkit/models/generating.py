"""How an encoder-decoder answers: what a task says in GenerationConfig's own fields, checked, and set on the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit.errors import RecipeError, raise_faults, suggest

MAX_NEW_TOKENS = 128
"""Where nothing is said; a checkpoint's own `max_length` is often the 20 that some script left there."""
COUNTS = ("num_beams", "max_new_tokens", "max_length")


def faults(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields of a GenerationConfig, before there is a model."""
    from transformers import GenerationConfig

    known = GenerationConfig().to_dict()
    found = [f"{k}: GenerationConfig has no such field; {suggest(k, known)}" for k in given if k not in known]
    found += [
        f"{k}: {given[k]!r} is not a whole number of at least 1"
        for k in COUNTS
        if k in given and (type(given[k]) is not int or given[k] < 1)
    ]
    if given.get("num_return_sequences", 1) != 1:
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
