"""What can be known of a run before its first step, checked before the model is loaded."""

import math
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments

from llmkit.errors import UsageError, suggest
from llmkit.log import log, plural
from llmkit.models import load
from llmkit.recipe import Recipe
from llmkit.task import Tokenizer


def max_length(recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Return `data.max_length`, or else the model's limit, at most the task's default.

    Raises UsageError if the model takes fewer tokens than asked for.
    """
    model, length, default = recipe.model.name, recipe.data.max_length, recipe.task.default_max_length
    by_name = isinstance(model, (str, Path))
    config = load.architecture(recipe.model, recipe.task) if by_name else getattr(model, "config", None)
    limit = load.max_positions(config, tokenizer) if config is not None else None
    if length and limit and length > limit:
        raise UsageError(f"data.max_length: {length} is more than the {limit} positions of {model}")
    if length:
        return length
    usual = min(limit or default, default)
    why = "the model's limit" if usual == limit else f"the default for {recipe.task.name}"
    log(f"rows of at most {usual} tokens: {why}", "config")
    return usual


def lengths(features: Dataset) -> list[int]:
    """Return the number of tokens of each row of features."""
    return [len(ids) for batch in features.iter(1000) for ids in batch["input_ids"]]


def batch_size(args: TrainingArguments) -> int:
    """Return the rows of an optimizer step, over all processes."""
    return args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps


def num_steps(args: TrainingArguments, num_rows: int) -> tuple[int, int]:
    """Return `(optimizer steps per epoch, in the whole run)` for a number of rows of features."""
    batch = batch_size(args)
    epoch = num_rows // batch if args.dataloader_drop_last else math.ceil(num_rows / batch)
    return epoch, args.max_steps if args.max_steps > 0 else math.ceil(epoch * args.num_train_epochs)


def check(recipe: Recipe, args: TrainingArguments, features: Mapping[str, Dataset]) -> list[str]:
    """Return faults of a run that would train nothing, or select its best checkpoint by a metric that does not exist."""
    streaming, metrics, best = recipe.data.streaming, recipe.task.metrics, args.load_best_model_at_end
    if streaming and args.max_steps < 1:
        return ["data.streaming: a stream has no end; set --training.max_steps"]
    if streaming and args.train_sampling_strategy == "group_by_length":
        return ["training.train_sampling_strategy: a stream cannot be grouped by length; choose random"]
    faults = []
    epoch, total = (args.max_steps, args.max_steps) if streaming else num_steps(args, len(features["train"]))
    if epoch == 0:
        why = f"{plural(len(features['train']), 'row')} of features do not fill one batch of {batch_size(args)}"
        faults.append(f"training.dataloader_drop_last: {why}; lower per_device_train_batch_size")
    elif total == 0:
        faults.append(f"training: {args.num_train_epochs:g} epochs give no step; raise num_train_epochs")
    elif (warmup := args.get_warmup_steps(total)) >= total:
        fix = "the full learning rate is never reached; lower training.warmup_steps (0.1 is a tenth of the run)"
        log(f"the warm-up of {warmup:g} steps is not shorter than the run of {total}: {fix}", "warning")
    metric = str(args.metric_for_best_model or "").removeprefix("eval_")
    if best and metric not in metrics:
        why = f"{recipe.task.name} has no metric {metric!r}; {suggest(metric, metrics)}"
        faults.append(f"training.metric_for_best_model: {why}")
    patience = recipe.run.patience
    if patience is not None and patience < 1:
        faults.append(f"run.patience: {patience} evaluations; at least 1")
    if patience and not best and args.eval_strategy != "no":
        why = "early stopping needs a checkpoint at every evaluation"
        faults.append(f"run.patience: {why}; set save_strategy to the value of eval_strategy")
    if best and args.eval_strategy == "steps" and args.eval_steps >= 1 and args.eval_steps > total > 0:
        every = f"the run has {total} steps, with an evaluation every {args.eval_steps:g}"
        log(f"{every}: only the first and the last weights are evaluated", "warning")
    return faults
