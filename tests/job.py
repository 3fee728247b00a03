"""The runs of test_invariants.py, in one process or under a launcher: `job.py OUT FOLDER GPT2 BERT BATCH ACCUMULATION`.

Trains three tasks in fp32 and writes every logged loss and gradient norm, and the final metrics, to OUT as JSON (rank 0).
"""

import json
import os
import sys
from pathlib import Path

from conftest import EXACT, REVIEWS, TEXTS

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, run
from llmkit.tasks import CausalLM, MaskedLM, TextClassification


def recipes(folder: str, gpt2: str, bert: str, batch: int, accumulation: int) -> dict[str, Recipe]:
    """27 rows of text and 31 reviews: neither a multiple of any batch, so that the last one is incomplete."""
    training = {
        **EXACT, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "num_train_epochs": 2,
        "learning_rate": 1e-3, "eval_strategy": "epoch", "save_strategy": "no", "load_best_model_at_end": False,
        "per_device_eval_batch_size": batch,
    }  # fmt: skip
    texts = DataConfig(
        train=[{"text": t} for t in TEXTS[:27]], validation=[{"text": t} for t in TEXTS[1:6]], max_length=32
    )
    reviews = DataConfig(train=REVIEWS[:31], validation=REVIEWS[::3], max_length=32)
    grouped = {**training, "train_sampling_strategy": "group_by_length"}
    return {
        "causal-packed": Recipe(CausalLM(), ModelConfig(name=gpt2), texts, training, RunConfig(output=f"{folder}/a")),
        "causal": Recipe(CausalLM(), ModelConfig(name=gpt2), DataConfig(**{**texts.__dict__, "packing": False}), training, RunConfig(output=f"{folder}/b")),
        "masked": Recipe(MaskedLM(), ModelConfig(name=bert), DataConfig(**{**texts.__dict__, "packing": False}), training, RunConfig(output=f"{folder}/c")),
        "reviews": Recipe(TextClassification(), ModelConfig(name=bert), reviews, grouped, RunConfig(output=f"{folder}/d")),
    }  # fmt: skip


def main(out: str, folder: str, gpt2: str, bert: str, batch: int, accumulation: int) -> None:
    results = {}
    for name, recipe in recipes(folder, gpt2, bert, batch, accumulation).items():
        result = run(recipe)
        logs = result.trainer.state.log_history
        results[name] = {
            "losses": [log["loss"] for log in logs if "loss" in log],
            "norms": [log["grad_norm"] for log in logs if "grad_norm" in log],
            "before": result.metrics["before"],
            "after": result.metrics["after"],
            "processes": result.trainer.args.world_size,
        }
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))
