"""The texts that are always available: .jsonl files in llmkit's `bundled` folder, and texts that come with Python."""

import functools
import json
from typing import Any

from llmkit.data.python_docs import demo, descriptions, literals, preferences, split_of, summaries
from llmkit.hub import BUNDLED

SPLITS = ("train", "validation", "test")
FOLDERS = ("fables", "reviews", "questions", "phrases", "roles", "chats")
"""Texts in the `bundled` folder, one .jsonl file per split."""
FROM_PYTHON = {f.__name__: f for f in (summaries, descriptions, preferences, literals)}
"""Texts made from the documentation of this Python."""
TEXTS: dict[str, tuple[str, ...]] = {"demo": ("train",), **dict.fromkeys((*FOLDERS, *FROM_PYTHON), SPLITS)}
"""The name of each text, and its splits."""


@functools.cache
def read_rows(name: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split of a bundled text. Raises KeyError if the text has no such split."""
    if split not in TEXTS[name]:
        raise KeyError(split)
    if name == "demo":
        return demo()
    if name in FROM_PYTHON:
        return split_of(FROM_PYTHON[name](), split)
    lines = (BUNDLED / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
