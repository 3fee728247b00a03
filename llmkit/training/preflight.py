"""What can be known before the first step, checked before the model is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.console import plural, say
from llmkit.errors import raise_faults, suggest
from llmkit.models import loading

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from llmkit.recipe import Recipe


def row_length(recipe: Recipe, tokenizer: Any) -> int:
    """`data.max_length`, or what the model takes up to the task's own default. RecipeError where the model takes less."""
    model = recipe.model.name
    config = (
        loading.architecture(recipe.model, recipe.task)
        if isinstance(model, (str, Path))
        else getattr(model, "config", None)
    )
    limit = loading.positions(config, tokenizer) if config is not None else None
    asked = recipe.data.max_length
    if asked and limit and asked > limit:
        raise_faults([f"data.max_length: {asked} is more than the {limit} positions of {model}; give at most {limit}"])
    length = asked or min(limit or recipe.task.default_max_length, recipe.task.default_max_length)
    if not asked:
        say(
            f"rows of at most {length} tokens: "
            + ("all the model takes" if length == limit else f"the default for {recipe.task.name}"),
            "decided",
        )
    return length


def steps(args: TrainingArguments, size: int) -> tuple[int, int]:
    """`(optimizer steps of an epoch, of the whole run)` for `size` rows of features."""
    batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    epoch = size // batch if args.dataloader_drop_last else math.ceil(size / batch)
    return epoch, args.max_steps if args.max_steps > 0 else math.ceil(epoch * args.num_train_epochs)


def check(recipe: Recipe, args: TrainingArguments, features: dict[str, Dataset]) -> list[str]:
    """Faults of a run that would train nothing, warm up for ever, or look for a metric that is not there."""
    faults = []
    if recipe.data.streaming:
        epoch = total = args.max_steps
        if total < 1:
            return ["data.streaming: a stream has no end; give --training.max_steps"]
        if args.train_sampling_strategy == "group_by_length":
            return ["training.train_sampling_strategy: a stream cannot be grouped by length; choose random"]
    else:
        epoch, total = steps(args, len(features["train"]))
    if epoch == 0:
        faults.append(
            f"training.dataloader_drop_last: {plural(len(features['train']), 'row')} of features give no full batch of "
            f"{args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps}; lower "
            "per_device_train_batch_size or gradient_accumulation_steps"
        )
    elif total == 0:
        faults.append(f"training: {args.num_train_epochs:g} epochs are no step; raise num_train_epochs")
    warmup = args.get_warmup_steps(total) if total else 0
    if 0 < total <= warmup:
        fix = "the learning rate never arrives; lower training.warmup_steps (0.1 is a tenth of the run)"
        say(f"the warm-up of {warmup:g} steps is not shorter than the run of {total}: {fix}", "warning")
    metric = str(args.metric_for_best_model or "").removeprefix("eval_")
    if args.load_best_model_at_end and metric not in recipe.task.metrics:
        faults.append(
            f"training.metric_for_best_model: {recipe.task.name} has no metric {metric!r}; {suggest(metric, recipe.task.metrics)}"
        )
    if recipe.run.patience is not None and recipe.run.patience < 1:
        faults.append(f"run.patience: {recipe.run.patience} evaluations; at least 1")
    if recipe.run.patience and not args.load_best_model_at_end and str(args.eval_strategy.value) != "no":
        faults.append(
            "run.patience: early stopping needs a checkpoint at every evaluation; let save_strategy equal eval_strategy"
        )
    if (
        args.load_best_model_at_end
        and args.eval_strategy == "steps"
        and args.eval_steps >= 1
        and args.eval_steps > total > 0
    ):
        say(
            f"the run has {total} steps and an evaluation every {args.eval_steps:g}: only the first and the last weights are measured",
            "warning",
        )
    return faults
