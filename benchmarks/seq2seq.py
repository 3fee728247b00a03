"""llmkit compared with `transformers.Seq2SeqTrainer` on translation and summarization: first losses and final scores.

    python benchmarks/seq2seq.py --tatoeba cmn.txt.gz --scitldr DIR            # DIR: train.jsonl[.gz] dev.jsonl test.jsonl
    python benchmarks/seq2seq.py --tatoeba cmn.txt.gz --scitldr DIR --quick    # a few steps of each run, as a smoke test

Both start from the same folder of random weights, made with transformers alone, and read the same rows. Prints two
tables:

1. the first losses, step by step, in fp32 without dropout, on the same rows in the same order;
2. the test score after a short training with the same settings, with the paired bootstrap interval of the difference.

Each run is a separate process started from the command line. The plain script is `parity/seq2seq_plain.py`.
Accumulation is 1, since the plain Trainer multiplies a Marian's loss by the number of accumulation steps. Texts are
generated from the saved folders, with the same function for both.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

from llmkit.data import sources
from llmkit.metrics import overlap
from llmkit.models.tokenizers import train_tokenizer
from llmkit.recipe import DataConfig

PLAIN = Path(__file__).parent / "parity" / "seq2seq_plain.py"
SHAPE = {
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "scale_embedding": True,
}
CASES = {  # metric, maximum length of source and of target in tokens, vocabulary size, training rows, steps
    "translation": ("bleu", 40, 30, 3000, 8000, 500),
    "summarization": ("rougeL", 128, 30, 3000, 1992, 300),
}
SETTINGS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "bf16": "false",
    "logging_steps": 1,
    "seed": 0,
}
FIRST = {"max_steps": 20, "train_sampling_strategy": "sequential"}


def tatoeba(path: Path, count: int) -> dict[str, list[dict[str, str]]]:
    """Return pairs with distinct English sentences, so that none is in two parts."""
    pairs: dict[str, str] = {}
    for _, row in sources.find(str(path), "train", DataConfig(names=("en", "zh", "attribution")))[0].rows():
        pairs.setdefault(row["en"], row["zh"])
    rows = [{"source": en, "target": zh} for en, zh in pairs.items()]
    random.Random(0).shuffle(rows)
    return {"test": rows[:500], "validation": rows[500:600], "train": rows[600 : 600 + count]}


def scitldr(folder: Path, count: int) -> dict[str, list[dict[str, str]]]:
    """Return abstracts with the first of their summaries, the reference for both."""

    def read(name: str) -> list[dict[str, str]]:
        (file,) = folder.glob(f"{name}.jsonl*")
        rows = (row for _, row in sources.find(str(file), "train")[0].rows())
        return [{"source": " ".join(s.strip() for s in r["source"]), "target": r["target"][0].strip()} for r in rows]

    return {"test": read("test")[:300], "validation": read("dev")[:100], "train": read("train")[:count]}


def save_start(rows: list[dict[str, str]], vocab_size: int, dropout: float, folder: Path) -> Path:
    """Save a Marian with random weights, and a tokenizer trained on these rows, for both to start from."""
    tokenizer = train_tokenizer("bpe", vocab_size, (text for row in rows for text in row.values()), "t5")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    ids["decoder_start_token_id"] = tokenizer.pad_token_id
    torch.manual_seed(0)
    MarianMTModel(MarianConfig(vocab_size=len(tokenizer), dropout=dropout, **SHAPE, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_llmkit(case: str, start: Path, files: dict[str, Path], settings: dict[str, Any], folder: Path) -> list[float]:
    metric, length, answer, *_ = CASES[case]
    command = [sys.executable, "-m", "llmkit", "train", "seq2seq", "--model", start, "--output", folder]
    command += [w for p, f in files.items() for w in (f"--data.{p}", f)] + ["--data.max_length", length]
    command += ["--task.metric", metric, "--task.generation.max_new_tokens", answer]
    run([*command, *(w for k, v in settings.items() for w in (f"--training.{k}", v))])
    logs = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [log["loss"] for log in logs if "loss" in log]


def by_trainer(case: str, start: Path, files: dict[str, Path], settings: dict[str, Any], folder: Path) -> list[float]:
    metric, length, answer, *_ = CASES[case]
    command = [sys.executable, PLAIN, "--model_name_or_path", start, "--output_dir", folder, "--metric", metric]
    command += [w for p, f in files.items() for w in (f"--{p}_file", f)] + ["--max_length", length]
    own = {
        "predict_with_generate": "true",
        "generation_max_length": answer + 1,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    run([*command, *(w for k, v in (own | settings).items() for w in (f"--{k}", v))])
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["losses"]


def run(command: list) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def counts(case: str, folder: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """Return what the score of a saved folder needs of each row; greedy search, with transformers alone."""
    metric, length, answer, *_ = CASES[case]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers: list[str] = []
    for start in range(0, len(rows), 32):
        texts = [row["source"] for row in rows[start : start + 32]]
        batch = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=answer, max_length=None)
        answers += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    targets = [[row["target"]] for row in rows]
    return overlap.count(metric, overlap.default_tokenizer([t[0] for t in targets], metric), answers, targets)


def paired_interval(case: str, a: np.ndarray, b: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of score(a) - score(b), with the same resampled rows in both."""
    generator = np.random.default_rng(0)
    samples = (generator.integers(0, len(a), len(a)) for _ in range(resamples))
    return tuple(np.percentile([score(case, a[i]) - score(case, b[i]) for i in samples], [2.5, 97.5]).tolist())


