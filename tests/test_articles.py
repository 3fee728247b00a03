"""What the articles this project grew from say of a language model, held on the models that llmkit trains; and their
BERT settings, run as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkit.cli import command


@pytest.fixture(scope="module")
def model(tiny_gpt2: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2, attn_implementation="eager").eval()


IDS = torch.tensor([[5, 17, 42, 99, 7, 250]])


def test_attention_is_softmax_of_qk_over_root_d_times_v(model) -> None:
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


def test_a_later_token_never_changes_an_earlier_logit(model) -> None:
    changed = IDS.clone()
    changed[0, 4] = 200
    before, after = model(IDS).logits[0], model(changed).logits[0]
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:], atol=1e-3)


def test_an_embedding_is_the_matrix_times_a_one_hot(model) -> None:
    table = model.get_input_embeddings().weight
    one_hot = torch.nn.functional.one_hot(IDS[0], table.shape[0]).float()
    assert torch.equal(one_hot @ table, model.get_input_embeddings()(IDS[0]))


def test_the_loss_is_minus_the_sum_of_log_probabilities(model) -> None:
    from llmkit.tasks import CausalLM

    probabilities = model(IDS).logits[0].softmax(-1)
    by_hand = -sum(probabilities[i, IDS[0, i + 1]].log() for i in range(5))
    loss, _ = CausalLM().loss(model, {"input_ids": IDS, "labels": IDS})
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_articles_bert_settings_run_as_they_are(
    tiny_bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """3 epochs, batch 16/64, warm-up 500, weight decay 0.01, logging_dir."""
    data = tmp_path / "reviews.csv"
    data.write_text(
        "text,label\n" + "".join(f"film number {i} is {'fine' if i % 2 else 'dull'},{i % 2}\n" for i in range(64))
    )
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 64, "warmup_steps": 500,
        "weight_decay": 0.01, "logging_dir": "./logs", "logging_steps": 10,
    }  # fmt: skip
    words = [w for k, v in settings.items() for w in (f"--training.{k}", str(v))]
    model = [
        "--model",
        str(tiny_bert),
        "--data",
        str(data),
        "--data.max_length",
        "32",
        "--output",
        str(tmp_path / "out"),
    ]
    assert command(["train", "text-classification", *model, *words]) == 0
    said = capfd.readouterr().err
    assert said.count("training.logging_dir is not read; every run writes log.jsonl") == 1
    assert "the warm-up of 500 steps is not shorter than the run of 12" in said
    kept = json.loads((tmp_path / "out" / "training_args.json").read_text())
    wanted = {k: v for k, v in settings.items() if k != "logging_dir"}
    assert {k: kept[k] for k in wanted} == wanted


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox"])
def test_a_current_decoder_by_flags_alone(architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    shape = {**SMALL, **({"num_key_value_heads": 2, "head_dim": 16} if architecture in ("llama", "qwen3") else {})}
    words = [w for k, v in shape.items() for w in (f"--model.config.{k}", str(v))]
    more = [
        "--model.tokenizer",
        "bpe",
        "--model.tokenizer_size",
        "400",
        "--data",
        "fables[test]",
        "--data.max_length",
        "48",
        "--training.max_steps",
        "3",
    ]
    assert (
        command(
            [
                "train",
                "causal-lm",
                "--model",
                architecture,
                "--model.from_scratch",
                *words,
                *more,
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert "packed documents are kept apart" in capfd.readouterr().err
    import llmkit

    assert len(llmkit.load(str(tmp_path / "out")).generate("从前", max_new_tokens=5)) >= 2


def test_modernbert_classifies_by_flags_alone(tmp_path: Path) -> None:
    words = [w for k, v in SMALL.items() for w in (f"--model.config.{k}", str(v))]
    more = [
        "--model.tokenizer",
        "bpe",
        "--model.tokenizer_size",
        "400",
        "--data",
        "reviews",
        "--data.max_length",
        "48",
        "--training.max_steps",
        "3",
    ]
    assert (
        command(
            [
                "train",
                "text-classification",
                "--model",
                "modernbert",
                "--model.from_scratch",
                *words,
                *more,
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    import llmkit

    assert llmkit.load(str(tmp_path / "out")).predict("好看")["label"] in ("positive", "negative")
