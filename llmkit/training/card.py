"""The model card: data with hashes, the measured metrics, and a snippet that loads the folder and was run."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from llmkit.log import format_number, log, plural
from llmkit.recipe import Recipe
from llmkit.task import Row
from llmkit.training.snippets import snippet
from llmkit.training.trainer import Trainer

RUN_UP_TO = 500_000_000
"""Parameters up to which the snippet is run: it loads the model a second time."""


def write(trainer: Trainer, recipe: Recipe, sources: Sequence[Row], metrics: Row) -> None:
    """Write README.md into the run folder."""
    folder = Path(trainer.args.output_dir)
    code = snippet(trainer.task, folder, trainer.rows["train"][0])
    if code and type(trainer.model.config).__module__.startswith("llmkit."):
        code = f"import llmkit.models  # registers this architecture with transformers\n{code}"
    printed = ""
    if code and sum(p.numel() for p in trainer.model.parameters()) < RUN_UP_TO:
        try:
            printed = _run(code)
        except Exception as e:  # an adapter on a .gguf file, for example, which plain transformers cannot load
            reason = " ".join(str(e).split())[:120] or type(e).__name__
            log(f"the model card has no snippet: it did not run ({reason})", "warning")
            code = ""
    model = recipe.model.name if isinstance(recipe.model.name, str) else type(trainer.model).__name__
    origin = f"{'random weights, architecture of ' * recipe.model.from_scratch}`{model}`"
    text = _text(f"# {trainer.task.name} from {origin}", sources, metrics, code, printed)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _run(code: str) -> str:
    """Return what the snippet prints; the random state is restored afterwards."""
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        exec(compile(code, "snippet", "exec"), {})
    return printed.getvalue().strip()


def _text(title: str, sources: Sequence[Row], metrics: Row, code: str, printed: str) -> str:
    name = metrics["primary"]
    data = [
        f"| {s['part']} | {_escape(s['name'])} | {s['rows']:,} | {s['left_out']:,} | `{s['sha256'] or 'in memory'}` |"
        for s in sources
    ]
    before = {m: format_number(v) for m, v in metrics["before"].items()}
    scores = [f"| {m} | {before.get(m, '')} | {format_number(v)} |" for m, v in metrics["after"].items()]
    baselines = [
        f"| {b} ({v['kind']}) | {name} | {format_number(v['value'])} |" for b, v in metrics["baselines"].items()
    ]
    run = f"{plural(metrics['steps'], 'step')}, {plural(metrics['tokens'], 'token')}, {metrics['seconds']:.0f} s"
    versions = ", ".join(f"{k} {v}" for k, v in metrics["versions"].items())
    parts = [
        "---\nlibrary_name: transformers\ntags:\n- llmkit\n---",
        title,
        "Trained with llmkit; `recipe.yaml` in this folder runs it again.",
        "## Data",
        "\n".join(["| part | source | rows | skipped | sha256 |", "|---|---|---|---|---|", *data]),
        f"## Metrics on the {metrics['split']} part ({plural(metrics['examples'], 'row')})",
        "\n".join(["| metric | untrained | trained |", "|---|---|---|", *scores]),
        "\n".join(["| baseline | metric | value |", "|---|---|---|", *baselines]) if baselines else "",
        f"{run}, seed {metrics['seed']}; {versions}.",
        f"## Use\n\n```python\n{code}\n```" if code else "",
        f"Output when this card was written:\n\n```\n{printed}\n```" if printed else "",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _escape(text: str) -> str:
    """A file name without Markdown of its own."""
    return text.replace("|", "\\|").replace("<", "&lt;")
