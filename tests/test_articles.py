"""The articles this project started from: their formulas hold for the models that llmkit trains, their settings run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import llmkit
from llmkit.cli.main import command
from llmkit.task import Model
from llmkit.tasks import CausalLM

IDS = torch.tensor([[5, 17, 42, 99, 7, 250]])
ARTICLE_SETTINGS = {
    "num_train_epochs": 3, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 64, "warmup_steps": 500,
    "weight_decay": 0.01, "logging_dir": "./logs", "logging_steps": 10,
}  # fmt: skip
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
FROM_SCRATCH = [
    "--model.from_scratch", "--model.tokenizer", "bpe", "--model.tokenizer_size", "400", "--data.max_length", "48",
    "--training.max_steps", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path) -> Model:
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2, attn_implementation="eager").eval()


def test_attention_is_softmax_of_qk_over_root_d_times_v(model: Model) -> None:
    block = model.transformer.h[0]
    hidden = block.ln_1(model.transformer(IDS, output_hidden_states=True).hidden_states[0])
    heads, width = model.config.n_head, model.config.n_embd // model.config.n_head
    q, k, v = (
        t.view(1, -1, heads, width).transpose(1, 2)
        for t in (hidden @ block.attn.c_attn.weight + block.attn.c_attn.bias).split(model.config.n_embd, -1)
    )
    scores = q @ k.transpose(-1, -2) / width**0.5
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 6, -1)
    expected = context @ block.attn.c_proj.weight + block.attn.c_proj.bias
    actual, weights = block.attn(
        hidden, attention_mask=torch.zeros(1, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    )
    assert torch.allclose(actual, expected, atol=1e-6)
    assert torch.allclose(weights, scores.softmax(-1), atol=1e-6)


def test_changing_a_token_leaves_earlier_logits_unchanged(model: Model) -> None:
    changed = IDS.clone()
    changed[0, 4] = 200
    before, after = model(IDS).logits[0], model(changed).logits[0]
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:], atol=1e-3)


def test_embedding_is_one_hot_vector_times_matrix(model: Model) -> None:
    table = model.get_input_embeddings().weight
    one_hot = torch.nn.functional.one_hot(IDS[0], table.shape[0]).float()
    assert torch.equal(one_hot @ table, model.get_input_embeddings()(IDS[0]))


def test_loss_is_negative_sum_of_log_probabilities(model: Model) -> None:
    probs = model(IDS).logits[0].softmax(-1)
    expected = -sum(probs[i, IDS[0, i + 1]].log() for i in range(5))
    loss, _ = CausalLM().loss(model, {"input_ids": IDS, "labels": IDS})
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bert_settings_of_the_article_run(tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = tmp_path / "reviews.csv"
    rows = (f"film number {i} is {'fine' if i % 2 else 'dull'},{i % 2}\n" for i in range(64))
    data.write_text("text,label\n" + "".join(rows))
    words = [
        "--model",
        str(tiny_bert),
        "--data",
        str(data),
        "--data.max_length",
        "32",
        "--output",
        str(tmp_path / "out"),
    ]
    assert command(["train", "text-classification", *words, *_options("training", ARTICLE_SETTINGS)]) == 0
    stderr = capfd.readouterr().err
    assert stderr.count("training.logging_dir is ignored; every run writes log.jsonl") == 1
    assert "the warm-up of 500 steps is not shorter than the run of 12" in stderr
    arguments = json.loads((tmp_path / "out" / "training_args.json").read_text())
    expected = {k: v for k, v in ARTICLE_SETTINGS.items() if k != "logging_dir"}
    assert {k: arguments[k] for k in expected} == expected


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox"])
def test_decoder_trains_from_scratch_by_options_alone(
    architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shape = {**SMALL, **({"num_key_value_heads": 2, "head_dim": 16} if architecture in ("llama", "qwen3") else {})}
    words = ["--model", architecture, *_options("model.config", shape), *FROM_SCRATCH, "--data", "fables[test]"]
    assert command(["train", "causal-lm", *words, "--output", str(tmp_path / "out")]) == 0
    assert "packed documents are separated" in capfd.readouterr().err
    assert len(llmkit.load(str(tmp_path / "out")).generate("从前", max_new_tokens=5)) >= 2


def test_modernbert_classifier_trains_from_scratch_by_options_alone(tmp_path: Path) -> None:
    words = ["--model", "modernbert", *_options("model.config", SMALL), *FROM_SCRATCH, "--data", "reviews"]
    assert command(["train", "text-classification", *words, "--output", str(tmp_path / "out")]) == 0
    assert llmkit.load(str(tmp_path / "out")).predict("好看")["label"] in ("positive", "negative")


def _options(part: str, values: Mapping[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{part}.{name}", str(value))]
