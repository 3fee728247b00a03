"""From a recipe's `training` part to TrainingArguments: llmkit's few defaults below the user's values, and checks."""

import math
import os
import re

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from llmkit.errors import UsageError, as_usage_error
from llmkit.log import log, plural
from llmkit.metrics import LOWER_IS_BETTER
from llmkit.recipe import Recipe
from llmkit.task import Json, Row
from llmkit.training import hardware

SIZES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
RATES = ("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs")
LIMITS = {
    **dict.fromkeys(SIZES, (1, math.inf)),
    **dict.fromkeys(RATES, (0, math.inf)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    "dataloader_num_workers": (0, math.inf),
}
"""Lowest and highest values that a run can have; TrainingArguments itself accepts others."""


def check(values: Row) -> list[str]:
    """Return faults of values that TrainingArguments accepts and no run can have."""
    faults = [
        f"training.{name}: {values[name]!r} is not "
        + (f"between {least} and {most}" if most < math.inf else f"{least} or more")
        for name, (least, most) in LIMITS.items()
        if isinstance(values.get(name), (int, float)) and not least <= values[name] <= most
    ]
    if isinstance(steps := values.get("max_steps", -1), int) and steps < 1 and steps != -1:
        faults.append(f"training.max_steps: {steps} is not 1 or more; leave it out to train for num_train_epochs")
    if values.get("train_sampling_strategy") == "batch_rebalance":
        why = "batch_rebalance changes the batches with the number of processes"
        faults.append(f"training.train_sampling_strategy: {why}; choose random, group_by_length or sequential")
    if values.get("batch_eval_metrics") or values.get("eval_do_concat_batches") is False:
        faults.append("training: leave out batch_eval_metrics and eval_do_concat_batches; each row is reduced at once")
    if values.get("dataloader_persistent_workers") and not values.get("dataloader_num_workers"):
        faults.append("training.dataloader_persistent_workers: needs dataloader_num_workers above 0")
    names, known = values.get("report_to") or [], {*get_available_reporting_integrations(), "none", "all"}
    for name in {names} - known if isinstance(names, str) else set(names) - known:
        why = f"{name!r} is not installed (pip install {name}); available: {', '.join(sorted(known))}"
        faults.append(f"training.report_to: {why}")
    return faults


def build(recipe: Recipe) -> TrainingArguments:
    """Return the TrainingArguments of a recipe. Raises UsageError, in one line, for values that they refuse."""
    values = _defaults(recipe, hardware.detect()) | recipe.training
    if str(values["eval_strategy"]) == "no":
        values |= {"load_best_model_at_end": False, "eval_on_start": False}
    with as_usage_error("training: refused by transformers", ValueError, TypeError, ImportError):
        args = TrainingArguments(output_dir=recipe.run.output, **values)
    _check_processes(args.world_size)
    args._n_gpu = min(args.n_gpu, 1)  # DataParallel would split the batch of one process; use `accelerate launch`
    return args


def _check_processes(world_size: int) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        seen = f"{launched} processes were launched, but each sees {world_size}"
        raise UsageError(f"{seen}: they would overwrite each other; on CPUs set --training.use_cpu true")
    asked = re.search(r" --num[_-]processes[ =](\d+)", " ".join(hardware.launch_command()[0]))
    if asked and "WORLD_SIZE" not in os.environ and int(asked[1]) > 1:  # --cpu without --multi_cpu, for example
        fix = f"on CPUs: torchrun --nproc-per-node {asked[1]} RECIPE.py"
        raise UsageError(f"accelerate launched one process in spite of --num_processes {asked[1]}; {fix}")


def _defaults(recipe: Recipe, machine: hardware.Hardware) -> Json:
    values = recipe.training
    eval_strategy = str(values.get("eval_strategy", "epoch"))
    elsewhere = machine.device == "cpu" and values.get("use_cpu") is False  # the recipe is meant for another machine
    steps = {"save_steps": values["eval_steps"]} if "eval_steps" in values and eval_strategy == "steps" else {}
    return {
        "use_cpu": machine.device == "cpu",  # without it two CPU processes would both become rank 0
        "bf16": machine.bf16 and not values.get("fp16") and not elsewhere,
        "eval_strategy": "epoch",
        "save_strategy": eval_strategy,
        **steps,
        "save_total_limit": 2,
        "eval_on_start": True,  # metrics of the untrained model; evaluating before train() would disable DDP
        "load_best_model_at_end": values.get("save_strategy", eval_strategy) == eval_strategy,
        "per_device_eval_batch_size": max(8, int(values.get("per_device_train_batch_size", 8))),
        "logging_steps": 0.02,
        "logging_nan_inf_filter": False,
        "log_level_replica": "passive",  # like log_level: the verbosity is the caller's
        "disable_tqdm": True,  # llmkit prints its own table
        "remove_unused_columns": False,  # Task.collate decides what the model sees
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": machine.device == "cuda",
        "accelerator_config": {"dispatch_batches": False},
        "include_num_input_tokens_seen": "all" if recipe.data.streaming else "no",
    }


def set_metric(args: TrainingArguments, recipe: Recipe) -> None:
    """Set the metric that selects the best checkpoint, and its direction, from the fitted task unless given."""
    primary = recipe.task.metrics[0]
    if "metric_for_best_model" not in recipe.training:
        args.metric_for_best_model = primary
    if "greater_is_better" not in recipe.training:
        name = str(args.metric_for_best_model).removeprefix("eval_")
        args.greater_is_better = recipe.task.higher_is_better if name == primary else name not in LOWER_IS_BETTER


def log_config(recipe: Recipe, args: TrainingArguments) -> None:
    """Log what was decided, with reasons, and set the machine up. Called after all checks."""
    machine = hardware.set_up()
    reason = "as set" if recipe.training.get("bf16") is not None else machine.bf16_reason
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    precision = f"bf16 {'on' if args.bf16 else 'off'}: {reason}"
    log(f"device {machine.device}{processes}; {precision}; {plural(machine.threads, 'thread')}", "config")
    if args.world_size > 1:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        log(f"batch of {batch * args.world_size}: {batch} on each of {args.world_size} processes", "config")
    if args.eval_strategy == "no":
        log("evaluation is off: no early stopping, and the last checkpoint is kept instead of the best", "config")
    elif not args.load_best_model_at_end:
        log("the last weights are kept, not the best: checkpoints are not saved at every evaluation", "config")
