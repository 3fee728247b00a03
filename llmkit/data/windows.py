"""A question and a long context in rows of features: overlapping windows of the context, each after the question."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmkit.data.collation import IGNORED
from llmkit.errors import RecipeError

TOGETHER = 32  # questions that are encoded at a time: a long context has dozens of windows


def windows(
    questions: Sequence[str], contexts: Sequence[str], spans: Sequence, tokenizer: Any, max_length: int, stride: int
) -> dict[str, list[Any]]:
    """Columns of features, and whether each question was `truncated`. `spans`: the answers' (start, end) in characters,
    or None.

    `start` and `end` are the answer's tokens, or `null`'s, the token that says none is there, where the window does not
    hold the whole of it; IGNORED where no window does, for that would teach that there is none. `char_starts` and
    `char_ends` say where each token stands in the context, -1 outside of it. A question takes at most half of a row,
    neighbours share `stride` tokens, at most a third. Raises RecipeError.
    """
    if not tokenizer.is_fast:
        raise RecipeError(f"{type(tokenizer).__name__} does not tell where its tokens stand in a text; give a fast one")
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 3:
        raise RecipeError(f"data.max_length: {max_length} leaves no room for a question and its context; give more")
    questions, truncated = _cut(questions, tokenizer, room // 2)
    features: list[dict[str, Any]] = []
    for at in range(0, len(questions), TOGETHER):
        encoded = tokenizer(
            questions[at : at + TOGETHER],
            list(contexts[at : at + TOGETHER]),
            truncation="only_second",
            max_length=max_length,
            stride=min(stride, max_length // 3, room - room // 2 - 1),
            return_overflowing_tokens=True,
        )
        for window, row in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
            types = {"token_type_ids": window.type_ids} if "token_type_ids" in encoded else {}
            features.append({**_window(window, spans[at + row], tokenizer.cls_token_id), **types, "row": at + row})
    whole = {f["row"] for f in features if f["start"] != f["null"]}
    for feature in features:
        if spans[feature["row"]] and feature["row"] not in whole:
            feature["start"] = feature["end"] = IGNORED
            truncated[feature["row"]] = True
    return {**{name: [f[name] for f in features] for name in features[0]}, "truncated": truncated}


def _cut(questions: Sequence[str], tokenizer: Any, room: int) -> tuple[list[str], list[bool]]:
    """Questions of at most `room` tokens, and which of them were cut."""
    encoded = tokenizer(list(questions), add_special_tokens=False, verbose=False).encodings
    cut = [len(e) > room for e in encoded]
    return [q[: e.offsets[room - 1][1]] if c else q for q, e, c in zip(questions, encoded, cut, strict=True)], cut


def _window(encoding: Any, span: tuple[int, int] | None, cls: int | None) -> dict[str, Any]:
    ids = encoding.ids
    inside = np.array([s == 1 for s in encoding.sequence_ids])
    starts, ends = np.where(inside, np.array(encoding.offsets).T, -1)
    null = ids.index(cls) if cls in ids else 0
    first = last = null
    context = np.flatnonzero(inside)
    if span and len(context) and starts[context[0]] <= span[0] and span[1] <= ends[context[-1]]:
        at = context[0] + np.searchsorted(ends[context], span[0], side="right")
        to = context[0] + np.searchsorted(starts[context], span[1]) - 1
        if at <= to:  # else the tokenizer knows nothing of these characters
            first, last = int(at), int(to)
    return {"input_ids": ids, "char_starts": starts, "char_ends": ends, "null": null, "start": first, "end": last}
