"""The story of a run, top to bottom: a recipe becomes rows, features, a model, a Trainer, and a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import console, data
from llmkit.console import say
from llmkit.errors import RecipeError, raise_faults, refusing

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from llmkit.recipe import Recipe
    from llmkit.training.trainer import Trainer


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs but the weights: checked, read, encoded."""

    recipe: Recipe
    """with the task fitted to the training rows"""
    args: TrainingArguments
    loaded: data.Loaded
    tokenizer: PreTrainedTokenizerBase
    features: dict[str, Dataset]
    max_length: int
    packed: bool


@dataclass(frozen=True)
class Result:
    """What `run` gives back: real Transformers objects, a PreTrainedModel and its tokenizer among them (None for a run
    that was already finished)."""

    metrics: dict[str, Any]
    output: Path
    trainer: Trainer | None
    model: Any
    tokenizer: Any


def run(recipe: Recipe) -> Result:
    """Train, evaluate and save what `recipe` says. Raises RecipeError before any training for every fault found."""
    console.hush()
    from llmkit.reporting import files
    from llmkit.training import checkpoints

    if finished := checkpoints.open_folder(recipe):
        return Result(finished, Path(recipe.run.output), None, None, None)
    trainer = build_trainer(recipe)
    checkpoint = checkpoints.to_resume(trainer)
    files.begin(trainer)
    with refusing(
        "training: a package is missing", ImportError
    ):  # a package that an optimizer needs: looked for when training begins
        trainer.train(resume_from_checkpoint=checkpoint)
    metrics = files.finish(trainer)
    return Result(metrics, files.output(trainer), trainer, trainer.model, trainer.processing_class)


@console.decisions_held()
def prepare(recipe: Recipe) -> Prepared:
    """Check the recipe, read its data and encode it. Raises RecipeError with every fault, before a weight is read."""
    from llmkit.models import loading, tokenizers
    from llmkit.parsing import check_training
    from llmkit.training import arguments, preflight

    faults = [*data.check(recipe.data, recipe.task), *loading.check(recipe.model, recipe.task)]
    recipe = replace(recipe, training=check_training(recipe.training, faults))
    raise_faults(faults)
    args = arguments.build(recipe)
    loaded = data.load_rows(recipe.data, recipe.task)
    task = loading.of_checkpoint(recipe.model, recipe.task).fit(loaded.rows["train"])
    raise_faults([fault for part, rows in loaded.rows.items() for fault in task.check_rows(rows, part)])
    recipe = replace(recipe, task=task)
    arguments.choose_best_by(args, recipe)
    tokenizer = tokenizers.get_tokenizer(recipe.model, task, loaded.rows["train"])
    task.ready_tokenizer(tokenizer)
    max_length = preflight.row_length(recipe, tokenizer)
    packed = task.packs if recipe.data.packing is None else recipe.data.packing
    features = _features(recipe, loaded.rows, tokenizer, max_length, packed)
    raise_faults(preflight.check(recipe, args, features))
    arguments.announce(recipe, args)
    return Prepared(recipe, args, loaded, tokenizer, features, max_length, packed)


def _features(recipe: Recipe, rows: dict[str, Dataset], *how: Any) -> dict[str, Any]:
    """The features of every part; `how` is tokenizer, max_length and packed."""
    from llmkit.data import preparation

    if not recipe.data.streaming:
        return preparation.prepare(recipe.task, rows, *how)
    from llmkit.data.streaming import Stream

    held = {part: dataset for part, dataset in rows.items() if part != "train"}
    return {"train": Stream(recipe.task, recipe.data, *how), **preparation.prepare(recipe.task, held, *how)}


def build_trainer(recipe: Recipe) -> Trainer:
    """A real transformers.Trainer for `recipe`, to drive yourself; its `recipe` and `loaded` say what made it."""
    console.hush()
    from transformers import EarlyStoppingCallback, set_seed

    from llmkit.data import annotation, collation
    from llmkit.models import loading
    from llmkit.training import callbacks
    from llmkit.training.trainer import Trainer

    prepared = prepare(recipe)
    recipe, args, task = prepared.recipe, prepared.args, prepared.recipe.task
    set_seed(args.seed)  # new weights are the seed's, whatever was drawn before
    model = loading.load(recipe.model, task, prepared.tokenizer)
    if task.can_generate and collation.sees_ahead(model):
        why = f"a {model.config.model_type} reads the tokens that it must predict (tried on this model)"
        raise RecipeError(f"model.name: {why}; take a decoder, or say --model.config.is_decoder true")
    features, layout = _lay_out(prepared, model)
    features = annotation.annotate(task, features, model, prepared.tokenizer, layout, args)
    patience = recipe.run.patience if args.load_best_model_at_end else None
    extra = [EarlyStoppingCallback(patience)] if patience else []
    loaded, absent = prepared.loaded, (Exception,) if args.push_to_hub else ()  # said in many ways
    with (
        refusing("training.push_to_hub: the hub does not answer", *absent),
        refusing("training: a package is missing", ImportError),
    ):
        trainer = Trainer(task, model, args, prepared.tokenizer, features, loaded.rows, layout, callbacks=extra)
    trainer.recipe, trainer.loaded = recipe, loaded
    callbacks.add(trainer)
    return trainer


def _lay_out(prepared: Prepared, model: PreTrainedModel) -> tuple[dict[str, Dataset], str]:
    """The features, and how this model is told which packed documents are apart: found by trying. A model that cannot
    be told gets one document a row."""
    from llmkit.data import collation

    if not prepared.packed:
        return prepared.features, "padded"
    recipe = prepared.recipe
    if layout := collation.keeps_apart(model, recipe.task.can_generate):
        means = {"positions": "restarting positions", "blocks": "restarting positions and a block mask"}[layout]
        say(f"packed documents are kept apart by {means} (tried on this model)", "decided")
        return prepared.features, layout
    say(f"packing is off: {type(model).__name__} lets packed documents see each other (tried on this model)", "decided")
    return _features(recipe, prepared.loaded.rows, prepared.tokenizer, prepared.max_length, False), "padded"
