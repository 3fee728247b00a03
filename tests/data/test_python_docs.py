"""Texts made from Python's documentation: their columns, their splits, and a Python that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmkit.data import python_docs

COLUMNS = {
    python_docs.demo: {"text"},
    python_docs.summaries: {"text", "summary"},
    python_docs.descriptions: {"anchor", "positive"},
    python_docs.preferences: {"prompt", "chosen", "rejected"},
    python_docs.literals: {"tokens", "tags"},
}


@pytest.mark.parametrize("make, columns", COLUMNS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_rows_have_their_columns_and_no_empty_value(make: Callable, columns: set[str]) -> None:
    rows = make()
    assert len(rows) > 100 and all(set(row) == columns and all(row.values()) for row in rows)


@pytest.mark.parametrize("make", COLUMNS, ids=lambda f: f.__name__)
def test_splits_hold_every_row_once(make: Callable) -> None:
    rows = make()
    splits = [python_docs.split_of(rows, split) for split in ("train", "validation", "test")]
    assert sum(map(len, splits)) == len(rows) and len(splits[0]) == pytest.approx(0.8 * len(rows), rel=0.1)


def test_rejected_summary_is_of_another_text_in_the_same_split() -> None:
    summaries, preferences = python_docs.summaries(), python_docs.preferences()
    for split in ("train", "validation", "test"):
        own = {row["summary"] for row in python_docs.split_of(summaries, split)}
        rows = python_docs.split_of(preferences, split)
        assert {r["rejected"] for r in rows} == own and all(r["chosen"] != r["rejected"] for r in rows)


def test_code_in_double_quotes_is_tagged_without_the_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'The "del x" statement deletes names. There is nothing here.\n\nNo quotes at all in this one.'
    monkeypatch.setattr(python_docs, "topics", lambda: (text,))
    assert python_docs.literals() == [
        {"tokens": ["The", "del", "x", "statement", "deletes", "names", "."],
         "tags": ["O", "B-LIT", "I-LIT", "O", "O", "O", "O"]},
    ]  # fmt: skip


@pytest.fixture
def bare_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Python without pydoc_data and without the source of its standard library."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    python_docs.topics.cache_clear()
    python_docs.docstrings.cache_clear()
    yield
    python_docs.topics.cache_clear()
    python_docs.docstrings.cache_clear()


def test_python_without_documentation_is_logged(bare_python: None, capsys: pytest.CaptureFixture) -> None:
    assert python_docs.demo() == []
    first, second = capsys.readouterr().err.splitlines()
    assert "pydoc_data.topics" in first and "standard library" in second
