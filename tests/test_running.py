"""Runs as people meet them: stopped by Ctrl-C and resumed, finished and asked again, early stopping, streams,
conversations, adapters, bad numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import EXACT, TEXTS

from llmkit import DataConfig, ModelConfig, Recipe, RecipeError, RunConfig, RunFailed, build_trainer, load, run
from llmkit.models import bundled
from llmkit.tasks import CausalLM, TextClassification

TALK = [
    {
        "messages": [
            {"role": "user", "content": f"What is {i} and {i}?"},
            {"role": "assistant", "content": f"It is {2 * i}."},
        ]
    }
    for i in range(16)
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number: int, tiny_gpt2: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{t} {i}" for i, t in enumerate(TEXTS * 10)))
    words = [
        sys.executable,
        "-m",
        "llmkit",
        "train",
        "causal-lm",
        "--model",
        str(tiny_gpt2),
        "--data",
        str(texts),
        "--data.document",
        "line",
    ]
    words += [
        "--training.num_train_epochs",
        "2000",
        "--training.logging_steps",
        "1",
        "--training.eval_strategy",
        "no",
        "--output",
        "out",
    ]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        log = tmp_path / "out" / "log.jsonl"
        for _ in range(1200):
            if log.exists() and '"loss"' in log.read_text():
                break
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "saved; go on with: " in said and said.strip().endswith("--resume") and "Traceback" not in said
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    again = subprocess.run(
        [*words, "--resume", "--training.max_steps", str(step + 3)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == step + 3


def test_a_finished_run_is_left_as_it_is(causal_recipe, capfd) -> None:
    first = run(causal_recipe(training={"max_steps": 2}))
    stamp = (first.output / "model.safetensors").stat().st_mtime_ns
    again = run(causal_recipe(training={"max_steps": 2}, run={"resume": True}))
    assert again.metrics == json.loads((first.output / "metrics.json").read_text()) and again.trainer is None
    assert (first.output / "model.safetensors").stat().st_mtime_ns == stamp
    said = capfd.readouterr().err
    assert "is finished: nothing to resume" in said and "not done" not in said
    run(causal_recipe(training={"max_steps": 4}, run={"resume": True}))
    assert "not done: training.max_steps was 2, is 4; train on from its weights" in capfd.readouterr().err
    with pytest.raises(RecipeError, match="holds a run; go on with it by --resume"):
        run(causal_recipe(training={"max_steps": 2}))


def test_a_changed_recipe_does_not_resume(causal_recipe) -> None:
    from llmkit.reporting import files
    from llmkit.training import checkpoints

    files.begin(build_trainer(causal_recipe()))
    with pytest.raises(RecipeError, match=r"training.learning_rate was 0.001, is 0.5"):
        checkpoints.to_resume(build_trainer(causal_recipe(training={"learning_rate": 0.5}, run={"resume": True})))


def test_patience_ends_a_run_that_no_longer_learns(causal_recipe) -> None:
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1.0,
        "max_steps": 50,
    }
    result = run(causal_recipe(training=settings, run={"patience": 2}))
    assert result.metrics["steps"] < 50
    best = min(log["eval_loss"] for log in result.trainer.state.log_history if "eval_loss" in log and log["step"] > 0)
    assert result.metrics["after"]["loss"] == pytest.approx(best, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(causal_recipe) -> None:
    with pytest.raises(RunFailed, match="at step"):
        run(causal_recipe(training={"learning_rate": 1e38, "num_train_epochs": 5, "max_grad_norm": 0}))


def test_a_package_that_is_not_there_is_one_line(causal_recipe) -> None:
    with pytest.raises(RecipeError) as e:
        run(causal_recipe(training={"optim": "galore_adamw", "optim_target_modules": ["attn"]}))
    (fault,) = e.value.faults
    assert fault.startswith("training: ") and "galore_torch" in fault


def test_a_hub_that_is_not_there_is_one_line(llmkit_command) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "none"}
    done = llmkit_command("train", "finetune_gpt2", "--training.push_to_hub", "true", env=nowhere)
    assert done.returncode == 2 and "llmkit: training.push_to_hub: the hub does not answer" in done.stderr


def test_samples_do_not_touch_the_random_state(causal_recipe, tiny_gpt2) -> None:
    model = ModelConfig(name=str(tiny_gpt2), config={"resid_pdrop": 0.2})
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 4, "load_best_model_at_end": False}
    losses = []
    for name, prompts in (("a", ()), ("b", ("Once upon a time", "从前"))):
        result = run(causal_recipe(name, model, {"prompts": prompts}, settings))
        losses.append([log["loss"] for log in result.trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1]


def test_a_stream_trains_as_its_rows_would(tiny_gpt2: Path, tmp_path: Path) -> None:
    """Every row once a pass, and 8×1 = 4×2."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    losses = {}
    for batch, accumulation in ((8, 1), (4, 2)):
        data = DataConfig(
            train=str(rows), validation=[{"text": TEXTS[0]}], streaming=True, max_length=64, packing=False
        )
        settings = {
            **EXACT,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 6,
        }
        result = run(
            Recipe(CausalLM(), ModelConfig(name=str(tiny_gpt2)), data, settings, RunConfig(str(tmp_path / str(batch))))
        )
        losses[batch] = [log["loss"] for log in result.trainer.state.log_history if "loss" in log]
        assert result.metrics["tokens"] > 0
    assert losses[8] == pytest.approx(losses[4], abs=1e-5)
    import itertools

    stream = result.trainer.train_dataset
    seen = [tuple(f["input_ids"]) for f in itertools.islice(stream.features(), 2 * len(TEXTS))]
    assert sorted(seen[: len(TEXTS)]) == sorted(seen[len(TEXTS) :])


