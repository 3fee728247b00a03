"""Preference optimisation (DPO): truncation, the loss and metrics against a plain loop, evaluate and generate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, PAIRS, first_losses
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.cli.main import command
from llmkit.pipeline import evaluate
from llmkit.tasks import Preference


@pytest.fixture
def recipe(tiny_gpt2: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(
        output: str = "run", task: Any = None, model: dict | None = None, data: dict | None = None, **training: Any
    ) -> Recipe:
        return Recipe(
            task or Preference(beta=0.5),
            ModelConfig(name=str(tiny_gpt2), **(model or {})),
            DataConfig(**{"train": PAIRS, "validation": PAIRS[::3], "max_length": 64, **(data or {})}),
            {**EXACT, "learning_rate": 1e-3, "lr_scheduler_type": "constant", **training},
            RunConfig(str(tmp_path / output)),
        )

    return make


@pytest.mark.parametrize(
    ("options", "message"), [({"beta": 0.0}, "task.beta: 0.0"), ({"label_smoothing": 0.5}, "task.label_smoothing: 0.5")]
)
def test_option_out_of_range_is_refused_before_data_is_read(
    recipe: Callable, options: dict[str, float], message: str
) -> None:
    task = Preference(**options)
    assert [fault.startswith(message) for fault in task.check(recipe(task=task))] == [True]
    with pytest.raises(UsageError, match=message):
        build_trainer(recipe(task=task, data={"train": "no-such-file.jsonl"}))


def test_streaming_is_refused(recipe: Callable) -> None:
    with pytest.raises(UsageError, match=r"data\.streaming: preference needs a pass of the untrained model"):
        build_trainer(recipe(data={"streaming": True}, max_steps=2))


def test_long_prompt_loses_its_beginning_and_answers_are_not_cut(recipe: Callable, capfd) -> None:
    long = {"prompt": "and the fox said to the crow, " * 4 + "how was it?", "chosen": "a fine film", "rejected": "dull"}
    never = {"prompt": "how was it?", "chosen": "a fine film", "rejected": "the quick brown fox, " * 9}
    trainer = build_trainer(recipe(data={"train": [long, never, *PAIRS], "max_length": 64}))
    log = capfd.readouterr().err
    assert f"train: 1 of {len(PAIRS) + 2} rows cut to 64 tokens" in log
    assert f"train: 1 of {len(PAIRS) + 2} rows dropped" in log
    row, tokenizer = trainer.train_dataset[0], trainer.processing_class
    (length, _), prompt = row["lengths"], row["prompt_length"]
    chosen, rejected = row["input_ids"][:length], row["input_ids"][length:]
    assert max(len(chosen), len(rejected)) == 64 and row["lengths"] == [len(chosen), len(rejected)]
    assert tokenizer.decode(chosen[:prompt]).endswith("how was it?\nAssistant:")
    assert chosen[:prompt] == rejected[:prompt]
    assert tokenizer.decode(chosen[prompt:]) == " a fine film" + tokenizer.eos_token
    assert tokenizer.decode(rejected[prompt:]) == " dull" + tokenizer.eos_token


def log_probs(model: Any, tokenizer: Any, row: dict, side: str) -> torch.Tensor:
    """Log-probabilities of an answer's tokens, without batches or padding."""
    prompt_text = f"User: {row['prompt']}\nAssistant:"
    texts = (prompt_text, f"{prompt_text} {row[side]}{tokenizer.eos_token}")
    prompt, whole = (tokenizer(text)["input_ids"] for text in texts)
    assert whole[: len(prompt)] == prompt
    logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return torch.stack([logits[i - 1, whole[i]] for i in range(len(prompt), len(whole))])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_equal_a_plain_loop(recipe: Callable, tiny_gpt2: Path, smoothing: float) -> None:
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    task = Preference(beta=0.5, label_smoothing=smoothing)
    logs = run(recipe(task=task, optim="sgd", max_grad_norm=0.0, **settings)).trainer.state.log_history
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    reference, expected = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), []
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    for step in range(4):
        losses = []
        for row in PAIRS[4 * step : 4 * step + 4]:
            rewards = []
            for side in ("chosen", "rejected"):
                with torch.no_grad():
                    before = log_probs(reference, tokenizer, row, side).sum()
                rewards.append(0.5 * (log_probs(model, tokenizer, row, side).sum() - before))
            p = torch.sigmoid(rewards[0] - rewards[1])
            losses.append(-(1 - smoothing) * p.log() - smoothing * (1 - p).log())
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert len(set(expected)) == 4
    assert [log["loss"] for log in logs if "loss" in log] == pytest.approx(expected, abs=1e-5)


