"""An LSTM and a GPT-2 of equal size, trained on equal characters of tinyshakespeare; and what a token costs each to say.

    python benchmarks/lstm_vs_gpt.py --data input.txt            # both trainings, and the generation
    python benchmarks/lstm_vs_gpt.py --data input.txt --quick    # 20 steps of both: does it run?

`input.txt` is tinyshakespeare, 1,115,394 characters (karpathy/char-rnn, data/tinyshakespeare). The first 90 % train, the
last 10 % are measured whole. Both models go through `llmkit.run` with the same rows in the same order; the LSTM is made as
wide as the GPT's parameters allow. The GPT is nanoGPT's for CPUs. Times are processor seconds, which neighbours on the
machine disturb less; on one thread and a quiet machine they are those of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from transformers.generation.streamers import BaseStreamer

import llmkit.models  # makes the LSTM known to transformers
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.tasks import CausalLM

ROW = 65  # characters: 64 predictions, the last of which sees 64 characters
SETTINGS = {
    "per_device_train_batch_size": 12,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-4},
    "warmup_steps": 100,
    "adam_beta2": 0.99,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "bf16": False,
    "eval_strategy": "no",
    "seed": 0,
}
GPT = {"n_layer": 4, "n_head": 4, "n_embd": 128, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LSTM = {"num_hidden_layers": 2, "embedding_size": 128}
RATES = (3e-3, 6e-3)  # both for both, since one rate might suit one of them; 1e-3 was worse for either
STEPS = 1307  # the training part once
WINDOWS = ((1, 50), (450, 500), (950, 1000), (1950, 2000))


class Clock(TrainerCallback):
    """Processor seconds within the steps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.process_time() - self.began


def parameters(name: str, vocabulary: int, **config: Any) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=vocabulary, **config))
    return model.num_parameters()


def equal_width(vocabulary: int) -> int:
    """The LSTM's hidden size whose parameters come nearest to the GPT's."""
    target = parameters("gpt2", vocabulary, **GPT, n_positions=ROW)
    sizes = range(64, 512, 2)
    return min(sizes, key=lambda h: abs(parameters("lstm", vocabulary, **LSTM, hidden_size=h) - target))


def trained(name: str, data: Path, steps: int, rate: float, folder: Path) -> dict[str, Any]:
    """One run: loss on the held-out part, parameters, characters a second."""
    text = data.read_text(encoding="utf-8")
    at = int(len(text) * 0.9)
    for part, content in (("train.txt", text[:at]), ("validation.txt", text[at:])):
        (folder / part).write_text(content, encoding="utf-8")
    vocabulary = len(set(text[:at])) + 2
    config = {**GPT, "n_positions": ROW} if name == "gpt2" else {**LSTM, "hidden_size": equal_width(vocabulary)}
    recipe = Recipe(
        task=CausalLM(),
        model=ModelConfig(name=name, from_scratch=True, config=config, tokenizer="char"),
        data=DataConfig(str(folder / "train.txt"), str(folder / "validation.txt"), max_length=ROW, packing=False),
        training={**SETTINGS, "max_steps": steps, "learning_rate": rate},
        run=RunConfig(output=str(folder / f"{name}-{rate}")),
    )
    trainer = llmkit.build_trainer(recipe)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    seen = steps * SETTINGS["per_device_train_batch_size"] * (ROW - 1)
    model = trainer.model
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "hidden": model.config.hidden_size,
        "rate": rate,
        "loss": loss,
        "seconds": clock.seconds,
        "characters": seen,
        "unbroken": unbroken(model, trainer.processing_class, text[at:]) if name == "lstm" else None,
    }


def unbroken(model: Any, tokenizer: Any, text: str) -> float:
    """Nats a character of the whole text read on from one state, which no row cuts."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    model.eval()
    state, nats = None, 0.0
    with torch.no_grad():
        for at in range(0, ids.shape[1] - 1, 1000):
            piece = ids[:, at : at + 1001]
            out = model(piece[:, :-1], state=state, use_cache=True)
            state = out.state
            nats += torch.nn.functional.cross_entropy(out.logits[0], piece[0, 1:], reduction="sum").item()
    return nats / (ids.shape[1] - 1)


class Stamps(BaseStreamer):
    """Processor time at every token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.process_time())

    def end(self) -> None:
        pass


def costs(name: str, length: int, use_cache: bool) -> list[str]:
    """Median milliseconds a token within each of WINDOWS, of a model with random weights: what it says does not matter here."""
    config = {**GPT, "n_positions": 2048} if name == "gpt2" else {**LSTM, "hidden_size": equal_width(67)}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=67, **config)).eval()
    model.generation_config.eos_token_id = None
    stamps = Stamps()
    model.generate(
        torch.tensor([[5]]),
        max_new_tokens=length,
        use_cache=use_cache,
        do_sample=False,
        pad_token_id=0,
        streamer=stamps,
    )
    at = stamps.times
    return [
        f"{median(y - x for x, y in pairwise(at[a : b + 1])) * 1000:.2f}" if b < len(at) else "" for a, b in WINDOWS
    ]


def training_table(results: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| model | parameters | learning rate | validation loss | characters a second |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        name, speed = f"{r['name']}, {r['hidden']} wide", r["characters"] / r["seconds"]
        lines.append(f"| {name} | {r['parameters']:,} | {r['rate']:g} | {r['loss']:.4f} | {speed:,.0f} |")
        if r["unbroken"] is not None:
            lines.append(f"| the same, reading on from one state | | | {r['unbroken']:.4f} | |")
    seen = results[0]["characters"]
    note = f"{steps:,} steps of {SETTINGS['per_device_train_batch_size']} rows of {ROW - 1} predicted characters: {seen:,} of each; nats a character; fp32, {torch.get_num_threads()} thread(s)."
    return "\n".join([*lines, "", note])


def generation_table(quick: bool) -> str:
    full, short = (60, 60) if quick else (2001, 1001)
    rows = {
        "lstm, from its state": costs("lstm", full, True),
        "lstm, reading all again": costs("lstm", short, False),
        "gpt2, with keys and values kept": costs("gpt2", full, True),
        "gpt2, reading all again": costs("gpt2", short, False),
    }
    head = " | ".join(f"tokens {a:,} to {b:,}" for a, b in WINDOWS)
    lines = [f"| milliseconds a token | {head} |", "|---" * (len(WINDOWS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(found)} |" for name, found in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="tinyshakespeare's input.txt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--quick", action="store_true", help="20 steps of both")
    args = parser.parse_args()
    steps = 20 if args.quick else args.steps
    with tempfile.TemporaryDirectory() as folder:
        results = [
            trained(name, args.data, steps, rate, Path(folder)) for name in ("gpt2", "lstm") for rate in args.rates
        ]
    print(training_table(results, steps), generation_table(args.quick), sep="\n\n")


if __name__ == "__main__":
    main()
