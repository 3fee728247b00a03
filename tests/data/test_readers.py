"""Readers: the lists of a .json file, parallel text, tables with a word per row, and what is said of other files."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from llmkit import DataConfig, UsageError
from llmkit.data import sources
from llmkit.data.loading import load_part, load_rows
from llmkit.tasks import CausalLM, Seq2Seq, TokenClassification

SEVERAL = {"version": 1, "a": [{"text": "x"}], "b": [{"text": "y"}]}


def write(path: Path, content: Any) -> Path:
    raw = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def rows(spec: Any, part: str = "train", **fields: Any) -> list[Any]:
    return [row for source in sources.find(spec, part, DataConfig(**fields)) for _, row in source.rows()]


def fault(spec: Any, part: str = "train", **fields: Any) -> str:
    with pytest.raises(UsageError) as error:
        rows(spec, part, **fields)
    (line,) = error.value.faults
    return line


# -- lists of a .json file


@pytest.mark.parametrize(
    "keys", [("train", "validation", "test"), ("train_set", "dev", "testing"), ("data", "val", "Test")]
)
def test_the_list_of_a_json_file_is_chosen_by_the_name_of_the_part(tmp_path: Path, keys: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.json", {key: [{"text": key}] for key in reversed(keys)})
    for part, key in zip(("train", "validation", "test"), keys, strict=True):
        assert rows(path, part) == [{"text": key}]
    assert [part for part in ("validation", "test") if sources.has_part(path, part)] == ["validation", "test"]


def test_parts_of_a_json_file_are_used_without_being_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"train": [{"text": "x"}] * 3, "dev": [{"text": "y"}], "test": [{"text": "z"}]})
    loaded = load_rows(DataConfig(train=str(path)), CausalLM())
    assert {part: dataset["text"][:] for part, dataset in loaded.rows.items()} == {
        "train": ["x"] * 3, "validation": ["y"], "test": ["z"]
    }  # fmt: skip


@pytest.mark.parametrize("part", ["train", "test"])
def test_several_lists_are_refused_with_names_that_can_be_given(tmp_path: Path, part: str) -> None:
    path = write(tmp_path / "a.json", SEVERAL)
    line = fault(path, part)
    assert line.startswith(f"data.{part}: {path} holds several lists of rows; give one of them: ")
    choices = [word.rstrip(",") for word in shlex.split(line.partition("them: ")[2])]
    assert [rows(choice, part) for choice in choices] == [[{"text": "x"}], [{"text": "y"}]]
    assert sources.find(choices[1], part)[0].name == f"{path}[b]" and not sources.has_part(path, "test")


@pytest.mark.parametrize(("name", "content", "needle"), [
    ("a.json[c]", SEVERAL, "has no list 'c' but a, b"), ("a.json[c]", [{"text": "x"}], "has no list 'c' but one list"),
    ("a.csv[c]", "text\nx\n", "has no lists to choose from; leave out [c]"),
    ("a.json", {"text": ["x", "y"], "label": [0, 1]}, "neither a list of rows nor a mapping that holds one"),
])  # fmt: skip
def test_a_list_that_a_file_does_not_have_is_named(tmp_path: Path, name: str, content: Any, needle: str) -> None:
    write(tmp_path / name.partition("[")[0], content)
    assert needle in fault(str(tmp_path / name))


def test_lists_that_hold_no_rows_are_not_taken_for_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"authors": ["x", "y"], "errors": [], "rows": [{"text": "x"}]})
    assert rows(path) == rows(f"{path}[rows]") == [{"text": "x"}]


# -- parallel text


@pytest.mark.parametrize("suffix", ["txt", "en", "en.gz"])
def test_two_files_are_read_line_by_line(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"src.{suffix}", "one\u2028line\n\ntwo\r with a return\n")
    write(tmp_path / "tgt.txt", "一\r\n\r\n二\r\n")
    spec = f"{tmp_path}/src.{suffix}+{tmp_path}/tgt.txt"
    expected = [("one\u2028line", "一"), ("two\r with a return", "二")]
    assert rows(spec) == [{"source": source, "target": target} for source, target in expected]
    assert rows(spec, names=("en,zh",)) == [{"en": source, "zh": target} for source, target in expected]
    assert [row["target"] for row in load_part(spec, Seq2Seq(), DataConfig())] == [["一"], ["二"]]
    (source,) = sources.find(spec, "train")
    assert source.name == spec and [where for where, _ in source.rows()] == [f"{spec} line 1", f"{spec} line 3"]
    before = source.sha256
    write(tmp_path / "tgt.txt", "一\n\n三\n")
    assert sources.find(spec, "train")[0].sha256 != before


def test_files_of_unequal_length_are_refused_with_both_counts(tmp_path: Path) -> None:
    write(tmp_path / "src.txt", "one\ntwo\nthree\n")
    write(tmp_path / "tgt.txt", "一\n")
    line = fault(f"{tmp_path}/src.txt+{tmp_path}/tgt.txt")
    assert f"{tmp_path}/src.txt has 3 lines and {tmp_path}/tgt.txt has 1 line; " in line


def test_faults_of_parallel_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "src.txt", "one\n\n")
    write(tmp_path / "tgt.txt", "一\n二\n")
    assert f"no file '{tmp_path}/none.txt'" in fault(f"{tmp_path}/src.txt+{tmp_path}/none.txt")
    spec = f"{tmp_path}/src.txt+{tmp_path}/tgt.txt"
    assert "data.names: 3 names for the 2 files" in fault(spec, names=("a,b,c",))
    with pytest.raises(UsageError, match="line 2: empty 'source'"):
        load_part(spec, Seq2Seq(), DataConfig())


def test_a_file_with_a_plus_in_its_name_is_one_file(tmp_path: Path) -> None:
    assert rows(str(write(tmp_path / "a+b.txt", "one"))) == [{"text": "one"}]


# -- tables with a word per row


def test_the_kaggle_table_is_read_by_sentences(tmp_path: Path) -> None:
    content = (
        "Sentence #,Word,POS,Tag\nSentence: 1,Hugo,NNP,B-per\n,Chávez,NNP,I-per\n,\"\"\"\",``,O\n"
        "Sentence: 2,It,PRP,O\nSentence: 2,rains,VBZ,O\n"
    )  # fmt: skip
    (tmp_path / "ner_dataset.csv").write_bytes(content.encode("cp1252"))
    assert "--data.encoding cp1252 reads it as" in fault(tmp_path / "ner_dataset.csv")
    found = rows(tmp_path / "ner_dataset.csv", encoding="cp1252")
    assert found == [
        {"tokens": ["Hugo", "Chávez", '"'], "POS": ["NNP", "NNP", "``"], "tags": ["B-per", "I-per", "O"]},
        {"tokens": ["It", "rains"], "POS": ["PRP", "VBZ"], "tags": ["O", "O"]},
    ]
    config = DataConfig(encoding="cp1252", columns={"tags": "POS"})
    read = load_part(tmp_path / "ner_dataset.csv", TokenClassification(), config)
    assert read["tags"][1] == ["B-PRP", "B-VBZ"]


def test_an_invalid_row_of_the_kaggle_table_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Sentence #,Word,POS,Tag\nSentence: 1,Hugo,NNP,O\n,came,O\nSentence: 2,It,PRP,O\n")
    with pytest.raises(UsageError, match=r"1 invalid row: .*a\.csv line 3: 3 fields where the header has 4"):
        load_part(path, TokenClassification(), DataConfig())


# -- other files


def test_a_compressed_file_without_a_known_extension_is_read_once_it_is_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "cat.en.gz", "Hi.\nRun.\n")
    line = fault(path)
    assert (
        line.startswith(f"{path}: cannot read .en; readable: .txt") and "rename lines of text to cat.en.txt.gz" in line
    )
    path.rename(tmp_path / "cat.en.txt.gz")
    assert rows(tmp_path / "cat.en.txt.gz", document="line") == [{"text": "Hi."}, {"text": "Run."}]


@pytest.mark.parametrize(("name", "needle"), [
    ("a.gz", "cannot read a file without an extension; readable: .txt"), ("a", "cannot read a file without an extension"),
    ("a.csv.xz", "cannot read .xz; readable: .txt"),
    ("a.xlsx", "convert its first sheet: pip install openpyxl && python -c \"import pandas; pandas.read_excel('"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_why(tmp_path: Path, name: str, needle: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert needle in fault(tmp_path / name)