def test_a_stream_may_have_parts_of_its_own(tiny_bert: Path, tmp_path: Path) -> None:
    data = DataConfig(train="reviews", streaming=True, max_length=32)
    settings = {**EXACT, "max_steps": 1, "per_device_eval_batch_size": 64}
    trainer = build_trainer(
        Recipe(TextClassification(), ModelConfig(name=str(tiny_bert)), data, settings, RunConfig(str(tmp_path / "r")))
    )
    assert {part: len(rows) for part, rows in trainer.rows.items() if part != "train"} == {
        part: len(bundled.read_text("reviews", part)) for part in ("validation", "test")
    }


def test_a_resumed_stream_finds_its_place(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(f"{t} {i}" for i, t in enumerate(TEXTS)))
    data = DataConfig(train=str(rows), document="line", validation=[{"text": TEXTS[0]}], streaming=True, max_length=32)
    settings = {**EXACT, "per_device_train_batch_size": 2, "max_steps": 8, "save_strategy": "steps", "save_steps": 4}

    def recipe(name: str, **more) -> Recipe:
        return Recipe(
            CausalLM(), ModelConfig(name=str(tiny_gpt2)), data, settings, RunConfig(str(tmp_path / name), **more)
        )

    whole = run(recipe("whole"))
    import shutil

    shutil.copytree(
        tmp_path / "whole", tmp_path / "parted", ignore=shutil.ignore_patterns("checkpoint-8", "metrics.json")
    )
    resumed = run(recipe("parted", resume=True))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_of_a_conversation_the_assistant_alone_is_learned(causal_recipe) -> None:
    trainer = build_trainer(causal_recipe(train=TALK, packing=False, max_length=64))
    tokenizer = trainer.processing_class
    assert trainer.task.chat and tokenizer.chat_template
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = tokenizer.decode(ids[labels != -100])
        assert learned.strip().startswith("It is") and learned.endswith(tokenizer.eos_token)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 and 2?", "response": "It is 4."},
        {"instruction": "What is 2 and 2?", "input": "", "output": "It is 4."},
        {"conversations": [{"from": "human", "value": "What is 2 and 2?"}, {"from": "gpt", "value": "It is 4."}]},
    ],
)
def test_every_chat_format_says_the_same(row: dict, causal_recipe) -> None:
    found = [
        build_trainer(causal_recipe(train=[r] * 8, validation=[r], max_length=64)).train_dataset[0]
        for r in (row, TALK[2])
    ]
    assert found[0]["input_ids"] == found[1]["input_ids"] and found[0]["learn"] == found[1]["learn"]


def test_an_adapter_run_loads_like_any_other(causal_recipe, tiny_gpt2: Path) -> None:
    recipe = causal_recipe(training={"max_steps": 3})
    model = ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 2, "target_modules": "all-linear"})
    result = run(dataclasses.replace(recipe, model=model))
    names = {p.name for p in result.output.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names
    again = load(str(result.output))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(again.model(ids).logits, result.model.eval()(ids).logits, atol=1e-5)
    assert isinstance(again.generate("从前", max_new_tokens=2), str)


def test_an_adapter_keeps_its_classification_head(review_recipe, tiny_bert: Path) -> None:
    recipe = review_recipe(training={"max_steps": 4, "learning_rate": 1e-2})
    result = run(dataclasses.replace(recipe, model=ModelConfig(name=str(tiny_bert), adapter={"type": "lora", "r": 2})))
    text = "太好看了，推荐"
    again = load(str(result.output))
    ids = again.tokenizer(text, return_tensors="pt")
    assert torch.allclose(again.model(**ids).logits, result.model.eval()(**ids).logits, atol=1e-5)


def test_no_evaluation_says_what_goes_with_it(causal_recipe, capfd) -> None:
    run(causal_recipe(training={"max_steps": 1}))
    assert (
        "evaluation is off, and with it early stopping and the choice of the best checkpoint" in capfd.readouterr().err
    )


def test_two_runs_prepare_once(causal_recipe, capfd) -> None:
    build_trainer(causal_recipe(max_length=31))
    assert "prepared before" not in capfd.readouterr().err
    build_trainer(causal_recipe(max_length=31))
    assert capfd.readouterr().err.count("prepared before") == 2


def test_the_environment_of_a_test_is_its_own() -> None:
    assert not Path(os.environ["LLMKIT_CACHE"]).is_relative_to(Path.home() / ".cache")
