"""What can be known before the first step, checked before the model is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from llmkit.console import plural, say
from llmkit.errors import RecipeError, suggest
from llmkit.models import loading
from llmkit.recipe import Recipe


def row_length(recipe: Recipe, tokenizer: Any) -> int:
    """`data.max_length`, or what the model takes up to the task's default. RecipeError where the model takes less."""
    model, asked, default = recipe.model.name, recipe.data.max_length, recipe.task.default_max_length
    named = isinstance(model, (str, Path))
    config = loading.architecture(recipe.model, recipe.task) if named else getattr(model, "config", None)
    limit = loading.positions(config, tokenizer) if config is not None else None
    if asked and limit and asked > limit:
        raise RecipeError(f"data.max_length: {asked} is more than the {limit} positions of {model}; at most {limit}")
    length = asked or min(limit or default, default)
    if not asked:
        why = "all the model takes" if length == limit else f"the default for {recipe.task.name}"
        say(f"rows of at most {length} tokens: {why}", "decided")
    return length


def lengths(features: Dataset) -> list[int]:
    """The tokens of each row of features."""
    return [len(ids) for batch in features.iter(1000) for ids in batch["input_ids"]]


def batch_size(args: TrainingArguments) -> int:
    """Rows in an optimizer step, of all processes."""
    return args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps


def steps(args: TrainingArguments, size: int) -> tuple[int, int]:
    """`(optimizer steps of an epoch, of the whole run)` for `size` rows of features."""
    batch = batch_size(args)
    epoch = size // batch if args.dataloader_drop_last else math.ceil(size / batch)
    return epoch, args.max_steps if args.max_steps > 0 else math.ceil(epoch * args.num_train_epochs)


def check(recipe: Recipe, args: TrainingArguments, features: dict[str, Dataset]) -> list[str]:
    """Faults of a run that would train nothing, warm up for ever, or look for a metric that is not there."""
    streamed, measured, best = recipe.data.streaming, recipe.task.metrics, args.load_best_model_at_end
    if streamed and args.max_steps < 1:
        return ["data.streaming: a stream has no end; give --training.max_steps"]
    if streamed and args.train_sampling_strategy == "group_by_length":
        return ["training.train_sampling_strategy: a stream cannot be grouped by length; choose random"]
    faults = []
    epoch, total = (args.max_steps, args.max_steps) if streamed else steps(args, len(features["train"]))
    if epoch == 0:
        why = f"{plural(len(features['train']), 'row')} of features give no full batch of {batch_size(args)}"
        faults.append(f"training.dataloader_drop_last: {why}; lower per_device_train_batch_size")
    elif total == 0:
        faults.append(f"training: {args.num_train_epochs:g} epochs are no step; raise num_train_epochs")
    elif (warmup := args.get_warmup_steps(total)) >= total:
        fix = "the learning rate never arrives; lower training.warmup_steps (0.1 is a tenth of the run)"
        say(f"the warm-up of {warmup:g} steps is not shorter than the run of {total}: {fix}", "warning")
    metric = str(args.metric_for_best_model or "").removeprefix("eval_")
    if best and metric not in measured:
        why = f"{recipe.task.name} has no metric {metric!r}; {suggest(metric, measured)}"
        faults.append(f"training.metric_for_best_model: {why}")
    patience = recipe.run.patience
    if patience is not None and patience < 1:
        faults.append(f"run.patience: {patience} evaluations; at least 1")
    if patience and not best and args.eval_strategy != "no":
        why = "early stopping needs a checkpoint at every evaluation"
        faults.append(f"run.patience: {why}; let save_strategy equal eval_strategy")
    if best and args.eval_strategy == "steps" and args.eval_steps >= 1 and args.eval_steps > total > 0:
        every = f"the run has {total} steps and an evaluation every {args.eval_steps:g}"
        say(f"{every}: only the first and the last weights are measured", "warning")
    return faults
