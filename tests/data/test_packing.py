"""Packing keeps every token once, never fills a row over the brim, and cuts no document that fits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from llmkit.data.packing import chunks, fit_rows, pack

SHAPES = {
    "mixed": lambda r: r.integers(1, 40, 200),
    "short": lambda r: r.integers(1, 4, 500),
    "full": lambda r: np.full(30, 32),
    "one": lambda r: np.array([7]),
    "halves": lambda r: np.full(31, 16),
    "ones": lambda r: np.ones(100, dtype=int),
}


@pytest.fixture(params=SHAPES)
def documents(request: pytest.FixtureRequest) -> list[list[int]]:
    """Each document's tokens name the document and the place: 1000 × document + place."""
    lengths = np.minimum(SHAPES[request.param](np.random.default_rng(0)), 32)
    return [[1000 * d + i for i in range(n)] for d, n in enumerate(lengths.tolist())]


@pytest.fixture
def packed(documents: list[list[int]]) -> list[dict[str, Any]]:
    columns = {
        "input_ids": documents,
        "learn": [[t % 2 for t in d] for d in documents],
        "row": list(range(len(documents))),
    }
    return pack(Dataset.from_dict(columns), 32).to_list()


def cut(row: dict[str, Any], column: str = "input_ids") -> list[list[int]]:
    ends = np.cumsum(row["segments"])
    return [row[column][end - n : end] for n, end in zip(row["segments"], ends.tolist(), strict=True)]


def test_every_document_is_there_once_and_whole(documents: list[list[int]], packed: list[dict]) -> None:
    assert Counter(tuple(d) for row in packed for d in cut(row)) == Counter(map(tuple, documents))


def test_no_row_is_over_the_brim(packed: list[dict]) -> None:
    assert all(sum(row["segments"]) == len(row["input_ids"]) <= 32 for row in packed)


def test_other_columns_go_along(packed: list[dict]) -> None:
    assert all(row["learn"] == [t % 2 for t in row["input_ids"]] for row in packed)
    assert all(row["row"] == row["input_ids"][0] // 1000 for row in packed)


def test_no_two_rows_would_fit_in_one(packed: list[dict]) -> None:
    lengths = sorted(len(row["input_ids"]) for row in packed)
    assert len(lengths) == 1 or lengths[0] + lengths[1] > 32


def test_little_is_left_empty() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 2000)
    rows = fit_rows(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert len(rows) <= 1.02 * lengths.sum() / 256


def test_packing_is_the_same_each_time(documents: list[list[int]], packed: list[dict]) -> None:
    columns = {
        "input_ids": documents,
        "learn": [[t % 2 for t in d] for d in documents],
        "row": list(range(len(documents))),
    }
    assert pack(Dataset.from_dict(columns), 32).to_list() == packed


def test_a_selection_of_rows_is_packed_alone() -> None:
    features = Dataset.from_dict({"input_ids": [[i] * 3 for i in range(10)], "row": list(range(10))})
    part = features.select([2, 5, 7]).flatten_indices()
    assert Counter(t for row in pack(part, 8) for t in row["input_ids"]) == {2: 3, 5: 3, 7: 3}


@pytest.mark.parametrize("length", [2, 3, 8, 50])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 15, 16, 50, 99])
def test_chunks_overlap_by_one_token(size: int, length: int) -> None:
    ids = list(range(size))
    pieces = chunks(ids, length)
    assert all(len(p) <= length for p in pieces)
    assert pieces[0] + [t for piece in pieces[1:] for t in piece[1:]] == ids
    assert all(after[0] == before[-1] and len(after) > 1 for before, after in pairwise(pieces))


@pytest.mark.parametrize("length", [2, 3, 8, 50])
def test_every_token_but_the_first_is_predicted_once(length: int) -> None:
    predicted = [t for piece in chunks(list(range(99)), length) for t in piece[1:]]
    assert predicted == list(range(1, 99))
