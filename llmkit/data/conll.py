"""CoNLL files as they come: a word a line, its columns parted by tabs or spaces, an empty line between sentences."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from statistics import mode
from typing import Any

from llmkit.console import plural
from llmkit.data.tagging import OUTSIDE

EMPTY = ("_", "")
NAMED = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "heads": 6}
"""Columns of CoNLL-U that are read, by their place."""


def blocks(lines: Iterable[str], blank: str | None = None) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each block. Empty lines part blocks, and those of nothing but `blank` (white space)."""
    numbered = ((i, line.rstrip("\r\n")) for i, line in enumerate(lines, 1))
    for filled, group in itertools.groupby(numbered, key=lambda pair: bool(pair[1].strip(blank))):
        if filled:
            yield list(group)


def read_columns(name: str, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """`{tokens, tags}` of each sentence: the first column and the last; those between are `column 2`, `column 3` ….

    `#` may be a word. A line that begins with it is a comment only before a sentence, with other columns than it.
    Raises nothing: a sentence with a bad line is a ValueError in its place.
    """
    width = None
    for sentence in blocks(lines, "\t "):
        rows = [(number, line, re.split("\t" if "\t" in line else " +", line.strip(" "))) for number, line in sentence]
        width = width or mode(len(cells) for _, _, cells in [r for r in rows if r[1][0] != "#"] or rows)
        while rows and rows[0][1].startswith("#") and len(rows[0][2]) != width:
            rows.pop(0)
        if not rows or rows[0][1].startswith("-DOCSTART-"):
            continue
        bad = next(((n, line, cells) for n, line, cells in rows if len(cells) != width or "" in cells), None)
        if bad or width < 2:
            number, line, cells = bad or rows[0]
            have = "an empty column" if "" in cells else plural(len(cells), "column")
            wanted = f"the first sentence has {width}" if width > 1 else "a word and its tag are two"
            yield f"{name} line {number}", ValueError(f"{have} in {line[:40]!r}, {wanted}")
            continue
        columns = list(zip(*(cells for _, _, cells in rows), strict=True))
        between = {f"column {i}": list(column) for i, column in enumerate(columns[1:-1], 2)}
        yield f"{name} line {rows[0][0]}", {"tokens": list(columns[0]), "tags": list(columns[-1]), **between}


def read_conllu(name: str, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """`{tokens, lemmas, upos, xpos, heads, frames, head_frames}` of each sentence of CoNLL-U (syntactic words alone: no
    comments, ranges such as 1-2 or empty nodes such as 8.1).

    Files with predicates in column 11 and a column of roles for each after it (Universal Propositions) mark the head of
    an argument: `head_frames` is a list of `{predicate, tags}` just so, `frames` the same with each role on the phrase
    below that head. A sentence with a bad line is a ValueError in its place.
    """
    for sentence in blocks(lines, "\t "):
        rows = [(n, line.split("\t")) for n, line in sentence if not line.startswith("#")]
        bad = next(((n, c) for n, c in rows if len(c) < 10 or not re.fullmatch(r"\d+([-.]\d+)?", c[0])), None)
        if bad:
            line, cells = bad
            short = f"{len(cells)} columns, CoNLL-U has 10 and more" if len(cells) < 10 else ""
            yield f"{name} line {line}", ValueError(short or f"no word has the id {cells[0]!r}")
            continue
        rows = [(n, cells) for n, cells in rows if cells[0].isdigit()]
        if not rows:
            continue
        where = f"{name} line {rows[0][0]}"
        try:
            row = {k: [cells[at] for _, cells in rows] for k, at in NAMED.items()}
            row["heads"] = [int(h) - 1 if h.isdigit() else -1 for h in row["heads"]]
            if max(row["heads"]) >= len(rows):
                raise ValueError(
                    f"word {max(row['heads']) + 1} is a head, in a sentence of {plural(len(rows), 'word')}"
                )
            row["head_frames"] = _frames([cells for _, cells in rows])
            row["frames"] = [{**f, "tags": _phrases(row["heads"], **f)} for f in row["head_frames"]]
            yield where, row
        except ValueError as e:
            yield where, e


def _frames(rows: list[list[str]]) -> list[Mapping[str, Any]]:
    """The predicates of a sentence in order, and the roles in the column of each."""
    predicates = [i for i, cells in enumerate(rows) if len(cells) > 10 and cells[10] not in EMPTY]
    roles = itertools.zip_longest(*(cells[11:] for cells in rows), fillvalue="_")
    columns = [["O" if tag in EMPTY else tag for tag in column] for column in roles]
    while len(columns) > len(predicates) and set(columns[-1]) == {"O"}:
        columns.pop()  # a sentence without predicates may still end in an empty column
    if len(columns) != len(predicates):
        raise ValueError(f"{len(predicates)} predicates and {len(columns)} columns of roles")
    return [{"predicate": p, "tags": tags} for p, tags in zip(predicates, columns, strict=True)]


def _phrases(heads: list[int], predicate: int, tags: list[str]) -> list[str]:
    """`tags` in IOB2, each role spread from its word over the unbroken stretch of words that hang from it, and not from
    another role or the predicate first."""

    def owner(word: int) -> int | None:
        for _ in heads:  # a broken tree may turn in circles
            if word < 0 or word == predicate:
                return None
            if tags[word] not in OUTSIDE:
                return word
            word = heads[word]
        return None

    spread = list(tags)
    for word, group in itertools.groupby(range(len(heads)), key=owner):
        stretch = list(group)
        if word in stretch:
            spread[stretch[0] : stretch[-1] + 1] = [f"B-{tags[word]}", *[f"I-{tags[word]}"] * (len(stretch) - 1)]
    return spread
