"""Splits by document, before packing, decided by what a document says: the same rows fall the same way in any order,
on any machine, and two equal documents never fall on both sides."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from llmkit.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

    from llmkit.task import Task


def row_hashes(rows: Dataset, seed: int = 0) -> list[bytes]:
    """A digest of each row's content."""
    key = str(seed).encode()
    return [hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=12, key=key).digest() for row in rows]


def split_off(pieces: list[Dataset], fraction: float, seed: int, task: Task) -> tuple[list[Dataset], Dataset]:
    """`(the rest of each piece, about fraction of all documents)`: a document that stands in several pieces is held
    out of all. A lone document is cut near its end instead. Raises RecipeError."""
    import datasets

    if not 0 < fraction < 1:
        raise RecipeError(f"data.validation: the fraction {fraction:g} is not between 0 and 1")
    if sum(map(len, pieces)) == 1 and task.whole_documents and pieces[0][0].get("text"):
        kept, held = _cut(pieces[0], fraction)
        return [kept], held
    hashes = [row_hashes(rows.select_columns(task.document) if task.document else rows, seed) for rows in pieces]
    distinct = sorted({h for piece in hashes for h in piece})
    chosen = set(distinct[: max(1, round(fraction * len(distinct)))])
    if len(chosen) == len(distinct):
        have = f"{sum(map(len, pieces))} rows ({len(distinct)} distinct)"
        raise RecipeError(f"data.validation: {have} cannot be split; give a file or more rows")
    rest, held, seen = [], [], set()
    for rows, piece in zip(pieces, hashes, strict=True):
        rest.append(rows.select([i for i, h in enumerate(piece) if h not in chosen]))
        new = [i for i, h in enumerate(piece) if h in chosen and (h not in seen or len(pieces) == 1)]
        held.append(rows.select(new))
        seen.update(piece)
    return rest, datasets.concatenate_datasets(held)


def _cut(rows: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    import datasets

    text = rows[0]["text"]
    at = int(len(text) * (1 - fraction))
    line_end = text.find("\n", at) + 1
    at = line_end if text[line_end:].strip() and line_end else at  # at the end of a line, where text follows it
    if not text[:at].strip() or not text[at:].strip():
        raise RecipeError("data.validation: the only document is too short to be cut; give a file of its own")
    return datasets.Dataset.from_list([{"text": text[:at]}]), datasets.Dataset.from_list([{"text": text[at:]}])


def weigh(rows: Dataset, weight: float, seed: int) -> Dataset:
    """Rows as often as `weight` says: 2 is twice each, 0.5 a half of them, chosen by content."""
    if weight == 1:
        return rows
    hashes, size = row_hashes(rows, seed), len(rows)
    chosen = sorted(range(size), key=hashes.__getitem__)[: round((weight - int(weight)) * size)]
    return rows.select([*range(size)] * int(weight) + sorted(chosen))
