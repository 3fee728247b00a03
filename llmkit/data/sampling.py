"""Which rows meet in a batch: a function of (seed, epoch) alone, the same for 8×1, 4×2 and two processes.

The stock way shuffles from global random state, groups by length in an order that a resumed run cannot find again, and
fills the last batch of a multi-process epoch with rows trained twice. Here a filler is marked (`row = -1`), and its
batch weighs nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch

FILLER = -1
MEGABATCH = 50  # batches whose rows are sorted together when grouping by length


@dataclass(eq=False)
class EpochSampler(torch.utils.data.Sampler):
    """This process's micro-batches of an epoch, as lists of `(position, epoch, is a filler)`.

    A global batch is `batch_size × accumulation × processes` consecutive positions of one order; process r takes
    micro-batches r, r + processes, … of it. `lengths` groups rows of like length, with whole global batches shuffled.
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
        if self.drop_last:  # of whole global batches: 4×2 drops the rows that 8×1 drops
            return self.size // (step * self.accumulation) * self.accumulation
        return math.ceil(self.size / step)

    def order(self) -> np.ndarray:
        """Every position once, in this epoch's order: (size,)."""
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
        rest = order[:whole].reshape(-1, batch)[1:]  # the longest stay first: memory that will not do is found at once
        rest[:] = rest[random.permutation(len(rest))]
        return order

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        order = self.order().tolist()
        for step in range(len(self)):
            first = step * self.processes * self.batch_size
            start = first + self.rank * self.batch_size
            mine = [(i, self.epoch, False) for i in order[start : start + self.batch_size]]
            # fillers: as many as make it as long as rank 0's, so that ranks stay in step
            missing = min(self.batch_size, self.size - first) - len(mine)
            yield mine + [(order[k % self.size], self.epoch, True) for k in range(missing)]


class RowView(torch.utils.data.Dataset):
    """Features by `(position, epoch, is a filler)`; each comes with `row` (FILLER for a filler) and `epoch`."""

    def __init__(self, features: Any):
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> list[dict[str, Any]]:
        columns = self.features[[position for position, _, _ in keys]]
        return [
            {**{n: values[i] for n, values in columns.items()}, "row": FILLER if filler else position, "epoch": epoch}
            for i, (position, epoch, filler) in enumerate(keys)
        ]


class EpochLoader(torch.utils.data.DataLoader):
    """A DataLoader that hands `set_epoch` on to its batch sampler, as the Trainer expects of it."""

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.batch_sampler, "set_epoch"):  # a stream has none
            self.batch_sampler.set_epoch(epoch)
