"""From raw rows to a task's rows: columns are found or named, and invalid rows are counted, named or skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmkit import DataConfig, UsageError
from llmkit.data.loading import load_part, load_rows
from llmkit.data.rows import question_columns
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

LM, CLS = CausalLM(), TextClassification()
INVALID = {
    1: {"text": ""},
    3: {"text": None},
    4: {"text": 7},
    6: {"text": "  \n"},
    8: {"other": "x"},
    9: {"text": ["a"]},
    11: {"text": "\t"},
}
MIXED = [INVALID.get(i, {"text": f"row {i}"}) for i in range(30)]
VALID = [row["text"] for i, row in enumerate(MIXED) if i not in INVALID]


def part(rows: Any, task: Any = LM, **fields: Any) -> list[dict]:
    return load_part(rows, task, DataConfig(**fields), "train").to_list()


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def fault(rows: Any, task: Any = LM, **fields: Any) -> str:
    with pytest.raises(UsageError) as error:
        part(rows, task, **fields)
    (line,) = error.value.faults
    return line


def warnings(err: str) -> str:
    return err[err.index("warning") :] if "warning" in err else ""


# -- invalid rows


def test_invalid_rows_raise_with_count_place_and_fix() -> None:
    line = fault(MIXED)
    assert line.startswith("7 invalid rows") and "and 2 more" in line and "--data.on_error skip" in line
    reasons = ("row 2: empty", "row 4: no", "row 5: 'text' is int", "row 7: empty", "row 9: no")
    assert [reason for reason in reasons if reason not in line] == []


@pytest.mark.parametrize("on_error, shown", [("skip", 5), ("report", 7)])
def test_invalid_rows_are_skipped_counted_and_logged(on_error: str, shown: int, capsys: pytest.CaptureFixture) -> None:
    loaded = load_rows(DataConfig(train=MIXED, on_error=on_error), LM)
    assert sorted(t for part in loaded.rows.values() for t in part["text"]) == sorted(VALID)
    assert [(s["rows"], s["left_out"]) for s in loaded.sources] == [(23, 7)]
    warning = warnings(capsys.readouterr().err)
    assert "7 invalid rows" in warning and warning.count("row ") == shown
    assert ("2 more" in warning) == (shown == 5)


def test_skipped_lines_of_a_file_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(10)) + '{"text": \n[]\n')
    assert len(part(str(file), on_error="skip")) == 10
    warning = warnings(capsys.readouterr().err)
    assert "2 invalid rows" in warning and f"{file} line 11" in warning and f"{file} line 12" in warning


@pytest.mark.parametrize("on_error", ["skip", "report"])
def test_source_without_a_valid_row_is_an_error(on_error: str) -> None:
    assert "no valid row" in fault([{"text": ""}, {"text": 3}], on_error=on_error)


def test_valid_rows_log_no_warning(capsys: pytest.CaptureFixture) -> None:
    part([{"text": t} for t in VALID])
    assert warnings(capsys.readouterr().err) == ""


@pytest.mark.parametrize("label", [None, "", " ", float("nan"), {"a": 1}])
def test_invalid_label_is_an_invalid_row(label: Any) -> None:
    line = fault([{"text": "a", "label": "x"}, {"text": "b", "label": label}], CLS)
    assert "row 2: label" in line


def test_label_outside_the_given_labels_is_an_invalid_row() -> None:
    rows = [{"text": "a", "label": "good"}, {"text": "b", "label": "gud"}]
    line = fault(rows, TextClassification(labels=("good", "bad")))
    assert "row 2" in line and "'gud'" in line and "good, bad" in line


def test_value_of_another_type_than_before_is_an_invalid_row() -> None:
    class Untyped(CausalLM):
        def read_row(self, row: Any) -> dict[str, Any]:
            return {"text": row["text"]}

    line = fault([{"text": "a"}, {"text": 2}], Untyped())
    assert "row 2" in line and "'text'" in line


# -- columns


@pytest.mark.parametrize("task, column", [(LM, "content"), (LM, "story"), (CLS, "sentence"), (CLS, "review")])
def test_usual_column_names_are_found(task: Any, column: str) -> None:
    rows = [{column: f"row {i}", "label": "ab"[i % 2]} for i in range(4)]
    assert texts(part(rows, task)) == [f"row {i}" for i in range(4)]


def test_named_columns_are_renamed() -> None:
    rows = [{"text": "no", "body": "yes", "mood": "good"}]
    assert part(rows, CLS, columns={"text": "body", "label": "mood"}) == [{"text": "yes", "label": "good"}]


@pytest.mark.parametrize("task, row, columns, needles", [
    (MaskedLM(), {"a": "x", "b": "y"}, {}, ("no column for 'text'", "columns are a, b", "--data.columns.text NAME")),
    (LM, {"a": "x", "b": "y"}, {}, ("columns are a, b", "reads text; or messages", "--data.columns.text NAME")),
    (LM, {"text": "x"}, {"text": "body"}, ("no column 'body' (data.columns.text)", "its columns are text")),
    (LM, {"text": "x"}, {"txt": "text"}, ("data.columns.txt", "it reads text")),
])  # fmt: skip
def test_missing_column_is_an_error_that_lists_the_columns(
    task: Any, row: dict, columns: dict[str, str], needles: tuple[str, ...]
) -> None:
    line = fault([row], task, columns=columns)
    assert [n for n in needles if n not in line] == [], line


@pytest.mark.parametrize("kind, delimiter", [("csv", ","), ("tsv", "\t")])
def test_missing_column_of_a_table_suggests_names(tmp_path: Path, kind: str, delimiter: str) -> None:
    file = tmp_path / f"rows.{kind}"
    file.write_text(f"a fine film{delimiter}positive\ndull{delimiter}negative\n")
    with pytest.raises(UsageError) as error:
        part(str(file), CLS)
    assert all(f.endswith("or --data.names A,B if the file has no header line") for f in error.value.faults)


def test_rows_keep_only_the_columns_of_the_task() -> None:
    rows = [{"text": "a", "label": " x ", "id": 1}, {"text": "b", "label": 3, "id": 2}]
    assert part(rows, CLS) == [{"text": "a", "label": "x"}, {"text": "b", "label": "3"}]


def test_text_is_unchanged() -> None:
    text = "  Once\r\n\tupon 从前 \u2028 é e\u0301 🦊 \n"
    assert part([{"text": text}]) == [{"text": text}]


def test_numbers_are_labels() -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0.0}, {"text": "c", "label": "2"}]
    assert [r["label"] for r in part(rows, CLS)] == ["1", "0", "2"]
    assert CLS.fit({"train": load_part(rows, CLS, DataConfig())}).labels == ("0", "1", "2")


def test_question_has_the_tasks_columns_under_its_names() -> None:
    row = {"sentence": "a", "body": "b", "id": 1, "label": None}
    assert question_columns(row, CLS, {}) == {"text": "a"}
    assert question_columns(row, CLS, {"text": "body"}) == {"text": "b"}
