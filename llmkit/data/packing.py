"""Chunking and packing of documents, and the layout that separates them: everything that decides what shares a row.

A document longer than a row is cut into chunks (`chunk`). Packed rows hold several documents, longest first, each in
the fullest row that still takes it (best-fit decreasing): no token is dropped, and no document is cut that fits. A
single stream cut into rows would leave no padding either, but would cut nearly every short document. How a model is
told which tokens share a document, its layout, is found by trying (`find_layout`).
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from llmkit.collate import LAYOUTS, Feature, token_batch
from llmkit.task import Task, is_causal


def chunk(ids: list[int], length: int, overlap: int = 0) -> list[list[int]]:
    """Cut a long document into chunks of at most `length` ids, neighbours sharing `overlap` ids.

    With an overlap of 1, a causal model still predicts every token but the first exactly once.
    """
    if len(ids) <= length:
        return [ids] if ids else []
    return [ids[i : i + length] for i in range(0, len(ids) - overlap, length - overlap)]


def fit_rows(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Return which documents share a row: lists of indices whose lengths sum to at most `capacity`."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free space, row), sorted
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        at = bisect.bisect_left(open_rows, (length, -1))
        if at == len(open_rows):
            free, row = capacity, len(rows)
            rows.append([])
        else:
            free, row = open_rows.pop(at)
        rows[row].append(i)
        if free - length > 1:
            bisect.insort(open_rows, (free - length, row))
    return rows


def pack(features: datasets.Dataset, capacity: int) -> datasets.Dataset:
    """Return `features` with several documents per row.

    Token columns are joined, `segments` holds the length of each document in a row, `row` the raw row of the first.
    """
    table = features.data.table.combine_chunks()
    lengths = np.diff(table["input_ids"].combine_chunks().offsets.to_numpy())
    rows = fit_rows(lengths, capacity)
    order, counts = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    table, packed = table.take(pa.array(order)), {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy()[counts] - column.offsets[0].as_py()
            packed[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column.flatten())
        else:
            packed[name] = column.take(pa.array(counts[:-1]))
    segments = pa.array(lengths[order], pa.int32())
    packed["segments"] = pa.ListArray.from_arrays(pa.array(counts, pa.int32()), segments)
    return datasets.Dataset(pa.table(packed))


def is_packed(packing: bool | None, task: Task) -> bool:
    """Whether rows are packed: as `data.packing` says, or as is usual for the task."""
    return task.language_modeling if packing is None else packing


def find_layout(model: PreTrainedModel, task: Task, packed: bool) -> str | None:
    """Return the layout for `model`: the cheapest under which packed documents get the logits they get alone.

    None if there is no such layout (a recurrent model, for example): give each document its own row.
    """
    if not packed:
        return "padded"
    causal = is_causal(task)
    with _probe(model, causal) as (ids, logits):
        alone = torch.cat([logits("padded", {"input_ids": part})[0] for part in (ids[:5], ids[5:])])
        tolerance = alone.abs().max() * (1e-3 if model.dtype == torch.float32 else 0.05)
        changed = [*ids[4::-1], *ids[5:]]
        rows = [{"input_ids": row, "segments": [5, 7]} for row in (ids, changed)]
        for layout in LAYOUTS:
            with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):  # the model takes no such mask
                packed_logits = logits(layout, *rows)
                if (packed_logits[0] - alone).abs().max() < tolerance and not _differ(*packed_logits[:, 5:]):
                    return layout
    return None


def reads_future_tokens(model: PreTrainedModel) -> bool:
    """Whether the logits at a token depend on later tokens, found by trying; a language model must not."""
    with _probe(model, causal=True) as (ids, logits):
        changed = [*ids[:6], *ids[:5:-1]]
        return _differ(*logits("padded", {"input_ids": ids}, {"input_ids": changed})[:, :6])


@contextlib.contextmanager
def _probe(model: PreTrainedModel, causal: bool) -> Iterator[tuple[list[int], Callable[..., torch.Tensor]]]:
    """Yield twelve ids to try the model with, and a function from a layout and features to logits."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def logits(layout: str, *features: Feature) -> torch.Tensor:
        batch = {k: v.to(model.device) for k, v in token_batch([*features], 0, layout, causal).items()}
        with torch.no_grad():
            return model(**batch, **options).logits.float()

    was_training = model.training
    model.eval()
    try:
        yield ids, logits
    finally:
        model.train(was_training)


def _differ(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether the logits of two rows of one batch differ; equal inputs give equal logits in any precision."""
    return bool((one - two).abs().max() > 1e-5 * one.abs().max())
