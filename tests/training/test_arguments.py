"""TrainingArguments of a recipe: defaults below the user's values, limits, packages, processes, the best metric."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REVIEWS, ROOT

from llmkit import DataConfig, Recipe, RunConfig, UsageError, run
from llmkit.tasks import CausalLM, TextClassification
from llmkit.training import arguments


def recipe(task: Any = None, **training: Any) -> Recipe:
    data = DataConfig(train=REVIEWS)
    return Recipe(task or CausalLM(), data=data, training={"use_cpu": True, **training}, run=RunConfig("unused"))


# -- checks


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", -1, "training.learning_rate: -1 is not 0 or more"),
        ("max_steps", 0, "training.max_steps: 0 is not 1 or more; leave it out to train for num_train_epochs"),
        ("max_steps", -5, "training.max_steps: -5 is not 1 or more; leave it out to train for num_train_epochs"),
        ("dataloader_num_workers", -1, "training.dataloader_num_workers: -1 is not 0 or more"),
        ("num_train_epochs", -0.5, "training.num_train_epochs: -0.5 is not 0 or more"),
        ("max_grad_norm", -1.0, "training.max_grad_norm: -1.0 is not"),
        ("learning_rate", float("nan"), "training.learning_rate: nan is not"),
        ("per_device_train_batch_size", 0, "training.per_device_train_batch_size: 0 is not 1 or more"),
        ("gradient_accumulation_steps", 0, "training.gradient_accumulation_steps: 0 is not"),
        ("seed", 2**32, "training.seed: 4294967296 is not between 0 and 4294967295"),
        ("data_seed", -1, "training.data_seed: -1 is not"),
        ("train_sampling_strategy", "batch_rebalance", "choose random, group_by_length or sequential"),
        ("batch_eval_metrics", True, "leave out batch_eval_metrics"),
        ("eval_do_concat_batches", False, "leave out batch_eval_metrics and eval_do_concat_batches"),
        ("dataloader_persistent_workers", True, "needs dataloader_num_workers above 0"),
        ("report_to", "not_here", "training.report_to: 'not_here' is not installed (pip install not_here)"),
        ("report_to", ["none", "not_here"], "training.report_to: 'not_here' is not installed"),
    ],
)
def test_value_that_no_run_can_have_is_a_fault(name: str, value: Any, message: str) -> None:
    (fault,) = arguments.check({name: value})
    assert message in fault


def test_all_faults_are_returned() -> None:
    assert len(arguments.check({"seed": -1, "learning_rate": -1, "batch_eval_metrics": True})) == 3


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"learning_rate": 0.0, "seed": 0, "data_seed": 2**32 - 1, "per_device_train_batch_size": 1},
        {"report_to": "none"},
        {"report_to": ["all"]},
        {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
    ],
)
def test_valid_values_have_no_fault(values: dict[str, Any]) -> None:
    assert arguments.check(values) == []


def test_value_that_transformers_refuses_is_one_fault() -> None:
    with pytest.raises(UsageError, match=r"training: refused by transformers.*cosin") as e:
        arguments.build(recipe(lr_scheduler_type="cosin"))
    assert len(e.value.faults) == 1


def test_optimizer_whose_package_is_missing_is_one_fault(causal_recipe: Callable[..., Any]) -> None:
    with pytest.raises(UsageError) as e:
        run(causal_recipe(training={"optim": "galore_adamw", "optim_target_modules": ["attn"]}))
    (fault,) = e.value.faults
    assert fault.startswith("training: ") and "galore_torch" in fault


def test_push_to_an_unreachable_hub_is_one_fault(llmkit_command: Callable[..., Any]) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "none"}
    done = llmkit_command("train", "finetune_gpt2", "--training.push_to_hub", "true", env=unreachable)
    assert done.returncode == 2 and "llmkit: training.push_to_hub: the hub does not answer" in done.stderr


# -- defaults


def test_users_values_override_the_defaults() -> None:
    values = {"logging_steps": 7, "save_total_limit": 5, "log_level": "info", "per_device_eval_batch_size": 3}
    args = arguments.build(recipe(**values, eval_on_start=False))
    assert {name: getattr(args, name) for name in ("logging_steps", "save_total_limit", "log_level")} == {
        name: values[name] for name in ("logging_steps", "save_total_limit", "log_level")
    }
    assert args.per_device_eval_batch_size == 3 and args.eval_on_start is False


@pytest.mark.parametrize(("train", "evaluation"), [(None, 8), (4, 8), (32, 32)])
def test_evaluation_batch_is_at_least_that_of_training(train: int | None, evaluation: int) -> None:
    values = {} if train is None else {"per_device_train_batch_size": train}
    assert arguments.build(recipe(**values)).per_device_eval_batch_size == evaluation


def test_checkpoints_are_saved_at_every_evaluation() -> None:
    args = arguments.build(recipe(eval_strategy="steps", eval_steps=30))
    assert (args.save_strategy, args.save_steps, args.load_best_model_at_end) == ("steps", 30, True)
    args = arguments.build(recipe())
    assert (args.eval_strategy, args.save_strategy, args.load_best_model_at_end) == ("epoch", "epoch", True)


def test_last_weights_are_kept_if_checkpoints_are_not_saved_at_every_evaluation() -> None:
    assert arguments.build(recipe(save_strategy="no")).load_best_model_at_end is False


def test_without_evaluation_there_is_no_best_checkpoint() -> None:
    args = arguments.build(recipe(eval_strategy="no", load_best_model_at_end=True, eval_on_start=True))
    assert (args.load_best_model_at_end, args.eval_on_start, args.save_strategy) == (False, False, "no")


@pytest.mark.parametrize(
    ("training", "line"),
    [
        (
            {"eval_strategy": "no"},
            "evaluation is off: no early stopping, and the last checkpoint is kept instead of the best",
        ),
        ({"save_strategy": "no"}, "the last weights are kept, not the best"),
        ({"bf16": False}, "bf16 off: as set"),
    ],
)
def test_config_is_logged_with_its_reason(training: dict[str, Any], line: str, capfd: pytest.CaptureFixture) -> None:
    made = recipe(**training)
    arguments.log_config(made, arguments.build(made))
    assert line in capfd.readouterr().err


# -- the metric that selects the best checkpoint


@pytest.mark.parametrize(
    ("task", "training", "metric", "greater_is_better"),
    [
        (CausalLM(), {}, "loss", False),
        (TextClassification(), {}, "accuracy", True),
        (TextClassification(), {"metric_for_best_model": "loss"}, "loss", False),
        (TextClassification(), {"metric_for_best_model": "eval_ece"}, "eval_ece", False),
        (TextClassification(), {"metric_for_best_model": "f1_macro"}, "f1_macro", True),
        (TextClassification(), {"metric_for_best_model": "f1_macro", "greater_is_better": False}, "f1_macro", False),
    ],
)
def test_best_metric_is_the_tasks_first_unless_given(
    task: Any, training: dict[str, Any], metric: str, greater_is_better: bool
) -> None:
    made = recipe(task, **training)
    args = arguments.build(made)
    arguments.set_metric(args, made)
    assert (args.metric_for_best_model, args.greater_is_better) == (metric, greater_is_better)


# -- processes


@pytest.mark.skipif(torch.accelerator.is_available(), reason="each process gets a device of its own")
def test_processes_that_do_not_see_each_other_are_refused(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launch, "-m", "llmkit", "train", "finetune_gpt2", "--training.use_cpu", "false"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("2 processes were launched, but each sees 1") == 1
    assert not (tmp_path / "runs").exists()


def test_accelerate_that_launches_one_process_instead_of_two_is_refused(tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = [sys.executable, *launch, str(ROOT / "recipes" / "finetune_gpt2.py")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    fix = "accelerate launched one process in spite of --num_processes 2; on CPUs: torchrun --nproc-per-node 2"
    assert fix in done.stderr
