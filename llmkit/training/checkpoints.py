"""The output folder before a run: refused if it holds a run, resumed if asked, left alone if the run is finished."""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from llmkit.errors import UsageError
from llmkit.log import log
from llmkit.recipe import Recipe, read_yaml
from llmkit.task import Json

MAY_CHANGE = ("num_train_epochs", "max_steps", "logging_steps", "save_total_limit")
"""Training fields that a resumed run may change."""


def finished_metrics(recipe: Recipe) -> Json | None:
    """Return the metrics of a finished run that is to be resumed, or None if there is something to train.

    Raises UsageError for an output folder that cannot be used.
    """
    folder, resume = Path(recipe.run.output), recipe.run.resume
    holds_run = (folder / "recipe.yaml").exists()
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    fault = ""
    if not recipe.run.output:
        fault = "empty; name a folder"
    elif existing.is_dir() and not os.access(existing, os.W_OK):
        fault = f"{str(folder)!r} cannot be written: no permission to write in {str(existing)!r}"
    elif not existing.is_dir():
        fault = f"{str(existing)!r} is a file; choose a folder"
    elif resume and not holds_run:
        fault = f"{str(folder)!r} holds no run; leave --resume out, or name the run's --output"
    elif holds_run and not resume:
        fault = f"{str(folder)!r} holds a run; resume it with --resume, or choose another --output"
    elif not resume and any((folder / f).exists() for f in ("config.json", "adapter_config.json")):
        fault = f"{str(folder)!r} holds a model; choose another --output"
    elif not resume and (folder / "README.md").exists():
        fault = f"{str(folder)!r} has a README.md, which the model card would replace; choose another --output"
    if fault:
        raise UsageError(f"run.output: {fault}")
    if not resume or not (folder / "metrics.json").exists():
        return None
    log(f"{folder} is finished: nothing to resume", "config")
    if changed := _changes(recipe, ("model", "data", "training"), ("model.name",)):
        fix = f"to train its weights further, use --model {folder} with another --output"
        log(f"not done: {'; '.join(changed[:6])}; {fix}", "warning")
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def find_checkpoint(recipe: Recipe) -> str | None:
    """Return the checkpoint to resume from. Raises UsageError if the recipe is not the one that made it."""
    if not recipe.run.resume:
        return None
    may_change = ("model.name", *(f"training.{name}" for name in MAY_CHANGE))
    if changed := _changes(recipe, ("task", "model", "data", "training"), may_change):
        fix = "restore the old values, or start a new run with another --output"
        raise UsageError(f"run.resume: the recipe has changed ({'; '.join(changed[:6])}); {fix}")
    checkpoint = get_last_checkpoint(recipe.run.output)
    if checkpoint is None:
        log(f"{recipe.run.output} has no checkpoint yet: starting from the first step", "config")
    else:
        log(f"resuming from {checkpoint}", "config")
    return checkpoint


def _changes(recipe: Recipe, parts: Sequence[str], may_change: Collection[str]) -> list[str]:
    """The fields in which a recipe differs from the one in its output folder."""
    recipes = read_yaml(Path(recipe.run.output) / "recipe.yaml"), recipe.to_dict()
    old, new = ({f"{p}.{k}": v for p in parts for k, v in (r.get(p) or {}).items()} for r in recipes)
    changed = [k for k in old | new if old.get(k) != new.get(k) and k not in may_change]
    return [f"{k} was {old.get(k)!r}, is {new.get(k)!r}" for k in changed]
