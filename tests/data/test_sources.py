"""Sources: every file format, compressed or not; folders, globs, saved datasets, rows in memory, weighted lists."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from llmkit import DataConfig, Recipe, UsageError
from llmkit.data import sources
from llmkit.data.loading import load_part
from llmkit.tasks import CausalLM, SentenceEmbedding, TextClassification, TokenClassification

ROWS = [
    {"text": "a fine film", "label": "positive"},
    {"text": 'dull, long and "loud"', "label": "negative"},
    {"text": "太好看了，\n推荐 🦊", "label": "positive"},
    {"text": "line\u2028separator", "label": "negative"},
]
LM, CLS = CausalLM(), TextClassification()


def part(spec: Any, task: Any = LM, name: str = "train", **fields: Any) -> list[dict]:
    return load_part(spec, task, DataConfig(**fields), name).to_list()


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def fault(call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as error:
        call()
    (line,) = error.value.faults
    return line


def as_csv(rows: list[dict], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


CONTENT = {
    "jsonl": as_lines(ROWS),
    "json": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "csv": as_csv(ROWS, ","),
    "tsv": as_csv(ROWS, "\t"),
}


def write(path: Path, content: str, bom: bool = False) -> Path:
    raw = content.encode("utf-8-sig" if bom else "utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as out:
            out.write(raw)
    else:
        path.write_bytes(raw)
    return path


# -- formats


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", CONTENT)
def test_rows_are_read_from_every_format(tmp_path: Path, kind: str, compression: str) -> None:
    file = write(tmp_path / f"rows.{kind}{compression}", CONTENT[kind])
    assert part(str(file), CLS) == ROWS
    assert part(file, CLS) == ROWS  # a Path


@pytest.mark.parametrize("kind", CONTENT)
def test_byte_order_mark_is_removed(tmp_path: Path, kind: str) -> None:
    assert part(str(write(tmp_path / f"rows.{kind}", CONTENT[kind], bom=True)), CLS) == ROWS


@pytest.mark.parametrize("extension", ["txt", "md", "txt.gz", "txt.zst", "TXT"])
def test_text_file_is_one_document(tmp_path: Path, extension: str) -> None:
    story = "Once.\n\n从前 🦊\nThe end."
    assert part(str(write(tmp_path / f"story.{extension}", story, bom=True))) == [{"text": story}]


@pytest.mark.parametrize(
    "document, expected",
    [("file", ["one\ntwo\n\n \nthree\n"]), ("line", ["one", "two", "three"]), ("paragraph", ["one\ntwo", "three"])],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_document_decides_how_a_text_file_is_cut(
    tmp_path: Path, document: str, expected: list[str], newline: str
) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n\n \nthree\n".replace("\n", newline))
    assert [text.replace("\r\n", "\n") for text in texts(part(str(file), document=document))] == expected


def test_document_does_not_change_other_formats(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", as_lines([{"text": "one\ntwo\n\nthree"}]))
    assert texts(part(str(file), document="line")) == ["one\ntwo\n\nthree"]


@pytest.mark.parametrize(
    "content", [json.dumps(ROWS), json.dumps({"version": 1, "data": ROWS}), as_lines(ROWS)],
    ids=["list", "list under a key", "one row per line"],
)  # fmt: skip
def test_json_holds_a_list_of_rows_or_one_row_per_line(tmp_path: Path, content: str) -> None:
    assert part(str(write(tmp_path / "a.json", content)), CLS) == ROWS


def test_parquet_and_arrow_stream_are_read(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    saved.to_parquet(str(tmp_path / "a.parquet"))
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), saved.data.table.schema) as out:
        out.write_table(saved.data.table)
    assert part(str(tmp_path / "a.parquet"), CLS) == part(str(tmp_path / "stream.arrow"), CLS) == ROWS


def test_arrow_file_is_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as out:
        out.write_table(table)
    assert part(str(tmp_path / "file.arrow"), CLS) == ROWS


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
def test_broken_table_is_named(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"bad.{extension}").write_bytes(b"no table at all, but some bytes")
    assert f"bad.{extension}" in fault(lambda: part(str(tmp_path / f"bad.{extension}")))


@pytest.mark.parametrize(
    "name, content, needles",
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": \n', ("a.jsonl line 3", "not JSON")),
        ("a.jsonl", '{"text": "one"}\n["two"]\n', ("a.jsonl line 2", "list")),
        ("a.jsonl", '{"text": "one"}\n{"text": 2}\n', ("a.jsonl line 2", "int, not text")),
        ("a.jsonl", '{"text": "one"}\n{"text": " "}\n', ("a.jsonl line 2", "empty 'text'")),
        ("a.jsonl", '{"text": "one"}\n{"text": null}\n', ("a.jsonl line 2", "no 'text'")),
        ("a.json", '[{"text": "one"},\n{"text": ]', ("a.json line 2", "not JSON")),
        ("a.json", '"text"', ("a.json", "list of rows")),
        ("a.csv", "text,label\none,1\ntwo,2,3\n", ("a.csv line 3", "3 fields where the header has 2")),
        ("a.tsv", "text\tlabel\none\t1\ntwo\n", ("a.tsv line 3", "1 fields where the header has 2")),
        ("a.csv", 'text,label\n"one,1\n', ("a.csv", "not CSV")),
        ("a.csv", "text,label\n", ("a.csv", "empty")),
        ("a.csv", "text;label\none;1\n", ("a.csv", "separated by ';'", "save it with commas")),
        ("a.csv", "text\tlabel\none\t1\n", ("a.csv", r"separated by '\t'", "as .tsv")),
        ("a.csv", "text,text\none,1\n", ("a.csv", "'text' is in the header twice")),
    ],
)
def test_invalid_row_is_named_with_its_line(tmp_path: Path, name: str, content: str, needles: tuple[str, ...]) -> None:
    line = fault(lambda: part(str(write(tmp_path / name, content))))
    assert [n for n in needles if n not in line] == [], line


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_byte_that_is_not_utf8_is_counted_from_the_start_of_the_file(tmp_path: Path, name: str) -> None:
    before = b"text\n" + b'{"text": "a"}\n' * 2000
    content = before + "从".encode("gbk")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    line = fault(lambda: part(str(tmp_path / name), on_error="skip"))
    assert f"byte {len(before)} " in line and "--data.encoding gb18030 reads it as" in line


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_recognized_by_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("\ufefftext".encode(encoding))
    line = fault(lambda: part(str(tmp_path / "a.txt")))
    assert "byte 0 " in line and "--data.encoding utf-16 reads it as 'text'" in line
    assert texts(part(str(tmp_path / "a.txt"), encoding="utf-16")) == ["text"]


# -- folders, globs and names


def test_glob_is_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.txt", name)
    assert texts(part(f"{tmp_path}/[ab].txt")) == ["a", "b"]
    assert texts(part(f"{tmp_path}/*.txt")) == ["a", "b", "c"]


@pytest.mark.parametrize("name, needles", [
    ("story.txt", ("no file", "did you mean 'stories.txt'")),
    ("none/story.txt", ("no file", "none", "does not exist")),
    ("*.csv", ("no file matches",)),
    ("picture.png", ("cannot read .png", ".jsonl")),
    ("pictures", ("pictures has no readable file", ".jsonl")),
])  # fmt: skip
def test_missing_or_unreadable_file_is_named(tmp_path: Path, name: str, needles: tuple[str, ...]) -> None:
    write(tmp_path / "stories.txt", "once")
    write(tmp_path / "picture.png", "no text")
    write(tmp_path / "pictures" / "picture.png", "no text")
    line = fault(lambda: part(str(tmp_path / name)))
    assert [n for n in needles if n not in line] == [], line


def test_unknown_split_of_a_bundled_text_lists_its_splits() -> None:
    line = fault(lambda: part("demo[dev]"))
    assert "'demo' has no split 'dev'" in line and "train" in line


def test_unknown_name_offline_lists_the_bundled_texts() -> None:
    line = fault(lambda: part("someone/data"))
    assert "'someone/data' is not a file, folder or bundled name" in line and "fables" in line and "HF_ENDPOINT" in line


@pytest.mark.parametrize("files, expected", [
    (["train.csv", "test.csv"], {"train", "test"}),
    (["a.csv", "dev.csv"], {"train", "validation"}),
    (["a.csv"], {"train"}),
])  # fmt: skip
def test_has_part_of_a_folder(tmp_path: Path, files: list[str], expected: set[str]) -> None:
    for name in files:
        write(tmp_path / name, "text\na\n")
    assert {p for p in ("train", "validation", "test") if sources.has_part(str(tmp_path), p)} == expected


@pytest.mark.parametrize("spec, expected", [
    ("fables", True), ("fables[train]", False), ("demo", False), ("a.csv", False), (ROWS, False), (None, False),
])  # fmt: skip
def test_has_part_of_other_data(spec: Any, expected: bool) -> None:
    assert sources.has_part(spec, "test") == expected


# -- the hash of a file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []
    digest = hashlib.file_digest

    def record(file: Any, *args: Any) -> Any:
        names.append(Path(file.name).name)
        return digest(file, *args)

    monkeypatch.setattr(hashlib, "file_digest", record)
    return names


def test_finding_files_does_not_hash_them(tmp_path: Path, hashed: list[str]) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / name, as_lines(ROWS))
    assert sources.has_part(str(tmp_path), "test") and sources.find(str(tmp_path), "train")
    assert hashed == []


def test_unchanged_file_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    file = write(tmp_path / "a.jsonl", as_lines(ROWS))
    digests = {sources.find(spec, "train")[0].sha256 for spec in (str(file), file, str(tmp_path)) for _ in range(2)}
    assert digests == {hashlib.sha256(file.read_bytes()).hexdigest()} and hashed == ["a.jsonl"]


@pytest.mark.parametrize("change", ["size", "time"])
def test_changed_file_is_hashed_again(tmp_path: Path, hashed: list[str], change: str) -> None:
    file = write(tmp_path / "a.jsonl", as_lines(ROWS))
    (source,) = sources.find(file, "train")
    before, status = source.sha256, file.stat()
    write(file, as_lines(ROWS[::-1]) + ("\n" if change == "size" else ""))
    moved = status.st_mtime_ns + (1_000_000_000 if change == "time" else 0)
    os.utime(file, ns=(status.st_atime_ns, moved))
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() != before
    assert hashed == ["a.jsonl"] * 2


def test_bundled_texts_have_a_hash_and_rows_in_memory_have_none() -> None:
    assert len(sources.find("fables", "train")[0].sha256) == 64
    assert sources.find(ROWS, "train")[0].sha256 is None


# -- rows in memory, and lists


@pytest.mark.parametrize(
    "spec",
    [tuple(ROWS), iter(ROWS), (dict(row) for row in ROWS), np.array(ROWS), pd.Series(ROWS, index=[9, 8, 7, 6]), pd.DataFrame(ROWS)],
    ids=lambda spec: type(spec).__name__,
)  # fmt: skip
def test_rows_may_come_in_any_collection(spec: Any) -> None:
    config = DataConfig(train=spec)
    assert part(config.train, CLS) == part(config.train, CLS) == part(ROWS, CLS)
    assert Recipe(CLS, data=config).to_dict()["data"]["train"] == "<4 rows in memory>"


def test_values_of_rows_may_be_arrays_and_tuples() -> None:
    rows = [
        {"tokens": np.array(["Mia", "left"]), "tags": ("B-PER", "O")},
        {"tokens": pd.Series(["A", "b"]), "tags": ["O", "O"]},
    ]
    expected = [{"tokens": ["Mia", "left"], "tags": ["B-PER", "O"]}, {"tokens": ["A", "b"], "tags": ["O", "O"]}]
    assert part(rows, TokenClassification()) == part(expected, TokenClassification())
    graded = [{"text": "a", "text_pair": "b", "score": np.float32(0.5)}]
    assert part(graded, SentenceEmbedding()) == [{"text": "a", "text_pair": "b", "score": 0.5}]


def test_rows_in_memory_are_read() -> None:
    assert part(ROWS, CLS) == ROWS
    assert part(datasets.Dataset.from_list(ROWS), CLS) == ROWS


def test_iterable_dataset_is_an_error() -> None:
    streamed = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    assert "IterableDataset has no length" in fault(lambda: part(streamed, CLS))


def test_class_labels_are_read_by_name(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    numbered = [{**r, "label": int(r["label"] == "positive")} for r in ROWS]
    dataset = datasets.Dataset.from_list(numbered, features=features)
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    for spec in (dataset, str(tmp_path / "a.parquet"), str(tmp_path / "saved")):
        assert part(spec, CLS) == ROWS


@pytest.mark.parametrize("spec", [
    [{"source": "fables", "weight": 0}], [{"source": "fables", "weight": -1}], [], [{"path": "fables", "weight": 2}],
    [{"source": "fables", "weight": "much"}], 5, {"a": 1},
])  # fmt: skip
def test_invalid_spec_is_one_fault(spec: Any) -> None:
    assert "data.train" in fault(lambda: part(spec))


def test_read_returns_the_rows_of_all_sources(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", as_lines(ROWS[:1]))
    write(tmp_path / "b.jsonl", as_lines(ROWS[1:]))
    pairs = sources.read(sources.find(str(tmp_path), "train"))
    assert [row for _, row in pairs] == ROWS and pairs[1][0] == f"{tmp_path / 'b.jsonl'} line 1"


@pytest.mark.parametrize("content, needle", [
    ("", "is empty"), ('["x"]\n', "line 1: list, not a row of columns"), ("{\n", "line 1: not JSON"),
])  # fmt: skip
def test_read_names_what_is_not_a_row(tmp_path: Path, content: str, needle: str) -> None:
    file = write(tmp_path / "a.jsonl", content)
    line = fault(lambda: sources.read(sources.find(file, "test")))
    assert line.startswith(str(file)) and needle in line


# -- tables without a header line

HEADERLESS = {
    "csv": 'a fine film,positive\n"dull, long and ""loud""",negative\n太好看了,positive\n',
    "tsv": 'a fine film\tpositive\n"dull, long and ""loud"""\tnegative\n太好看了\tpositive\n',
    "txt": 'a fine film\tpositive\n"dull", long and "loud\tnegative\n太好看了\tpositive\n',
}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("kind", HEADERLESS)
@pytest.mark.parametrize("names", [("text,label",), ("text", " label")])
def test_names_are_the_columns_of_a_table_without_a_header(
    tmp_path: Path, kind: str, compression: str, names: tuple[str, ...]
) -> None:
    """Fields of .csv and .tsv may be quoted; in .txt a quote is an ordinary character."""
    path = write(tmp_path / f"rows.{kind}{compression}", HEADERLESS[kind])
    second = '"dull", long and "loud' if kind == "txt" else 'dull, long and "loud"'
    rows = part(str(path), CLS, names=names)
    assert texts(rows) == ["a fine film", second, "太好看了"]
    assert [row["label"] for row in rows] == ["positive", "negative", "positive"]


def test_names_can_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", HEADERLESS["csv"])
    assert len(part(str(path), CLS, names=("body,verdict",), columns={"text": "body", "label": "verdict"})) == 3


def test_names_do_not_change_formats_with_named_columns(tmp_path: Path) -> None:
    assert len(part(str(write(tmp_path / "rows.jsonl", as_lines(ROWS))), CLS, names=("a,b",))) == len(ROWS)


@pytest.mark.parametrize("kind", HEADERLESS)
def test_row_with_another_number_of_fields_is_named(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"rows.{kind}", HEADERLESS[kind] + "alone\n")
    line = fault(lambda: part(str(path), CLS, names=("text,label",)))
    assert f"{path} line 4: 1 fields where data.names has 2" in line


def test_header_line_with_names_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,label\n" + HEADERLESS["csv"])
    line = fault(lambda: part(str(path), CLS, names=("text,label",)))
    assert line.endswith("line 1: is a header line; leave out data.names")
