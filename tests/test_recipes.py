"""Every recipe, end to end, through `accelerate launch`: the run leaves a plain folder with metrics, log, recipe and card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from llmkit import run
from llmkit.cli.main import command
from llmkit.cli.recipes import recipe_names
from llmkit.recipe import read_yaml

THREE_STEPS = [
    "--training.max_steps", "3", "--training.eval_strategy", "steps", "--training.eval_steps", "3",
    "--training.logging_steps", "1",
]  # fmt: skip
TWO_STEPS = [
    "--training.max_steps", "2", "--training.eval_strategy", "no", "--training.save_strategy", "no", "--output", "out"
]  # fmt: skip
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FILES = {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "metrics.json", "log.jsonl", "README.md"}
METRICS = {
    "task", "primary", "higher_is_better", "before", "after", "baselines", "split", "examples", "tokens", "steps",
    "seconds", "peak_memory_bytes", "versions", "seed",
}  # fmt: skip
LOAD_WITHOUT_LLMKIT = """
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
OWN_ARCHITECTURES = {"train_lstm": ("AutoModelForCausalLM", "llmkit.models")}
"""Recipes whose architecture is llmkit's own: the Auto class that loads it, and the module to import first."""
Finished = tuple[str, Path, str]
"""Name of a recipe, its run folder, and what the run wrote to stderr."""


@pytest.fixture(scope="module", params=recipe_names())
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three steps of `accelerate launch recipes/NAME.py`."""
    folder = tmp_path_factory.mktemp(request.param)
    words = [*LAUNCH, str(ROOT / "recipes" / f"{request.param}.py"), "--output", "out", *THREE_STEPS]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    return request.param, folder / "out", done.stderr


def test_run_folder_holds_model_recipe_metrics_log_and_card(finished: Finished) -> None:
    _, folder, _ = finished
    names = {p.name for p in folder.iterdir()}
    assert not FILES - names
    assert "training_args.bin" not in names and not list(folder.rglob("training_args.bin"))
    assert json.loads((folder / "config.json").read_text()).get("use_cache") is not False


def test_metrics_json_holds_metrics_before_and_after(finished: Finished) -> None:
    _, folder, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) - {"details"} == METRICS  # details: of tasks with a report by class
    assert set(metrics["before"]) == set(metrics["after"]) and metrics["primary"] in metrics["after"]
    assert metrics["steps"] == 3 and metrics["examples"] > 0 and metrics["tokens"] > 0 and metrics["baselines"]


def test_log_jsonl_uses_the_names_of_the_trainer(finished: Finished) -> None:
    _, folder, _ = finished
    primary = json.loads((folder / "metrics.json").read_text())["primary"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert any(f"eval_{primary}" in line and line["step"] == 0 for line in lines)


def test_transformers_alone_loads_the_run_folder(finished: Finished) -> None:
    name, folder, _ = finished
    command = [sys.executable, "-c", LOAD_WITHOUT_LLMKIT, str(folder), *OWN_ARCHITECTURES.get(name, ("",))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_stderr_holds_no_output_of_the_libraries(finished: Finished) -> None:
    name, _, stderr = finished
    heads = ("data", "config", "warning", "result", "         ", "    ")
    foreign = [line for line in stderr.splitlines() if line.strip() and not line.startswith(heads)]
    assert not foreign, f"{name}: {foreign[:5]}"


def test_card_shows_the_output_of_its_snippet(finished: Finished) -> None:
    _, folder, _ = finished
    card = (folder / "README.md").read_text()
    assert "Output when this card was written:" in card and "sha256" in card


def test_recipes_have_at_most_sixty_lines() -> None:
    for path in (ROOT / "recipes").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path


def test_recipe_yaml_reproduces_the_run(tmp_path: Path, causal_recipe: Callable[..., Any]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"A line about {i} foxes and {i + 1} crows." for i in range(40)))
    recipe = causal_recipe("first", train=str(texts), document="line")
    first = run(replace(recipe, training={**recipe.training, "seed": 7}))
    assert command(["train", str(first.output / "recipe.yaml"), "--output", str(tmp_path / "second")]) == 0
    second = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert second["after"] == first.metrics["after"] and second["seed"] == 7
    assert read_yaml(tmp_path / "second" / "recipe.yaml")["training"]["seed"] == 7


def test_two_processes_write_one_run_folder_and_one_log(tmp_path: Path) -> None:
    words = [*TORCHRUN, str(ROOT / "recipes" / "finetune_bert.py"), *TWO_STEPS]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes" in done.stderr and done.stderr.count("result   test accuracy") == 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 2
