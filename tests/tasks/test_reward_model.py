"""Reward models: text pairs for an encoder, a chat template for a decoder, the loss and metrics, and predict."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, PAIRS, first_losses
from transformers import AutoTokenizer

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.cli.main import command
from llmkit.cli.predict import read_inputs
from llmkit.tasks import RewardModel


@pytest.fixture
def recipe(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(
        output: str = "run", model: Any = None, adapter: dict | None = None, max_length: int = 64, **training: Any
    ) -> Recipe:
        return Recipe(
            RewardModel(),
            ModelConfig(name=str(model or tiny_bert), adapter=adapter or {}),
            DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=max_length),
            {**EXACT, "learning_rate": 1e-3, "lr_scheduler_type": "constant", **training},
            RunConfig(str(tmp_path / output)),
        )

    return make


def rewards(model: Any, tokenizer: Any, row: dict) -> torch.Tensor:
    """Rewards of both answers, one at a time, with the tokenizer's own pairs or template."""
    values = []
    for side in ("chosen", "rejected"):
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            encoded = tokenizer(row["prompt"], row[side], return_tensors="pt")
        values.append(model(**encoded).logits[0, 0])
    return torch.stack(values)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_losses_equal_a_plain_loop(recipe: Callable, kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"tiny_{kind}")
    settings = {"max_steps": 3, "per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    trainer = build_trainer(recipe(model=folder, optim="sgd", max_grad_norm=0.0, **settings))
    model, tokenizer, expected = copy.deepcopy(trainer.model).train(), trainer.processing_class, []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(3):
        pairs = torch.stack([rewards(model, tokenizer, row) for row in PAIRS[4 * step : 4 * step + 4]])
        loss = -torch.sigmoid(pairs[:, 0] - pairs[:, 1]).log().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses == pytest.approx(expected, abs=1e-5) and len(set(expected)) == 3


def test_losses_do_not_depend_on_accumulation(recipe: Callable) -> None:
    assert first_losses(recipe, "one", 8, 1) == pytest.approx(first_losses(recipe, "two", 2, 4), abs=1e-6)


def test_token_types_are_passed_if_the_tokenizer_names_them(tiny_bert: Path) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    task, tokenizer = RewardModel(), AutoTokenizer.from_pretrained(tiny_bert, model_input_names=names)
    rows = [task.read_row(row) for row in PAIRS[:3]]
    columns = task.encode({k: [row[k] for row in rows] for k in rows[0]}, tokenizer, 64)
    features = [{k: v[i] for k, v in columns.items() if k != "truncated"} for i in range(3)]
    batch = task.collate(features, tokenizer, "padded")
    for i, side in enumerate(("chosen", "rejected")):
        prompts, answers = [r["prompt"] for r in PAIRS[:3]], [r[side] for r in PAIRS[:3]]
        expected = tokenizer(prompts, answers, padding=True, return_tensors="pt")
        width = expected["input_ids"].shape[1]
        for name, values in expected.items():
            assert torch.equal(batch[name][3 * i : 3 * i + 3, :width], values), name
    assert batch["labels"].tolist() == [1, 1, 1, 0, 0, 0] and task.weight(batch) == 3


def test_long_prompt_loses_its_beginning_and_answers_are_not_cut(tiny_bert: Path) -> None:
    task, tokenizer = RewardModel(), AutoTokenizer.from_pretrained(tiny_bert)
    task.configure(tokenizer)
    prompt = "and the fox said to the crow, " * 4 + "how was it?"
    rows = [
        {"prompt": [{"role": "user", "content": prompt}], "chosen": "a fine film", "rejected": "dull"},
        {"prompt": [{"role": "user", "content": "how?"}], "chosen": "a fox, " * 20, "rejected": "dull"},
    ]
    columns = task.encode({k: [row[k] for row in rows] for k in rows[0]}, tokenizer, 32)
    assert columns["row"] == [0] and columns["truncated"] == [True]
    expected = tokenizer(prompt, "a fine film", truncation="only_first", max_length=32)["input_ids"]
    assert columns["input_ids"][0][: columns["lengths"][0][0]] == expected and len(expected) == 32


def test_metrics_equal_their_definitions(recipe: Callable) -> None:
    result = run(recipe(num_train_epochs=4))
    model, tokenizer = result.model.eval(), result.tokenizer
    with torch.no_grad():
        pairs = torch.stack([rewards(model, tokenizer, row) for row in PAIRS[::3]]).double().numpy()
    margins, after = pairs[:, 0] - pairs[:, 1], result.metrics["after"]
    assert after["accuracy"] == (margins > 0).mean()
    assert after["margin"] == pytest.approx(margins.mean(), abs=1e-5)
    assert after["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_saved_folder_gives_the_same_rewards(
    recipe: Callable, kind: str, request: pytest.FixtureRequest, capfd
) -> None:
    result = run(recipe(model=request.getfixturevalue(f"tiny_{kind}"), max_steps=4))
    with torch.no_grad():
        pairs = torch.stack([rewards(result.model.eval(), result.tokenizer, row) for row in PAIRS[:4]])
    model = llmkit.load(str(result.output))
    inputs = [{"prompt": r["prompt"], "response": r[s]} for r in PAIRS[:4] for s in ("chosen", "rejected")]
    answers = model.predict(inputs, batch_size=3)
    assert [a["reward"] for a in answers] == pytest.approx(pairs.flatten().tolist(), abs=1e-5)
    assert not any(a["truncated"] for a in answers) and "cut to" not in capfd.readouterr().err
    long = model.predict({"prompt": "how was it?", "response": "a fox and a crow, " * 20})
    assert long["truncated"] and "1 input cut to 64 tokens" in capfd.readouterr().err
    card = (result.output / "README.md").read_text(encoding="utf-8")
    printed = float(card.rpartition("'score': ")[2].partition("}")[0])
    assert printed == pytest.approx(answers[0]["reward"], abs=1e-5)


def test_adapter_keeps_the_reward_head(recipe: Callable) -> None:
    result = run(recipe(adapter={"type": "lora", "r": 2}, max_steps=4, learning_rate=1e-2))
    with torch.no_grad():
        pair = rewards(result.model.eval(), result.tokenizer, PAIRS[0])
    model = llmkit.load(str(result.output))
    inputs = [{"prompt": PAIRS[0]["prompt"], "response": PAIRS[0][side]} for side in ("chosen", "rejected")]
    assert [a["reward"] for a in model.predict(inputs)] == pytest.approx(pair.tolist(), abs=1e-5)


def test_predict_reads_columns_by_their_usual_names(recipe: Callable, tmp_path: Path, capsys) -> None:
    result = run(recipe(max_steps=2))
    rows = [{"question": r["prompt"], "answer": r["chosen"]} for r in PAIRS[:5]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    capsys.readouterr()
    command(["predict", str(result.output), str(file), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["response"] for line in lines] == [r["chosen"] for r in PAIRS[:5]]
    command(["predict", str(result.output), json.dumps({"prompt": PAIRS[0]["prompt"], "response": "a fine film"})])
    reward, response = capsys.readouterr().out.rstrip("\n").split("\t")
    assert response == "a fine film" and float(reward) == pytest.approx(lines[0]["reward"], abs=1e-3)


def test_input_without_a_response_is_refused() -> None:
    with pytest.raises(UsageError, match="no response; reward-model reads prompt, response"):
        read_inputs(['{"prompt": "how was it?"}'], RewardModel())


def test_system_column_of_an_input_is_read(recipe: Callable, tmp_path: Path) -> None:
    given = [
        {"prompt": "who?", "response": "I", "system": "Be brief."},
        {"prompt": "who?", "response": "I", "mood": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "who?"}]
    inputs = read_inputs([str(tmp_path / "a.jsonl")], RewardModel())
    assert inputs == [{"prompt": turns, "response": "I"}, {"prompt": "who?", "response": "I"}]
    model = llmkit.load(str(run(recipe(max_steps=1)).output))
    first, second = model.predict(inputs)
    assert first["reward"] != second["reward"]


def test_columns_of_an_input_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    read_inputs(['{"Prompt": "who?", "response": "I", "mood": "x"}'], RewardModel())
    assert capsys.readouterr().err == "warning  input: columns not read: mood (1 row)\n"
