"""Features become a batch of tensors. Packed documents are kept apart in one of the layouts below."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

IGNORED = -100
LAYOUTS = ("positions", "blocks")
"""How packed documents are kept apart. `positions`: position ids restart, and the library derives the mask from them
(decoders; needs no attention mask and no cache). `blocks`: a mask of blocks as well (encoders). `padded`, which is
neither, is a document a row."""


def pad(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Ragged rows as one int64 tensor (rows, longest)."""
    width = max(len(v) for v in values)
    out = np.full((len(values), width), filler, dtype=np.int64)
    for row, ids in zip(out, values, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(out)


def tokens(
    features: list[dict[str, Any]], pad_id: int, layout: str, causal: bool, **fillers: int
) -> dict[str, torch.Tensor]:
    """`input_ids` (rows, longest) with what attention needs: `attention_mask` (rows, longest) when padded, otherwise
    `position_ids` (rows, longest), and in blocks a boolean `attention_mask` (rows, 1, longest, longest). With them
    `token_type_ids`, where features have them, and the other columns that `fillers` names."""
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


def segment_ids(features: list[dict[str, Any]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token, its document's number in the row and its place in the document: two (rows, width). Padding
    counts as a last document, so that it neither sees nor is seen."""
    numbers, places = [], []
    for f in features:
        lengths = [*f.get("segments", [len(f["input_ids"])])]
        lengths.append(width - sum(lengths))
        numbers.append(np.repeat(np.arange(len(lengths)), lengths))
        places.append(np.concatenate([np.arange(n) for n in lengths]))
    return torch.from_numpy(np.stack(numbers)), torch.from_numpy(np.stack(places).astype(np.int64))


def starts(features: list[dict[str, Any]], width: int) -> torch.Tensor:
    """Where a document begins: boolean (rows, width)."""
    return segment_ids(features, width)[1] == 0


def keeps_apart(model: Any, causal: bool) -> str | None:
    """The cheapest layout under which `model` gives packed documents the logits they get alone, found by trying; None
    where none does (a recurrent model, say)."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    together = [{"input_ids": ids, "segments": [5, 7]}]
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def logits(features: list[dict[str, Any]], layout: str) -> torch.Tensor:
        batch = {k: v.to(model.device) for k, v in tokens(features, 0, layout, causal).items()}
        with torch.no_grad():
            return model(**batch, **options).logits[0].float()

    was_training = model.training
    model.eval()
    try:
        expected = torch.cat([logits([{"input_ids": part}], "padded") for part in (ids[:5], ids[5:])])
        tolerance = expected.abs().max() * (1e-3 if model.dtype == torch.float32 else 0.05)
        for layout in LAYOUTS:
            with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):  # it takes no such mask
                if (logits(together, layout) - expected).abs().max() < tolerance:
                    return layout
    finally:
        model.train(was_training)
    return None