def score(case: str, counts: np.ndarray) -> float:
    return overlap.scores(CASES[case][0], counts)[CASES[case][0]]


def compare(case: str, parts: dict[str, list[dict[str, str]]], quick: bool, folder: Path) -> tuple[str, str]:
    """Return a line for each of the two tables."""
    metric, _, _, vocab_size, _, steps = CASES[case]
    files = {part: folder / f"{part}.jsonl" for part in parts}
    for part, file in files.items():
        file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in parts[part]), encoding="utf-8")
    columns, first, stats = {"llmkit": by_llmkit, "plain": by_trainer}, {}, {}
    settings = SETTINGS | FIRST | ({"max_steps": 3} if quick else {})
    small = files | {"test": folder / "small.jsonl"}
    small["test"].write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in parts["test"][:32]))
    no_dropout = save_start(parts["train"], vocab_size, 0.0, folder / "no-dropout")
    for name, column in columns.items():
        first[name] = column(case, no_dropout, small, settings, folder / f"first-{name}")
    differences = [abs(a - b) for a, b in zip(*first.values(), strict=True)]
    losses = " | ".join(f"{a:.6f} / {b:.6f}" for a, b in [(first["llmkit"][i], first["plain"][i]) for i in (0, -1)])
    start = save_start(parts["train"], vocab_size, 0.1, folder / "start")
    for name, column in columns.items():
        column(case, start, files, SETTINGS | {"max_steps": 3 if quick else steps}, folder / name)
        stats[name] = counts(case, folder / name, parts["test"])
    low, high = paired_interval(case, stats["llmkit"], stats["plain"])
    a, b = (score(case, stats[name]) for name in columns)
    return (
        f"| {case} | {len(differences)} | {losses} | **{max(differences):.1e}** |",
        f"| {case} | {metric} | {len(parts['test'])} | {a:.4f} | {b:.4f} | {a - b:+.4f} [{low:+.4f}, {high:+.4f}] |",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tatoeba", type=Path, help="cmn.txt.gz of Tatoeba")
    parser.add_argument("--scitldr", type=Path, help="Folder with train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument("--quick", action="store_true", help="A few steps on a few rows")
    args = parser.parse_args()
    data = {"translation": (tatoeba, args.tatoeba), "summarization": (scitldr, args.scitldr)}
    lines = []
    for case, (read, path) in data.items():
        if path:
            parts = read(path, CASES[case][4])
            parts = {part: rows[:64] for part, rows in parts.items()} if args.quick else parts
            with tempfile.TemporaryDirectory() as folder:
                lines.append(compare(case, parts, args.quick, Path(folder)))
    print("| | steps | first loss, llmkit / plain | last loss | largest difference |\n|---|---|---|---|---|")
    print("\n".join(first for first, _ in lines))
    print("\n| | metric | test rows | llmkit | plain | difference, 95 % paired interval |\n|---|---|---|---|---|---|")
    print("\n".join(second for _, second in lines))


if __name__ == "__main__":
    main()
