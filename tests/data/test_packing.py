"""Packing: every token is kept, no row exceeds its capacity, no document is cut that fits; the layout a model needs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset

from llmkit.data.packing import chunk, find_layout, fit_rows, is_packed, pack, reads_future_tokens
from llmkit.models.lstm import LSTMConfig, LSTMForCausalLM
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

SHAPES = {
    "mixed": lambda r: r.integers(1, 40, 200),
    "short": lambda r: r.integers(1, 4, 500),
    "full": lambda r: np.full(30, 32),
    "one": lambda r: np.array([7]),
    "halves": lambda r: np.full(31, 16),
    "ones": lambda r: np.ones(100, dtype=int),
}


@pytest.fixture(params=SHAPES)
def documents(request: pytest.FixtureRequest) -> list[list[int]]:
    """Each token is 1000 × document + position."""
    lengths = np.minimum(SHAPES[request.param](np.random.default_rng(0)), 32)
    return [[1000 * d + i for i in range(n)] for d, n in enumerate(lengths.tolist())]


def features(documents: list[list[int]]) -> Dataset:
    labels = [[t % 2 for t in d] for d in documents]
    return Dataset.from_dict({"input_ids": documents, "labels": labels, "row": list(range(len(documents)))})


@pytest.fixture
def packed(documents: list[list[int]]) -> list[dict[str, Any]]:
    return pack(features(documents), 32).to_list()


def split(row: dict[str, Any]) -> list[list[int]]:
    ends = np.cumsum(row["segments"])
    return [row["input_ids"][end - n : end] for n, end in zip(row["segments"], ends.tolist(), strict=True)]


def test_every_document_is_packed_whole_and_once(documents: list[list[int]], packed: list[dict]) -> None:
    assert Counter(tuple(d) for row in packed for d in split(row)) == Counter(map(tuple, documents))


def test_no_row_exceeds_the_capacity(packed: list[dict]) -> None:
    assert all(sum(row["segments"]) == len(row["input_ids"]) <= 32 for row in packed)


def test_other_columns_are_packed_too(packed: list[dict]) -> None:
    assert all(row["labels"] == [t % 2 for t in row["input_ids"]] for row in packed)
    assert all(row["row"] == row["input_ids"][0] // 1000 for row in packed)


def test_no_two_rows_would_fit_in_one(packed: list[dict]) -> None:
    lengths = sorted(len(row["input_ids"]) for row in packed)
    assert len(lengths) == 1 or lengths[0] + lengths[1] > 32


def test_rows_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    rows = fit_rows(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert len(rows) <= 1.02 * lengths.sum() / 256


def test_packing_is_deterministic(documents: list[list[int]], packed: list[dict]) -> None:
    assert pack(features(documents), 32).to_list() == packed


def test_selected_rows_are_packed_without_the_others() -> None:
    rows = Dataset.from_dict({"input_ids": [[i] * 3 for i in range(10)], "row": list(range(10))})
    selected = rows.select([2, 5, 7]).flatten_indices()
    assert Counter(t for row in pack(selected, 8) for t in row["input_ids"]) == {2: 3, 5: 3, 7: 3}


@pytest.mark.parametrize("packing, task, expected", [
    (None, CausalLM(), True), (None, TextClassification(), False), (False, CausalLM(), False), (True, MaskedLM(), True),
])  # fmt: skip
def test_packing_defaults_to_language_modeling(packing: bool | None, task: Any, expected: bool) -> None:
    assert is_packed(packing, task) == expected


# -- chunks

SIZES = pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 15, 16, 50, 99])
LENGTHS = pytest.mark.parametrize("length", [2, 3, 8, 50])


@LENGTHS
@SIZES
def test_chunks_with_an_overlap_of_one_share_one_token(size: int, length: int) -> None:
    ids = list(range(size))
    chunks = chunk(ids, length, 1)
    assert all(len(c) <= length for c in chunks)
    assert [*(chunks[0] if chunks else []), *(t for c in chunks[1:] for t in c[1:])] == ids
    assert all(after[0] == before[-1] and len(after) > 1 for before, after in pairwise(chunks))


@LENGTHS
def test_every_token_but_the_first_is_predicted_once(length: int) -> None:
    predicted = [t for c in chunk(list(range(99)), length, 1) for t in c[1:]]
    assert predicted == list(range(1, 99))


@LENGTHS
@SIZES
def test_chunks_without_overlap_join_to_the_document(size: int, length: int) -> None:
    chunks = chunk(list(range(size)), length)
    assert [t for c in chunks for t in c] == list(range(size))
    assert all(len(c) == length for c in chunks[:-1]) and all(chunks)


# -- layouts

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
    "kind, layout",
    [("gpt2", "positions"), ("llama", "positions"), ("opt", "blocks"), ("bloom", None), ("bert", "blocks")],
)
def test_cheapest_layout_that_separates_documents_is_found(kind: str, layout: str | None, dtype: torch.dtype) -> None:
    """Bloom has relative positions, and its documents see the one before: a leak that is within bf16's rounding."""
    assert find_layout(make(kind, dtype), MaskedLM() if kind == "bert" else CausalLM(), packed=True) == layout


def test_recurrent_model_has_no_packed_layout() -> None:
    model = LSTMForCausalLM(LSTMConfig(vocab_size=50, hidden_size=8))
    assert find_layout(model, CausalLM(), packed=True) is None


def test_rows_that_are_not_packed_are_padded() -> None:
    assert find_layout(make("gpt2", torch.float32), CausalLM(), packed=False) == "padded"


@DTYPES
@pytest.mark.parametrize("kind", TYPES)
def test_model_that_reads_future_tokens_is_detected(kind: str, dtype: torch.dtype) -> None:
    assert reads_future_tokens(make(kind, dtype)) == (kind == "bert")


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_the_model_in_its_mode(training: bool) -> None:
    model = make("gpt2", torch.float32).train(training)
    find_layout(model, CausalLM(), packed=True)
    reads_future_tokens(model)
    assert model.training is training
