"""What is found out by trying: which layout keeps packed documents apart, and whether a model reads ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from llmkit.data.collation import keeps_apart, sees_ahead

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 200}
WIDE = {**SMALL, "intermediate_size": 64}
TYPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200, "bos_token_id": 0, "eos_token_id": 0},
    "llama": {**WIDE, "num_key_value_heads": 2},
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200},
    "bert": WIDE,
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def make(kind: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**TYPES[kind])
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


@DTYPES
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("gpt2", "positions"), ("llama", "positions"), ("opt", "blocks"), ("bloom", None), ("bert", "blocks")],
)
def test_the_layout_that_keeps_documents_apart_is_found(kind: str, layout: str | None, dtype: torch.dtype) -> None:
    """Bloom's positions are distances, and a document reads the one before it: a leak that bf16's rounding hides."""
    assert keeps_apart(make(kind, dtype), causal=kind != "bert") == layout


@DTYPES
@pytest.mark.parametrize("kind", TYPES)
def test_a_model_that_reads_ahead_is_told(kind: str, dtype: torch.dtype) -> None:
    assert sees_ahead(make(kind, dtype)) == (kind == "bert")
