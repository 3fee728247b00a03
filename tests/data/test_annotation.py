"""Columns from the untrained model: computed once, kept under a key of weights, never reused wrongly."""

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
import torch
from conftest import EXACT, PAIRS

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer
from llmkit.tasks import Preference

REUSED = "reference from the untrained model (prepared before)"


@pytest.fixture
def make(tiny_gpt2: Path, tmp_path: Path, monkeypatch) -> Callable[..., Any]:
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))

    def trainer(model: Any = None, task: Any = None, **training: Any) -> Any:
        data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
        model = model or ModelConfig(name=str(tiny_gpt2))
        return build_trainer(
            Recipe(task or Preference(), model, data, {**EXACT, **training}, RunConfig(str(tmp_path / "run")))
        )

    return trainer


def reference(trainer: Any) -> list[list[float]]:
    return trainer.train_dataset["reference"][:]


def test_it_is_what_the_model_says(make: Callable) -> None:
    trainer = make(per_device_eval_batch_size=5)
    assert len(trainer.train_dataset) == len(PAIRS)
    for i in (0, 7, len(PAIRS) - 1):
        row = trainer.train_dataset[i]
        found = []
        for ids in (row["input_ids"][: row["chosen"]], row["input_ids"][row["chosen"] :]):
            logits = trainer.model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
            found += [logits[at - 1, ids[at]].item() for at in range(row["prompt"], len(ids))]
        assert row["reference"] == pytest.approx(found, abs=1e-5)
    assert trainer.model.training is False  # as it was found: the Trainer switches it on


def test_it_is_kept_and_reused(make: Callable, capfd) -> None:
    first = reference(make())
    assert REUSED not in capfd.readouterr().err
    assert reference(make()) == first
    assert capfd.readouterr().err.count(REUSED) == 2  # train and validation
    assert reference(make(task=Preference(beta=0.7))) == first
    assert capfd.readouterr().err.count(REUSED) == 2


@pytest.mark.parametrize("what", ["weights", "config", "precision"])
def test_it_is_not_reused_for_another_model(make: Callable, tiny_gpt2: Path, tmp_path: Path, what: str, capfd) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = reference(make())
    capfd.readouterr()
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    if what == "weights":
        with torch.no_grad():
            model.transformer.h[1].mlp.c_fc.bias[3] += 0.5
    elif what == "config":
        model.config.n_head = 4
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path / "other")
    second = reference(make(ModelConfig(name=str(tmp_path / "other")), bf16=what == "precision"))
    assert REUSED not in capfd.readouterr().err
    assert second != first


def test_under_a_new_adapter_it_is_the_base_s(make: Callable) -> None:
    first = reference(make())
    trainer = make(ModelConfig(name=make().recipe.model.name, adapter={"type": "lora", "r": 2}))
    for before, now in zip(first, reference(trainer), strict=True):
        assert now == pytest.approx(before, abs=1e-5)
    assert any(p.requires_grad for p in trainer.model.parameters())


def test_it_stays_that_of_the_untrained_model(make: Callable) -> None:
    trainer = make(max_steps=6, learning_rate=1e-2)
    before = trainer.per_example("validation")
    trainer.train()
    after = trainer.per_example("validation")
    assert abs(before[:, :3]).max() < 1e-4 < abs(after[:, :3]).max()


def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny_gpt2: Path, tmp_path: Path) -> None:
    import shutil

    from llmkit import run

    data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
    settings = {**EXACT, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    base = Recipe(Preference(), ModelConfig(name=str(tiny_gpt2)), data, settings, RunConfig(str(tmp_path / "whole")))
    whole = run(base)
    shutil.copytree(
        tmp_path / "whole", tmp_path / "parted", ignore=shutil.ignore_patterns("checkpoint-6", "metrics.json")
    )
    resumed = run(replace(base, run=RunConfig(str(tmp_path / "parted"), resume=True)))
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
    assert len(list((tmp_path / "two-cache").glob("annotated-*"))) == 2
