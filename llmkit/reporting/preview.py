"""Examples exactly as the model sees them: every token, which are trained on, what was cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from typing import Any

from llmkit import console
from llmkit.console import plural
from llmkit.recipe import Recipe

HEAD = "«…» is trained on, | between its tokens; ⟦…⟧ is what must be said of it or in its place; ‖ parts documents"


def preview(recipe: Recipe, count: int = 3) -> str:
    """The first `count` rows of training features, token by token. «…» marks what the loss is taken on."""
    from llmkit.data.sampling import RowView
    from llmkit.running import prepare

    console.hush()
    prepared = prepare(recipe)
    task, tokenizer, train = prepared.recipe.task, prepared.tokenizer, prepared.features["train"]
    if recipe.data.streaming:
        features = list(itertools.islice(train.features(), count))
    else:
        features = RowView(train).__getitems__([(i, 0, False) for i in range(min(count, len(train)))])
    shown = [HEAD]
    for number, feature in enumerate(features, 1):
        batch = task.collate([feature], tokenizer, "positions" if prepared.packed else "padded")
        shown += _shown(f"row {number}", feature, batch, tokenizer, task)
    return "\n\n".join(shown)


def _shown(name: str, feature: dict[str, Any], batch: dict[str, Any], tokenizer: Any, task: Any) -> Iterator[str]:
    ids, labels, mask = batch["input_ids"], batch["labels"], batch.get("attention_mask")
    if task.writes:  # what is read, and below it what must be written
        target = "|".join(tokenizer.decode(labels[0, at:end]) for at, end in _pieces(labels[0].tolist(), tokenizer))
        head = f"{name}: {plural(ids.shape[1], 'token')}, {labels.shape[1]} trained on"
        yield f"{head}\n{tokenizer.decode(ids[0])}\n«{target}»"
    elif len(ids) == 1:
        yield _show(name, feature, ids[0].tolist(), labels[0], tokenizer, task)
    elif labels.shape != ids.shape:  # several texts, numbered from 0 as the batch has them
        texts = [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]
        said = task.say_labels(labels[0], texts[0], tokenizer)
        head = f"{name}: {sum(map(len, texts))} tokens in {len(texts)} texts, label {said}"
        yield "\n".join([head, *(f"{i}: {tokenizer.decode(text)}" for i, text in enumerate(texts))])
    else:  # several sequences, each with tokens that are trained on
        for i, real in enumerate(mask.bool()):
            yield _show(f"{name}, sequence {i}", feature, ids[i, real].tolist(), labels[i, real], tokenizer, task)


def _show(name: str, feature: dict[str, Any], ids: list[int], labels: Any, tokenizer: Any, task: Any) -> str:
    per_token = labels.dim() == 1 and len(labels) == len(ids) and not labels.is_floating_point()
    targets = labels.tolist() if per_token else [-100] * len(ids)
    said = [task.say_label(t, i, tokenizer) if t != -100 else "" for t, i in zip(targets, ids, strict=True)]
    starts = set(itertools.accumulate(feature.get("segments", [])[:-1]))
    text, learning = "", False
    for at, end in _pieces(ids, tokenizer, said, starts):
        learns = targets[end - 1] != -100
        text += "»" * (learning and not learns) + "‖" * (at in starts) + ("|" if learning else "«") * learns
        text += tokenizer.decode(ids[at:end]) + (f"⟦{said[at]}⟧" if said[at] else "")
        learning = learns
    head = f"{name}: {plural(len(ids), 'token')}"
    if per_token:
        head += f", {sum(t != -100 for t in targets)} trained on"
    else:
        head += f", label {task.say_labels(labels, ids, tokenizer)}"
    if "segments" in feature:
        head += f", {plural(len(feature['segments']), 'document')}"
    return f"{head}\n{text}{'»' * learning}"


def _pieces(
    ids: list[int], tokenizer: Any, said: Sequence[str] = (), starts: Set[int] = frozenset()
) -> Iterator[tuple[int, int]]:
    """`(first, end)` of each token; tokens that are bytes of one character, and of which nothing is said, are one
    piece, and fare as its last."""
    at = 0
    while at < len(ids):
        end, text = at + 1, tokenizer.decode(ids[at : at + 1])
        while text.endswith("�") and end < len(ids) and end not in starts and not any(said[end - 1 : end + 1]):
            more = tokenizer.decode(ids[at : end + 1])
            if more == text + tokenizer.decode(ids[end : end + 1]):
                break  # no part of the same character
            end, text = end + 1, more
        yield at, end
        at = end
