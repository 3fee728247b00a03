"""Batches as a function of (seed, epoch): the same for batches of 8, of 4 with 2 accumulation steps, and two processes.

The Trainer's own sampler shuffles with global random state, groups by length in an order that a resumed run cannot
reproduce, and fills the last batch of a multi-process epoch with rows that are trained on twice. Here such a filler is
marked with `row = -1`, and has no weight in the loss.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

Key = tuple[int, int, bool]
"""(position, epoch, whether it is a filler)"""
FILLER = -1
"""The `row` of a filler."""
MEGABATCH = 50
"""Number of batches whose rows are sorted together when grouping by length."""


@dataclass(eq=False)
class EpochSampler(torch.utils.data.Sampler):
    """Yields the micro-batches of one process in an epoch, as lists of `(position, epoch, whether it is a filler)`.

    A global batch is `batch_size × accumulation × processes` consecutive positions of one order; process r takes its
    micro-batches r, r + processes, and so on. With `lengths`, rows of similar length share a global batch.
    """

    size: int
    batch_size: int
    _: KW_ONLY
    accumulation: int = 1
    rank: int = 0
    processes: int = 1
    seed: int = 0
    shuffle: bool = True
    lengths: Sequence[int] | None = None
    drop_last: bool = False
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        step = self.batch_size * self.processes
        if self.drop_last:  # count whole global batches: 4×2 drops the same rows as 8×1
            return self.size // (step * self.accumulation) * self.accumulation
        return math.ceil(self.size / step)

    def order(self) -> np.ndarray:
        """Return all positions in the order of this epoch: (size,)."""
        if not self.shuffle:
            return np.arange(self.size)
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self.size)
        if self.lengths is None:
            return order
        batch, lengths = self.batch_size * self.accumulation * self.processes, np.asarray(self.lengths)
        pools = np.split(order, range(batch * MEGABATCH, self.size, batch * MEGABATCH))
        order = np.concatenate([pool[np.argsort(-lengths[pool], kind="stable")] for pool in pools])
        whole = self.size // batch * batch
        rest = order[:whole].reshape(-1, batch)[1:]  # the longest rows stay first, to run out of memory at once
        rest[:] = rest[random.permutation(len(rest))]
        return order

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order().tolist()
        for step in range(len(self)):
            first = step * self.processes * self.batch_size
            start = first + self.rank * self.batch_size
            batch = [(i, self.epoch, False) for i in order[start : start + self.batch_size]]
            missing = min(self.batch_size, self.size - first) - len(batch)  # all ranks get as many as rank 0
            yield batch + [(order[k % self.size], self.epoch, True) for k in range(missing)]


class RowView(torch.utils.data.Dataset):
    """Features by the sampler's keys; each one has its `row` (FILLER for a filler) and `epoch`.

    `rows`, which evaluation needs, are the rows that the features came from.
    """

    def __init__(self, features: Dataset, rows: Dataset | None = None):
        self.features, self.rows = features, rows

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        columns = self.features[[position for position, _, _ in keys]]
        return [
            {**{n: values[i] for n, values in columns.items()}, "row": FILLER if filler else position, "epoch": epoch}
            for i, (position, epoch, filler) in enumerate(keys)
        ]


class EpochLoader(torch.utils.data.DataLoader):
    """A DataLoader with `set_epoch`, which the Trainer calls, for its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.batch_sampler, "set_epoch"):  # a stream has none
            self.batch_sampler.set_epoch(epoch)
