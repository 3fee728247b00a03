"""Results do not depend on how a run is cut: 8×1 = 4×2 = two processes; packed = unpacked; resumed = uninterrupted.

All in fp32. tests/training/test_trainer.py compares the losses with those of a bare loop.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from transformers import TrainerCallback

from llmkit import ModelConfig, Recipe, build_trainer, run
from llmkit.collate import token_batch
from llmkit.pipeline import build, prepare
from llmkit.tasks import MaskedLM
from llmkit.training import finish

Make = Callable[..., Recipe]


class Interrupted(Exception):
    """A run that ends like one whose process is killed."""


class StopAt(TrainerCallback):
    """Raises right after the checkpoint of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Interrupted


def job(folder: Path, gpt2: Path, bert: Path, batch: int, accumulation: int, processes: int = 1) -> dict:
    """Run tests/job.py, under a launcher for several processes, and return what it writes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "tests/job.py", str(folder / "out.json")]
    command += [str(folder), str(gpt2), str(bert), str(batch), str(accumulation)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"tests:{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, tiny_bert: Path) -> dict[str, dict]:
    """The same runs, cut in three ways."""
    ways = {"8x1": (8, 1, 1), "4x2": (4, 2, 1), "two processes": (4, 1, 2)}
    return {way: job(tmp_path_factory.mktemp("cut"), tiny_gpt2, tiny_bert, *numbers) for way, numbers in ways.items()}


@pytest.mark.parametrize("way", ["4x2", "two processes"])
@pytest.mark.parametrize("task", ["causal-packed", "causal", "masked", "reviews"])
def test_losses_do_not_depend_on_how_a_batch_is_cut(cuts: dict, way: str, task: str) -> None:
    whole, cut = cuts["8x1"][task], cuts[way][task]
    assert cut["processes"] == (2 if way == "two processes" else 1)
    assert len(whole["losses"]) == len(cut["losses"]) > 2
    assert cut["losses"][0] == pytest.approx(whole["losses"][0], abs=1e-6)
    assert cut["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    assert cut["norms"] == pytest.approx(whole["norms"], rel=1e-3)


@pytest.mark.parametrize("way", ["4x2", "two processes"])
@pytest.mark.parametrize("task", ["causal-packed", "causal", "masked", "reviews"])
def test_metrics_depend_on_neither_batch_size_nor_processes(cuts: dict, way: str, task: str) -> None:
    for when, tolerance in (("before", 1e-6), ("after", 1e-4)):
        assert cuts[way][task][when] == pytest.approx(cuts["8x1"][task][when], rel=tolerance)


def test_packed_and_single_documents_have_equal_losses(causal_recipe: Make) -> None:
    packed, alone = (build_trainer(causal_recipe(packing=p, output=str(p))) for p in (True, False))
    assert packed.layout == "positions" and alone.layout == "padded"
    assert len(packed.features["validation"]) < len(alone.features["validation"])
    together, apart = packed.evaluate(), alone.evaluate()
    assert together["eval_loss"] == pytest.approx(apart["eval_loss"], abs=1e-5)


def test_packed_encoder_tokens_see_only_their_own_document(causal_recipe: Make, tiny_bert: Path) -> None:
    recipe = dataclasses.replace(causal_recipe(model=ModelConfig(name=str(tiny_bert)), max_length=64), task=MaskedLM())
    trainer = build_trainer(recipe)
    assert trainer.layout == "blocks"
    features = [next(row for row in trainer.train_dataset if len(row["segments"]) > 1)]
    segments = features[0]["segments"]
    together = token_batch(features, 0, "blocks", causal=False)
    logits = trainer.model.eval()(**together).logits[0]
    ids, start = features[0]["input_ids"], 0
    for length in segments:
        alone = trainer.model(torch.tensor([ids[start : start + length]])).logits[0]
        assert torch.allclose(logits[start : start + length], alone, atol=1e-5)
        start += length


@pytest.mark.parametrize("kind", ["packed", "grouped", "masked"])
def test_resumed_run_equals_an_uninterrupted_one(
    kind: str, causal_recipe: Make, review_recipe: Make, tiny_gpt2: Path, tiny_bert: Path
) -> None:
    """Dropout on, stopped in the middle of the second epoch, with accumulation."""
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 5}
    gpt2 = ModelConfig(name=str(tiny_gpt2), config={"resid_pdrop": 0.1, "embd_pdrop": 0.1})
    bert = ModelConfig(name=str(tiny_bert), config={"hidden_dropout_prob": 0.1})

    def recipe(output: str, **run_fields: Any) -> Recipe:
        if kind == "packed":
            return causal_recipe(output, gpt2, run_fields, settings)
        if kind == "grouped":
            return review_recipe(output, bert, run_fields, {**settings, "train_sampling_strategy": "group_by_length"})
        return dataclasses.replace(causal_recipe(output, bert, run_fields, settings), task=MaskedLM())

    whole = build_trainer(recipe("whole"))
    whole.train()
    prepared = prepare(recipe("parts"))
    stopped = build(prepared)
    stopped.add_callback(StopAt(5))
    finish.write_recipe(stopped, prepared.recipe)
    with pytest.raises(Interrupted):
        stopped.train()
    resumed = run(recipe("parts", resume=True))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
    losses = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in (whole, resumed.trainer)]
    assert losses[0] == losses[1]


def test_perplexity_does_not_depend_on_the_batch_size(causal_recipe: Make) -> None:
    perplexities = []
    for batch in (1, 3, 8):
        trainer = build_trainer(causal_recipe(training={"per_device_eval_batch_size": batch}, packing=False))
        perplexities.append(trainer.evaluate()["eval_perplexity"])
    nll = count = 0
    model = trainer.model.eval()
    for row in trainer.features["validation"]:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            nll += F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    assert perplexities == pytest.approx([math.exp(nll / count)] * 3, rel=1e-5)
