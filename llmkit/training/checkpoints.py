"""The output folder before and after: refused when it holds a run, resumed when asked, left alone when finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.console import say
from llmkit.errors import RecipeError
from llmkit.parsing import read_yaml

if TYPE_CHECKING:
    from llmkit.recipe import Recipe
    from llmkit.training.trainer import Trainer

MAY_CHANGE = {
    "training.num_train_epochs",
    "training.max_steps",
    "training.logging_steps",
    "training.save_total_limit",
    "model.name",
}


def open_folder(recipe: Recipe) -> dict[str, Any] | None:
    """The metrics of a finished run that was asked to resume, or None: go on. RecipeError for a folder in use."""
    folder = Path(recipe.run.output)
    if not recipe.run.output:
        raise RecipeError("run.output: empty; name a folder")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if above.is_dir() and not os.access(above, os.W_OK):
        raise RecipeError(f"run.output: {str(folder)!r} cannot be written: no right to write in {str(above)!r}")
    if folder.is_file():
        raise RecipeError(f"run.output: {str(folder)!r} is a file; choose a folder")
    holds_run = (folder / "recipe.yaml").exists()
    if not recipe.run.resume:
        if holds_run:
            raise RecipeError(
                f"run.output: {str(folder)!r} holds a run; go on with it by --resume, or choose another --output"
            )
        if folder.is_dir() and any((folder / f).exists() for f in ("config.json", "adapter_config.json")):
            raise RecipeError(f"run.output: {str(folder)!r} holds a model; choose another --output")
        return None
    if not holds_run:
        raise RecipeError(f"run.resume: {str(folder)!r} holds no run; leave --resume out, or name the run's --output")
    if not (folder / "metrics.json").exists():
        return None
    say(f"{folder} is finished: nothing to resume", "decided")
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def to_resume(trainer: Trainer) -> str | None:
    """The checkpoint to go on from. Raises RecipeError where the recipe is no longer the one that made it."""
    from transformers.trainer_utils import get_last_checkpoint

    recipe: Recipe = trainer.recipe
    if not recipe.run.resume:
        return None
    before, now = read_yaml(Path(recipe.run.output) / "recipe.yaml"), recipe.to_dict()
    changed = [f"{key} was {old!r}, is {new!r}" for key, old, new in _differences(before, now)]
    if changed:
        raise RecipeError(
            f"run.resume: the recipe has changed ({'; '.join(changed[:6])}); give the old values, or start anew with another --output"
        )
    checkpoint = get_last_checkpoint(recipe.run.output)
    if checkpoint is None:
        say(f"{recipe.run.output} has no checkpoint yet: starting from the first step", "decided")
    else:
        say(f"going on from {checkpoint}", "decided")
        trainer.args.eval_on_start = False  # the untrained model was measured when the run began
    return checkpoint


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for part in ("task", "model", "data", "training"):
        old, new = before.get(part) or {}, now.get(part) or {}
        for key in {**old, **new}:
            if old.get(key) != new.get(key) and f"{part}.{key}" not in MAY_CHANGE:
                found.append((f"{part}.{key}", old.get(key), new.get(key)))
    return found
