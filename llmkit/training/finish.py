"""The end of a run: the final evaluation with its baselines, and the files of the run folder, written by rank 0."""

import importlib.metadata
import json
import platform
import resource
import sys
import time
from pathlib import Path

import torch

from llmkit.log import format_number, log, plural
from llmkit.recipe import Recipe, task_name, write_yaml
from llmkit.task import Json, Row
from llmkit.training import checks
from llmkit.training.trainer import Trainer

PACKAGES = ("llmkit", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "tokenizers")

FEW_EXAMPLES = 10
"""Number of evaluated rows below which a warning is logged."""


def output_folder(trainer: Trainer) -> Path | None:
    """Return the run folder on rank 0, None on the other ranks."""
    return Path(trainer.args.output_dir) if trainer.is_world_process_zero() else None


def write_recipe(trainer: Trainer, recipe: Recipe) -> None:
    """Write recipe.yaml before the first step: from now on the folder holds a run."""
    if folder := output_folder(trainer):
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(recipe.to_dict(), folder / "recipe.yaml")


def evaluate(trainer: Trainer, recipe: Recipe, started: float) -> Json:
    """Evaluate the trained model on the test part, or else on validation; return the content of metrics.json.

    `started` is the time of the first step, in seconds since the epoch.
    """
    task, history = trainer.task, trainer.state.log_history
    split, prefix = ("test", "test") if "test" in trainer.features else ("validation", "eval")
    output = trainer.predict(trainer.part(split), metric_key_prefix=prefix)
    trainer.log(output.metrics)
    before = next((log for log in history if log["step"] == 0 and f"{prefix}_{task.metrics[0]}" in log), {})
    scores = [
        {m: logs[f"{prefix}_{m}"] for m in task.metrics if f"{prefix}_{m}" in logs} for logs in (before, output.metrics)
    ]
    if recipe.data.streaming:
        baselines, tokens = {}, trainer.state.num_input_tokens_seen
    else:
        train, rows = trainer.features["train"], {"train": trainer.rows["train"], "evaluation": trainer.rows[split]}
        baselines = task.baselines(train, trainer.features[split], rows, recipe.run.references)
        tokens = round(sum(checks.lengths(train)) * (trainer.state.epoch or 0))
    details = task.details(output.predictions)
    return {
        "task": task_name(task),
        "primary": task.metrics[0],
        "higher_is_better": task.higher_is_better,
        "before": scores[0],
        "after": scores[1],
        "baselines": baselines,
        "split": split,
        "examples": len(trainer.rows[split]),
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "seconds": round(time.time() - started, 1),
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
        "seed": trainer.args.seed,
        **({"details": details} if details else {}),
    }


def save(trainer: Trainer, metrics: Row) -> None:
    """Save the model as a plain from_pretrained folder, with metrics.json."""
    trainer.model.config.use_cache = True  # the Trainer turned it off for training
    trainer.save_model()
    if folder := output_folder(trainer):
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")


def peak_memory() -> int:
    """Return the peak memory in bytes: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{p: installed.get(p, "unknown") for p in PACKAGES}}


def log_result(metrics: Row, folder: Path) -> None:
    """Log the final metrics beside those of the untrained model and the baselines."""
    primary, higher_is_better = metrics["primary"], metrics["higher_is_better"]
    before, after = metrics["before"], metrics["after"]
    for metric in dict.fromkeys((primary, *after)):
        untrained = f", untrained {format_number(before[metric])}" if metric in before else ""
        log(f"{metrics['split']} {metric} {format_number(after[metric])}{untrained}", "result")
    if metrics["examples"] < FEW_EXAMPLES:
        log(f"metrics of only {plural(metrics['examples'], 'row')} are unreliable", "warning")
    untrained = {"untrained": {"value": before[primary], "kind": "floor"}} if primary in before else {}
    for name, baseline in {**untrained, **metrics["baselines"]}.items():
        value = baseline["value"]
        beaten = after[primary] != value and (after[primary] > value) == higher_is_better
        line = f"baseline {name}: {primary} {format_number(value)}"
        if not beaten and baseline["kind"] == "floor":
            log(f"{line} (not beaten: nothing was learned; check data and learning rate)", "warning")
        elif name not in untrained:
            log(f"{line} ({'beaten' if beaten else 'not beaten'})", "result")
    log(f"{folder}: {plural(metrics['steps'], 'step')} in {metrics['seconds']:.0f} s", "result")
