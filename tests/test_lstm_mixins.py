"""The LSTM under the model tests of Transformers itself, which its wheel does not hold.

Give a checkout of Transformers, of the installed version, to run them; they need the package `parameterized` too:

    TRANSFORMERS_CHECKOUT=~/transformers pytest -o addopts=--import-mode=importlib tests/test_lstm_mixins.py

What they showed has tests of its own in models/test_lstm.py, which always run.
"""

from __future__ import annotations

import os
import sys
import unittest
from typing import Any

import pytest
import torch

from llmkit.models.lstm import LSTMConfig, LSTMForCausalLM

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT")
if not CHECKOUT:
    pytest.skip("needs a checkout of Transformers in TRANSFORMERS_CHECKOUT", allow_module_level=True)
sys.path.insert(0, CHECKOUT)
sys.modules["tests"].__path__ = [f"{CHECKOUT}/tests"]  # pytest has given this package the name that theirs has

from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402

CANNOT = {"test_model_base_model_prefix": "there is no model without a head under it, and so no folder of one to load"}
"""Tests that fail for good, each with its reason."""
VOCABULARY, ROWS, LENGTH = 99, 3, 7


class _Tester:
    batch_size, seq_length, is_training = ROWS, LENGTH, True
    hidden_size, num_hidden_layers, vocab_size, num_attention_heads = 32, 2, VOCABULARY, 0

    def __init__(self, **options: Any) -> None:
        self.options = options

    def get_config(self) -> LSTMConfig:
        sizes = {"vocab_size": VOCABULARY, "hidden_size": self.hidden_size, "num_hidden_layers": self.num_hidden_layers}
        return LSTMConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0, **self.options)

    def prepare_config_and_inputs_for_common(self) -> tuple[LSTMConfig, dict[str, torch.Tensor]]:
        ids = ids_tensor([ROWS, LENGTH], VOCABULARY)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class _Tests(ModelTesterMixin, GenerationTesterMixin):
    all_model_classes = all_generative_model_classes = (LSTMForCausalLM,)
    pipeline_model_mapping: dict[str, Any] = {}  # noqa: RUF012
    has_attentions = False
    options: dict[str, Any] = {}  # noqa: RUF012

    def setUp(self) -> None:
        self.model_tester = _Tester(**self.options)

    def _prepare_for_class(self, inputs: dict, model_class: type, return_labels: bool = False) -> dict:
        """The mixin gives labels only to the classes of Transformers' own list."""
        inputs = super()._prepare_for_class(inputs, model_class, return_labels)
        return inputs | ({"labels": inputs["input_ids"]} if return_labels else {})

    def _check_past_key_values_for_generate(self, batch_size: int, seq_length: int, config: Any, **cache: Any) -> None:
        """The mixin asks models with another cache for this method: a state is of one size, whatever was read."""
        *parts, _ = next(iter(cache.values()))
        assert len(parts) == (2 if config.cell == "lstm" else 1)
        assert {tuple(part.shape) for part in parts} == {(config.num_hidden_layers, batch_size, config.hidden_size)}


def _expected(cls: type) -> type:
    for name, reason in CANNOT.items():
        setattr(cls, name, pytest.mark.xfail(reason=reason, strict=True)(_wrapped(getattr(cls, name))))
    return cls


def _wrapped(test: Any) -> Any:
    def run(self: Any) -> None:
        test(self)

    return run


@_expected
class TestLSTM(_Tests, unittest.TestCase):
    pass


@_expected
class TestTiedGRU(_Tests, unittest.TestCase):
    options = {"cell": "gru", "tie_word_embeddings": True}  # noqa: RUF012


@_expected
class TestPlainCellWithPositions(_Tests, unittest.TestCase):
    options = {"cell": "rnn", "sinusoidal_positions": True}  # noqa: RUF012
