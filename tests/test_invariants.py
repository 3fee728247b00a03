"""One truth however it is cut: 8×1 = 4×2 = two processes; packed = unpacked; resumed = uninterrupted; the Trainer's
losses are a bare loop's. All in fp32."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, TEXTS

from llmkit import ModelConfig, build_trainer, run
from llmkit.tasks import MaskedLM


def job(folder: Path, gpt2: Path, bert: Path, batch: int, accumulation: int, processes: int = 1) -> dict:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    words = [sys.executable, *launcher, "tests/job.py", str(folder / "out.json"), str(folder), str(gpt2), str(bert)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"tests:{ROOT}"}
    done = subprocess.run(
        [*words, str(batch), str(accumulation)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, tiny_bert: Path) -> dict[str, dict]:
    """The same runs three ways."""
    ways = {"8x1": (8, 1, 1), "4x2": (4, 2, 1), "two processes": (4, 1, 2)}
    return {way: job(tmp_path_factory.mktemp("cut"), tiny_gpt2, tiny_bert, *numbers) for way, numbers in ways.items()}


@pytest.mark.parametrize("way", ["4x2", "two processes"])
@pytest.mark.parametrize("task", ["causal-packed", "causal", "masked", "reviews"])
def test_a_batch_is_one_batch_however_it_is_cut(cuts: dict, way: str, task: str) -> None:
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


def test_losses_are_those_of_a_bare_loop(causal_recipe) -> None:
    """The whole chain against torch alone: forward, mean over predicted tokens, clip, AdamW, linear decay."""
    recipe = causal_recipe(packing=False, training={"num_train_epochs": 2, "per_device_train_batch_size": 8})
    trainer = build_trainer(recipe)
    model = trainer.model
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    trainer.train()
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    sampler = trainer.get_train_dataloader().batch_sampler
    total, losses = len(sampler) * 2, []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for keys in sampler:
            rows = [trainer.train_dataset[position]["input_ids"] for position, _, _ in keys]
            nll, count = torch.zeros(()), 0
            for ids in rows:  # one document at a time: no padding, no mask
                ids = torch.tensor([ids])
                logits = model(ids, use_cache=False).logits
                nll = nll + F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
                count += ids.shape[1] - 1
            loss = nll / count
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - len(losses) / total)
            optimizer.step()
            losses.append(loss.item())
    assert logged[0] == pytest.approx(losses[0], abs=1e-6)
    assert logged == pytest.approx(losses, abs=1e-4)


def test_classification_losses_are_those_of_a_bare_loop(review_recipe) -> None:
    trainer = build_trainer(
        review_recipe(training={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2})
    )
    model = trainer.model
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    trainer.train()
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    model.load_state_dict(weights)
    model.eval()
    sampler, first = trainer.get_train_dataloader().batch_sampler, []
    sampler.set_epoch(0)
    for keys in list(sampler)[:2]:
        for position, _, _ in keys:
            row = trainer.train_dataset[position]
            logits = model(torch.tensor([row["input_ids"]])).logits
            first.append(-logits.log_softmax(-1)[0, row["label"]].item())
    assert logged[0] == pytest.approx(sum(first) / len(first), abs=1e-6)


def test_packed_tokens_cost_what_they_cost_alone(causal_recipe) -> None:
    packed, alone = (build_trainer(causal_recipe(packing=p, output=str(p))) for p in (True, False))
    assert packed.layout == "positions" and alone.layout == "padded"
    assert len(packed.features["validation"]) < len(alone.features["validation"])
    together, apart = packed.evaluate(), alone.evaluate()
    assert together["eval_loss"] == pytest.approx(apart["eval_loss"], abs=1e-5)


def test_packed_encoder_tokens_see_their_own_document_alone(causal_recipe, tiny_bert: Path) -> None:
    recipe = dataclasses.replace(causal_recipe(model=ModelConfig(name=str(tiny_bert)), max_length=64), task=MaskedLM())
    trainer = build_trainer(recipe)
    assert trainer.layout == "blocks"
    features = [next(row for row in trainer.train_dataset if len(row["segments"]) > 1)]
    segments = features[0]["segments"]
    from llmkit.data import collation

    together = collation.tokens(features, 0, "blocks", causal=False)
    logits = trainer.model.eval()(**together).logits[0]
    ids, start = features[0]["input_ids"], 0
    for length in segments:
        alone = trainer.model(torch.tensor([ids[start : start + length]])).logits[0]
        assert torch.allclose(logits[start : start + length], alone, atol=1e-5)
        start += length


@pytest.mark.parametrize("kind", ["packed", "grouped", "masked"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, causal_recipe, review_recipe, tiny_gpt2, tiny_bert) -> None:
    """Dropout on, stopped in the middle of the second epoch, with accumulation."""
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 5,
    }
    dropout = {"gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1}, "bert": {"hidden_dropout_prob": 0.1}}

    def recipe(output: str, **run_fields):
        if kind == "packed":
            return causal_recipe(output, ModelConfig(name=str(tiny_gpt2), config=dropout["gpt2"]), run_fields, settings)
        if kind == "grouped":
            model = ModelConfig(name=str(tiny_bert), config=dropout["bert"])
            return review_recipe(output, model, run_fields, {**settings, "train_sampling_strategy": "group_by_length"})
        made = causal_recipe(output, ModelConfig(name=str(tiny_bert), config=dropout["bert"]), run_fields, settings)
        return dataclasses.replace(made, task=MaskedLM())

    whole = build_trainer(recipe("whole"))
    whole.train()
    stopped = build_trainer(recipe("parted"))
    stopped.add_callback(StopAt(stopped, 5))
    with pytest.raises(Interrupted):
        from llmkit.reporting import files

        files.begin(stopped)
        stopped.train()
    resumed = run(recipe("parted", resume=True))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
    losses = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in (whole, resumed.trainer)]
    assert losses[0] == losses[1]


class Interrupted(Exception):
    pass


from transformers import TrainerCallback  # noqa: E402


class StopAt(TrainerCallback):
    """Fall over right after the checkpoint of a step."""

    def __init__(self, trainer, step: int):
        self.step = step

    def on_save(self, args, state, control, **_) -> None:
        if state.global_step == self.step:
            raise Interrupted


def test_perplexity_is_that_of_all_tokens_whatever_the_batch(causal_recipe) -> None:
    found = []
    for batch in (1, 3, 8):
        trainer = build_trainer(causal_recipe(training={"per_device_eval_batch_size": batch}, packing=False))
        found.append(trainer.evaluate()["eval_perplexity"])
    nll = count = 0
    model = trainer.model.eval()
    for row in trainer.features["validation"]:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            nll += F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    assert found == pytest.approx([math.exp(nll / count)] * 3, rel=1e-5)


def test_two_processes_that_became_one_each_are_refused(tmp_path: Path) -> None:
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "llmkit",
        "train",
        "finetune_gpt2",
        "--training.use_cpu",
        "false",
    ]
    if torch.accelerator.is_available():
        pytest.skip("with an accelerator each process gets a device of its own")
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("2 processes were launched, but each sees 1") == 1
    assert not (tmp_path / "runs").exists()


def test_an_accelerate_that_lost_a_process_is_refused(tmp_path: Path) -> None:
    asked = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = [sys.executable, *asked, str(ROOT / "recipes" / "finetune_gpt2.py")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "--num_processes 2 was asked of accelerate, which launched one process; on CPUs: torchrun" in done.stderr


def test_every_document_ends_with_a_trained_eos(causal_recipe) -> None:
    trainer = build_trainer(causal_recipe(packing=False, max_length=64))
    eos = trainer.processing_class.eos_token_id
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] == eos).sum() == len(batch["labels"])
    assert len(TEXTS) == sum(len(r) for r in trainer.rows.values())
