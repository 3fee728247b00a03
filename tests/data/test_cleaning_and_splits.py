"""Bad rows are counted and named, or left out when told so; splits depend on what a document says and on nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from llmkit import DataConfig, RecipeError
from llmkit.data import load_part, load_rows
from llmkit.data.splits import row_hashes, split_off, weigh
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

LM, CLS = CausalLM(), TextClassification()
BAD = {
    1: {"text": ""},
    3: {"text": None},
    4: {"text": 7},
    6: {"text": "  \n"},
    8: {"other": "x"},
    9: {"text": ["a"]},
    11: {"text": "\t"},
}
MIXED = [BAD.get(i, {"text": f"row {i}"}) for i in range(30)]
GOOD = [row["text"] for i, row in enumerate(MIXED) if i not in BAD]


def parts(rows: Any, task: Any = LM, **fields: Any) -> dict[str, list[str]]:
    return {p: list(r["text"]) for p, r in load_rows(DataConfig(train=rows, **fields), task).rows.items()}


def fault(rows: Any, task: Any = LM, **fields: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load_rows(DataConfig(train=rows, **fields), task)
    (only,) = caught.value.faults
    return only


def warnings(err: str) -> str:
    return err[err.index("warning") :] if "warning" in err else ""


# -- cleaning


def test_bad_rows_are_raised_with_their_number_and_place() -> None:
    said = fault(MIXED)
    assert said.startswith("7 bad rows") and "and 2 more" in said and "--data.on_error skip" in said
    assert [
        w for w in ("row 2: empty", "row 4: no", "row 5: 'text' is int", "row 7: empty", "row 9: no") if w not in said
    ] == []


@pytest.mark.parametrize("on_error, shown", [("skip", 5), ("report", 7)])
def test_bad_rows_are_left_out_and_counted(on_error: str, shown: int, capsys: pytest.CaptureFixture) -> None:
    loaded = load_rows(DataConfig(train=MIXED, on_error=on_error), LM)
    assert sorted(t for part in loaded.rows.values() for t in part["text"]) == sorted(GOOD)
    assert [(s["rows"], s["left_out"]) for s in loaded.sources] == [(23, 7)]
    said = warnings(capsys.readouterr().err)
    assert "7 bad rows" in said and said.count("row ") == shown
    assert ("2 more" in said) == (shown == 5)


def test_bad_lines_of_a_file_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(10)) + '{"text": \n[]\n')
    found = parts(str(file), on_error="skip")
    assert len(found["train"]) + len(found["validation"]) == 10
    said = warnings(capsys.readouterr().err)
    assert "2 bad rows" in said and f"{file} line 11" in said and f"{file} line 12" in said


@pytest.mark.parametrize("on_error", ["skip", "report"])
def test_nothing_usable_is_a_fault(on_error: str) -> None:
    assert "no usable row" in fault([{"text": ""}, {"text": 3}], on_error=on_error)


def test_good_rows_say_nothing(capsys: pytest.CaptureFixture) -> None:
    parts([{"text": t} for t in GOOD])
    assert warnings(capsys.readouterr().err) == ""


@pytest.mark.parametrize("label", [None, "", " ", float("nan"), {"a": 1}])
def test_what_is_no_label_is_a_bad_row(label: Any) -> None:
    said = fault([{"text": "a", "label": "x"}, {"text": "b", "label": label}], CLS)
    assert "row 2: label" in said


def test_a_label_outside_the_given_ones_is_a_bad_row() -> None:
    said = fault(
        [{"text": "a", "label": "good"}, {"text": "b", "label": "gud"}], TextClassification(labels=("good", "bad"))
    )
    assert "row 2" in said and "'gud'" in said and "good, bad" in said


def test_rows_keep_the_task_s_columns_alone() -> None:
    rows = [{"text": "a", "label": " x ", "id": 1}, {"text": "b", "label": 3, "id": 2}]
    assert load_part(rows, CLS, DataConfig()).to_list() == [{"text": "a", "label": "x"}, {"text": "b", "label": "3"}]


def test_text_is_left_as_it_is() -> None:
    text = "  Once\r\n\tupon 从前 \u2028 é e\u0301 🦊 \n"
    assert load_part([{"text": text}], LM, DataConfig())["text"][:] == [text]


# -- splits


ROWS = [{"text": f"row {i}"} for i in range(100)]


def split(rows: list[dict], fraction: float = 0.2, seed: int = 0, task: Any = LM) -> tuple[list[str], list[str]]:
    (kept,), held = split_off([Dataset.from_list(rows)], fraction, seed, task)
    return list(kept["text"]), list(held["text"])


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_a_fraction_of_the_rows_is_held_out(fraction: float) -> None:
    kept, held = split(ROWS, fraction)
    assert len(held) == round(100 * fraction)
    assert sorted(kept + held) == sorted(r["text"] for r in ROWS)


def test_a_split_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert split(ROWS) == split(ROWS)
    assert set(split(ROWS)[1]) != set(split(ROWS, seed=1)[1])


def test_a_split_does_not_depend_on_order() -> None:
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert set(split(shuffled)[1]) == set(split(ROWS)[1])


def test_a_split_keeps_the_order_of_rows() -> None:
    kept, held = split(ROWS)
    assert kept == sorted(kept, key=lambda t: int(t.split()[1])) and held == sorted(
        held, key=lambda t: int(t.split()[1])
    )


def test_a_split_does_not_depend_on_the_order_of_columns() -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(40)]
    turned = [dict(reversed(r.items())) for r in rows]
    assert split(rows, task=CLS) == split(turned, task=CLS)


def test_equal_documents_fall_on_one_side() -> None:
    kept, held = split([ROWS[i % 10] for i in range(60)], 0.3)
    assert not set(kept) & set(held) and len(held) == 18


def test_a_little_data_still_has_something_held_out() -> None:
    kept, held = split(ROWS[:3], 0.01)
    assert (len(kept), len(held)) == (2, 1)


@pytest.mark.parametrize("rows", [[{"text": "same"}] * 5, ROWS[:1]])
def test_what_cannot_be_split_is_a_fault(rows: list[dict]) -> None:
    with pytest.raises(RecipeError, match="cannot be split"):
        split(rows, task=CLS)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2])
def test_a_fraction_is_between_0_and_1(fraction: float) -> None:
    assert "between 0 and 1" in fault(ROWS, validation=fraction)


def test_a_tenth_is_held_out_unless_told_otherwise() -> None:
    assert {p: len(r) for p, r in parts(ROWS).items()} == {"train": 90, "validation": 10}
    assert {p: len(r) for p, r in parts(ROWS, validation=0.3).items()} == {"train": 70, "validation": 30}


def test_the_seed_of_the_recipe_decides_the_split() -> None:
    assert set(parts(ROWS)["validation"]) != set(parts(ROWS, seed=3)["validation"])


def test_given_parts_are_left_whole() -> None:
    found = parts(ROWS, validation=[{"text": "held"}], test=[{"text": "tested"}])
    assert found == {"train": [r["text"] for r in ROWS], "validation": ["held"], "test": ["tested"]}


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
def test_a_lone_document_is_cut(text: str, task: Any) -> None:
    (kept,), (held,) = split([{"text": text}], 0.1, task=task)
    assert kept + held == text and kept.strip() and held.strip()
    assert 0.02 < len(held) / len(text) < 0.2


def test_a_lone_document_is_cut_between_lines() -> None:
    (kept,), (held,) = split([{"text": "".join(f"line {i}\n" for i in range(50))}], 0.1)
    assert kept.endswith("\n") and held.startswith("line ")


@pytest.mark.parametrize("text", ["a", "a\n", "ab   "])
def test_a_document_too_short_to_cut_is_a_fault(text: str) -> None:
    with pytest.raises(RecipeError, match="too short"):
        split([{"text": text}], 0.1)


def test_a_file_alone_is_cut_and_files_together_are_held_out_whole(tmp_path: Path) -> None:
    stories = [f"story {i}\n" * 30 for i in range(10)]
    for i, story in enumerate(stories):
        (tmp_path / f"{i}.txt").write_text(story)
    alone, together = parts(str(tmp_path / "0.txt")), parts(str(tmp_path))
    assert alone["train"] + alone["validation"] != [stories[0]]
    assert "".join(alone["train"] + alone["validation"]) == stories[0]
    assert sorted(together["train"] + together["validation"]) == stories and len(together["validation"]) == 1


def test_rows_that_stand_on_both_sides_are_said(capsys: pytest.CaptureFixture) -> None:
    parts(ROWS, validation=ROWS[:3], test=[{"text": "new"}, ROWS[5]])
    said = warnings(capsys.readouterr().err)
    assert "3 rows of validation" in said and "1 row of test" in said


def test_hashes_are_the_content_s() -> None:
    first, second = Dataset.from_list(ROWS[:2] + ROWS[:1]), Dataset.from_list(ROWS[:2])
    assert row_hashes(first)[:2] == row_hashes(second) and row_hashes(first)[2] == row_hashes(first)[0]
    assert len({*row_hashes(second), *row_hashes(second, seed=1)}) == 4


@pytest.mark.parametrize("weight", [0.5, 1, 1.5, 3])
def test_weights_choose_by_content(weight: float) -> None:
    rows, turned = Dataset.from_list(ROWS), Dataset.from_list(ROWS[::-1])
    found = weigh(rows, weight, 0)["text"]
    assert len(found) == 100 * weight
    assert sorted(found) == sorted(weigh(turned, weight, 0)["text"])
