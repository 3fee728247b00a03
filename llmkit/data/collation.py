"""Features become a batch of tensors. Packed documents are kept apart in one of the layouts below."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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


@contextlib.contextmanager
def _probing(model: Any, causal: bool) -> Iterator[tuple[list[int], Callable[..., torch.Tensor]]]:
    """Twelve ids to try the model with, and what gives the logits of features under a layout."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def logits(layout: str, *features: dict[str, Any]) -> torch.Tensor:
        batch = {k: v.to(model.device) for k, v in tokens([*features], 0, layout, causal).items()}
        with torch.no_grad():
            return model(**batch, **options).logits.float()

    was_training = model.training
    model.eval()
    try:
        yield ids, logits
    finally:
        model.train(was_training)


def _moved(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two rows of one batch, told apart by tokens that neither may read, got other logits: in any precision
    they would else be the same."""
    return bool((one - two).abs().max() > 1e-5 * one.abs().max())


def sees_ahead(model: Any) -> bool:
    """Whether the logits at a token change with those after it: then it has read what it must predict. Found by
    trying."""
    with _probing(model, causal=True) as (ids, logits):
        changed = [*ids[:6], *ids[:5:-1]]
        return _moved(*logits("padded", {"input_ids": ids}, {"input_ids": changed})[:, :6])


def keeps_apart(model: Any, causal: bool) -> str | None:
    """The cheapest layout under which `model` gives packed documents the logits they get alone, found by trying; None
    where none does (a recurrent model, say)."""
    with _probing(model, causal) as (ids, logits):
        alone = torch.cat([logits("padded", {"input_ids": part})[0] for part in (ids[:5], ids[5:])])
        tolerance = alone.abs().max() * (1e-3 if model.dtype == torch.float32 else 0.05)
        changed = [*ids[4::-1], *ids[5:]]
        rows = [{"input_ids": row, "segments": [5, 7]} for row in (ids, changed)]
        for layout in LAYOUTS:
            with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):  # it takes no such mask
                packed = logits(layout, *rows)
                if (packed[0] - alone).abs().max() < tolerance and not _moved(*packed[:, 5:]):
                    return layout
    return None
