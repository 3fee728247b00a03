"""The output folder before a run: which folders are refused, what a finished run gives, what may change to resume."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmkit import Recipe, UsageError, build_trainer, run
from llmkit.tasks import TextClassification
from llmkit.training import checkpoints, finish


@pytest.fixture
def started(causal_recipe: Callable[..., Any]) -> Callable[..., Recipe]:
    """Starts a run without a step, and returns a function that makes a recipe to resume it."""
    recipe = causal_recipe()
    finish.write_recipe(build_trainer(recipe), recipe)
    return lambda **changes: causal_recipe(run={"resume": True}, **changes)


# -- folders that are refused


@pytest.mark.parametrize(
    ("existing", "fields", "message"),
    [
        (None, {"output": ""}, "run.output: empty; name a folder"),
        (None, {"resume": True}, "holds no run; leave --resume out, or name the run's --output"),
        ("out", {}, "is a file; choose a folder"),
        ("out/config.json", {}, "holds a model; choose another --output"),
        ("out/README.md", {}, "has a README.md, which the model card would replace; choose another --output"),
        ("out/adapter_config.json", {}, "holds a model; choose another --output"),
        ("out/recipe.yaml", {}, "holds a run; resume it with --resume, or choose another --output"),
    ],
)
def test_unusable_output_folder_is_refused_with_a_fix(
    existing: str | None, fields: dict[str, Any], message: str, causal_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    if existing:
        (tmp_path / existing).parent.mkdir(exist_ok=True)
        (tmp_path / existing).write_text("")
    recipe = causal_recipe("out")
    with pytest.raises(UsageError, match=re.escape(message)):
        checkpoints.finished_metrics(replace(recipe, run=replace(recipe.run, **fields)))


def test_folder_without_permission_to_write_is_refused(
    causal_recipe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs this test may be root
    with pytest.raises(UsageError, match=re.escape(f"no permission to write in {str(tmp_path)!r}")):
        checkpoints.finished_metrics(causal_recipe("not/yet/made"))


@pytest.mark.parametrize("exists", [False, True])
def test_new_or_empty_folder_is_usable(exists: bool, causal_recipe: Callable[..., Any], tmp_path: Path) -> None:
    if exists:
        (tmp_path / "out").mkdir()
    assert checkpoints.finished_metrics(causal_recipe("out")) is None


# -- a finished run


def test_finished_run_is_left_unchanged(causal_recipe: Callable[..., Any], capfd: pytest.CaptureFixture) -> None:
    first = run(causal_recipe(training={"max_steps": 2}))
    written = {p: p.stat().st_mtime_ns for p in first.output.rglob("*")}
    again = run(causal_recipe(training={"max_steps": 2}, run={"resume": True}))
    assert again.metrics == json.loads((first.output / "metrics.json").read_text()) and again.trainer is None
    stderr = capfd.readouterr().err
    assert "is finished: nothing to resume" in stderr and "not done" not in stderr
    run(causal_recipe(training={"max_steps": 4}, run={"resume": True}))
    line = f"not done: training.max_steps was 2, is 4; to train its weights further, use --model {first.output}"
    assert line in capfd.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in first.output.rglob("*")} == written


def test_finished_run_is_not_replaced_by_a_new_one(causal_recipe: Callable[..., Any]) -> None:
    folder = run(causal_recipe(training={"max_steps": 1})).output
    with pytest.raises(UsageError, match="holds a run; resume it with --resume, or choose another --output"):
        run(causal_recipe(training={"max_steps": 1}))
    assert (folder / "metrics.json").exists()


# -- resuming


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate was 0.001, is 0.5"),
        ({"training": {"seed": 1}}, "training.seed was None, is 1"),
        ({"max_length": 16}, "data.max_length was 32, is 16"),
        ({"train": [{"text": "another row"}] * 20}, "data.train was '<40 rows in memory>', is '<20 rows in memory>'"),
    ],
)
def test_resume_refuses_a_changed_recipe(started: Callable[..., Recipe], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=r"run\.resume: the recipe has changed") as e:
        checkpoints.find_checkpoint(started(**changes))
    assert message in str(e.value) and str(e.value).endswith("or start a new run with another --output")


def test_resume_refuses_another_task(started: Callable[..., Recipe]) -> None:
    with pytest.raises(UsageError, match=r"task\.name was 'causal-lm', is 'text-classification'"):
        checkpoints.find_checkpoint(replace(started(), task=TextClassification()))


@pytest.mark.parametrize("name", checkpoints.MAY_CHANGE)
def test_resume_accepts_a_change_of_length_logging_or_number_of_checkpoints(
    name: str, started: Callable[..., Recipe], capfd: pytest.CaptureFixture
) -> None:
    assert checkpoints.find_checkpoint(started(training={name: 7})) is None
    assert "has no checkpoint yet: starting from the first step" in capfd.readouterr().err


def test_model_may_have_moved(started: Callable[..., Recipe], tiny_gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_gpt2, tmp_path / "moved")
    recipe = started()
    moved = replace(recipe, model=replace(recipe.model, name=str(tmp_path / "moved")))
    assert checkpoints.find_checkpoint(moved) is None


def test_last_checkpoint_is_found(started: Callable[..., Recipe], capfd: pytest.CaptureFixture) -> None:
    recipe = started()
    for step in (2, 10, 9):
        (Path(recipe.run.output) / f"checkpoint-{step}").mkdir()
    last = str(Path(recipe.run.output) / "checkpoint-10")
    assert checkpoints.find_checkpoint(recipe) == last
    assert f"resuming from {last}" in capfd.readouterr().err


def test_without_resume_no_checkpoint_is_looked_for(causal_recipe: Callable[..., Any]) -> None:
    assert checkpoints.find_checkpoint(causal_recipe()) is None
