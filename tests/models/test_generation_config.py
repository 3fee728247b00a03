"""Fields of GenerationConfig are checked by name, type and range, and set on a model within its limits."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BartConfig, BartForConditionalGeneration

from llmkit.errors import UsageError
from llmkit.models import generation_config


@pytest.fixture
def model() -> BartForConditionalGeneration:
    """A BART of 64 positions."""
    sizes = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 64, "vocab_size": 16}
    layers = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **ids))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"num_beam": 4}, "num_beam: GenerationConfig has no such field; did you mean 'num_beams'"),
        ({"num_beams": "x"}, "num_beams: 'x' is not a whole number of at least 1"),
        ({"num_beams": True}, "num_beams: True is not a whole number of at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not a whole number of at least 1"),
        ({"top_p": 1.5}, "top_p: 1.5 is not a number between 0 and 1"),
        ({"temperature": -0.5}, "temperature: -0.5 is not a number of at least 0"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0 is not a number above 0"),
    ],
)
def test_field_faults_name_field_and_value(fields: dict[str, Any], fault: str) -> None:
    (line,) = generation_config.field_faults(fields)
    assert line.startswith(fault)


def test_field_faults_accept_valid_fields() -> None:
    fields = {"num_beams": 4, "top_p": 1, "temperature": 0, "repetition_penalty": 1.2, "max_new_tokens": None}
    assert generation_config.field_faults(fields) == []


def test_task_faults_refuse_several_answers_and_conflicting_fields() -> None:
    (line,) = generation_config.task_faults({"num_return_sequences": 2})
    assert line == "task.generation.num_return_sequences: each source has one answer; leave it out"
    (line,) = generation_config.task_faults({"length_penalty": 0.6})
    assert line.startswith("task.generation: ") and "num_beams" in line and "\n" not in line
    assert generation_config.task_faults({"length_penalty": 0.6, "num_beams": 2}) == []


def test_configure_generation_replaces_max_length_within_positions(model: BartForConditionalGeneration) -> None:
    generation_config.configure_generation(model, {"num_beams": 3})
    config = model.generation_config
    assert (config.max_new_tokens, config.max_length, config.num_beams) == (64, None, 3)


def test_configure_generation_refuses_more_tokens_than_positions(model: BartForConditionalGeneration) -> None:
    with pytest.raises(UsageError, match="max_new_tokens: 100 is more than the model's 64 positions"):
        generation_config.configure_generation(model, {"max_new_tokens": 100})
