"""The output folder before and after: refused when it holds a run, resumed when asked, left alone when finished."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from llmkit.console import say
from llmkit.errors import RecipeError
from llmkit.parsing import read_yaml
from llmkit.recipe import Recipe
from llmkit.training.trainer import Trainer

LENGTH = {f"training.{f}" for f in ("num_train_epochs", "max_steps", "logging_steps", "save_total_limit")}
MAY_CHANGE = LENGTH | {"model.name"}


def open_folder(recipe: Recipe) -> dict[str, Any] | None:
    """The metrics of a finished run that was asked to resume, or None: go on. RecipeError for a folder in use."""
    folder, resume = Path(recipe.run.output), recipe.run.resume
    holds_run = (folder / "recipe.yaml").exists()
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    fault = ""
    if not recipe.run.output:
        fault = "empty; name a folder"
    elif above.is_dir() and not os.access(above, os.W_OK):
        fault = f"{str(folder)!r} cannot be written: no right to write in {str(above)!r}"
    elif folder.is_file():
        fault = f"{str(folder)!r} is a file; choose a folder"
    elif resume and not holds_run:
        fault = f"{str(folder)!r} holds no run; leave --resume out, or name the run's --output"
    elif holds_run and not resume:
        fault = f"{str(folder)!r} holds a run; go on with it by --resume, or choose another --output"
    elif not resume and any((folder / f).exists() for f in ("config.json", "adapter_config.json")):
        fault = f"{str(folder)!r} holds a model; choose another --output"
    if fault:
        raise RecipeError(f"run.output: {fault}")
    if not resume or not (folder / "metrics.json").exists():
        return None
    say(f"{folder} is finished: nothing to resume", "decided")
    if changed := _changes(recipe, ("model", "data", "training")):
        fix = f"train on from its weights with --model {folder} and another --output"
        say(f"not done: {'; '.join(changed[:6])}; {fix}", "warning")
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def to_resume(trainer: Trainer) -> str | None:
    """The checkpoint to go on from. Raises RecipeError where the recipe is no longer the one that made it."""
    recipe: Recipe = trainer.recipe
    if not recipe.run.resume:
        return None
    if changed := _changes(recipe, ("task", "model", "data", "training"), MAY_CHANGE):
        fix = "give the old values, or start anew with another --output"
        raise RecipeError(f"run.resume: the recipe has changed ({'; '.join(changed[:6])}); {fix}")
    checkpoint = get_last_checkpoint(recipe.run.output)
    if checkpoint is None:
        say(f"{recipe.run.output} has no checkpoint yet: starting from the first step", "decided")
    else:
        say(f"going on from {checkpoint}", "decided")
        trainer.args.eval_on_start = False  # the untrained model was measured when the run began
    return checkpoint


def _changes(recipe: Recipe, parts: Sequence[str], leaving_out: Collection[str] = ("model.name",)) -> list[str]:
    """What the recipe says otherwise than the one that is kept in its folder."""
    recipes = read_yaml(Path(recipe.run.output) / "recipe.yaml"), recipe.to_dict()
    old, new = ({f"{p}.{k}": v for p in parts for k, v in (r.get(p) or {}).items()} for r in recipes)
    differ = [k for k in old | new if old.get(k) != new.get(k) and k not in leaving_out]
    return [f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in differ]
