"""DPO: the formats it reads, what it cuts, its loss and metrics against sums done by hand, and its verbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, PAIRS, first_losses

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RecipeError, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.tasks import Preference, RewardModel

ASKED = [{"role": "user", "content": "how was it?"}]
ROW = {"prompt": ASKED, "chosen": "a fine film", "rejected": "dull"}


@pytest.fixture
def recipe(tiny_gpt2: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(
        output: str = "run", task: Any = None, model: dict | None = None, data: dict | None = None, **training: Any
    ):
        return Recipe(
            task or Preference(beta=0.5),
            ModelConfig(name=str(tiny_gpt2), **(model or {})),
            DataConfig(**{"train": PAIRS, "validation": PAIRS[::3], "max_length": 64, **(data or {})}),
            {**EXACT, "learning_rate": 1e-3, "lr_scheduler_type": "constant", **training},
            RunConfig(str(tmp_path / output)),
        )

    return make


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "how was it?", "chosen": "a fine film", "rejected": "dull"},
        {"prompt": ASKED, "chosen": [{"role": "assistant", "content": "a fine film"}], "rejected": "dull"},
        {"prompt": [{"from": "human", "value": "how was it?"}], "chosen": {"from": "gpt", "value": "a fine film"},
         "rejected": {"from": "gpt", "value": "dull"}},
        {"prompt": None, "chosen": [*ASKED, {"role": "assistant", "content": "a fine film"}],
         "rejected": [*ASKED, {"role": "assistant", "content": "dull"}]},
        {"prompt": "how was it?", "chosen": [*ASKED, {"role": "assistant", "content": "a fine film"}],
         "rejected": [*ASKED, {"role": "assistant", "content": "dull"}]},
    ],
    ids=["text", "messages", "ShareGPT", "conversations alone", "conversations and their prompt"],
)  # fmt: skip
@pytest.mark.parametrize("task", [Preference(), RewardModel()], ids=lambda t: t.name)
def test_every_format_says_the_same(task: Any, row: dict) -> None:
    assert task.read_row(row) == ROW


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "no 'prompt'"),
        ({"prompt": [{"role": "bot", "content": "hello"}]}, "role 'bot'"),
        ({"prompt": [*ASKED, {"role": "assistant", "content": "well"}]}, "ends with a turn of the assistant"),
        ({"chosen": " "}, "no 'chosen'"),
        ({"rejected": [{"role": "user", "content": "dull"}]}, "'rejected' is no answer of the assistant"),
        ({"rejected": "a fine film"}, "'chosen' and 'rejected' are the same"),
        ({"chosen": [*ASKED, {"role": "assistant", "content": "a fine film"}]}, "differ before their last turn"),
        ({"chosen": 7}, "'chosen' is not a list of turns"),
    ],
)
def test_a_bad_row_says_why(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preference().read_row({**ROW, **change})


@pytest.mark.parametrize(
    ("knobs", "said"), [({"beta": 0.0}, "task.beta: 0.0"), ({"label_smoothing": 0.5}, "task.label_smoothing: 0.5")]
)
def test_a_knob_out_of_range_is_refused_before_the_model(recipe: Callable, knobs: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_trainer(recipe(task=Preference(**knobs)))


def test_a_stream_is_refused(recipe: Callable) -> None:
    with pytest.raises(RecipeError, match=r"data\.streaming: preference first asks the untrained model"):
        build_trainer(recipe(data={"streaming": True}, max_steps=2))


def test_a_long_prompt_loses_its_beginning_and_no_answer_is_cut(recipe: Callable, capfd) -> None:
    long = {"prompt": "and the fox said to the crow, " * 4 + "how was it?", "chosen": "a fine film", "rejected": "dull"}
    never = {"prompt": "how was it?", "chosen": "a fine film", "rejected": "the quick brown fox, " * 9}
    trainer = build_trainer(recipe(data={"train": [long, never, *PAIRS], "max_length": 64}))
    said = capfd.readouterr().err
    assert f"train: 1 of {len(PAIRS) + 2} rows cut to 64 tokens" in said
    assert f"train: 1 of {len(PAIRS) + 2} rows dropped" in said
    row, tokenizer = trainer.train_dataset[0], trainer.processing_class
    chosen, rejected = row["input_ids"][: row["chosen"]], row["input_ids"][row["chosen"] :]
    assert max(len(chosen), len(rejected)) == 64
    assert tokenizer.decode(chosen[: row["prompt"]]).endswith("how was it?\nAssistant:")
    assert chosen[: row["prompt"]] == rejected[: row["prompt"]]
    assert tokenizer.decode(chosen[row["prompt"] :]) == " a fine film" + tokenizer.eos_token
    assert tokenizer.decode(rejected[row["prompt"] :]) == " dull" + tokenizer.eos_token


def log_probability(model: Any, tokenizer: Any, row: dict, side: str) -> torch.Tensor:
    """Of an answer's tokens: a template, a forward pass and a sum; no batch, no padding."""
    asked = f"User: {row['prompt']}\nAssistant:"
    prompt, whole = (tokenizer(t)["input_ids"] for t in (asked, f"{asked} {row[side]}{tokenizer.eos_token}"))
    assert whole[: len(prompt)] == prompt
    logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return torch.stack([logits[i - 1, whole[i]] for i in range(len(prompt), len(whole))])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_are_a_bare_loop_s(recipe: Callable, tiny_gpt2: Path, smoothing: float) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    task = Preference(beta=0.5, label_smoothing=smoothing)
    logs = run(recipe(task=task, optim="sgd", max_grad_norm=0.0, **settings)).trainer.state.log_history
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    before, expected = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), []
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    for step in range(4):
        losses = []
        for row in PAIRS[4 * step : 4 * step + 4]:
            rewards = []
            for side in ("chosen", "rejected"):
                with torch.no_grad():
                    was = log_probability(before, tokenizer, row, side).sum()
                rewards.append(0.5 * (log_probability(model, tokenizer, row, side).sum() - was))
            right = torch.sigmoid(rewards[0] - rewards[1])
            losses.append(-(1 - smoothing) * right.log() - smoothing * (1 - right).log())
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert len(set(expected)) == 4
    assert [log["loss"] for log in logs if "loss" in log] == pytest.approx(expected, abs=1e-5)


