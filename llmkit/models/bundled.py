"""What comes with llmkit, or with every CPython: texts by name and split, and two tiny models."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import sysconfig
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "bundled"
TEXTS = {  # name: its splits
    "demo": ("train",),
    "fables": ("train", "validation", "test"),
    "reviews": ("train", "validation", "test"),
}
MODELS = ("tiny-gpt2", "tiny-bert")


@functools.cache
def read_text(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of a bundled text. KeyError where it has no such split."""
    if split not in TEXTS[name]:
        raise KeyError(split)
    if name == "demo":
        return read_demo()
    lines = (FOLDER / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def model_folder(name: str) -> Path | None:
    """The folder of a bundled model, or None for any other name."""
    return FOLDER / name if name in MODELS else None


def read_demo() -> list[dict[str, str]]:
    """`pydoc_data.topics` and the standard library's docstrings: about 2 MB of English prose on every machine.

    Read as source by `ast`: nothing is imported, nothing run. Differs a little between Python versions.
    """
    from llmkit.console import say

    texts = _topics() + _docstrings()
    if not texts:
        say("demo: this Python carries neither pydoc topics nor library sources; a few fables stand in", "warning")
        texts = [row["text"] for row in read_text("fables", "train")]
    return [{"text": text} for text in dict.fromkeys(texts)]


def _topics() -> list[str]:
    from llmkit.console import say

    spec = importlib.util.find_spec("pydoc_data")
    path = Path(next(iter(spec.submodule_search_locations))) / "topics.py" if spec else None
    if path is None or not path.exists():
        say("demo: pydoc_data.topics is missing in this Python; docstrings alone are read", "warning")
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    topics = next(n.value for n in ast.walk(tree) if isinstance(n, ast.Assign))
    return [text.strip() for text in ast.literal_eval(topics).values()]


def _docstrings() -> list[str]:
    library = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library).parts
        if {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"} & set(inside):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # lib2to3 and the like keep files that are no Python 3
            continue
        nodes = (
            n
            for n in ast.walk(tree)
            if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        )
        found += [doc for node in nodes if (doc := ast.get_docstring(node)) and len(doc) >= 40]
    if not found:
        from llmkit.console import say

        say("demo: the standard library's sources are missing in this Python; topics alone are read", "warning")
    return found
