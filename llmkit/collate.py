"""From features to a batch of tensors.

A feature is a mapping of columns for one row: `input_ids` is a flat list of ids; `segments`, in a packed row, holds the
length of each document; `lengths`, in a row of several sequences (candidate answers, pairs), the length of each.

`layout` says how packed documents are separated:

    padded      not packed: one document per row, a 2-D attention mask
    positions   position ids restart at each document; the model derives the mask from them (decoders, no cache)
    blocks      position ids restart, and a block-diagonal attention mask is given (encoders)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llmkit.errors import UsageError

IGNORED = -100
"""The label of a position that is not trained on."""
LAYOUTS = ("positions", "blocks")
"""Layouts of packed rows, the cheaper one first."""
Feature = Mapping[str, Any]
Batch = dict[str, torch.Tensor]


def pad(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Pad ragged rows on the right: int64, (rows, longest)."""
    width = max(len(v) for v in values)
    out = np.full((len(values), width), filler, dtype=np.int64)
    for row, ids in zip(out, values, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(out)


def token_batch(features: Sequence[Feature], pad_id: int, layout: str, causal: bool, **fillers: int) -> Batch:
    """Return `input_ids` (rows, longest) with what attention needs.

    `attention_mask` is (rows, longest) when padded; otherwise `position_ids` (rows, longest) and, in blocks, a boolean
    `attention_mask` (rows, 1, longest, longest). Adds `token_type_ids` where features have them, and the columns named
    by `fillers`, each padded with its value.
    """
    ids = pad([f["input_ids"] for f in features], pad_id)
    fillers |= {"token_type_ids": 0} if "token_type_ids" in features[0] else {}
    more = {name: pad([f[name] for f in features], filler) for name, filler in fillers.items()}
    if layout == "padded":
        lengths = torch.tensor([len(f["input_ids"]) for f in features])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(), **more}
    segments, positions = segment_ids(features, ids.shape[1])
    batch = {"input_ids": ids, "position_ids": positions, **more}
    if layout == "blocks":
        mask = segments[:, :, None] == segments[:, None, :]
        batch["attention_mask"] = (mask.tril() if causal else mask)[:, None]
    return batch


def default_collate(features: Sequence[Feature], pad_id: int, layout: str, causal: bool) -> Batch:
    """Pad `input_ids` and `labels`: one label per token (lists, padded with -100) or one per row (int64 or float32).

    With `lengths`, each sequence is a row of `input_ids`, in order, and `labels` stay one per row of features.
    """
    rows = [s for f in split_sequences(features) for s in f] if "lengths" in features[0] else features
    batch = token_batch(rows, pad_id, layout, causal)
    if "labels" in features[0]:
        labels = [f["labels"] for f in features]
        per_token = isinstance(labels[0], (Sequence, np.ndarray))
        batch["labels"] = pad(labels, IGNORED) if per_token else torch.tensor(labels)
    return batch


def split_sequences(features: Sequence[Feature], names: Sequence[str] = ("input_ids",)) -> list[list[dict[str, Any]]]:
    """Return the sequences of each row of features, as told by its `lengths`; `names` are the columns to split."""
    out = []
    for feature in features:
        ends = np.cumsum(feature["lengths"])
        out.append([
            {name: feature[name][end - length : end] for name in names}
            for end, length in zip(ends.tolist(), feature["lengths"], strict=True)
        ])  # fmt: skip
    return out


def segment_ids(features: Sequence[Feature], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's document number in its row, and its position in that document: two (rows, width).

    Padding counts as one more document, so that it neither sees nor is seen.
    """
    numbers, places = [], []
    for f in features:
        lengths = [*f.get("segments", [len(f["input_ids"])])]
        lengths.append(width - sum(lengths))
        numbers.append(np.repeat(np.arange(len(lengths)), lengths))
        places.append(np.concatenate([np.arange(n) for n in lengths]))
    return torch.from_numpy(np.stack(numbers)), torch.from_numpy(np.stack(places).astype(np.int64))


def document_starts(features: Sequence[Feature], width: int) -> torch.Tensor:
    """Return where a document starts: boolean, (rows, width)."""
    return segment_ids(features, width)[1] == 0


def check_batch(task: str, batch: Batch) -> Batch:
    """Return `batch`; raise UsageError, naming the task and the column, unless it holds tensors with 2-D `input_ids`."""
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"task {task}: collate returned {name!r} as {type(value).__name__}; return a tensor")
    shape = tuple(batch["input_ids"].shape) if "input_ids" in batch else None
    if shape is None or len(shape) != 2:
        got = "no 'input_ids'" if shape is None else f"'input_ids' of shape {shape}"
        raise UsageError(f"task {task}: collate returned {got}; expected a 2-D tensor (sequences, longest)")
    return batch
