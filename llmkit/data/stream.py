"""Training rows that are read while training, by chunks: the same sources, rows, features and packing as loaded data."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from llmkit.data import packing, sources
from llmkit.data.features import encode, log_cut
from llmkit.data.rows import RowReader, as_table, report_invalid
from llmkit.errors import UsageError
from llmkit.recipe import DataConfig
from llmkit.task import Task, Tokenizer

CHUNK = 2_000
"""Rows that are packed and shuffled together."""
SAMPLE = 10_000
"""Rows from which the task and a new tokenizer learn."""


@dataclass(eq=False)
class Stream(torch.utils.data.IterableDataset):
    """Training features without end, in passes over the sources. Iterating yields every `processes`-th list of `size`.

    A pass depends only on (seed, number of the pass). A resumed run therefore finds its place by reading again, and
    global batches are the same for any batch size, accumulation and number of processes.
    """

    task: Task
    config: DataConfig
    tokenizer: Tokenizer
    max_length: int
    packed: bool
    size: int = 1
    rank: int = 0
    processes: int = 1

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield features with `row` (a running number) and `epoch` (the number of the pass)."""
        numbers, reader, warned = itertools.count(), RowReader(self.task, self.config, "train"), False
        for epoch in itertools.count():
            random = np.random.default_rng((self.config.seed, epoch))
            for number, rows in enumerate(_chunks(reader)):
                reader.log_unread(quiet=epoch == 0 and number < SAMPLE // CHUNK)  # `sample` has logged these
                encoded, notes = encode(self.task, rows, self.tokenizer, self.max_length)
                if not warned and any(notes.values()):
                    warned = True
                    log_cut(f"train, chunk {number + 1} of the stream", notes, len(rows), self.max_length)
                encoded = packing.pack(encoded, self.max_length) if self.packed else encoded
                for i in random.permutation(len(encoded)).tolist():
                    yield {**encoded[i], "row": next(numbers), "epoch": epoch}

    def batches(self, size: int, rank: int, processes: int) -> Self:
        """Return the stream of the micro-batches of one process."""
        return replace(self, size=size, rank=rank, processes=processes)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        features = self.features()
        batches = (list(itertools.islice(features, self.size)) for _ in itertools.count())
        return itertools.islice(batches, self.rank, None, self.processes)


def sample(task: Task, config: DataConfig) -> Dataset:
    """Return the first rows, from which the task and a new tokenizer learn. Raises UsageError, see `valid_rows`."""
    reader = RowReader(task, config, "train")
    rows = concatenate_datasets([*itertools.islice(_chunks(reader), SAMPLE // CHUNK)])
    reader.log_unread()
    return rows


def _chunks(reader: RowReader) -> Iterator[Dataset]:
    """Yield CHUNK rows at a time, in one pass over the sources in their order."""
    config = reader.config
    for source in sources.find(config.train, "train", config):
        if source.weight != 1:
            raise UsageError(f"data.train: {source.name} has a weight, which data.streaming cannot use; list it twice")
        invalid: list[str] = []
        for rows in reader.valid_rows(source, invalid, CHUNK):
            report_invalid(invalid, source, config, "train")
            invalid.clear()
            yield Dataset(as_table(rows))
        report_invalid(invalid, source, config, "train")
