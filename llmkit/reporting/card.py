"""The model card: data with hashes, figures that were measured, a snippet that was run."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from llmkit.console import figure, plural, say
from llmkit.training.trainer import Trainer

RUN_UP_TO = 500_000_000  # parameters: the snippet loads the model a second time


def write(trainer: Trainer, metrics: dict[str, Any]) -> None:
    """Write README.md into the run folder."""
    folder = trainer.args.output_dir
    code = trainer.task.snippet(str(folder), trainer.rows["train"][0])
    if code and type(trainer.model.config).__module__.startswith("llmkit."):
        code = f"import llmkit.models  # makes this architecture known to transformers\n{code}"
    answer = ""
    if code and sum(p.numel() for p in trainer.model.parameters()) < RUN_UP_TO:
        try:
            answer = _run(code)
        except Exception as e:  # an adapter on a .gguf file, say, which plain transformers cannot load: claim nothing
            say(f"the model card has no snippet: it did not run ({str(e).splitlines()[0][:120]})", "warning")
            code = ""
    (Path(folder) / "README.md").write_text(_text(trainer, metrics, code, answer), encoding="utf-8")


def _run(code: str) -> str:
    """What the snippet prints; run with the random state set aside."""
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        exec(compile(code, "snippet", "exec"), {})
    return printed.getvalue().strip()


def _text(trainer: Trainer, metrics: dict[str, Any], code: str, answer: str) -> str:
    recipe, name = trainer.recipe, metrics["primary"]
    source = f"`{recipe.model.name if isinstance(recipe.model.name, str) else type(trainer.model).__name__}`"
    data = [
        f"| {s['part']} | {_plain(s['name'])} | {s['rows']:,} | {s['left_out']:,} | `{s['sha256'] or 'in memory'}` |"
        for s in trainer.loaded.sources
    ]
    before = {m: figure(v) for m, v in metrics["before"].items()}
    figures = [f"| {m} | {before.get(m, '')} | {figure(v)} |" for m, v in metrics["after"].items()]
    baselines = [f"| {b} ({v['kind']}) | {name} | {figure(v['value'])} |" for b, v in metrics["baselines"].items()]
    run = f"{plural(metrics['steps'], 'step')}, {plural(metrics['tokens'], 'token')}, {metrics['seconds']:.0f} s"
    versions = ", ".join(f"{k} {v}" for k, v in metrics["versions"].items())
    parts = [
        "---\nlibrary_name: transformers\ntags:\n- llmkit\n---",
        f"# {trainer.task.name} from {'random weights, architecture of ' * recipe.model.from_scratch}{source}",
        "Trained with llmkit; `recipe.yaml` beside this file runs it again.",
        "## Data",
        "\n".join(["| part | source | rows | left out | sha256 |", "|---|---|---|---|---|", *data]),
        f"## Figures on the {metrics['split']} part ({plural(metrics['examples'], 'row')})",
        "\n".join(["| metric | untrained | trained |", "|---|---|---|", *figures]),
        "\n".join(["| baseline | metric | value |", "|---|---|---|", *baselines]) if baselines else "",
        f"{run}, seed {metrics['seed']}; {versions}.",
        f"## Use\n\n```python\n{code}\n```" if code else "",
        f"It printed, when this card was written:\n\n```\n{answer}\n```" if answer else "",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _plain(text: str) -> str:
    """A file's name as text: no markup of its own, no column of its own."""
    return text.replace("|", "\\|").replace("<", "&lt;")
