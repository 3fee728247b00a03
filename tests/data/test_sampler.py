"""Batches as a function of (seed, epoch): equal for any batch size, accumulation and number of processes.

Each row comes once per epoch, and fillers of an incomplete last batch are marked.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from llmkit.data.sampler import FILLER, EpochLoader, EpochSampler, RowView

SHAPES = {  # (batch size, accumulation, processes): a global batch of eight rows each
    "8x1": (8, 1, 1),
    "4x2": (4, 2, 1),
    "1x8": (1, 8, 1),
    "two processes": (4, 1, 2),
    "two processes x2": (2, 2, 2),
    "eight processes": (1, 1, 8),
}
SIZES = [1, 7, 8, 9, 64, 1003]
ORDERS = ["random", "group_by_length", "sequential"]


def lengths(size: int) -> np.ndarray:
    return np.random.default_rng(5).integers(1, 500, size)


def samplers(
    size: int, shape: str, order: str, epoch: int = 0, seed: int = 0, drop_last: bool = False
) -> list[EpochSampler]:
    batch, accumulation, processes = SHAPES[shape]
    made = [
        EpochSampler(
            size, batch, accumulation=accumulation, rank=rank, processes=processes, seed=seed,
            shuffle=order != "sequential", lengths=lengths(size) if order == "group_by_length" else None,
            drop_last=drop_last,
        )
        for rank in range(processes)
    ]  # fmt: skip
    for sampler in made:
        sampler.set_epoch(epoch)
    return made


def global_batches(size: int, shape: str, order: str, **options: Any) -> list[list[int]]:
    """The rows of each optimizer step, in order, without fillers."""
    ranks = [list(s) for s in samplers(size, shape, order, **options)]
    micro = [[i for rank in ranks for i, _, filler in rank[step] if not filler] for step in range(len(ranks[0]))]
    accumulation = SHAPES[shape][1]
    return [[*chain(*micro[i : i + accumulation])] for i in range(0, len(micro), accumulation)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", list(SHAPES)[1:])
def test_global_batches_are_equal_for_every_shape(shape: str, size: int, order: str) -> None:
    for epoch in (0, 3):
        assert global_batches(size, shape, order, epoch=epoch) == global_batches(size, "8x1", order, epoch=epoch)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_comes_once_per_epoch(shape: str, size: int, order: str) -> None:
    rows = Counter(i for batch in global_batches(size, shape, order) for i in batch)
    assert rows == Counter(range(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_ranks_have_batches_of_equal_size(shape: str, size: int) -> None:
    ranks = [[len(micro) for micro in s] for s in samplers(size, shape, "random")]
    assert all(rank == ranks[0] for rank in ranks) and 0 not in ranks[0]
    assert {len(s) for s in samplers(size, shape, "random")} == {len(ranks[0])}


@pytest.mark.parametrize("size", SIZES)
def test_one_process_has_no_fillers(size: int) -> None:
    assert not [i for batch in samplers(size, "8x1", "random")[0] for i, _, filler in batch if filler]


def test_fillers_are_marked_and_come_last() -> None:
    first, second = (list(s) for s in samplers(9, "two processes", "random"))
    assert not any(filler for micro in first for _, _, filler in micro)
    assert [filler for micro in second for _, _, filler in micro] == [False] * 4 + [True]


@pytest.mark.parametrize("order", ["random", "group_by_length"])
def test_order_depends_on_epoch_and_seed(order: str) -> None:
    made = [global_batches(64, "8x1", order, epoch=e, seed=s) for e, s in ((0, 0), (1, 0), (2, 0), (0, 1))]
    assert len({str(batches) for batches in made}) == 4


@pytest.mark.parametrize("order", ["random", "group_by_length"])
def test_order_of_an_epoch_is_reproducible(order: str) -> None:
    (sampler,) = samplers(100, "8x1", order)
    orders = []
    for epoch in (0, 1, 2, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[4] and orders[1] == orders[3] and orders[0] != orders[1]


def test_global_random_state_is_unchanged() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    list(samplers(100, "8x1", "group_by_length")[0])
    assert np.random.get_state()[1].tolist() == before


def test_without_shuffling_rows_keep_their_order() -> None:
    assert global_batches(20, "8x1", "sequential", epoch=5) == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


def test_grouping_by_length_reduces_padding() -> None:
    def padding(order: str) -> int:
        size = lengths(1003)
        return sum(int((size[b].max() - size[b]).sum()) for b in global_batches(1003, "8x1", order))

    assert padding("group_by_length") < 0.1 * padding("random")


def test_longest_rows_come_first_when_grouped_by_length() -> None:
    size = lengths(64)
    assert size[global_batches(64, "8x1", "group_by_length")[0]].min() >= np.sort(size)[-8]


def test_batches_are_shuffled_when_grouped_by_length() -> None:
    size = lengths(1003)
    means = [float(size[b].mean()) for b in global_batches(1003, "8x1", "group_by_length")[:50]]
    assert means != sorted(means, reverse=True)


@pytest.mark.parametrize("size, expected", [(20, 2), (16, 2), (7, 0)])
def test_drop_last_drops_incomplete_batches(size: int, expected: int) -> None:
    for rank in range(2):
        sampler = EpochSampler(size, 4, rank=rank, processes=2, drop_last=True)
        batches = list(sampler)
        assert len(batches) == len(sampler) == expected
        assert all(len(b) == 4 and not any(filler for _, _, filler in b) for b in batches)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", list(SHAPES)[1:])
def test_drop_last_drops_the_same_rows_for_every_shape(shape: str, size: int, order: str) -> None:
    whole = global_batches(size, "8x1", order, drop_last=True)
    assert [len(batch) for batch in whole] == [8] * (size // 8)
    assert global_batches(size, shape, order, drop_last=True) == whole


def loaded(size: int, rank: int, epoch: int = 0) -> list[list[dict[str, Any]]]:
    features = Dataset.from_dict({"input_ids": [[i] for i in range(size)], "row": [100 + i for i in range(size)]})
    sampler = EpochSampler(size, 4, rank=rank, processes=2)
    loader = EpochLoader(RowView(features), batch_sampler=sampler, collate_fn=list)
    loader.set_epoch(epoch)
    return list(loader)


def test_loaded_features_have_row_and_epoch() -> None:
    rows = [feature for batch in loaded(9, 0, epoch=2) for feature in batch]
    assert all(feature["row"] == feature["input_ids"][0] and feature["epoch"] == 2 for feature in rows)


def test_filler_is_a_feature_without_a_row() -> None:
    last = loaded(9, 1)[-1]
    assert [feature["row"] for feature in last] == [FILLER] and last[0]["input_ids"]
    real = [f["row"] for rank in (0, 1) for batch in loaded(9, rank) for f in batch if f["row"] != FILLER]
    assert sorted(real) == list(range(9))


def test_loader_passes_the_epoch_to_the_sampler() -> None:
    first, again, other = (str(loaded(40, 0, epoch)) for epoch in (0, 0, 1))
    assert first == again != other
