"""Callbacks: signals, the stop at NaN, log.jsonl, the table, samples, and early stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS

from llmkit import ModelConfig, RunFailed, build_trainer, run
from llmkit.training.callbacks import Signals

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}


def training_losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_a_checkpoint_and_prints_the_command_that_resumes(
    number: int, tiny_gpt2: Path, tmp_path: Path
) -> None:
    texts, log = tmp_path / "texts.txt", tmp_path / "out" / "log.jsonl"
    texts.write_text("\n".join(f"{text} {i}" for i, text in enumerate(TEXTS * 10)))
    words = [
        sys.executable, "-m", "llmkit", "train", "causal-lm", "--model", str(tiny_gpt2), "--data", str(texts),
        "--data.document", "line", "--training.num_train_epochs", "2000", "--training.logging_steps", "1",
        "--training.eval_strategy", "no", "--output", "out",
    ]  # fmt: skip
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for _ in range(1200):
            if log.exists() and '"loss"' in log.read_text():
                break
            time.sleep(0.1)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, stderr
    last = stderr.splitlines()[-1]
    assert "checkpoint saved. Resume with: " in last and last.endswith("--resume") and "Traceback" not in stderr
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert f"stopped at step {step}," in last
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    resume = [*words, "--resume", "--training.max_steps", str(step + 3)]
    resumed = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == step + 3


def test_second_signal_stops_at_once(causal_recipe: Callable[..., Any]) -> None:
    signals = Signals(build_trainer(causal_recipe()))
    signals._on_signal(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        signals._on_signal(signal.SIGINT, None)


def test_signal_handlers_are_restored_after_a_run(causal_recipe: Callable[..., Any]) -> None:
    before = handlers()
    run(causal_recipe(training={"max_steps": 1}))
    assert handlers() == before


def test_signal_handlers_are_restored_after_a_failed_run(causal_recipe: Callable[..., Any]) -> None:
    before = handlers()
    with pytest.raises(RunFailed):
        run(causal_recipe(training={"learning_rate": 1e38, "num_train_epochs": 5, "max_grad_norm": 0}))
    assert handlers() == before


# -- the stop at NaN, early stopping


def test_loss_that_is_not_finite_stops_the_run(causal_recipe: Callable[..., Any]) -> None:
    with pytest.raises(RunFailed, match=r"is (nan|inf) at step \d+: lower training.learning_rate"):
        run(causal_recipe(training={"learning_rate": 1e38, "num_train_epochs": 5, "max_grad_norm": 0}))


def test_early_stopping_keeps_the_best_weights(causal_recipe: Callable[..., Any]) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1}
    settings = {**EVERY_STEP, **saving, "learning_rate": 1.0, "max_steps": 50}
    result = run(causal_recipe(training=settings, run={"patience": 2}))
    assert result.metrics["steps"] < 50
    history = result.trainer.state.log_history
    best = min(log["eval_loss"] for log in history if "eval_loss" in log and log["step"] > 0)
    assert result.metrics["after"]["loss"] == pytest.approx(best, rel=1e-5)


# -- log.jsonl and the table


def test_log_of_a_resumed_run_continues_that_of_its_checkpoint(causal_recipe: Callable[..., Any]) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    folder = run(causal_recipe(training={**saving, "max_steps": 2})).output
    first = (folder / "log.jsonl").read_text().splitlines()
    (folder / "metrics.json").unlink()
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"loss": 0.0, "step": 3}\n')  # a step after the checkpoint, which is done again
    run(causal_recipe(training={**saving, "max_steps": 4}, run={"resume": True}))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert lines[0] == json.loads(first[0]) and all(line.get("loss") != 0 for line in lines)


def test_table_shows_losses_and_metrics_and_marks_the_untrained_model(
    causal_recipe: Callable[..., Any], capfd: pytest.CaptureFixture
) -> None:
    history = run(causal_recipe(training={**EVERY_STEP, "max_steps": 1})).trainer.state.log_history
    lines = [line.split() for line in capfd.readouterr().err.splitlines() if line.startswith("    ")]
    losses = [f"{log['eval_loss']:.4f}" for log in history if "eval_loss" in log]
    (trained,) = (log for log in history if "loss" in log)
    untrained, step, after, *final = (line for line in lines if line[0] in ("0/1", "1/1"))
    assert untrained[:4] == ["0/1", "validation", "loss", losses[0]] and untrained[-1] == "(untrained)"
    numbers = [f"{trained['epoch']:.2f}", f"{trained['loss']:.4f}", f"{trained['learning_rate']:.2e}"]
    assert step[:4] == ["1/1", *numbers]
    assert after[:4] == ["1/1", "validation", "loss", losses[1]] and "(untrained)" not in after
    assert final == [after]  # the final evaluation


@pytest.mark.parametrize("evaluation", ["no", "epoch"])
def test_untrained_model_is_evaluated_once_on_the_final_part(
    evaluation: str, review_recipe: Callable[..., Any]
) -> None:
    recipe = review_recipe(
        test=[{"text": "a fine film", "label": "positive"}], training={"max_steps": 1, "eval_strategy": evaluation}
    )
    history = run(recipe).trainer.state.log_history
    assert [log["step"] for log in history if "test_loss" in log] == [0, 1]
    assert [log["step"] for log in history if "eval_loss" in log] == ([] if evaluation == "no" else [0, 1])


# -- samples


def test_samples_leave_the_random_state_unchanged(
    causal_recipe: Callable[..., Any], tiny_gpt2: Path, capfd: pytest.CaptureFixture
) -> None:
    model = ModelConfig(name=str(tiny_gpt2), config={"resid_pdrop": 0.2})
    settings = {**EVERY_STEP, "max_steps": 4, "load_best_model_at_end": False}
    without, with_samples = (
        training_losses(run(causal_recipe(name, model, {"prompts": prompts}, settings)).trainer)
        for name, prompts in (("without", ()), ("with", ("Once upon a time", "从前")))
    )
    assert with_samples == without
    assert capfd.readouterr().err.count("“Once upon a time") == 5  # before training, and at each of four evaluations


def test_samples_are_drawn_at_the_end_of_a_run_without_evaluation(
    causal_recipe: Callable[..., Any], capfd: pytest.CaptureFixture
) -> None:
    run(causal_recipe(training={"max_steps": 2}, run={"prompts": ("Once upon a time",)}))
    lines = [line for line in capfd.readouterr().err.splitlines() if "“" in line]
    assert lines and all(line.startswith("         “Once upon a time") for line in lines)


@pytest.mark.parametrize("evaluation", ["no", "steps"])
def test_prompt_that_is_too_long_is_a_warning_and_no_reason_to_lose_the_run(
    evaluation: str, causal_recipe: Callable[..., Any], capfd: pytest.CaptureFixture
) -> None:
    settings = {**EVERY_STEP, "eval_strategy": evaluation, "max_steps": 1}
    result = run(causal_recipe(training=settings, run={"prompts": ("Once", "山" * 300)}))
    line = "warning  run.prompts: prompt 2 has 300 tokens, the model takes 64 with the answer; shorten it; no samples"
    assert line in capfd.readouterr().err and (result.output / "model.safetensors").is_file()
