"""What comes with llmkit, or with every CPython: texts by name and split, and two tiny models."""

import functools
import json
from pathlib import Path
from typing import Any

from llmkit.models import cpython

FOLDER = Path(__file__).parent.parent / "bundled"
ALL = ("train", "validation", "test")
WRITTEN = ("fables", "reviews", "questions", "phrases", "roles", "chats")  # one folder of .jsonl each
READ = {f.__name__: f for f in (cpython.summaries, cpython.descriptions, cpython.preferences, cpython.literals)}
"""from this Python"""
TEXTS: dict[str, tuple[str, ...]] = {"demo": ("train",), **dict.fromkeys((*WRITTEN, *READ), ALL)}  # name: its splits
MODELS = ("tiny-gpt2", "tiny-bert")


@functools.cache
def read_text(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of a bundled text. KeyError where it has no such split."""
    if split not in TEXTS[name]:
        raise KeyError(split)
    if name in READ:
        return cpython.part_of(READ[name](), split)
    if name == "demo":
        return cpython.demo()
    lines = (FOLDER / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def model_folder(name: str) -> Path | None:
    """The folder of a bundled model, or None for any other name."""
    return FOLDER / name if name in MODELS else None
