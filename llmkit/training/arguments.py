"""`training:` becomes real TrainingArguments: llmkit's few defaults below the user's names, checked before any model
loads."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from llmkit.console import plural, say
from llmkit.errors import RecipeError, raise_faults, refusing
from llmkit.evaluation.metrics import LOWER_IS_BETTER
from llmkit.recipe import Recipe
from llmkit.training import hardware

SIZES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
RATES = ("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs")
LIMITS = {  # TrainingArguments takes what lies beyond, and no run can
    **dict.fromkeys(SIZES, (1, math.inf)),
    **dict.fromkeys(RATES, (0, math.inf)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
}


def build(recipe: Recipe) -> TrainingArguments:
    """TrainingArguments of the recipe. Raises RecipeError for what they refuse, in one line."""
    given = recipe.training
    raise_faults(_impossible(given))
    values = _defaults(recipe, given, hardware.decide()) | given
    if str(values["eval_strategy"]) == "no":
        values |= {"load_best_model_at_end": False, "eval_on_start": False}
    with refusing("training: transformers refuses it", ValueError, TypeError, ImportError):
        args = TrainingArguments(output_dir=recipe.run.output, **values)
    _refuse_lost_processes(args.world_size)
    args._n_gpu = min(args.n_gpu, 1)  # DataParallel would split one process's batch; `accelerate launch` is the way
    return args


def _refuse_lost_processes(there: int) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != there:
        apart = f"{launched} processes were launched, but each sees {there}"
        raise RecipeError(f"{apart}: they would overwrite each other; on CPUs set --training.use_cpu true")
    asked = re.search(r" --num[_-]processes[ =](\d+)", " ".join(hardware.launcher()[0]))
    if asked and "WORLD_SIZE" not in os.environ and int(asked[1]) > 1:  # --cpu without --multi_cpu, say
        fix = f"on CPUs: torchrun --nproc-per-node {asked[1]} RECIPE.py"
        raise RecipeError(f"--num_processes {asked[1]} was asked of accelerate, which launched one process; {fix}")


def _defaults(recipe: Recipe, given: Mapping[str, Any], machine: hardware.Hardware) -> dict[str, Any]:
    best = str(given.get("eval_strategy", "epoch"))
    elsewhere = machine.device == "cpu" and given.get("use_cpu") is False  # not on the machine that was looked at
    return {
        "use_cpu": machine.device == "cpu",  # without it two CPU processes would both become rank 0
        "bf16": machine.bf16 and not given.get("fp16") and not elsewhere,
        "eval_strategy": "epoch",
        "save_strategy": best,
        **({"save_steps": given["eval_steps"]} if "eval_steps" in given and best == "steps" else {}),
        "save_total_limit": 2,
        "eval_on_start": True,  # the untrained model's figures; evaluating by hand before train() would break DDP
        "load_best_model_at_end": given.get("save_strategy", best) == best,
        "per_device_eval_batch_size": max(8, int(given.get("per_device_train_batch_size", 8))),
        "logging_steps": 0.02,
        "logging_nan_inf_filter": False,
        "log_level": "error",
        "log_level_replica": "error",
        "disable_tqdm": True,  # llmkit's own table
        "remove_unused_columns": False,  # the task's collate decides what the model sees
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": machine.device == "cuda",
        "accelerator_config": {"dispatch_batches": False},
        "include_num_input_tokens_seen": "all" if recipe.data.streaming else "no",
    }


def _impossible(given: Mapping[str, Any]) -> list[str]:
    """Faults of values that TrainingArguments takes and no run can have."""
    faults = [
        f"training.{name}: {given[name]!r} is not between {least} and {most}"
        for name, (least, most) in LIMITS.items()
        if isinstance(given.get(name), (int, float)) and not least <= given[name] <= most
    ]
    if given.get("train_sampling_strategy") == "batch_rebalance":
        why = "batch_rebalance changes the batches with the number of processes"
        faults.append(f"training.train_sampling_strategy: {why}; choose random, group_by_length or sequential")
    if given.get("batch_eval_metrics") or given.get("eval_do_concat_batches") is False:
        faults.append("training: leave batch_eval_metrics and eval_do_concat_batches; rows are reduced on the fly")
    if given.get("dataloader_persistent_workers") and not given.get("dataloader_num_workers"):
        faults.append("training.dataloader_persistent_workers: needs dataloader_num_workers above 0")
    asked, there = given.get("report_to") or [], {*get_available_reporting_integrations(), "none", "all"}
    for name in {asked} - there if isinstance(asked, str) else set(asked) - there:
        why = f"{name!r} is not installed (pip install {name}); there is: {', '.join(sorted(there))}"
        faults.append(f"training.report_to: {why}")
    return faults


def choose_best_by(args: TrainingArguments, recipe: Recipe) -> None:
    """Which metric picks the best checkpoint, and which way is better: the fitted task knows, unless the user said."""
    if "metric_for_best_model" not in recipe.training:
        args.metric_for_best_model = recipe.task.primary
    if "greater_is_better" not in recipe.training:
        name = str(args.metric_for_best_model).removeprefix("eval_")
        own = recipe.task.higher_is_better
        args.greater_is_better = own if name == recipe.task.primary else name not in LOWER_IS_BETTER


def announce(recipe: Recipe, args: TrainingArguments) -> None:
    """Say what was decided, with reasons. Called when every check has passed."""
    machine = hardware.set_up()
    own = recipe.training.get("bf16")
    precision = f"bf16 {'on' if args.bf16 else 'off'}: " + ("as asked" if own is not None else machine.bf16_reason)
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    say(f"device {machine.device}{processes}; {precision}; {plural(machine.threads, 'thread')}", "decided")
    if args.world_size > 1:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        say(f"batch of {batch * args.world_size} = {batch} on each of {args.world_size} processes", "decided")
    if args.eval_strategy == "no":
        say("evaluation is off, and with it early stopping and the choice of the best checkpoint", "decided")
    elif not args.load_best_model_at_end:
        say("the last weights are kept, not the best: checkpoints are not saved at every evaluation", "decided")
