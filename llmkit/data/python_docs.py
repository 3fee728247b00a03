"""Texts made from the documentation of this Python: `pydoc_data.topics` and the standard library's docstrings.

They are read as source code with `ast`; nothing is imported or run. They differ slightly between Python versions.
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

from llmkit.log import log

Rows = list[dict[str, Any]]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TENTHS = {"train": range(2, 10), "validation": (1,), "test": (0,)}
"""The tenths of the rows in each split."""
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"}
"""Folders of the standard library that are not read."""


@functools.cache
def topics() -> tuple[str, ...]:
    """Return the texts of `help("assert")` and so on; logs a warning if this Python has none."""
    spec = importlib.util.find_spec("pydoc_data")
    path = Path(next(iter(spec.submodule_search_locations))) / "topics.py" if spec else None
    if path is None or not path.exists():
        log("demo: this Python has no pydoc_data.topics; only docstrings are used", "warning")
        return ()
    module = ast.parse(path.read_text(encoding="utf-8"))
    texts = ast.literal_eval(next(node.value for node in module.body if isinstance(node, ast.Assign)))
    return tuple(text.strip() for text in texts.values())


@functools.cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """Return `(name, docstring)` of the modules, classes and functions of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    pairs = []
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library).with_suffix("").parts
        if SKIPPED & set(module[:-1]):
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        except (SyntaxError, UnicodeDecodeError):  # lib2to3 and others hold files that are not Python 3
            continue
        for node in nodes:
            if isinstance(node, DOCUMENTED) and len(doc := ast.get_docstring(node) or "") >= 40:
                pairs.append((getattr(node, "name", ".".join(module)), doc))
    if not pairs:
        log("demo: this Python has no source of the standard library; only topics are used", "warning")
    return tuple(pairs)


def demo() -> Rows:
    """Return all texts as {text}: about 2 MB of English, for pretraining."""
    return [{"text": text} for text in dict.fromkeys([*topics(), *(doc for _, doc in docstrings())])]


def summaries() -> Rows:
    """Return the body and the first line of docstrings, as {text, summary}."""
    return [{"text": body, "summary": summary} for _, summary, body in _summarized()]


def descriptions() -> Rows:
    """Return the name and first line of an object, and the body of its docstring, as {anchor, positive}."""
    return [{"anchor": f"{name}: {summary}", "positive": body} for name, summary, body in _summarized()]


def preferences() -> Rows:
    """Return a text, its own summary, and the summary of another text, as {prompt, chosen, rejected}.

    The other text is of the same split; otherwise a summary could be chosen in training and rejected in the test, and
    memorizing it would be penalized.
    """
    pairs = []
    for split in TENTHS:
        rows = sorted(split_of(summaries(), split), key=lambda row: _digest(row["text"]))
        pairs += zip(rows, rows[1:] + rows[:1], strict=True)
    return [{"prompt": a["text"], "chosen": a["summary"], "rejected": b["summary"]} for a, b in pairs]


def literals() -> Rows:
    """Return sentences of the topics as {tokens, tags}: code in straight double quotes is tagged LIT (IOB2), and the
    quotes are removed."""
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
                tags += (["B-LIT"] + ["I-LIT"] * len(words))[: len(words)] if i % 2 else ["O"] * len(words)
            if 4 <= len(tokens) <= 80:
                rows.append({"tokens": tokens, "tags": tags})
    return rows


def split_of(rows: Rows, split: str) -> Rows:
    """Return the rows of a split, chosen by a hash of their first column: test and validation are a tenth each."""
    return [row for row in rows if _digest(str(next(iter(row.values()))))[0] % 10 in TENTHS[split]]


def _summarized() -> Iterator[tuple[str, str, str]]:
    """`(name, first line, body)` of docstrings with a one-line summary and a body that is worth summarizing."""
    seen = set()
    for name, doc in docstrings():
        first, _, rest = doc.partition("\n\n")
        summary, body = " ".join(first.split()), " ".join(rest.split())
        one_line = summary.endswith(".") and 4 <= len(summary.split()) <= 20 and ">>>" not in rest
        if one_line and 15 <= len(body.split()) <= 200 and summary not in seen and body not in seen:
            seen.update((summary, body))
            yield name, summary, body


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
