"""Checks before the first step: the length of rows, the number of steps, and runs that would train nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkit import ModelConfig, Recipe, UsageError, build_trainer
from llmkit.tasks import CausalLM, TextClassification
from llmkit.training import arguments, checks


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


def features(rows: int) -> dict[str, Dataset]:
    return {"train": Dataset.from_dict({"input_ids": [[1, 2, 3]] * rows})}


# -- max_length


@pytest.mark.parametrize(
    ("model", "length", "expected", "reason"),
    [
        (ModelConfig(), 16, 16, ""),
        (ModelConfig(), 64, 64, ""),
        (ModelConfig(), None, 64, "rows of at most 64 tokens: the model's limit"),
        (ModelConfig("gpt2", from_scratch=True, config={"n_positions": 2048}), None, 512, "the default for causal-lm"),
        (ModelConfig("lstm", from_scratch=True), None, 512, "the default for causal-lm"),
        (ModelConfig("lstm", from_scratch=True), 5000, 5000, ""),
    ],
)
def test_max_length_is_given_or_the_models_limit_or_the_tasks_default(
    model: ModelConfig, length: int | None, expected: int, reason: str, causal_recipe: Any, tokenizer: Any, capsys: Any
) -> None:
    recipe = causal_recipe(model=model if model.name else None, max_length=length)
    assert checks.max_length(recipe, tokenizer) == expected
    assert reason in capsys.readouterr().err


def test_max_length_of_a_model_object_is_its_own(causal_recipe: Any, tokenizer: Any, tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    assert checks.max_length(causal_recipe(model=ModelConfig(model), max_length=None), tokenizer) == 64


def test_max_length_above_the_models_positions_is_refused(causal_recipe: Any, tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=r"data.max_length: 65 is more than the 64 positions of "):
        checks.max_length(causal_recipe(max_length=65), tokenizer)


# -- the number of steps


@pytest.mark.parametrize(
    ("rows", "training", "expected"),
    [
        (10, {"per_device_train_batch_size": 4}, (3, 3)),
        (10, {"per_device_train_batch_size": 4, "num_train_epochs": 2}, (3, 6)),
        (10, {"per_device_train_batch_size": 4, "num_train_epochs": 0.5}, (3, 2)),
        (10, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, (3, 3)),
        (10, {"per_device_train_batch_size": 4, "dataloader_drop_last": True}, (2, 2)),
        (10, {"per_device_train_batch_size": 16, "dataloader_drop_last": True}, (0, 0)),
        (10, {"per_device_train_batch_size": 4, "max_steps": 7}, (3, 7)),
    ],
)
def test_number_of_steps(rows: int, training: dict[str, Any], expected: tuple[int, int], causal_recipe: Any) -> None:
    args = arguments.build(causal_recipe(training=training))
    assert checks.num_steps(args, rows) == expected


@pytest.mark.parametrize(
    "training",
    [
        {"per_device_train_batch_size": 7},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 1.5},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "dataloader_drop_last": True},
    ],
)
def test_trainer_takes_the_number_of_steps_foreseen(training: dict[str, Any], causal_recipe: Any) -> None:
    trainer = build_trainer(causal_recipe(training=training, packing=False))
    _, total = checks.num_steps(trainer.args, len(trainer.train_dataset))
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == total > 0


def test_batch_size_counts_accumulation(causal_recipe: Any) -> None:
    training = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5}
    assert checks.batch_size(arguments.build(causal_recipe(training=training))) == 15


def test_lengths_count_the_tokens_of_each_row() -> None:
    rows = [[1] * (i % 7 + 1) for i in range(1003)]
    assert checks.lengths(Dataset.from_dict({"input_ids": rows})) == [len(row) for row in rows]


# -- faults


@pytest.fixture
def faults(causal_recipe: Callable[..., Any]) -> Callable[..., list[str]]:
    """Returns a function that gives the faults of a recipe with ten rows of features."""

    def check(training: dict[str, Any], task: Any = None, run: dict | None = None, **data: Any) -> list[str]:
        evaluation = {"eval_strategy": "epoch", "save_strategy": "epoch"}
        recipe: Recipe = causal_recipe(training={**evaluation, **training}, run=run, **data)
        recipe = replace(recipe, task=task or CausalLM())
        args = arguments.build(recipe)
        arguments.set_metric(args, recipe)
        return checks.check(recipe, args, features(10))

    return check


@pytest.mark.parametrize(
    ("training", "run", "data", "message"),
    [
        ({}, {}, {"streaming": True}, "data.streaming: a stream has no end; set --training.max_steps"),
        (
            {"max_steps": 5, "train_sampling_strategy": "group_by_length"}, {}, {"streaming": True},
            "training.train_sampling_strategy: a stream cannot be grouped by length; choose random",
        ),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 16}, {}, {},
            "training.dataloader_drop_last: 10 rows of features do not fill one batch of 16; lower per_device",
        ),
        ({"num_train_epochs": 0}, {}, {}, "training: 0 epochs give no step; raise num_train_epochs"),
        (
            {"metric_for_best_model": "los"}, {}, {},
            "training.metric_for_best_model: causal-lm has no metric 'los'; did you mean 'loss'?",
        ),
        ({}, {"patience": 0}, {}, "run.patience: 0 evaluations; at least 1"),
        (
            {"save_strategy": "no"}, {"patience": 2}, {},
            "run.patience: early stopping needs a checkpoint at every evaluation; set save_strategy to the value of",
        ),
    ],
)  # fmt: skip
def test_run_that_cannot_succeed_is_a_fault(
    training: dict[str, Any], run: dict[str, Any], data: dict[str, Any], message: str, faults: Any
) -> None:
    (fault,) = faults(training, run=run, **data)
    assert fault.startswith(message)


def test_all_faults_are_returned(faults: Any) -> None:
    assert len(faults({"metric_for_best_model": "los", "num_train_epochs": 0}, run={"patience": 0})) == 3


@pytest.mark.parametrize(
    ("training", "task", "run"),
    [
        ({}, None, {}),
        ({"max_steps": 1, "num_train_epochs": 0}, None, {}),
        ({}, None, {"patience": 1}),
        ({"metric_for_best_model": "eval_f1_macro"}, TextClassification(), {"patience": 1}),
        ({"eval_strategy": "no", "save_strategy": "no", "metric_for_best_model": "unused"}, None, {"patience": 2}),
    ],
)
def test_valid_run_has_no_fault(training: dict[str, Any], task: Any, run: dict[str, Any], faults: Any) -> None:
    assert faults(training, task, run) == []


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"warmup_steps": 2}, "the warm-up of 2 steps is not shorter than the run of 2"),
        ({"warmup_steps": 1}, ""),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}, "the run has 2 steps, with an evaluation every 3"),
        ({"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}, ""),
    ],
)  # fmt: skip
def test_setting_that_is_longer_than_the_run_is_a_warning(
    training: dict[str, Any], message: str, faults: Any, capsys: pytest.CaptureFixture
) -> None:
    assert faults(training) == []
    stderr = capsys.readouterr().err
    assert message in stderr if message else stderr == ""
