"""nanoGPT's CPU example on tinyshakespeare: a small GPT-2 of characters, trained by llmkit and by a plain PyTorch loop.

    python benchmarks/shakespeare_characters.py --data input.txt            # 3 seeds of both
    python benchmarks/shakespeare_characters.py --data input.txt --quick    # 120 steps of one seed, as a smoke test

`input.txt` is tinyshakespeare, 1,115,394 characters (karpathy/char-rnn, data/tinyshakespeare). Both train on the first
90 % and are evaluated on the whole last 10 %, with the same settings (`SETTINGS`), the same rows in the same order,
fp32 and the same initial weights, so that their losses can be compared step by step. The plain loop imports nothing of
llmkit. Each run is a separate process; the two run in turns (A B, B A, …) to even out the load of the machine.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, set_seed

NANOGPT = 1.88  # validation loss in nanoGPT's README for its command line for CPUs
ROW = 65  # characters: 64 predictions, the last of them from 64 characters, as with nanoGPT's `block_size=64`
MODEL = {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "n_positions": ROW,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
SETTINGS = {
    "per_device_train_batch_size": 12,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-4},
    "warmup_steps": 100,
    "adam_beta2": 0.99,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "bf16": False,  # as in the plain loop; llmkit turns it on if the CPU supports it
}


def by_llmkit(data: Path, steps: int, seed: int, folder: Path) -> dict:
    """Train with `llmkit.run`."""
    from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, run  # not at the top: the plain loop does without
    from llmkit.tasks import CausalLM

    train, held_out = split(data)
    for name, text in (("train.txt", train), ("validation.txt", held_out)):
        (folder / name).write_text(text, encoding="utf-8")
    recipe = Recipe(
        task=CausalLM(),
        model=ModelConfig(name="gpt2", from_scratch=True, config=MODEL, tokenizer="char"),
        data=DataConfig(train=str(folder / "train.txt"), validation=str(folder / "validation.txt"), max_length=ROW),
        training={**SETTINGS, "max_steps": steps, "seed": seed, "eval_strategy": "no", "logging_steps": 1},
        run=RunConfig(output=str(folder / "run")),
    )
    result = run(recipe)
    logs = result.trainer.state.log_history
    untrained = next(log["eval_runtime"] for log in logs if "eval_runtime" in log)
    ids = [result.tokenizer.get_vocab()[c] for c in held_out]
    return {
        "loss": validation_loss(result.model, ids),
        "own": result.metrics["after"]["loss"],
        "losses": [log["loss"] for log in logs if "loss" in log],
        "seconds": next(log["train_runtime"] for log in logs if "train_runtime" in log) - untrained,
    }


def by_loop(data: Path, steps: int, seed: int, folder: Path) -> dict:
    """Train with a plain PyTorch loop and the model of transformers."""
    train, held_out = split(data)
    counts = collections.Counter(train)
    # end of text, unknown character, then the characters by frequency: the order decides which initial weights a
    # character gets, so it must be that of llmkit for the losses to be comparable
    ids = {c: i for i, c in enumerate(["<end>", "<unknown>", *sorted(counts, key=lambda c: (-counts[c], c))])}
    stream = torch.tensor([ids[c] for c in train] + [ids["<end>"]])
    # a row starts with the last character of the previous one, so that every character but the first is predicted once
    rows = [stream[i : i + ROW] for i in range(0, len(stream) - 1, ROW - 1)]

    set_seed(seed)
    end = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(ids), **MODEL, **end))
    model.train()
    size, peak = SETTINGS["per_device_train_batch_size"], SETTINGS["learning_rate"]
    warmup, low = SETTINGS["warmup_steps"], SETTINGS["lr_scheduler_kwargs"]["min_lr"]
    # matrices decay, vectors (biases, layer norms) do not
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, SETTINGS["adam_beta2"]), fused=True)

    losses: list[float] = []
    started, epoch = time.perf_counter(), 0
    while len(losses) < steps:
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        for start in range(0, len(rows), size):
            if len(losses) == steps:
                break
            step = len(losses)
            rate = step / warmup if step < warmup else None
            if rate is None:
                cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
                rate = (low + cosine * (peak - low)) / peak
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            chosen = [rows[i] for i in order[start : start + size]]
            batch = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-100)
            targets = batch[:, 1:]
            logits = model(input_ids=batch.clamp(min=0)).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        epoch += 1
    seconds = time.perf_counter() - started
    return {"loss": validation_loss(model, [ids[c] for c in held_out]), "losses": losses, "seconds": seconds}


def split(data: Path) -> tuple[str, str]:
    """Return the first 90 % of the characters, and the rest."""
    text = data.read_text(encoding="utf-8")
    at = int(len(text) * 0.9)
    return text[:at], text[at:]


def validation_loss(model: PreTrainedModel, ids: list[int]) -> float:
    """Return the mean cross-entropy, in nats, of each character but the first, predicted from at most 64 characters."""
    stream = torch.tensor(ids)
    rows = [stream[i : i + ROW] for i in range(0, len(stream) - 1, ROW - 1)]
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows), 64):
        batch = torch.nn.utils.rnn.pad_sequence(rows[start : start + 64], batch_first=True, padding_value=-100)
        targets = batch[:, 1:]
        with torch.no_grad():
            logits = model(input_ids=batch.clamp(min=0)).logits[:, :-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum").item()
        count += int((targets != -100).sum())
    assert count == len(ids) - 1
    return total / count


COLUMNS = {"llmkit": by_llmkit, "plain": by_loop}


def run_in_process(column: str, data: Path, steps: int, seed: int) -> dict:
    command = [sys.executable, __file__, "--data", str(data), "--steps", str(steps), "--column", column]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "--seeds", str(seed)], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "cpu": cpu}


def table(results: dict[str, list[dict]], seeds: list[int], steps: int) -> str:
    ours, plain = results["llmkit"], results["plain"]
    lines = [
        "| seed | llmkit | plain loop | difference | largest difference of a step's loss, first 100 steps | "
        "llmkit s | plain s | ratio | processor s, whole process: llmkit | plain | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, a, b in zip(seeds, ours, plain, strict=True):
        largest = max(abs(x - y) for x, y in zip(a["losses"][:100], b["losses"][:100], strict=True))
        lines.append(
            f"| {seed} | {a['loss']:.4f} | {b['loss']:.4f} | {a['loss'] - b['loss']:+.4f} | {largest:.1e} | "
            f"{a['seconds']:.0f} | {b['seconds']:.0f} | {a['seconds'] / b['seconds']:.2f} | "
            f"{a['cpu']:.0f} | {b['cpu']:.0f} | {a['cpu'] / b['cpu']:.2f} |"
        )
    means = [statistics.mean(r[k] for r in c) for k in ("loss", "seconds", "cpu") for c in (ours, plain)]
    lines.append(
        f"| mean | **{means[0]:.4f}** | **{means[1]:.4f}** | {means[0] - means[1]:+.4f} | | "
        f"{means[2]:.0f} | {means[3]:.0f} | {means[2] / means[3]:.2f} | "
        f"{means[4]:.0f} | {means[5]:.0f} | {means[4] / means[5]:.2f} |"
    )
    lines.append(f"| nanoGPT's README | {NANOGPT} | | | | | | | | | |")
    lines += ["", f"Validation loss, nats per character, after {steps:,} steps. Both: {settings()}."]
    return "\n".join(lines)


def settings() -> str:
    s = SETTINGS
    return (
        f"GPT-2 with {MODEL['n_layer']} layers of {MODEL['n_embd']}, {MODEL['n_head']} heads, no dropout, tied "
        "embeddings; "
        f"rows of {ROW} characters ({ROW - 1} predictions; nanoGPT's `block_size` {ROW - 1}) cut one after another and "
        f"shuffled each epoch (nanoGPT draws windows at random); batch {s['per_device_train_batch_size']}; AdamW, "
        f"beta2 {s['adam_beta2']}, weight decay {s['weight_decay']} on matrices; learning rate {s['learning_rate']:g} "
        f"after {s['warmup_steps']} steps, cosine to {s['lr_scheduler_kwargs']['min_lr']:g}; gradients clipped at "
        f"{s['max_grad_norm']:g}; fp32. Seconds are those of the training steps; processor seconds are those of the "
        "whole process, and other jobs on the machine have less effect on them"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="input.txt of tinyshakespeare")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="120 steps of seed 0")
    parser.add_argument("--out", type=Path, help="File for every loss, as JSON")
    parser.add_argument("--column", choices=COLUMNS, help=argparse.SUPPRESS)  # for the separate processes
    args = parser.parse_args()
    if args.column:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(COLUMNS[args.column](args.data, args.steps, args.seeds[0], Path(folder))))
        return
    if args.quick:
        args.steps, args.seeds = 120, [0]
    results: dict[str, list[dict]] = {name: [] for name in COLUMNS}
    for turn, seed in enumerate(args.seeds):
        for name in list(COLUMNS)[:: 1 if turn % 2 == 0 else -1]:
            results[name].append(run_in_process(name, args.data, args.steps, seed))
    for a in results["llmkit"]:  # llmkit's own loss has one more prediction: the end of the text
        assert args.quick or abs(a["own"] - a["loss"]) < 1e-3, (a["own"], a["loss"])
    if args.out:
        args.out.write_text(json.dumps(results))
    print(table(results, args.seeds, args.steps))


if __name__ == "__main__":
    main()
