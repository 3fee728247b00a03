"""`llmkit predict`: one line for each input, in order, on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import FILMS, assert_one_fault, call, classifier, read_jsonl

import llmkit

__all__ = ["call", "classifier"]  # fixtures
FILES = {
    "reviews.txt": "\n".join(FILMS) + "\n\n",
    "reviews.csv": "id,review\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(FILMS)),
    "reviews.tsv": "text\tid\n" + "".join(f"{t}\t{i}\n" for i, t in enumerate(FILMS)),
    "reviews.jsonl": "".join(
        json.dumps({"id": i, "text": t}, ensure_ascii=i % 2 == 0) + "\n" for i, t in enumerate(FILMS)
    ),
    "reviews.json": json.dumps([{"sentence": t} for t in FILMS]),
}


def expected_lines(folder: Path, texts: list[str]) -> list[str]:
    answers = llmkit.load(str(folder)).predict(texts)
    return [f"{a['label']}\t{a['score']:.4f}\t{t}" for a, t in zip(answers, texts, strict=True)]


@pytest.mark.parametrize("texts", [FILMS[:1], FILMS, ["reviews"]])
def test_each_text_gets_a_line(call: Callable, classifier: Path, texts: list[str]) -> None:
    answer = call("predict", classifier, *texts)
    assert (answer.status, answer.lines, answer.err) == (0, expected_lines(classifier, texts), "")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_each_row_of_a_file_gets_a_line_in_order(
    call: Callable, classifier: Path, tmp_path: Path, name: str, batch_size: int
) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    answer = call("predict", classifier, name, "--batch-size", batch_size)
    assert (answer.status, answer.lines, answer.err) == (0, expected_lines(classifier, FILMS), "")


def test_a_dash_reads_texts_from_stdin(call: Callable, classifier: Path) -> None:
    assert call("predict", classifier, "-", stdin=FILES["reviews.txt"]).lines == expected_lines(classifier, FILMS)


def test_json_is_one_object_per_line(call: Callable, classifier: Path) -> None:
    answers = llmkit.load(str(classifier)).predict(FILMS)
    expected = [{"text": text, **answer} for text, answer in zip(FILMS, answers, strict=True)]
    assert call("predict", classifier, *FILMS, "--json").json == expected


def test_out_takes_the_predictions_and_stdout_is_empty(call: Callable, classifier: Path, tmp_path: Path) -> None:
    answer = call("predict", classifier, *FILMS, "--out", "out.jsonl")
    assert (answer.status, answer.out) == (0, "") and "out.jsonl" in answer.err
    assert read_jsonl(tmp_path / "out.jsonl") == call("predict", classifier, *FILMS, "--json").json


def test_out_does_not_replace_the_input(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("text\na fine film\n")
    assert_one_fault(call("predict", classifier, "films.csv", "--out", "./films.csv"), "--out", "is the input")
    assert (tmp_path / "films.csv").read_text() == "text\na fine film\n"


def test_a_text_may_follow_an_option(call: Callable, classifier: Path) -> None:
    assert call("predict", classifier, "--json", *FILMS).json == call("predict", classifier, *FILMS, "--json").json


def test_column_names_the_column_to_read(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("text,summary\ndull,a fine film\n")
    answer = call("predict", classifier, "two.csv", "--column", "summary")
    assert answer.lines == expected_lines(classifier, ["a fine film"])


def test_names_are_the_columns_of_a_table_without_a_header(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("1,a fine film\n2,a waste\n")
    bare = call("predict", classifier, "bare.csv", "--names", "id,words", "--column", "text=words")
    assert bare.lines == expected_lines(classifier, ["a fine film", "a waste"])


def test_a_text_of_several_lines_gets_one_line(call: Callable, classifier: Path, tmp_path: Path) -> None:
    texts = ["a fine\nfilm", "dull\r\n"]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    answer = call("predict", classifier, "r.jsonl")
    labels = [prediction["label"] for prediction in llmkit.load(str(classifier)).predict(texts)]
    assert [line.split("\t")[0] for line in answer.lines] == labels


def test_masks_are_filled_with_a_line_for_each_text(call: Callable, tiny_bert: Path) -> None:
    answer = call("predict", tiny_bert, "a [MASK] fox", "[MASK] and [MASK]", "no mask")
    first, second, third = answer.lines
    assert first.count(",") >= 4 and second.count(" | ") == 1 and "no [MASK]" in third


def test_pipes_in_a_process_of_its_own(llmkit_command: Callable, classifier: Path) -> None:
    done = llmkit_command("predict", str(classifier), "-", stdin=FILES["reviews.txt"], env={"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout.splitlines()) == (0, expected_lines(classifier, FILMS))
    assert done.stderr == "warning  1 empty line of the input skipped\n"


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (["missing.csv"], ["missing.csv"]),
        (["other.csv"], ["other.csv", "text", "name"]),
        (["other.csv", "--column", "nane"], ["nane", "name"]),
        (["other.csv", "--column", "texts=name"], ["--column texts", "reads text; give --column text=YOURS"]),
        (["lists.jsonl"], ["lists.jsonl", "2"]),
        (["a film", "--batch-size", "0"], ["batch"]),
    ],
)
def test_wrong_usage_is_one_fault(
    call: Callable, classifier: Path, tmp_path: Path, words: list[str], faults: list[str]
) -> None:
    (tmp_path / "other.csv").write_text("name\nfox\n")
    (tmp_path / "lists.jsonl").write_text('{"text": "a"}\n["b"]\n')
    assert_one_fault(call("predict", classifier, *words), *faults)


def test_a_model_that_does_not_predict_is_a_fault_that_names_generate(call: Callable, tiny_gpt2: Path) -> None:
    assert_one_fault(call("predict", tiny_gpt2, "a fine film"), "generate")


def test_the_folder_of_out_is_created(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a fine film\n")
    assert call("predict", classifier, "p.txt", "--out", "new/answers.jsonl").status == 0
    assert len(read_jsonl(tmp_path / "new" / "answers.jsonl")) == 1


def test_a_file_in_another_encoding_is_read_as_the_message_says(
    call: Callable, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_bytes("text\nun café déçu\n".encode("cp1252"))
    assert_one_fault(call("predict", classifier, "p.csv"), "p.csv: byte 11 is not UTF-8", "; --encoding cp1252 reads")
    answer = call("predict", classifier, "p.csv", "--encoding", "cp1252")
    assert answer.lines == expected_lines(classifier, ["un café déçu"])
    assert_one_fault(
        call("predict", classifier, "p.csv", "--encoding", "cp12"), "--encoding: no encoding 'cp12'; did you mean"
    )


def test_a_list_of_a_json_file_is_chosen_by_its_name(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"a": [{"text": "dull"}], "b": [{"text": "a fine film"}]}')
    assert_one_fault(call("predict", classifier, "p.json"), "'p.json[a]', 'p.json[b]'")
    assert call("predict", classifier, "p.json[b]").lines == expected_lines(classifier, ["a fine film"])


@pytest.mark.parametrize("name", ["missing.csv", "missing.csv.gz", "missing.json[a]"])
def test_a_missing_file_is_not_taken_for_a_text(call: Callable, classifier: Path, name: str) -> None:
    assert_one_fault(call("predict", classifier, name), f"no file '{name}'")


def test_columns_that_are_not_read_are_named_and_headers_match_in_any_case(
    call: Callable, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "two.csv").write_text("Review , Mood,id\na fine film,glad,1\ndull,,2\n")
    answer = call("predict", classifier, "two.csv")
    assert answer.lines == expected_lines(classifier, ["a fine film", "dull"])
    assert answer.err == "warning  input: columns not read:  Mood (1 row)\n"
    assert call("predict", classifier, "two.csv", "--column", "review").lines == answer.lines
