"""Columns of the untrained model: their values, the cache and its key, adapters, resuming, two processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, PAIRS, REVIEWS
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.tasks import Preference, TextClassification
from llmkit.training.precompute import add_precomputed, weights_digest

CACHED = "reference computed by the untrained model (cached)"


@pytest.fixture
def make(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Returns a function that makes a Trainer of the Preference task, with a cache of the test's own."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))

    def trainer(model: Any = None, task: Any = None, **training: Any) -> Any:
        data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
        model, output = model or ModelConfig(name=str(tiny_gpt2)), RunConfig(str(tmp_path / "run"))
        return build_trainer(Recipe(task or Preference(), model, data, {**EXACT, **training}, output))

    return trainer


def reference(trainer: Any) -> list[list[float]]:
    return trainer.train_dataset["reference"][:]


def test_values_are_the_log_probabilities_of_the_answers(make: Callable) -> None:
    trainer = make(per_device_eval_batch_size=5)
    assert len(trainer.train_dataset) == len(PAIRS)
    for i in (0, 7, len(PAIRS) - 1):
        row = trainer.train_dataset[i]
        chosen_length, _ = row["lengths"]
        expected = []
        for ids in (row["input_ids"][:chosen_length], row["input_ids"][chosen_length:]):
            logits = trainer.model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected += [logits[at - 1, ids[at]].item() for at in range(row["prompt_length"], len(ids))]
        assert row["reference"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_model_keeps_its_mode(training: bool, make: Callable) -> None:
    trainer = make()
    features = {"train": trainer.train_dataset.select(range(3)).remove_columns("reference")}
    model = trainer.model.train(training)
    add_precomputed(trainer.task, features, model, trainer.processing_class, "padded", trainer.args)
    assert model.training is training


def test_task_without_precompute_keeps_its_features(make: Callable) -> None:
    trainer, features = make(), {"train": Dataset.from_list(REVIEWS)}
    arguments = trainer.model, trainer.processing_class, "padded", trainer.args
    assert add_precomputed(TextClassification(), features, *arguments) == features


# -- the cache


def test_second_run_reads_the_cache_also_with_other_options(make: Callable, capfd: pytest.CaptureFixture) -> None:
    first = reference(make())
    assert CACHED not in capfd.readouterr().err
    assert reference(make()) == first
    assert capfd.readouterr().err.count(CACHED) == 2  # train and validation
    assert reference(make(task=Preference(beta=0.7))) == first
    assert capfd.readouterr().err.count(CACHED) == 2


@pytest.mark.parametrize("changed", ["weights", "config", "precision"])
def test_another_model_misses_the_cache(
    changed: str, make: Callable, tiny_gpt2: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    first = reference(make())
    capfd.readouterr()
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    if changed == "weights":
        with torch.no_grad():
            model.transformer.h[1].mlp.c_fc.bias[3] += 0.5
    elif changed == "config":
        model.config.n_head = 4
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path / "other")
    second = reference(make(ModelConfig(name=str(tmp_path / "other")), bf16=changed == "precision"))
    assert CACHED not in capfd.readouterr().err
    assert second != first


def test_weights_digest_is_reproducible_and_depends_on_every_weight(tiny_gpt2: Path) -> None:
    one, other = (AutoModelForCausalLM.from_pretrained(tiny_gpt2) for _ in range(2))
    assert weights_digest(one) == weights_digest(other)
    for name, tensor in other.state_dict().items():
        before = weights_digest(other)
        tensor.view(-1)[-1] += 1
        assert weights_digest(other) != before, name


# -- training


def test_new_adapter_has_the_values_of_its_base_model(make: Callable, tiny_gpt2: Path) -> None:
    first = reference(make())
    trainer = make(ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 2}))
    for before, now in zip(first, reference(trainer), strict=True):
        assert now == pytest.approx(before, abs=1e-5)
    assert any(p.requires_grad for p in trainer.model.parameters())


def test_values_stay_those_of_the_untrained_model(make: Callable) -> None:
    trainer = make(max_steps=6, learning_rate=1e-2)
    before = trainer.stats("validation")
    trainer.train()
    after = trainer.stats("validation")
    assert abs(before[:, :3]).max() < 1e-4 < abs(after[:, :3]).max()


def test_resumed_run_ends_like_an_uninterrupted_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
    settings = {**EXACT, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    base = Recipe(Preference(), ModelConfig(name=str(tiny_gpt2)), data, settings, RunConfig(str(tmp_path / "whole")))
    whole = run(base)
    unfinished = shutil.ignore_patterns("checkpoint-6", "metrics.json")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts", ignore=unfinished)
    resumed = run(replace(base, run=RunConfig(str(tmp_path / "parts"), resume=True)))
    assert resumed.metrics["after"] == whole.metrics["after"]


def test_two_processes_give_the_losses_of_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS), encoding="utf-8")
    words = ["train", "preference", "--model", str(tiny_gpt2), "--data", str(pairs), "--data.max_length", "64"]
    words += [w for k, v in {**EXACT, "max_steps": 3}.items() for w in (f"--training.{k}", str(v).lower())]

    def losses(name: str, launch: list[str], size: int) -> list[float]:
        command = [sys.executable, *launch, "-m", "llmkit", *words, "--output", str(tmp_path / name)]
        command += ["--training.per_device_train_batch_size", str(size)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "LLMKIT_CACHE": str(tmp_path / f"{name}-cache")}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        logs = (json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines())
        return [log["loss"] for log in logs if "loss" in log]

    one = losses("one", [], 4)
    two = losses("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], 2)
    assert two == pytest.approx(one, abs=1e-5)
    assert len(list((tmp_path / "two-cache").glob("precomputed-*"))) == 2
