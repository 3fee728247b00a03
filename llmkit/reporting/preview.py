"""Examples exactly as the model sees them: every token, which are trained on, what was cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmkit import console
from llmkit.console import plural

if TYPE_CHECKING:
    from llmkit.recipe import Recipe


def preview(recipe: Recipe, count: int = 3) -> str:
    """The first `count` rows of training features, token by token. «…» marks what the loss is taken on."""
    from llmkit.data.sampling import RowView
    from llmkit.running import prepare

    console.hush()
    prepared = prepare(recipe)
    task, tokenizer = prepared.recipe.task, prepared.tokenizer
    features = prepared.features["train"]
    view = list(itertools.islice(features.features(), count)) if recipe.data.streaming else RowView(features)
    layout = "positions" if prepared.packed else "padded"
    shown = []
    for i in range(min(count, len(view))):
        feature = view[i] if isinstance(view, list) else view.__getitems__([(i, 0, False)])[0]
        batch = task.collate([feature], tokenizer, layout)
        shown.extend(_shown(f"row {i + 1}", feature, batch, tokenizer, prepared.recipe.task))
    head = "«…» is predicted and trained on, | between its tokens; ⟦…⟧ is what must be said of it or in its place; ‖ parts documents"
    return head + "\n\n" + "\n\n".join(shown)


def _shown(name: str, feature: dict[str, Any], batch: dict[str, Any], tokenizer: Any, task: Any) -> Iterator[str]:
    ids, labels, mask = batch["input_ids"], batch["labels"], batch.get("attention_mask")
    if task.writes:
        yield _show_pair(name, batch, tokenizer)
    elif len(ids) == 1:
        yield _show(name, feature, ids[0].tolist(), labels[0], tokenizer, task)
    elif labels.shape != ids.shape:
        yield _show_texts(name, batch, tokenizer, task)
    else:  # several sequences, each with tokens that are trained on
        for i, real in enumerate(mask.bool()):
            yield _show(f"{name}, sequence {i}", feature, ids[i, real].tolist(), labels[i, real], tokenizer, task)


def _show(name: str, feature: dict[str, Any], ids: list[int], labels: Any, tokenizer: Any, task: Any) -> str:
    per_token = labels.dim() == 1 and len(labels) == len(ids) and not labels.is_floating_point()
    starts = set()
    for length in feature.get("segments", [])[:-1]:
        starts.add(length + max(starts, default=0))
    text, learning = "", False
    targets = labels.tolist() if per_token else [-100] * len(ids)
    said = [task.say_label(t, i, tokenizer) if t != -100 else "" for t, i in zip(targets, ids, strict=True)]
    for at, end in _pieces(ids, said, starts, tokenizer):
        learns = targets[end - 1] != -100
        piece = tokenizer.decode(ids[at:end]) + (f"⟦{said[at]}⟧" if said[at] else "")
        text += (
            "»" * (learning and not learns)
            + "‖" * (at in starts)
            + "«" * (learns and not learning)
            + "|" * (learns and learning)
        )
        text, learning = text + piece, learns
    text += "»" * learning
    trained = int((labels != -100).sum()) if per_token else 0
    head = f"{name}: {plural(len(ids), 'token')}"
    head += f", {trained} trained on" if per_token else f", label {task.say_labels(labels, ids, tokenizer)}"
    if "segments" in feature:
        head += f", {plural(len(feature['segments']), 'document')}"
    return head + "\n" + text


def _show_texts(name: str, batch: dict[str, Any], tokenizer: Any, task: Any) -> str:
    """A row of several texts, numbered from 0 as the batch has them."""
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    head = f"{name}: {sum(map(len, texts))} tokens in {len(texts)} texts, label {task.say_labels(batch['labels'][0], texts[0], tokenizer)}"
    return "\n".join([head, *(f"{i}: {tokenizer.decode(ids)}" for i, ids in enumerate(texts))])


def _pieces(ids: list[int], said: list[str], starts: set[int], tokenizer: Any) -> Iterator[tuple[int, int]]:
    """`(first, end)` of each token; tokens that are bytes of one character, and of which nothing is said, are one
    piece, and fare as its last."""
    at = 0
    while at < len(ids):
        end, text = at + 1, tokenizer.decode(ids[at : at + 1])
        while text.endswith("�") and end < len(ids) and end not in starts and not said[end - 1] and not said[end]:
            more = tokenizer.decode(ids[at : end + 1])
            if more == text + tokenizer.decode(ids[end : end + 1]):
                break  # no part of the same character
            end, text = end + 1, more
        yield at, end
        at = end


def _show_pair(name: str, batch: dict[str, Any], tokenizer: Any) -> str:
    """What is read, and below it what must be written."""
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    target = "|".join(
        tokenizer.decode(labels[at:end]) for at, end in _pieces(labels, [""] * len(labels), set(), tokenizer)
    )
    return f"{name}: {plural(len(ids), 'token')}, {len(labels)} trained on\n{tokenizer.decode(ids)}\n«{target}»"
