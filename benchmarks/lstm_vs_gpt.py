"""An LSTM and a GPT-2 of equal size, trained on the same characters of tinyshakespeare; and their cost per token.

    python benchmarks/lstm_vs_gpt.py --data input.txt            # both trainings, and generation
    python benchmarks/lstm_vs_gpt.py --data input.txt --quick    # 20 steps of both, as a smoke test

`input.txt` is tinyshakespeare, 1,115,394 characters (karpathy/char-rnn, data/tinyshakespeare). The models train on the
first 90 % and are evaluated on the whole last 10 %. Both are trained by llmkit on the same rows in the same order; the
width of the LSTM is chosen to give it as many parameters as the GPT, which is nanoGPT's for CPUs. Times are processor
seconds, on which other jobs have less effect; on one thread of an idle machine they equal wall time.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.generation.streamers import BaseStreamer

import llmkit.models  # registers the LSTM with transformers
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.tasks import CausalLM

ROW = 65  # characters: 64 predictions, the last of them from 64 characters
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
RATES = (3e-3, 6e-3)  # each model is trained with both; 1e-3 was worse for either
STEPS = 1307  # one epoch
WINDOWS = ((1, 50), (450, 500), (950, 1000), (1950, 2000))


class StepClock(TrainerCallback):
    """Sums the processor seconds of the training steps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.process_time() - self.started


def num_parameters(name: str, vocab_size: int, **config: Any) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=vocab_size, **config))
    return model.num_parameters()


def equal_width(vocab_size: int) -> int:
    """Return the hidden size with which the LSTM has closest to as many parameters as the GPT."""
    target = num_parameters("gpt2", vocab_size, **GPT, n_positions=ROW)
    sizes = range(64, 512, 2)
    return min(sizes, key=lambda size: abs(num_parameters("lstm", vocab_size, **LSTM, hidden_size=size) - target))


def train(name: str, data: Path, steps: int, rate: float, folder: Path) -> dict[str, Any]:
    """Train one model; return its held-out loss, number of parameters, seconds and characters."""
    text = data.read_text(encoding="utf-8")
    at = int(len(text) * 0.9)
    for part, content in (("train.txt", text[:at]), ("validation.txt", text[at:])):
        (folder / part).write_text(content, encoding="utf-8")
    vocab_size = len(set(text[:at])) + 2
    config = {**GPT, "n_positions": ROW} if name == "gpt2" else {**LSTM, "hidden_size": equal_width(vocab_size)}
    recipe = Recipe(
        task=CausalLM(),
        model=ModelConfig(name=name, from_scratch=True, config=config, tokenizer="char"),
        data=DataConfig(str(folder / "train.txt"), str(folder / "validation.txt"), max_length=ROW, packing=False),
        training={**SETTINGS, "max_steps": steps, "learning_rate": rate},
        run=RunConfig(output=str(folder / f"{name}-{rate}")),
    )
    trainer = llmkit.build_trainer(recipe)
    clock = StepClock()
    trainer.add_callback(clock)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    characters = steps * SETTINGS["per_device_train_batch_size"] * (ROW - 1)
    model = trainer.model
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "hidden": model.config.hidden_size,
        "rate": rate,
        "loss": loss,
        "seconds": clock.seconds,
        "characters": characters,
        "stateful_loss": stateful_loss(model, trainer.processing_class, text[at:]) if name == "lstm" else None,
    }


def stateful_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """Return the loss per character, in nats, with the state carried through the whole text."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    model.eval()
    state, loss = None, 0.0
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, 1000):
            chunk = ids[:, start : start + 1001]
            outputs = model(chunk[:, :-1], state=state, use_cache=True)
            state = outputs.state
            loss += F.cross_entropy(outputs.logits[0], chunk[0, 1:], reduction="sum").item()
    return loss / (ids.shape[1] - 1)


class TokenTimes(BaseStreamer):
    """Records the processor time at every token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.process_time())

    def end(self) -> None:
        pass


def token_costs(name: str, length: int, use_cache: bool) -> list[str]:
    """Return the median milliseconds per token in each of WINDOWS, for a model with random weights."""
    config = {**GPT, "n_positions": 2048} if name == "gpt2" else {**LSTM, "hidden_size": equal_width(67)}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=67, **config)).eval()
    model.generation_config.eos_token_id = None
    streamer, options = TokenTimes(), {"do_sample": False, "pad_token_id": 0, "max_new_tokens": length}
    model.generate(torch.tensor([[5]]), use_cache=use_cache, streamer=streamer, **options)
    times = [streamer.times[a : b + 1] if b < len(streamer.times) else [] for a, b in WINDOWS]
    return [f"{median(y - x for x, y in pairwise(window)) * 1000:.2f}" if window else "" for window in times]


def training_table(results: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| model | parameters | learning rate | validation loss | characters per second |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        name, speed = f"{r['name']}, {r['hidden']} wide", r["characters"] / r["seconds"]
        lines.append(f"| {name} | {r['parameters']:,} | {r['rate']:g} | {r['loss']:.4f} | {speed:,.0f} |")
        if r["stateful_loss"] is not None:
            lines.append(f"| the same, state carried over | | | {r['stateful_loss']:.4f} | |")
    rows = f"{SETTINGS['per_device_train_batch_size']} rows with {ROW - 1} predicted characters"
    note = f"{steps:,} steps of {rows}, {results[0]['characters']:,} in all; loss in nats per character; fp32, "
    return "\n".join([*lines, "", f"{note}{torch.get_num_threads()} thread(s)."])


def generation_table(quick: bool) -> str:
    full, short = (60, 60) if quick else (2001, 1001)
    rows = {
        "lstm, with its state": token_costs("lstm", full, True),
        "lstm, without (reads all tokens again)": token_costs("lstm", short, False),
        "gpt2, with a key-value cache": token_costs("gpt2", full, True),
        "gpt2, without (reads all tokens again)": token_costs("gpt2", short, False),
    }
    head = " | ".join(f"tokens {a:,} to {b:,}" for a, b in WINDOWS)
    lines = [f"| milliseconds per token | {head} |", "|---" * (len(WINDOWS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="input.txt of tinyshakespeare")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--quick", action="store_true", help="20 steps of both models")
    args = parser.parse_args()
    steps = 20 if args.quick else args.steps
    with tempfile.TemporaryDirectory() as folder:
        runs = itertools.product(("gpt2", "lstm"), args.rates)
        results = [train(name, args.data, steps, rate, Path(folder)) for name, rate in runs]
    print(training_table(results, steps), generation_table(args.quick), sep="\n\n")


if __name__ == "__main__":
    main()