def test_losses_do_not_depend_on_accumulation(recipe: Callable) -> None:
    assert first_losses(recipe, "one", 8, 1) == pytest.approx(first_losses(recipe, "two", 2, 4), abs=1e-6)


def test_metrics_equal_their_definitions(recipe: Callable, tiny_gpt2: Path) -> None:
    result = run(recipe(num_train_epochs=3, learning_rate=5e-3))
    model, tokenizer = result.model.eval(), result.tokenizer
    reference, log_ratios = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), {"chosen": [], "rejected": []}
    with torch.no_grad():
        for row in PAIRS[::3]:
            for side, values in log_ratios.items():
                now, before = (log_probs(m, tokenizer, row, side) for m in (model, reference))
                values.append((now - before).double().numpy())
    margins = np.array([0.5 * (c.sum() - r.sum()) for c, r in zip(*log_ratios.values(), strict=True)])
    tokens = np.concatenate([*log_ratios["chosen"], *log_ratios["rejected"]])
    after = result.metrics["after"]
    assert after["accuracy"] == (margins > 0).mean() > 0.5
    assert after["margin"] == pytest.approx(margins.mean(), abs=1e-4)
    assert after["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)
    assert after["kl"] == pytest.approx((np.exp(tokens) - 1 - tokens).mean(), abs=1e-4) and after["kl"] > 0
    untrained = {"accuracy": 0.5, "margin": 0, "kl": 0, "loss": math.log(2)}
    assert result.metrics["before"] == pytest.approx(untrained, abs=1e-5)


@pytest.mark.parametrize("adapter", [{}, {"type": "lora", "r": 4}], ids=["whole", "lora"])
def test_evaluate_gives_the_metrics_of_the_run(recipe: Callable, adapter: dict, capsys) -> None:
    result = run(recipe(model={"adapter": adapter}, num_train_epochs=2, learning_rate=1e-2))
    file = result.output / "held.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS[::3]), encoding="utf-8")
    capsys.readouterr()
    command(["evaluate", str(result.output), "--data", str(file), "--json"])
    answer = json.loads(capsys.readouterr().out)
    after = result.metrics["after"]
    assert answer["metrics"] == pytest.approx(after, abs=1e-4) and after["kl"] > 0
    assert answer["intervals"]["margin"][0] <= after["margin"] <= answer["intervals"]["margin"][1]


def test_evaluating_a_run_that_started_from_a_model_object_is_refused(recipe: Callable, tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    config = ModelConfig(name=model, tokenizer=AutoTokenizer.from_pretrained(tiny_gpt2))
    result = run(replace(recipe(max_steps=1), model=config))
    with pytest.raises(UsageError, match="GPT2LMHeadModel object"):
        evaluate(str(result.output), PAIRS)


def test_tuned_model_generates_like_any_chat_model(recipe: Callable) -> None:
    result = run(recipe(num_train_epochs=20, learning_rate=5e-3, task=Preference(beta=0.1)))
    model = llmkit.load(str(result.output))
    with torch.no_grad():
        chosen, rejected = (log_probs(model.model, model.tokenizer, PAIRS[0], s).sum() for s in ("chosen", "rejected"))
    assert chosen > rejected
    assert isinstance(model.generate(PAIRS[0]["prompt"], max_new_tokens=4), str)
    card = (result.output / "README.md").read_text(encoding="utf-8")
    assert "chat = pipeline('text-generation'" in card and "Output when this card was written" in card
