"""A run from top to bottom: a recipe becomes rows, features, a model, a Trainer, and a folder."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from llmkit import hub, predictor
from llmkit.data import loading, packing
from llmkit.data.features import Parts, prepare_features
from llmkit.data.stream import Stream
from llmkit.errors import UsageError, as_usage_error, raise_faults
from llmkit.log import hold_config_lines, log
from llmkit.metrics.bootstrap import intervals
from llmkit.models import load, tokenizers
from llmkit.recipe import DataConfig, ModelConfig, Recipe
from llmkit.task import Json, Model, Row, Task, Tokenizer, class_faults, is_causal
from llmkit.training import arguments, callbacks, card, checkpoints, checks, finish, hardware
from llmkit.training.fields import check_training
from llmkit.training.precompute import add_precomputed
from llmkit.training.trainer import Trainer


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs but the weights: checked, read, encoded."""

    recipe: Recipe
    """with the task fitted to the training rows"""
    args: TrainingArguments
    loaded: loading.Loaded
    tokenizer: Tokenizer
    features: dict[str, Dataset]
    max_length: int
    packed: bool


@dataclass(frozen=True)
class Result:
    """The result of `run`: metrics and folder, with the trainer, model and tokenizer (None if the run was finished)."""

    metrics: Json
    output: Path
    trainer: Trainer | None
    model: Any
    tokenizer: Any


@hardware.restored_state()
def run(recipe: Recipe) -> Result:
    """Train, evaluate and save a recipe. Raises UsageError, before training, with every fault that can be found."""
    if metrics := checkpoints.finished_metrics(recipe):
        return Result(metrics, Path(recipe.run.output), None, None, None)
    prepared = prepare(recipe)
    checkpoint = checkpoints.find_checkpoint(prepared.recipe)
    prepared.args.eval_on_start &= checkpoint is None  # a resumed run has the untrained model's metrics
    trainer = build(prepared)
    started = time.time()
    finish.write_recipe(trainer, prepared.recipe)
    with as_usage_error("training: a package is missing", ImportError):  # some optimizers need one, found out here
        trainer.train(resume_from_checkpoint=checkpoint)
    folder = finish.output_folder(trainer)
    model: Any = trainer.model
    trainer.task.finish(model, folder, lambda: trainer.stats("validation"))
    metrics = finish.evaluate(trainer, prepared.recipe, started)
    finish.save(trainer, metrics)
    if folder:
        card.write(trainer, prepared.recipe, prepared.loaded.sources, metrics)
        finish.log_result(metrics, folder)
    trainer.accelerator.wait_for_everyone()
    return Result(metrics, Path(recipe.run.output), trainer, model, trainer.processing_class)


@hold_config_lines()
def prepare(recipe: Recipe) -> Prepared:
    """Check a recipe, read its data and encode it, before any weight is read. Raises UsageError with every fault."""
    task = recipe.task
    raise_faults(class_faults(type(task)))
    faults = [*loading.check(recipe.data, task), *task.check(recipe)]
    faults += load.check(recipe.model, task, recipe.data.max_length)
    recipe = replace(recipe, training=check_training(recipe.training, faults))
    raise_faults([*faults, *arguments.check(recipe.training)])
    args = arguments.build(recipe)
    loaded = loading.load_rows(recipe.data, task)
    task = load.fit_task(recipe.model, task, loaded.rows)
    recipe = replace(recipe, task=task)
    arguments.set_metric(args, recipe)
    tokenizer = tokenizers.get_tokenizer(recipe.model, task, loaded.rows["train"])
    task.configure(tokenizer)
    max_length = checks.max_length(recipe, tokenizer)
    packed = packing.is_packed(recipe.data.packing, task)
    features = _features(recipe, loaded.rows, tokenizer, max_length, packed)
    raise_faults(checks.check(recipe, args, features))
    arguments.log_config(recipe, args)
    return Prepared(recipe, args, loaded, tokenizer, features, max_length, packed)


def _features(recipe: Recipe, rows: Parts, tokenizer: Tokenizer, max_length: int, packed: bool) -> Json:
    """The features of every part; those of a streamed train part are made while training."""
    if not recipe.data.streaming:
        return prepare_features(recipe.task, rows, tokenizer, max_length, packed)
    held_out = {part: dataset for part, dataset in rows.items() if part != "train"}
    stream = Stream(recipe.task, recipe.data, tokenizer, max_length, packed)
    return {"train": stream, **prepare_features(recipe.task, held_out, tokenizer, max_length, packed)}


@hardware.restored_state()
def build_trainer(recipe: Recipe) -> Trainer:
    """Return a transformers.Trainer for a recipe, ready to train. Raises UsageError, see `prepare`."""
    return build(prepare(recipe))


