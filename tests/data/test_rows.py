"""From raw rows to a task's rows: columns are found or named, and invalid rows are counted, named or skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmkit import DataConfig, UsageError
from llmkit.data.loading import load_part, load_rows
from llmkit.data.rows import RecordedRow, question_columns
from llmkit.tasks import (
    CausalLM,
    MaskedLM,
    Preference,
    QuestionAnswering,
    SentenceEmbedding,
    Seq2Seq,
    TextClassification,
)

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


# -- columns of each row


ALPACA = {"instruction": "hi", "output": "x"}
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_column_first_seen_after_many_rows_is_read() -> None:
    rows = part([ALPACA] * 120 + [{**ALPACA, "input": "le chat"}])
    assert [row["messages"][0]["content"] for row in (rows[0], rows[-1])] == ["hi", "hi\n\nle chat"]


@pytest.mark.parametrize("task, early, late, expected", [
    (SentenceEmbedding(), {"anchor": "a", "positive": "p"}, {"negative": "n"}, "n"),
    (Preference(), {"prompt": "a", "chosen": "b", "rejected": "c"}, {"system": "s"}, "'s'"),
    (QuestionAnswering(), {"question": "q", "context": "c", "answers": []}, {"is_impossible": True}, "'text': []"),
    (LM, {"prompt": "a", "response": "b"}, {"history": [["c", "d"]]}, "'d'"),
    (LM, {"messages": [USER, ASSISTANT]}, {"system_prompt": "s"}, "'s'"),
])  # fmt: skip
def test_optional_column_of_a_late_row_is_read(task: Any, early: dict, late: dict, expected: str) -> None:
    assert expected in str(part([early] * 110 + [{**early, **late}], task)[-1])


def test_late_row_with_another_usual_name_is_read() -> None:
    assert texts(part([{"text": "a"}] * 110 + [{"story": "b"}]))[-1] == "b"
    assert "row 111: no 'text'" in fault([{"text": "a"}] * 110 + [{"tale": "b"}])


@pytest.mark.parametrize(
    "rows", [[{"text": "a"}, {"messages": [USER, ASSISTANT]}], [{"messages": [USER, ASSISTANT]}, {"text": "a"}]]
)
def test_rows_of_a_file_may_be_texts_and_conversations(rows: list[dict]) -> None:
    """pyarrow takes the columns of a table from its first row."""
    kept = part(rows)
    assert sorted(row["text"] or row["messages"][1]["content"] for row in kept) == ["a", "a"]


@pytest.mark.parametrize("first, second, message", [
    ({"text": "a", "label": "x"}, {"text": "b", "text_pair": "c", "label": "x"}, "has 'text_pair', unlike the rows before"),
    ({"text": "b", "text_pair": "c", "label": "x"}, {"text": "a", "label": "x"}, "no 'text_pair'"),
    ({"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}, "'label' is list, and text in the rows before"),
])  # fmt: skip
def test_unlike_columns_are_refused_within_a_source_and_between_sources(
    tmp_path: Path, first: dict, second: dict, message: str
) -> None:
    a, b, both = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "both"))
    lines = [json.dumps(row) + "\n" for row in (first, second)]
    for file, text in ((a, lines[0]), (b, lines[1]), (both, lines[0] * 150 + lines[1])):
        file.write_text(text)
    assert f"{both} line 151: {message}" in fault(str(both), CLS)
    assert f"{b} line 1: {message}" in fault([str(a), str(b)], CLS)


@pytest.mark.parametrize("header", ["Text, Label", " TEXT ,label ", "Review,LABEL"])
def test_headers_match_in_any_case_and_with_spaces_around(tmp_path: Path, header: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\nfine,good\ndull,bad\n")
    assert part(str(file), CLS) == [{"text": "fine", "label": "good"}, {"text": "dull", "label": "bad"}]


def test_exact_name_is_preferred_and_the_other_one_is_named(capsys: pytest.CaptureFixture) -> None:
    assert texts(part([{"Text": "no", "text": "yes"}])) == ["yes"]
    assert "columns not read: Text (1 row)" in capsys.readouterr().err


def test_hint_for_a_missing_column_works_when_obeyed(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("Phrase, My Mood\nfine,good\ndull,bad\n")
    with pytest.raises(UsageError) as error:
        part(str(file), CLS)
    assert ["set --data.columns.text NAME" in f or "set --data.columns.label NAME" in f for f in error.value.faults]
    assert len(part(str(file), CLS, columns={"text": "Phrase", "label": "My Mood"})) == 2


# -- what is not read


def read_and_log(rows: Any, capsys: pytest.CaptureFixture, task: Any = LM, **fields: Any) -> str:
    part(rows, task, **fields)
    return "".join(line for line in capsys.readouterr().err.splitlines() if "not read" in line)


@pytest.mark.parametrize("task, row, named", [
    (LM, {"text": "a", "system": "s"}, "system"),
    (LM, {"text": "a", "label": True}, "label"),
    (LM, {"prompt": "a", "response": "b", "mood": "glad"}, "mood"),
    (LM, {"prompt": "a", "response": "b", "label": "billing"}, "label"),
    (LM, {"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT], "system": "t"}, "system"),
    (LM, {"messages": [{**USER, "name": "Bo"}, ASSISTANT]}, "messages[].name"),
    (LM, {"conversations": [USER, {**ASSISTANT, "mood": "glad"}]}, "conversations[].mood"),
    (Preference(), {"prompt": "a", "chosen": {**ASSISTANT, "mood": "glad"}, "rejected": "c"}, "chosen.mood"),
    (Seq2Seq(source="en", target="zh"), {"translation": {"en": "a", "zh": "b", "fr": "c"}}, "translation.fr"),
    (CLS, {"text": "a", "label": "x", "weight": 0}, "weight"),
    (SentenceEmbedding(), {"anchor": "a", "positive": "b", "score": 0.5}, "score"),
])  # fmt: skip
def test_key_that_is_not_read_is_named_and_counted(
    task: Any, row: dict, named: str, capsys: pytest.CaptureFixture
) -> None:
    plain = {"text": "b", "label": "y"} if task is CLS else row
    log = read_and_log([row, plain, row], capsys, task)
    count = 2 if task is CLS else 3
    assert log == f"warning  train: columns not read: {named} ({count} rows)"


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_empty_values_and_keys_that_are_read_are_not_named(empty: Any, capsys: pytest.CaptureFixture) -> None:
    rows = [{"messages": [USER, {**ASSISTANT, "tool_calls": empty, "name": empty}], "tools": empty, "system": "s"}]
    assert read_and_log(rows, capsys) == ""
    assert read_and_log([{"translation": {"en": "a", "zh": "b"}}], capsys, Seq2Seq(source="en", target="zh")) == ""
    assert read_and_log([{"question": "a", "response": "b"}], capsys) == ""


def test_metadata_is_named_without_a_warning_and_shares_the_line(capsys: pytest.CaptureFixture) -> None:
    assert read_and_log([{"text": "a", "id": 1, "paper_id": "x"}], capsys).startswith(
        "data     train: columns not read: id"
    )
    line = read_and_log([{"text": "a", "id": 1, "mood": 0}] * 3, capsys)
    assert line == "warning  train: columns not read: id (3 rows), mood (3 rows)"


def test_all_sources_of_a_part_share_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name, "mood": 1, name: 2}) + "\n")
    log = read_and_log([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], capsys)
    assert log == "warning  train: columns not read: mood (2 rows), a (1 row), b (1 row)"


@pytest.mark.parametrize("task, row, used, other, option", [
    (LM, {"text": "whole", "instruction": "hi", "output": "x"}, "whole", "instruction, output", "instruction instruction"),
    (LM, {"body": "whole", "question": "hi", "answer": "x"}, "whole", "question, answer", "prompt question"),
    (LM, {"messages": [USER, ASSISTANT], "prompt": "hi", "response": "x"}, "'q'", "prompt, response", "prompt prompt"),
    (Seq2Seq(), {"translation": {"source": "q", "target": "t"}, "source": "hi", "target": "x"}, "'q'", "source, target",
     "source source"),
])  # fmt: skip
def test_second_format_of_a_row_is_named_and_can_be_chosen(
    task: Any, row: dict, used: str, other: str, option: str, capsys: pytest.CaptureFixture
) -> None:
    assert used in str(part([row], task)) and "'hi" not in str(part([row], task))
    log = capsys.readouterr().err
    assert f"to read {other} instead: --data.columns.{option} (evaluate: --column {option.replace(' ', '=')})" in log
    column, name = option.split()
    assert "'hi'" in str(part([row], task, columns={column: name}))


def test_nested_mapping_that_is_kept_whole_is_read(capsys: pytest.CaptureFixture) -> None:
    class Whole(CausalLM):
        def read_row(self, row: Any) -> dict[str, Any]:
            return {**row, "text": str(row["messages"])} if "messages" in row else dict(row.items())

    assert read_and_log([{"messages": [{"a": 1, "b": 2}]}, {"text": "a"}], capsys, Whole()) == ""


def test_recorded_row_is_the_mapping_it_records() -> None:
    values = {"a": 1, "b": [{"c": 2, "d": 3}, {"c": 4}], "e": {"f": 5}, "g": []}
    row = RecordedRow(values)
    assert row == values and row.get("z") is None and row.read == set()
    assert row["b"][0]["c"] == 2 and row.get("e")["f"] == 5 and "a" in row
    assert list(row.unread({"b": "B"})) == ["a", "B[].d"]
    assert {**row} == values and list(row.unread({})) == ["b[].d"]
