"""CoNLL files: one word per line, columns separated by tabs or spaces, an empty line between sentences."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from statistics import mode

from llmkit.data.files import RawRow
from llmkit.data.spans import OUTSIDE
from llmkit.log import plural
from llmkit.task import Json

EMPTY = ("_", "")
CONLLU_COLUMNS = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "heads": 6}
"""Columns of CoNLL-U that are read, with their index."""
WORD_TABLE = {"sentence #": "", "word": "tokens", "tag": "tags"}
"""Columns of a table with one word per row, such as Kaggle's ner_dataset.csv, and their names in its sentences."""


def blocks(lines: Iterable[str], blank: str | None = None) -> Iterator[list[tuple[int, str]]]:
    """Yield the numbered lines of each block; blocks are separated by lines that hold only `blank` characters.

    By default these are all white space.
    """
    numbered = ((i, line.rstrip("\r\n")) for i, line in enumerate(lines, 1))
    for filled, group in itertools.groupby(numbered, key=lambda pair: bool(pair[1].strip(blank))):
        if filled:
            yield list(group)


def read_columns(name: str, lines: Iterable[str]) -> Iterator[RawRow]:
    """Yield `(file and line, {tokens, tags})` of each sentence: the first and the last column.

    Columns between them are `column 2`, `column 3`, and so on. A line that begins with `#` is a comment only before a
    sentence, if it has another number of columns. A sentence with an invalid line is yielded as a ValueError.
    """
    width = None
    for block in blocks(lines, "\t "):
        rows = [(number, line, re.split("\t" if "\t" in line else " +", line.strip(" "))) for number, line in block]
        width = width or mode(len(cells) for _, _, cells in [r for r in rows if r[1][0] != "#"] or rows)
        while rows and rows[0][1].startswith("#") and len(rows[0][2]) != width:
            rows.pop(0)
        if not rows or rows[0][1].startswith("-DOCSTART-"):
            continue
        invalid = [row for row in rows if len(row[2]) != width or "" in row[2]]
        if invalid or width < 2:
            number, line, cells = (invalid or rows)[0]
            actual = "an empty column" if "" in cells else plural(len(cells), "column")
            expected = f"the first sentence has {width}" if width > 1 else "expected a word and its tag"
            yield f"{name} line {number}", ValueError(f"{actual} in {line[:40]!r}, {expected}")
            continue
        tokens, *between, tags = (list(column) for column in zip(*(cells for _, _, cells in rows), strict=True))
        others = {f"column {i}": column for i, column in enumerate(between, 2)}
        yield f"{name} line {rows[0][0]}", {"tokens": tokens, "tags": tags, **others}


def read_word_table(rows: Iterable[RawRow]) -> Iterator[RawRow]:
    """Yield `(file and line, {tokens, tags})` of each sentence of a WORD_TABLE, with its other columns as lists.

    `Sentence #` is filled at the first word of a sentence, or at each. Of a sentence with an invalid row, that row is
    yielded.
    """
    current = ""

    def sentence(pair: RawRow) -> str:
        nonlocal current
        cells = pair[1].items() if isinstance(pair[1], Mapping) else ()
        current = next((cell for name, cell in cells if name.strip().lower() == "sentence #" and cell), current)
        return current

    for _, group in itertools.groupby(rows, sentence):
        words = list(group)
        invalid = next((pair for pair in words if not isinstance(pair[1], Mapping)), None)
        columns = {} if invalid else {name.strip(): [row[name] for _, row in words] for name in words[0][1]}
        renamed = {WORD_TABLE.get(name.lower(), name): column for name, column in columns.items()}
        yield invalid or (words[0][0], {name: column for name, column in renamed.items() if name})


def read_conllu(name: str, lines: Iterable[str]) -> Iterator[RawRow]:
    """Yield `(file and line, {tokens, lemmas, upos, xpos, heads, frames, head_frames})` of each CoNLL-U sentence.

    Only syntactic words are read: no comments, ranges such as 1-2, or empty nodes such as 8.1.

    Universal Propositions mark predicates in column 11, and roles on the head of each argument in one more column per
    predicate. `head_frames` holds these as `{predicate, tags}`; `frames` holds the same with each role on the whole
    phrase below that head. A sentence with an invalid line is yielded as a ValueError.
    """
    for block in blocks(lines, "\t "):
        rows = [(number, line.split("\t")) for number, line in block if not line.startswith("#")]
        fault = next(((number, fault) for number, cells in rows if (fault := _fault(cells))), None)
        words = [(number, cells) for number, cells in rows if cells[0].isdigit()]
        if fault:
            yield f"{name} line {fault[0]}", ValueError(fault[1])
        elif words:
            where = f"{name} line {words[0][0]}"
            try:
                yield where, _read_words([cells for _, cells in words])
            except ValueError as e:
                yield where, e


def _fault(cells: list[str]) -> str:
    """Say what is wrong with a line of CoNLL-U; empty if nothing is."""
    if len(cells) < 10:
        return f"{plural(len(cells), 'column')}, but CoNLL-U has at least 10"
    return "" if re.fullmatch(r"\d+([-.]\d+)?", cells[0]) else f"{cells[0]!r} is not the id of a word"


def _read_words(words: list[list[str]]) -> Json:
    """The row of a CoNLL-U sentence. Raises ValueError for a head outside it."""
    row: Json = {column: [cells[i] for cells in words] for column, i in CONLLU_COLUMNS.items()}
    row["heads"] = [int(head) - 1 if head.isdigit() else -1 for head in row["heads"]]
    if (last := max(row["heads"])) >= len(words):
        raise ValueError(f"word {last + 1} is a head, in a sentence of {plural(len(words), 'word')}")
    row["head_frames"] = _frames(words)
    row["frames"] = [{**frame, "tags": _phrases(row["heads"], **frame)} for frame in row["head_frames"]]
    return row


def _frames(words: list[list[str]]) -> list[Json]:
    """The predicates of a sentence in order, with the tags in the column of each."""
    predicates = [i for i, cells in enumerate(words) if len(cells) > 10 and cells[10] not in EMPTY]
    columns = itertools.zip_longest(*(cells[11:] for cells in words), fillvalue="_")
    roles = [["O" if tag in EMPTY else tag for tag in column] for column in columns]
    while len(roles) > len(predicates) and set(roles[-1]) == {"O"}:
        roles.pop()  # a sentence without predicates may still end in an empty column
    if len(roles) != len(predicates):
        raise ValueError(f"{plural(len(predicates), 'predicate')}, but {plural(len(roles), 'column')} of roles")
    return [{"predicate": predicate, "tags": tags} for predicate, tags in zip(predicates, roles, strict=True)]


def _phrases(heads: list[int], predicate: int, tags: list[str]) -> list[str]:
    """Return `tags` in IOB2, each role on the unbroken run of words below its head in the tree.

    Words below another role's head, or below the predicate, are not part of it.
    """

    def owner(word: int) -> int | None:
        for _ in heads:  # an invalid tree may hold a cycle
            if word < 0 or word == predicate:
                return None
            if tags[word] not in OUTSIDE:
                return word
            word = heads[word]
        return None

    out = list(tags)
    for word, group in itertools.groupby(range(len(heads)), key=owner):
        run = list(group)
        if word in run:
            out[run[0] : run[-1] + 1] = [f"B-{tags[word]}", *[f"I-{tags[word]}"] * (len(run) - 1)]
    return out
