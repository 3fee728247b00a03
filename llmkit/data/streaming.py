"""Rows read while training, never all at once: the same sources, cleaning, encoding and packing, a chunk at a time."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from llmkit.data import cleaning, packing, preparation, sources
from llmkit.errors import RecipeError
from llmkit.recipe import DataConfig
from llmkit.task import Task

CHUNK = 2_000  # rows that are packed and shuffled together
SAMPLE = 10_000  # rows from which labels, tokenizer and format are learned


@dataclass
class Stream:
    """Training rows without end, in passes over the sources. A pass depends on (seed, number of the pass) alone, so a
    resumed run finds its place by reading again, and one batch is one batch however it is cut."""

    task: Task
    config: DataConfig
    tokenizer: Any
    max_length: int
    packed: bool

    def features(self) -> Iterator[dict[str, Any]]:
        """Features with `row` (a running number) and `epoch` (the pass)."""
        numbers = itertools.count()
        for epoch in itertools.count():
            random = np.random.default_rng((self.config.seed, epoch))
            for rows in _chunks(self.task, self.config):
                encoded, _ = preparation.encode(self.task, rows, self.tokenizer, self.max_length)
                encoded = packing.pack(encoded, self.max_length) if self.packed else encoded
                for i in random.permutation(len(encoded)).tolist():
                    yield {**encoded[i], "row": next(numbers), "epoch": epoch}

    def batches(self, size: int, rank: int, processes: int) -> "MicroBatches":
        return MicroBatches(self, size, rank, processes)


class MicroBatches(torch.utils.data.IterableDataset):
    """Every `processes`-th list of `size` features, from `rank` on."""

    def __init__(self, stream: Stream, size: int, rank: int, processes: int):
        self.stream, self.size, self.rank, self.processes = stream, size, rank, processes

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        features = self.stream.features()
        batches = (list(itertools.islice(features, self.size)) for _ in itertools.count())
        return itertools.islice(batches, self.rank, None, self.processes)


def sample(task: Task, config: DataConfig) -> datasets.Dataset:
    """The first rows: what a task and a tokenizer learn from. Raises RecipeError."""
    chunks = itertools.islice(_chunks(task, config), SAMPLE // CHUNK)
    return datasets.concatenate_datasets(list(chunks))


def _chunks(task: Task, config: DataConfig) -> Iterator[datasets.Dataset]:
    """One pass over the sources, in their order, CHUNK rows at a time."""
    for source in sources.find(config.train, "train", config.document, config.names):
        if source.weight != 1:
            why = "has a weight; a stream takes each source once, so list it twice"
            raise RecipeError(f"data.train: {source.name} {why}")
        bad: list[str] = []
        for rows in cleaning.usable(source, task, config, "train", bad, CHUNK):
            cleaning.judge(bad, source, config, "train")
            bad.clear()
            yield datasets.Dataset(pa.Table.from_pylist(rows))
        cleaning.judge(bad, source, config, "train")
