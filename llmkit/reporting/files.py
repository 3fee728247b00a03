"""The run folder's own files, written by rank 0."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from llmkit.console import figure, plural, say
from llmkit.parsing import write_yaml
from llmkit.reporting import card
from llmkit.training import preflight
from llmkit.training.trainer import Trainer

PACKAGES = ("llmkit", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "tokenizers")


def output(trainer: Trainer) -> Path:
    return Path(trainer.args.output_dir)


def begin(trainer: Trainer) -> None:
    """Write the recipe before the first step: from now on the folder holds a run."""
    trainer.started = time.time()
    if trainer.is_world_process_zero():
        output(trainer).mkdir(parents=True, exist_ok=True)
        write_yaml(trainer.recipe.to_dict(), output(trainer) / "recipe.yaml")


def finish(trainer: Trainer) -> dict[str, Any]:
    """Measure the trained model, save it as a plain from_pretrained folder, and write metrics.json and the card."""
    split, prefix = ("test", "test") if "test" in trainer.features else ("validation", "eval")
    task, history = trainer.task, trainer.state.log_history
    task.after_training(trainer.model, lambda: trainer.per_example("validation"))
    after = trainer.evaluate(trainer.features[split], metric_key_prefix=prefix)
    details = task.details(trainer.examples)
    before = next((log for log in history if log["step"] == 0 and f"{prefix}_{task.primary}" in log), {})
    trainer.model.config.use_cache = True  # the Trainer switched it off; a saved model should not be slow
    trainer.save_model()
    scores = [{m: logs[f"{prefix}_{m}"] for m in task.metrics if f"{prefix}_{m}" in logs} for logs in (before, after)]
    metrics = _metrics(trainer, split, *scores)
    metrics |= {"details": details} if details else {}
    if trainer.is_world_process_zero():
        task.finish(output(trainer))
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        (output(trainer) / "metrics.json").write_text(text + "\n", encoding="utf-8")
        card.write(trainer, metrics)
        _say(metrics, output(trainer))
    trainer.accelerator.wait_for_everyone()
    return metrics


def _metrics(trainer: Trainer, split: str, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    task, rows, train, state = trainer.task, trainer.rows, trainer.features["train"], trainer.state
    if trainer.recipe.data.streaming:
        baselines, tokens = {}, state.num_input_tokens_seen
    else:
        raw = {"train": rows["train"], "evaluation": rows[split]}
        baselines = task.baselines(train, trainer.features[split], raw, trainer.recipe.run.references)
        tokens = round(sum(preflight.lengths(train)) * (state.epoch or 0))
    return {
        "task": task.name_in_recipe(),
        "primary": task.primary,
        "higher_is_better": task.higher_is_better,
        "before": before,
        "after": after,
        "baselines": baselines,
        "split": split,
        "examples": len(rows[split]),
        "tokens": tokens,
        "steps": state.global_step,
        "seconds": round(time.time() - trainer.started, 1),
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
        "seed": trainer.args.seed,
    }


def peak_memory() -> int:
    """Bytes: of the accelerator where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """What runs here, by package."""
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{p: installed.get(p, "unknown") for p in PACKAGES}}


def _say(metrics: dict[str, Any], folder: Path) -> None:
    name, up = metrics["primary"], metrics["higher_is_better"]
    before, after = metrics["before"], metrics["after"]
    for metric in dict.fromkeys((name, *after)):
        untrained = f", untrained {figure(before[metric])}" if metric in before else ""
        say(f"{metrics['split']} {metric} {figure(after[metric])}{untrained}", "result")
    untrained = {"untrained": {"value": before[name], "kind": "floor"}} if name in before else {}
    for baseline, given in {**untrained, **metrics["baselines"]}.items():
        beaten = after[name] != given["value"] and (after[name] > given["value"]) == up
        line = f"baseline {baseline}: {name} {figure(given['value'])}"
        if not beaten and given["kind"] == "floor":
            say(f"{line} is a floor, and not beaten: nothing was learned; look at data and learning rate", "warning")
        elif baseline not in untrained:
            say(f"{line} ({'beaten' if beaten else 'not beaten'})", "result")
    say(f"{folder}: {plural(metrics['steps'], 'step')} in {metrics['seconds']:.0f} s", "result")
