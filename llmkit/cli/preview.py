"""`llmkit preview`: rows as the model sees them, with every token, its label, and what was cut."""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

from llmkit.cli.options import positive_int
from llmkit.cli.recipes import add_recipe, read_recipe
from llmkit.log import plural, quiet_libraries
from llmkit.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from llmkit.collate import Feature
    from llmkit.pipeline import Prepared
    from llmkit.task import Batch, Task, Tokenizer

LEGEND = "«…» is trained on, | separates its tokens, ⟦…⟧ is a token's label, ‖ separates documents"


def add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser, "preview")
    parser.usage += " [-n 3]"
    parser.add_argument("-n", "--n", type=positive_int, default=3, help="Number of rows (default: 3)")


def run(args: Namespace) -> None:
    recipe, _ = read_recipe(args.words, "preview")
    quiet_libraries()
    print(preview(recipe, args.n))


def preview(recipe: Recipe, count: int = 3) -> str:
    """Return the first `count` rows of training features as text, token by token; «…» marks what is trained on."""
    from llmkit.pipeline import prepare

    return "\n\n".join([LEGEND, *format_features(prepare(recipe), count)])


def format_features(prepared: Prepared, count: int) -> list[str]:
    """Return the first rows of training features as text, see `preview`."""
    from llmkit.collate import check_batch
    from llmkit.data.sampler import RowView

    task, tokenizer, train = prepared.recipe.task, prepared.tokenizer, prepared.features["train"]
    if prepared.recipe.data.streaming:
        features = list(itertools.islice(train.features(), count))
    else:
        features = RowView(train).__getitems__([(i, 0, False) for i in range(min(count, len(train)))])
    blocks: list[str] = []
    for number, feature in enumerate(features, 1):
        batch = task.collate([feature], tokenizer, "positions" if prepared.packed else "padded")
        check_batch(task.name, batch)
        blocks += _format_row(f"row {number}", feature, batch, tokenizer, task)
    return blocks


def _format_row(name: str, feature: Feature, batch: Batch, tokenizer: Tokenizer, task: Task) -> Iterator[str]:
    ids, labels, mask = batch["input_ids"], batch["labels"], batch.get("attention_mask")
    if task.auto_class == "AutoModelForSeq2SeqLM":
        target = "|".join(tokenizer.decode(labels[0, at:end]) for at, end in _pieces(labels[0].tolist(), tokenizer))
        head = f"{name}: {plural(ids.shape[1], 'token')}, {labels.shape[1]} trained on"
        yield f"{head}\n{tokenizer.decode(ids[0])}\n«{target}»"
    elif len(ids) == 1:
        yield _format_tokens(name, feature, ids[0].tolist(), labels[0], tokenizer, task)
    elif labels.shape != ids.shape:  # several texts with one label, numbered from 0 as in the batch
        texts = [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]
        label = _row_label(labels[0], texts[0], tokenizer, task)
        head = f"{name}: {sum(map(len, texts))} tokens in {len(texts)} texts, label {label}"
        yield "\n".join([head, *(f"{i}: {tokenizer.decode(text)}" for i, text in enumerate(texts))])
    else:  # several sequences with labels of their own
        for i, real in enumerate(mask.bool()):
            sequence = f"{name}, sequence {i}"
            yield _format_tokens(sequence, feature, ids[i, real].tolist(), labels[i, real], tokenizer, task)


def _format_tokens(
    name: str, feature: Feature, ids: list[int], labels: torch.Tensor, tokenizer: Tokenizer, task: Task
) -> str:
    per_token = labels.dim() == 1 and len(labels) == len(ids) and not labels.is_floating_point()
    targets = labels.tolist() if per_token else [-100] * len(ids)
    notes = [_token_label(t, i, tokenizer, task) if t != -100 else "" for t, i in zip(targets, ids, strict=True)]
    starts = set(itertools.accumulate(feature.get("segments", [])[:-1]))
    text, in_target = "", False
    for at, end in _pieces(ids, tokenizer, notes, starts):
        is_target = targets[end - 1] != -100
        text += "»" * (in_target and not is_target) + "‖" * (at in starts) + ("|" if in_target else "«") * is_target
        text += tokenizer.decode(ids[at:end]) + (f"⟦{notes[at]}⟧" if notes[at] else "")
        in_target = is_target
    head = f"{name}: {plural(len(ids), 'token')}"
    if per_token:
        head += f", {sum(t != -100 for t in targets)} trained on"
    else:
        head += f", label {_row_label(labels, ids, tokenizer, task)}"
    if "segments" in feature:
        head += f", {plural(len(feature['segments']), 'document')}"
    return f"{head}\n{text}{'»' * in_target}"


def _token_label(label: int, token: int, tokenizer: Tokenizer, task: Task) -> str:
    """Format the label of a token: its name, or the token to predict; empty for O and where both tokens are the same."""
    if names := getattr(task, "labels", ()):
        return names[label] if names[label] != "O" else ""
    return "" if label == token else tokenizer.decode([label])


def _row_label(labels: torch.Tensor, ids: Sequence[int], tokenizer: Tokenizer, task: Task) -> str:
    """Format the label of a row: the tokens of an answer, the names of its labels, or numbers."""
    if task.auto_class == "AutoModelForQuestionAnswering":
        start, end = labels.tolist()
        answer = f"{tokenizer.decode(ids[start : end + 1]).strip()!r} (tokens {start} to {end})"
        return answer if start >= 0 else "nothing: no window holds the whole answer"
    value, names = labels.item() if labels.numel() == 1 else labels.tolist(), getattr(task, "labels", ())
    if names and isinstance(value, list):
        return ", ".join(name for name, is_set in zip(names, value, strict=True) if is_set) or "none"
    return f"{names[value]} ({value})" if names and isinstance(value, int) else str(value)


def _pieces(
    ids: list[int], tokenizer: Tokenizer, notes: Sequence[str] = (), starts: Set[int] = frozenset()
) -> Iterator[tuple[int, int]]:
    """Yield `(start, end)` of each piece: a token, or tokens without a note that are bytes of one character."""
    at = 0
    while at < len(ids):
        end, text = at + 1, tokenizer.decode(ids[at : at + 1])
        while text.endswith("\ufffd") and end < len(ids) and end not in starts and not any(notes[end - 1 : end + 1]):
            longer = tokenizer.decode(ids[at : end + 1])
            if longer == text + tokenizer.decode(ids[end : end + 1]):
                break  # the next token is not part of the same character
            end, text = end + 1, longer
        yield at, end
        at = end
