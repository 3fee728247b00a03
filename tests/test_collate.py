"""Batches: padding, masks and positions of each layout, rows of several sequences, and the check of a task's batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llmkit.collate import (
    IGNORED,
    check_batch,
    default_collate,
    document_starts,
    pad,
    segment_ids,
    split_sequences,
    token_batch,
)
from llmkit.errors import UsageError

PACKED = [{"input_ids": [1, 2, 3, 4, 5], "segments": [2, 3]}, {"input_ids": [6, 7, 8], "segments": [3]}]
PAIRS = [
    {"input_ids": [1, 2, 3, 4, 5], "mask": [0, 1, 0, 0, 1], "lengths": [2, 3], "labels": 1},
    {"input_ids": [6, 7, 8], "mask": [1, 1, 0], "lengths": [1, 2], "labels": 0},
]


def test_rows_are_padded_on_the_right() -> None:
    padded = pad([[1, 2], [], np.array([3], dtype=np.uint16)], -1)
    assert padded.tolist() == [[1, 2], [-1, -1], [3, -1]] and padded.dtype == torch.int64


def test_padded_batch_has_a_mask_by_length() -> None:
    """The pad id may also be a real token."""
    batch = token_batch([{"input_ids": [0, 5]}, {"input_ids": [7, 8, 0]}], 0, "padded", causal=True)
    assert batch["input_ids"].tolist() == [[0, 5, 0], [7, 8, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_fillers_and_token_types_are_padded() -> None:
    features = [{"input_ids": [1, 2], "token_type_ids": [0, 1], "extra": [5, 6]},
                {"input_ids": [3], "token_type_ids": [1], "extra": [7]}]  # fmt: skip
    batch = token_batch(features, 9, "padded", causal=False, extra=-1)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 9]]
    assert batch["token_type_ids"].tolist() == [[0, 1], [1, 0]] and batch["extra"].tolist() == [[5, 6], [7, -1]]


def test_positions_restart_at_each_document_and_at_padding() -> None:
    batch = token_batch(PACKED, 0, "positions", causal=True)
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("causal", [True, False])
def test_block_mask_allows_attention_within_a_document_only(causal: bool) -> None:
    mask = token_batch(PACKED, 0, "blocks", causal)["attention_mask"]
    document = [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    expected = [[[d[q] == d[k] and (k <= q or not causal) for k in range(5)] for q in range(5)] for d in document]
    assert mask.shape == (2, 1, 5, 5) and mask.dtype == torch.bool and mask[:, 0].tolist() == expected


def test_documents_are_numbered_and_padding_is_one_more() -> None:
    numbers, positions = segment_ids([*PACKED, {"input_ids": [9]}], 5)
    assert numbers.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert document_starts(PACKED, 5).tolist() == [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0]]


# -- rows of several sequences


def test_sequences_are_split_by_lengths() -> None:
    assert split_sequences(PAIRS) == [
        [{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}], [{"input_ids": [6]}, {"input_ids": [7, 8]}],
    ]  # fmt: skip


def test_named_columns_are_split_too() -> None:
    first, second = split_sequences(PAIRS, ("input_ids", "mask"))[0]
    assert first == {"input_ids": [1, 2], "mask": [0, 1]} and second == {"input_ids": [3, 4, 5], "mask": [0, 0, 1]}


def test_rows_may_have_different_numbers_of_sequences() -> None:
    features = [{"input_ids": [1, 2, 3], "lengths": [1, 1, 1]}, {"input_ids": [4], "lengths": [1]}]
    assert [len(sequences) for sequences in split_sequences(features)] == [3, 1]


# -- the default collate function


@pytest.mark.parametrize("labels, expected, dtype", [
    ([[1, 2], [3]], [[1, 2], [3, IGNORED]], torch.int64),
    ([np.array([1, 2]), np.array([3])], [[1, 2], [3, IGNORED]], torch.int64),
    ([4, 5], [4, 5], torch.int64),
    ([0.5, 1.0], [0.5, 1.0], torch.float32),
])  # fmt: skip
def test_labels_are_per_token_or_per_row(labels: list[Any], expected: list[Any], dtype: torch.dtype) -> None:
    features = [{"input_ids": ids, "labels": label} for ids, label in zip([[1, 2], [3]], labels, strict=True)]
    batch = default_collate(features, 0, "padded", causal=False)
    assert batch["labels"].tolist() == expected and batch["labels"].dtype == dtype
    assert batch["input_ids"].tolist() == [[1, 2], [3, 0]]


def test_labels_are_optional() -> None:
    assert set(default_collate([{"input_ids": [1]}], 0, "padded", causal=True)) == {"input_ids", "attention_mask"}


def test_each_sequence_of_a_row_becomes_a_row_of_the_batch() -> None:
    batch = default_collate(PAIRS, 0, "padded", causal=False)
    assert batch["input_ids"].tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0], [7, 8, 0]]
    assert batch["attention_mask"].sum(-1).tolist() == [2, 3, 1, 2] and batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("layout", ["positions", "blocks"])
def test_default_collate_of_packed_rows_follows_the_layout(layout: str) -> None:
    expected = token_batch(PACKED, 0, layout, causal=True)
    batch = default_collate(PACKED, 0, layout, causal=True)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {n: t.tolist() for n, t in expected.items()}


# -- the check of a batch


def test_valid_batch_is_returned_unchanged() -> None:
    batch = default_collate(PAIRS, 0, "padded", causal=False)
    assert check_batch("mine", batch) is batch


@pytest.mark.parametrize("batch, fault", [
    ({"input_ids": torch.ones(2, 3), "labels": [1, 2]}, "task mine: collate returned 'labels' as list; return a tensor"),
    ({"input_ids": np.ones((2, 3))}, "task mine: collate returned 'input_ids' as ndarray; return a tensor"),
    ({"labels": torch.ones(2)}, "task mine: collate returned no 'input_ids'"),
    ({"input_ids": torch.ones(6)}, "task mine: collate returned 'input_ids' of shape (6,)"),
    ({"input_ids": torch.ones(2, 4, 3)}, "task mine: collate returned 'input_ids' of shape (2, 4, 3)"),
])  # fmt: skip
def test_batch_of_a_wrong_shape_names_task_and_column(batch: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError) as error:
        check_batch("mine", batch)
    (line,) = error.value.faults
    assert line.startswith(fault)
