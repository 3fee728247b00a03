"""A corpus that every CPython carries and nobody ships: `pydoc_data.topics` and the standard library's docstrings.

Read as source by `ast`: nothing is imported, nothing run. All of it differs a little between Python versions.
"""

import ast
import functools
import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmkit.console import say

PARTS = {"train": range(2, 10), "validation": (1,), "test": (0,)}  # tenths
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"}


@functools.cache
def topics() -> tuple[str, ...]:
    """The texts of `help("assert")` and its like; none, with a line that says so, where this Python has none."""
    spec = importlib.util.find_spec("pydoc_data")
    path = Path(next(iter(spec.submodule_search_locations))) / "topics.py" if spec else None
    if path is None or not path.exists():
        say("demo: pydoc_data.topics is missing in this Python; docstrings alone are read", "warning")
        return ()
    found = next(n.value for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.Assign))
    return tuple(text.strip() for text in ast.literal_eval(found).values())


@functools.cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """`(name, docstring)` of the standard library's modules, classes and functions."""
    library = Path(sysconfig.get_path("stdlib"))
    found = []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library).with_suffix("").parts
        if LEFT_OUT & set(inside[:-1]):
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        except (SyntaxError, UnicodeDecodeError):  # lib2to3 and the like keep files that are no Python 3
            continue
        for node in nodes:
            if isinstance(node, kinds) and len(doc := ast.get_docstring(node) or "") >= 40:
                found.append((getattr(node, "name", ".".join(inside)), doc))
    if not found:
        say("demo: the standard library's sources are missing in this Python; topics alone are read", "warning")
    return tuple(found)


def demo() -> list[dict[str, Any]]:
    """All of it as prose, about 2 MB of English, for pretraining: {text}."""
    return [{"text": text} for text in dict.fromkeys([*topics(), *(doc for _, doc in docstrings())])]


def _described() -> Iterator[tuple[str, str, str]]:
    """`(name, first line, body)` of docstrings that have a one-line summary and a body worth summarising."""
    seen = set()
    for name, doc in docstrings():
        first, _, rest = doc.partition("\n\n")
        summary, body = " ".join(first.split()), " ".join(rest.split())
        plain = summary.endswith(".") and 4 <= len(summary.split()) <= 20 and ">>>" not in rest
        if plain and 15 <= len(body.split()) <= 200 and summary not in seen and body not in seen:
            seen.update((summary, body))
            yield name, summary, body


def summaries() -> list[dict[str, Any]]:
    """A docstring's body, and its first line: {text, summary}."""
    return [{"text": body, "summary": summary} for _, summary, body in _described()]


def descriptions() -> list[dict[str, Any]]:
    """What a thing is called and does, and the text that describes it: {anchor, positive}."""
    return [{"anchor": f"{name}: {summary}", "positive": body} for name, summary, body in _described()]


def preferences() -> list[dict[str, Any]]:
    """A text, its own summary, and the summary of another one: {prompt, chosen, rejected}. The other one is of the same
    split: what was chosen in training would else be what is rejected in the test, and remembering it a fault."""
    found = []
    for split in PARTS:
        rows = sorted(part_of(summaries(), split), key=lambda row: _digest(row["text"]))
        for own, other in zip(rows, rows[1:] + rows[:1], strict=True):
            found.append({"prompt": own["text"], "chosen": own["summary"], "rejected": other["summary"]})
    return found


def literals() -> list[dict[str, Any]]:
    """Sentences of the topics, whose code stands in straight double quotes: {tokens, tags}, quotes taken away, what
    stood in them tagged LIT (IOB2)."""
    rows = []
    for text in dict.fromkeys(topics()):
        prose = [" ".join(p.split()) for p in text.split("\n\n") if not p.startswith(("   ", "**"))]
        for sentence in (s for p in prose for s in re.split(r"(?<=[.:;])\s+(?=[A-Z\"])", p)):
            parts = sentence.split('"')
            if len(parts) < 3 or len(parts) % 2 == 0:
                continue
            tokens, tags = [], []
            for i, part in enumerate(parts):
                words = re.findall(r"\w+|[^\w\s]", part)
                tokens += words
                tags += (["B-LIT", *["I-LIT"] * (len(words) - 1)] if words else []) if i % 2 else ["O"] * len(words)
            if 4 <= len(tokens) <= 80:
                rows.append({"tokens": tokens, "tags": tags})
    return rows


def part_of(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """About a tenth each is test and validation, by what a row's first column says: the same on every machine."""
    return [row for row in rows if _digest(str(next(iter(row.values()))))[0] % 10 in PARTS[split]]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
