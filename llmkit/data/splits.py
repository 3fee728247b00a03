"""Splits and weights by content: the same rows are chosen in any order and on any machine.

A split is made by document, before packing. Equal documents always fall into the same part.
"""

import hashlib
from collections.abc import Iterable, Sequence

from datasets import Dataset, concatenate_datasets

from llmkit.errors import UsageError
from llmkit.task import Row, Task


def row_hashes(rows: Iterable[Row], seed: int = 0) -> list[bytes]:
    """Return a hash of the content of each row."""
    key = str(seed).encode()
    return [hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=12, key=key).digest() for row in rows]


def split_off(datasets: Sequence[Dataset], fraction: float, seed: int, task: Task) -> tuple[list[Dataset], Dataset]:
    """Return the rest of each dataset, and about `fraction` of all distinct documents.

    A document that is in several datasets is held out of all of them, once. For language modeling, a single document
    is cut near its end instead. Raises UsageError if the rows cannot be split.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"data.validation: the fraction {fraction:g} is not between 0 and 1")
    total = sum(map(len, datasets))
    if total == 1 and task.language_modeling and datasets[0][0].get("text"):
        return _cut_document(datasets[0][0]["text"], fraction)
    group = task.split_group
    keyed = [rows.select_columns(group) if isinstance(group, str) else map(group or dict, rows) for rows in datasets]
    hashes = [row_hashes(rows, seed) for rows in keyed]
    distinct = sorted({h for part in hashes for h in part})
    chosen = set(distinct[: max(1, round(fraction * len(distinct)))])
    if len(chosen) == len(distinct):
        rows = f"{total} rows ({len(distinct)} distinct)"
        fix = "give a validation file or more rows" if fraction <= 0.5 else "give a smaller fraction"
        raise UsageError(f"data.validation: {rows} cannot be split at {fraction:g}; {fix}")
    rest, held_out, seen = [], [], set()
    for rows, part in zip(datasets, hashes, strict=True):
        rest.append(rows.select([i for i, h in enumerate(part) if h not in chosen]))
        documents = row_hashes(rows) if len(datasets) > 1 else range(len(rows))
        held_out.append(rows.select([i for i, d in enumerate(documents) if part[i] in chosen and d not in seen]))
        seen.update(documents)
    return rest, concatenate_datasets(held_out)


def weigh(rows: Dataset, weight: float, seed: int) -> Dataset:
    """Repeat each row `weight` times; a fractional part takes that share of the rows, chosen by content."""
    if weight == 1:
        return rows
    hashes, size = row_hashes(rows, seed), len(rows)
    chosen = sorted(range(size), key=hashes.__getitem__)[: round((weight - int(weight)) * size)]
    return rows.select([*range(size)] * int(weight) + sorted(chosen))


def _cut_document(text: str, fraction: float) -> tuple[list[Dataset], Dataset]:
    at = int(len(text) * (1 - fraction))
    line_end = text.find("\n", at) + 1
    at = line_end if line_end and text[line_end:].strip() else at  # at the end of a line, if text follows it
    if not text[:at].strip() or not text[at:].strip():
        raise UsageError("data.validation: the only document is too short to be cut; give a validation file")
    return [Dataset.from_list([{"text": text[:at]}])], Dataset.from_list([{"text": text[at:]}])