def build(prepared: Prepared) -> Trainer:
    """Load the model, choose its layout of packed rows, and return the Trainer."""
    recipe, args, task, tokenizer = prepared.recipe, prepared.args, prepared.recipe.task, prepared.tokenizer
    set_seed(args.seed)  # new weights depend on the seed alone
    model = load.load_model(recipe.model, task, tokenizer)
    features, layout = lay_out(prepared, model)
    features = add_precomputed(task, features, model, tokenizer, layout, args)
    early_stopping = recipe.run.patience if args.load_best_model_at_end else None
    extra = [EarlyStoppingCallback(early_stopping)] if early_stopping else []
    hub_errors = (Exception,) if args.push_to_hub else ()  # they have no common class
    with (
        as_usage_error("training.push_to_hub: the hub does not answer", *hub_errors),
        as_usage_error("training: a package is missing", ImportError),
    ):
        trainer = Trainer(task, model, args, tokenizer, features, prepared.loaded.rows, layout, callbacks=extra)
    callbacks.add_callbacks(trainer, recipe.run.prompts)
    return trainer


def lay_out(prepared: Prepared, model: Model) -> tuple[Json, str]:
    """Return the features, and the layout that separates packed documents for this model, found by trying.

    A model without such a layout gets one document per row. Raises UsageError for a language model that reads the
    tokens it must predict.
    """
    task, features = prepared.recipe.task, prepared.features
    if is_causal(task) and packing.reads_future_tokens(model):
        why = f"a {model.config.model_type} model reads the tokens that it must predict (verified on this model)"
        raise UsageError(f"model.name: {why}; use a decoder, or set --model.config.is_decoder true")
    layout = packing.find_layout(model, task, prepared.packed)
    if layout is None:
        name = type(model).__name__
        log(f"packing is off: {name} lets packed documents see each other (verified on this model)", "config")
        rows, length = prepared.loaded.rows, prepared.max_length
        return _features(prepared.recipe, rows, prepared.tokenizer, length, packed=False), "padded"
    if prepared.packed:
        means = {"positions": "restarting positions", "blocks": "restarting positions and a block mask"}[layout]
        log(f"packed documents are separated by {means} (verified on this model)", "config")
    return features, layout


@hardware.restored_state()
def evaluate(
    name: str,
    data: object,
    columns: Mapping[str, str] | None = None,
    *,
    names: tuple[str, ...] = (),
    max_length: int | None = None,
    batch_size: int = 16,
    on_error: str = "raise",
    encoding: str = "utf-8",
) -> Json:
    """Evaluate a saved model on new data, with the preparation and Trainer of its training.

    Returns `{"task", "metrics", "intervals": {metric: [low, high]}, "examples"}`, with 95 % bootstrap intervals and,
    where the task has them, `"details"`. `data` and `columns` are as in DataConfig. Raises UsageError.
    """
    path = hub.find_model(name)
    task = predictor.task_of(path)
    config = DataConfig(columns=columns or {}, names=names, on_error=on_error, encoding=encoding)
    rows = loading.load_part(data, task, config)
    task = task.fit({"data": rows})  # faults of the data are reported before the model is loaded
    model = predictor.load(name)
    limit = load.max_positions(model.model.config, model.tokenizer)
    if max_length is not None and not 2 <= max_length <= (limit or max_length):
        raise UsageError(f"--max-length {max_length}: expected 2 to {limit or 'any number'}")
    length = max_length or model.max_length
    features = prepare_features(task, {"test": rows}, model.tokenizer, length, packed=False)
    with tempfile.TemporaryDirectory() as folder:
        options: Json = {"remove_unused_columns": False, "disable_tqdm": True}
        cpu = model.model.device.type == "cpu"
        args = TrainingArguments(output_dir=folder, per_device_eval_batch_size=batch_size, use_cpu=cpu, **options)
        if type(task).precompute is not Task.precompute:
            untrained = _untrained_model(predictor.recipe_of(path), model)
            features = add_precomputed(task, features, untrained, model.tokenizer, "padded", args)
        trainer = Trainer(task, model.model, args, model.tokenizer, features, {"test": rows}, layout="padded")
        stats = trainer.stats("test")
    details = task.details(stats)
    return {
        "task": task.name,
        "metrics": task.score(stats),
        "intervals": {metric: list(bounds) for metric, bounds in intervals(task.score, stats).items()},
        "examples": len(rows),
        **({"details": details} if details else {}),
    }


def _untrained_model(recipe: Row, trained: predictor.Predictor) -> Model:
    """The model that a run started from, by its recipe and seed. Raises UsageError if the recipe cannot say it."""
    config = ModelConfig(**recipe["model"] | {"dtype": str(trained.model.dtype).removeprefix("torch.")})
    set_seed(recipe["training"].get("seed", 42))
    return load.load_model(config, trained.task, trained.tokenizer)
