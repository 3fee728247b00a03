"""Every recipe, end to end, as it is typed: a plain folder comes out, with its metrics, log, recipe and card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from llmkit.cli import recipe_names

SHORT = [
    "--training.max_steps",
    "3",
    "--training.eval_strategy",
    "steps",
    "--training.eval_steps",
    "3",
    "--training.logging_steps",
    "1",
]
METRICS = {
    "task", "primary", "higher_is_better", "before", "after", "baselines", "split", "examples", "tokens", "steps", "seconds",
    "peak_memory_bytes", "versions", "seed",
}  # fmt: skip
PLAIN = """
import sys, json, importlib
folder, name, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
from transformers import AutoConfig, AutoTokenizer
import transformers
config = AutoConfig.from_pretrained(folder)
model = getattr(transformers, name or config.architectures[0]).from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer("a fine film", return_tensors="pt")
out = model(**batch, **({"decoder_input_ids": batch["input_ids"]} if config.is_encoder_decoder else {}))
assert modules or "llmkit" not in sys.modules
print(json.dumps(list(out[0].shape)))
"""
OURS = {"train_lstm": ("AutoModelForCausalLM", "llmkit.models")}
"""The one architecture that is llmkit's own: the class that reads it, and what must be imported first."""


@pytest.fixture(scope="module", params=recipe_names())
def finished(request, tmp_path_factory) -> tuple[str, Path, str]:
    """`(name, run folder, what was said)` of `accelerate launch recipes/NAME.py`, three steps long."""
    folder = tmp_path_factory.mktemp(request.param)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    words = [*launch, str(ROOT / "recipes" / f"{request.param}.py"), "--output", "out", *SHORT]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    return request.param, folder / "out", done.stderr


def test_the_folder_holds_what_a_run_leaves(finished) -> None:
    _, folder, _ = finished
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "recipe.yaml",
        "metrics.json",
        "log.jsonl",
        "README.md",
    } <= names
    assert "training_args.bin" not in names and not list(folder.rglob("training_args.bin"))
    assert json.loads((folder / "config.json").read_text()).get("use_cache") is not False


def test_metrics_hold_before_and_after(finished) -> None:
    _, folder, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) - {"details"} == METRICS  # details: where the task has a report by class
    assert set(metrics["before"]) == set(metrics["after"]) and metrics["primary"] in metrics["after"]
    assert metrics["steps"] == 3 and metrics["examples"] > 0 and metrics["tokens"] > 0 and metrics["baselines"]


def test_the_log_has_the_trainers_names(finished) -> None:
    _, folder, _ = finished
    primary = json.loads((folder / "metrics.json").read_text())["primary"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert any(f"eval_{primary}" in line and line["step"] == 0 for line in lines)


def test_transformers_alone_reads_the_folder(finished) -> None:
    name, folder, _ = finished
    command = [sys.executable, "-c", PLAIN, str(folder), *OURS.get(name, ("",))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_of_the_libraries_leaks_to_the_screen(finished) -> None:
    name, _, said = finished
    heads = ("data", "decided", "warning", "result", "         ", "    ")
    foreign = [line for line in said.splitlines() if line.strip() and not line.startswith(heads)]
    assert not foreign, f"{name}: {foreign[:5]}"


def test_the_card_was_run(finished) -> None:
    _, folder, _ = finished
    card = (folder / "README.md").read_text()
    assert "It printed, when this card was written:" in card and "sha256" in card


def test_recipes_stay_short() -> None:
    for path in (ROOT / "recipes").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path


def test_recipe_yaml_runs_it_again(tmp_path: Path, causal_recipe) -> None:
    from dataclasses import replace

    from llmkit import run
    from llmkit.cli import command
    from llmkit.parsing import read_yaml

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"A line about {i} foxes and {i + 1} crows." for i in range(40)))
    first = causal_recipe("first", train=str(texts), document="line")
    one = run(replace(first, training={**first.training, "seed": 7}))
    assert command(["train", str(one.output / "recipe.yaml"), "--output", str(tmp_path / "second")]) == 0
    two = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert two["after"] == one.metrics["after"] and two["seed"] == 7
    assert read_yaml(tmp_path / "second" / "recipe.yaml")["training"]["seed"] == 7


def test_two_processes_run_a_recipe_as_one(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(ROOT / "recipes" / "finetune_bert.py"),
    ]
    short = [
        "--training.max_steps",
        "2",
        "--training.eval_strategy",
        "no",
        "--training.save_strategy",
        "no",
        "--output",
        "out",
    ]
    done = subprocess.run(
        [*words, *short],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes" in done.stderr and done.stderr.count("result   test accuracy") == 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 2
