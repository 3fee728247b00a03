"""Splits and weights depend on the content of rows alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset

from llmkit import UsageError
from llmkit.data.splits import row_hashes, split_off, weigh
from llmkit.tasks import CausalLM, MaskedLM, QuestionAnswering, Seq2Seq, TextClassification

LM, CLS = CausalLM(), TextClassification()
ROWS = [{"text": f"row {i}"} for i in range(100)]


def split(rows: list[dict], fraction: float = 0.2, seed: int = 0, task: Any = LM) -> tuple[list[str], list[str]]:
    (rest,), held_out = split_off([Dataset.from_list(rows)], fraction, seed, task)
    return list(rest["text"]), list(held_out["text"])


def number(text: str) -> int:
    return int(text.split()[1])


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_split_holds_out_a_fraction_of_the_rows(fraction: float) -> None:
    rest, held_out = split(ROWS, fraction)
    assert len(held_out) == round(100 * fraction)
    assert sorted(rest + held_out) == sorted(r["text"] for r in ROWS)


def test_split_is_reproducible_and_depends_on_the_seed() -> None:
    assert split(ROWS) == split(ROWS)
    assert set(split(ROWS)[1]) != set(split(ROWS, seed=1)[1])


def test_split_does_not_depend_on_the_order_of_rows() -> None:
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert set(split(shuffled)[1]) == set(split(ROWS)[1])


def test_split_keeps_the_order_of_rows() -> None:
    rest, held_out = split(ROWS)
    assert rest == sorted(rest, key=number) and held_out == sorted(held_out, key=number)


def test_split_does_not_depend_on_the_order_of_columns() -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(40)]
    reversed_columns = [dict(reversed(r.items())) for r in rows]
    assert split(rows, task=CLS) == split(reversed_columns, task=CLS)


def test_equal_documents_are_in_the_same_part() -> None:
    rest, held_out = split([ROWS[i % 10] for i in range(60)], 0.3)
    assert not set(rest) & set(held_out) and len(held_out) == 18


def test_rows_of_one_split_group_are_in_the_same_part() -> None:
    rows = Dataset.from_list([{"question": f"q {i}", "context": f"c {i % 10}"} for i in range(60)])
    (rest,), held_out = split_off([rows], 0.3, 0, QuestionAnswering())
    assert len(set(held_out["context"])) == 3 and not set(rest["context"]) & set(held_out["context"])


def test_at_least_one_row_is_held_out() -> None:
    rest, held_out = split(ROWS[:3], 0.01)
    assert (len(rest), len(held_out)) == (2, 1)


@pytest.mark.parametrize("rows", [[{"text": "same"}] * 5, ROWS[:1]])
def test_rows_that_cannot_be_split_are_an_error(rows: list[dict]) -> None:
    with pytest.raises(UsageError, match="cannot be split"):
        split(rows, task=CLS)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2])
def test_fraction_must_be_between_0_and_1(fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        split(ROWS, fraction)


# -- a single document


@pytest.mark.parametrize("task", [LM, MaskedLM()])
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"line {i} of a long story\n" for i in range(50)),
        "".join(f"第{i}行，从前\r\n" for i in range(50)),
        "one line, and no end of line: " + "word " * 100,
        "one line and its end: " + "word " * 100 + "\n",
        "a short line\n" * 3 + "and a last one that is long: " + "word " * 100 + "\n",
    ],
    ids=["lines", "chinese", "one line", "one line and its end", "a long last line"],
)
def test_single_document_is_cut(text: str, task: Any) -> None:
    (rest,), (held_out,) = split([{"text": text}], 0.1, task=task)
    assert rest + held_out == text and rest.strip() and held_out.strip()
    assert 0.02 < len(held_out) / len(text) < 0.2


def test_single_document_is_cut_between_lines() -> None:
    (rest,), (held_out,) = split([{"text": "".join(f"line {i}\n" for i in range(50))}], 0.1)
    assert rest.endswith("\n") and held_out.startswith("line ")


@pytest.mark.parametrize("text", ["a", "a\n", "ab   "])
def test_document_too_short_to_cut_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="too short"):
        split([{"text": text}], 0.1)


# -- hashes and weights


def test_hashes_depend_on_content_and_seed() -> None:
    first, second = Dataset.from_list(ROWS[:2] + ROWS[:1]), Dataset.from_list(ROWS[:2])
    assert row_hashes(first)[:2] == row_hashes(second) and row_hashes(first)[2] == row_hashes(first)[0]
    assert len({*row_hashes(second), *row_hashes(second, seed=1)}) == 4


@pytest.mark.parametrize("weight", [0.5, 1, 1.5, 3])
def test_weights_choose_rows_by_content(weight: float) -> None:
    rows, reversed_rows = Dataset.from_list(ROWS), Dataset.from_list(ROWS[::-1])
    chosen = weigh(rows, weight, 0)["text"]
    assert len(chosen) == 100 * weight
    assert sorted(chosen) == sorted(weigh(reversed_rows, weight, 0)["text"])


def test_rows_of_a_group_in_several_datasets_are_all_kept() -> None:
    """Only an equal row is a copy; another target of the same source is not."""
    datasets = [
        Dataset.from_list([{"source": f"s {i}", "target": [f"{name} {i}"]} for i in range(20)]) for name in "ab"
    ]
    rest, held_out = split_off([*datasets, datasets[0]], 0.3, 0, Seq2Seq())
    assert [len(rows) for rows in rest] == [14, 14, 14] and len(held_out) == 12
    assert not set(held_out["source"]) & {source for rows in rest for source in rows["source"]}