def test_accumulation_changes_nothing(recipe: Callable) -> None:
    assert first_losses(recipe, "one", 8, 1) == pytest.approx(first_losses(recipe, "two", 2, 4), abs=1e-6)


def test_the_metrics_are_what_their_definitions_say(recipe: Callable, tiny_gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM

    result = run(recipe(num_train_epochs=3, learning_rate=5e-3))
    model, tokenizer = result.model.eval(), result.tokenizer
    before, moved = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval(), {"chosen": [], "rejected": []}
    with torch.no_grad():
        for row in PAIRS[::3]:
            for side, found in moved.items():
                now, was = (log_probability(m, tokenizer, row, side) for m in (model, before))
                found.append((now - was).double().numpy())
    margins = np.array([0.5 * (c.sum() - r.sum()) for c, r in zip(*moved.values(), strict=True)])
    tokens = np.concatenate([*moved["chosen"], *moved["rejected"]])
    after = result.metrics["after"]
    assert after["accuracy"] == (margins > 0).mean() > 0.5
    assert after["margin"] == pytest.approx(margins.mean(), abs=1e-4)
    assert after["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)
    assert after["kl"] == pytest.approx((np.exp(tokens) - 1 - tokens).mean(), abs=1e-4) and after["kl"] > 0
    assert result.metrics["before"] == pytest.approx(
        {"accuracy": 0.5, "margin": 0, "kl": 0, "loss": math.log(2)}, abs=1e-5
    )


def test_baselines_are_a_coin_the_longer_answer_and_likeness() -> None:
    from datasets import Dataset

    rows = [
        {"prompt": [{"role": "user", "content": "tell of the fox"}], "chosen": "a fox", "rejected": "a crow, that is"},
        {"prompt": [{"role": "user", "content": "tell of the crow"}], "chosen": "the crow", "rejected": "fox"},
        {"prompt": [{"role": "user", "content": "tell of the cat"}], "chosen": "dog", "rejected": "cat"},
    ]
    raw = {"train": Dataset.from_list(rows), "evaluation": Dataset.from_list(rows)}
    features = Dataset.from_dict({"row": [0, 1, 2]})
    found = Preference().baselines(None, features, raw, references=True)
    assert {k: v["value"] for k, v in found.items()} == pytest.approx(
        {"coin": 0.5, "longer answer": 0.5, "TF-IDF nearer to the prompt": 2 / 3}
    )
    assert {k for k, v in found.items() if v["kind"] == "floor"} == {"coin"}
    assert set(Preference().baselines(None, features, raw, references=False)) == {"coin", "longer answer"}
    fits = Preference().baselines(None, features.select([0]), raw, references=False)
    assert fits["longer answer"]["value"] == float(len(rows[0]["chosen"]) > len(rows[0]["rejected"]))


@pytest.mark.parametrize("adapter", [{}, {"type": "lora", "r": 4}], ids=["whole", "lora"])
def test_evaluate_gives_the_run_s_own_figures(recipe: Callable, adapter: dict, capsys) -> None:
    import json

    result = run(recipe(model={"adapter": adapter}, num_train_epochs=2, learning_rate=1e-2))
    held = result.output / "held.jsonl"
    held.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS[::3]), encoding="utf-8")
    capsys.readouterr()
    command(["evaluate", str(result.output), "--data", str(held), "--json"])
    found = json.loads(capsys.readouterr().out)
    after = result.metrics["after"]
    assert found["metrics"] == pytest.approx(after, abs=1e-4) and after["kl"] > 0
    assert found["intervals"]["margin"][0] <= after["margin"] <= found["intervals"]["margin"][1]


def test_a_run_from_a_model_object_cannot_be_evaluated_later_and_says_so(recipe: Callable, tiny_gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmkit.evaluation.measure import measure

    made = recipe(max_steps=1)
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    config = ModelConfig(name=model, tokenizer=AutoTokenizer.from_pretrained(tiny_gpt2))
    result = run(replace(made, model=config))
    with pytest.raises(RecipeError, match="GPT2LMHeadModel object"):
        measure(str(result.output), PAIRS)


def test_a_tuned_model_is_asked_like_any_chat_model(recipe: Callable) -> None:
    result = run(recipe(num_train_epochs=20, learning_rate=5e-3, task=Preference(beta=0.1)))
    model = llmkit.load(str(result.output))
    with torch.no_grad():
        now = [log_probability(model.model, model.tokenizer, PAIRS[0], side).sum() for side in ("chosen", "rejected")]
    assert now[0] > now[1]
    assert isinstance(model.generate(PAIRS[0]["prompt"], max_new_tokens=4), str)
    card = (result.output / "README.md").read_text(encoding="utf-8")
    assert "chat = pipeline('text-generation'" in card and "It printed, when this card was written" in card
