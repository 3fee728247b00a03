"""What can be read: every format, packed or not; folders, saved data sets, bundled names, rows in memory, weighted lists; and
which column is which."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from llmkit import DataConfig, RecipeError
from llmkit.data import load_part, load_rows
from llmkit.models import bundled
from llmkit.tasks import CausalLM, TextClassification

ROWS = [
    {"text": "a fine film", "label": "positive"},
    {"text": 'dull, long and "loud"', "label": "negative"},
    {"text": "太好看了，\n推荐 🦊", "label": "positive"},
    {"text": "line\u2028separator", "label": "negative"},
]
LM, CLS = CausalLM(), TextClassification()


def part(spec: Any, task: Any = LM, name: str = "train", **fields: Any) -> list[dict]:
    return load_part(spec, task, DataConfig(**fields), name).to_list()


def parts(spec: Any, task: Any = LM, **fields: Any) -> dict[str, list[dict]]:
    return {p: rows.to_list() for p, rows in load_rows(DataConfig(train=spec, **fields), task).rows.items()}


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def fault(call: Callable[[], Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        call()
    (only,) = caught.value.faults
    return only


def as_csv(rows: list[dict], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


WRITTEN = {
    "jsonl": as_lines(ROWS),
    "json": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "csv": as_csv(ROWS, ","),
    "tsv": as_csv(ROWS, "\t"),
}


def put(path: Path, content: str, bom: bool = False) -> Path:
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


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_rows_come_back_from_every_format(tmp_path: Path, kind: str, packed: str) -> None:
    file = put(tmp_path / f"rows.{kind}{packed}", WRITTEN[kind])
    assert part(str(file), CLS) == ROWS
    assert part(file, CLS) == ROWS  # a Path, too


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_byte_order_mark_is_no_text(tmp_path: Path, kind: str) -> None:
    assert part(str(put(tmp_path / f"rows.{kind}", WRITTEN[kind], bom=True)), CLS) == ROWS


@pytest.mark.parametrize("ending", ["txt", "md", "txt.gz", "txt.zst", "TXT"])
def test_a_text_file_is_one_document(tmp_path: Path, ending: str) -> None:
    story = "Once.\n\n从前 🦊\nThe end."
    assert part(str(put(tmp_path / f"story.{ending}", story, bom=True))) == [{"text": story}]


@pytest.mark.parametrize(
    "document, expected",
    [
        ("file", ["one\ntwo\n\n \nthree\n"]),
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_documents_of_a_text_file(tmp_path: Path, document: str, expected: list[str], newline: str) -> None:
    file = put(tmp_path / "a.txt", "one\ntwo\n\n \nthree\n".replace("\n", newline))
    found = [text.replace("\r\n", "\n") for text in texts(part(str(file), document=document))]
    assert found == expected


def test_document_leaves_other_formats_alone(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", as_lines([{"text": "one\ntwo\n\nthree"}]))
    assert texts(part(str(file), document="line")) == ["one\ntwo\n\nthree"]


@pytest.mark.parametrize("form", ["list", "under a key", "a row a line"])
def test_shapes_of_json(tmp_path: Path, form: str) -> None:
    content = {
        "list": json.dumps(ROWS),
        "under a key": json.dumps({"version": 1, "data": ROWS}),
        "a row a line": as_lines(ROWS),
    }
    assert part(str(put(tmp_path / "a.json", content[form])), CLS) == ROWS


def test_parquet_and_arrow(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    saved.to_parquet(str(tmp_path / "a.parquet"))
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), saved.data.table.schema) as out:
        out.write_table(saved.data.table)
    assert part(str(tmp_path / "a.parquet"), CLS) == part(str(tmp_path / "stream.arrow"), CLS) == ROWS


def test_arrow_as_arrow_itself_writes_files(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as out:
        out.write_table(table)
    assert part(str(tmp_path / "file.arrow"), CLS) == ROWS


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_spoilt_table_is_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"bad.{ending}").write_bytes(b"no table at all, but some bytes")
    assert f"bad.{ending}" in fault(lambda: part(str(tmp_path / f"bad.{ending}")))


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
        ("a.csv", "text;label\none;1\n", ("a.csv", "parted by ';'", "save it with commas")),
        ("a.csv", "text\tlabel\none\t1\n", ("a.csv", r"parted by '\t'", "as .tsv")),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, content: str, needles: tuple[str, ...]) -> None:
    said = fault(lambda: part(str(put(tmp_path / name, content))))
    assert [n for n in needles if n not in said] == [], said


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_a_byte_that_is_no_utf8_is_counted_from_the_file_s_beginning(tmp_path: Path, name: str) -> None:
    before = b"text\n" + b'{"text": "a"}\n' * 2000
    content = before + "从".encode("gbk")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert f"byte {len(before)} " in fault(lambda: part(str(tmp_path / name), on_error="skip"))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_folder_s_files_are_its_parts(tmp_path: Path, name: str) -> None:
    for file in ("train.jsonl", "validation.jsonl", "test.jsonl"):
        put(tmp_path / file, as_lines([{"text": f"{file} {i}"} for i in range(3)]))
    assert texts(parts(str(tmp_path))[name]) == [f"{name}.jsonl {i}" for i in range(3)]


@pytest.mark.parametrize("layout", ["{}.jsonl", "reviews_{}.jsonl", "{}-00000-of-00001.jsonl", "{}/reviews.jsonl"])
def test_what_a_folder_holds_to_test_on_is_not_trained_on(tmp_path: Path, layout: str) -> None:
    for name in ("train", "test"):
        put(tmp_path / layout.format(name), as_lines([{"text": f"{name} {i}"} for i in range(10)]))
    found = parts(str(tmp_path))
    assert {t.split()[0] for t in texts(found["train"] + found["validation"])} == {"train"}
    assert texts(found["test"]) == [f"test {i}" for i in range(10)]


def test_a_test_file_beside_other_files_is_not_trained_on(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", as_lines([{"text": f"a {i}"} for i in range(10)]))
    put(tmp_path / "test.jsonl", as_lines([{"text": f"test {i}"} for i in range(10)]))
    found = parts(str(tmp_path))
    assert {t.split()[0] for t in texts(found["train"])} == {"a"} and len(found["test"]) == 10


def test_a_folder_of_documents_is_all_training_data(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path / f"deep/{i}.txt", f"story {i}")
    (tmp_path / "picture.png").write_bytes(b"no text")
    found = parts(str(tmp_path))
    assert sorted(texts(found["train"] + found["validation"])) == [f"story {i}" for i in range(10)]
    assert len(found["validation"]) == 1 and "test" not in found


def test_a_glob_is_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(tmp_path / f"{name}.txt", name)
    assert texts(part(f"{tmp_path}/[ab].txt")) == ["a", "b"]
    assert texts(part(f"{tmp_path}/*.txt")) == ["a", "b", "c"]


def test_a_saved_dataset_dict_has_its_own_parts(tmp_path: Path) -> None:
    made = {p: datasets.Dataset.from_list([{"text": f"{p} {i}"} for i in range(4)]) for p in ("train", "test")}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    found = parts(str(tmp_path / "saved"))
    assert texts(found["test"]) == [f"test {i}" for i in range(4)]
    assert sorted(texts(found["train"] + found["validation"])) == [f"train {i}" for i in range(4)]
    assert "'validation'" in fault(lambda: part(str(tmp_path / "saved"), name="validation"))


def test_a_saved_dataset_is_split_like_any_other(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": f"row {i}"} for i in range(20)]).save_to_disk(str(tmp_path / "saved"))
    found = parts(str(tmp_path / "saved"))
    assert {p: len(rows) for p, rows in found.items()} == {"train": 18, "validation": 2}
    assert not set(texts(found["train"])) & set(texts(found["validation"]))


def test_rows_in_memory() -> None:
    assert part(ROWS, CLS) == ROWS
    assert part(datasets.Dataset.from_list(ROWS), CLS) == ROWS


def test_class_labels_are_read_by_name(tmp_path: Path) -> None:
    kind = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    coded = datasets.Dataset.from_list([{**r, "label": int(r["label"] == "positive")} for r in ROWS], features=kind)
    coded.to_parquet(str(tmp_path / "a.parquet"))
    coded.save_to_disk(str(tmp_path / "saved"))
    for spec in (coded, str(tmp_path / "a.parquet"), str(tmp_path / "saved")):
        assert part(spec, CLS) == ROWS


def test_numbers_are_labels_too() -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0.0}, {"text": "c", "label": "2"}]
    assert [r["label"] for r in part(rows, CLS)] == ["1", "0", "2"]
    assert CLS.fit(load_part(rows, CLS, DataConfig())).labels == ("0", "1", "2")


@pytest.mark.parametrize("name, task", [("reviews", CLS), ("fables", LM)])
@pytest.mark.parametrize("split", bundled.ALL)
def test_bundled_names(name: str, split: str, task: Any) -> None:
    whole = [json.loads(line) for line in (bundled.FOLDER / name / f"{split}.jsonl").read_text("utf-8").splitlines()]
    expected = [{c: row[c] for c in task.columns if c in row} for row in whole]
    assert part(f"{name}[{split}]", task) == expected
    assert parts(name, task)[split] == expected


@pytest.mark.parametrize("name", [n for n, splits in bundled.TEXTS.items() if splits == bundled.ALL])
def test_the_parts_of_a_bundled_text_share_no_row(name: str) -> None:
    read = {split: {json.dumps(row, sort_keys=True) for row in bundled.read_text(name, split)} for split in bundled.ALL}
    assert all(len(rows) >= 20 for rows in read.values()) and len(read["train"]) > 3 * len(read["validation"])
    assert not read["train"] & read["test"] and not read["train"] & read["validation"]
    assert not read["validation"] & read["test"]


def test_a_bundled_split_alone_is_split_like_any_other() -> None:
    found = parts("reviews[test]", CLS)
    assert set(found) == {"train", "validation"} and len(found["train"]) + len(found["validation"]) == 220


def names(prefix: str, count: int) -> list[dict]:
    return [{"text": f"{prefix} {i}"} for i in range(count)]


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    return str(put(tmp_path / "a.jsonl", as_lines(names("a", 20)))), str(
        put(tmp_path / "b.jsonl", as_lines(names("b", 20)))
    )


@pytest.mark.parametrize("weight, total", [(1, 20), (2, 40), (0.5, 10), (2.5, 50)])
def test_weights_multiply_training_rows(two: tuple[str, str], weight: float, total: int) -> None:
    held = names("held", 3)
    counts = Counter(texts(parts([two[0], {"source": two[1], "weight": weight}], validation=held)["train"]))
    of_b = [n for text, n in counts.items() if text.startswith("b")]
    assert sum(of_b) == total and max(of_b) - min(of_b) <= 1
    assert all(counts[row["text"]] == 1 for row in names("a", 20))


def test_weights_of_nested_lists_multiply(two: tuple[str, str], tmp_path: Path) -> None:
    spec = [{"source": [two[0], {"source": two[1], "weight": 2}], "weight": 2}]
    counts = Counter(texts(parts(spec, validation=names("held", 3))["train"]))
    assert {counts["a 0"], counts["b 0"]} == {2, 4}


def test_a_half_is_the_same_half_each_time(two: tuple[str, str]) -> None:
    spec = [{"source": two[0], "weight": 0.5}]
    first, again = (sorted(texts(parts(spec, validation=names("held", 3))["train"])) for _ in range(2))
    assert first == again
    assert first != sorted(texts(parts(spec, validation=names("held", 3), seed=1)["train"]))


def test_held_out_rows_are_never_weighted(two: tuple[str, str]) -> None:
    found = parts([two[0], {"source": two[1], "weight": 3}], validation=0.25)
    train, held = Counter(texts(found["train"])), Counter(texts(found["validation"]))
    assert set(held.values()) == {1} and len(held) == 10
    assert not set(train) & set(held)
    assert {train[t] for t in train if t.startswith("b")} == {3} and len(train) == 30


def test_lone_documents_are_weighted_after_the_split(tmp_path: Path) -> None:
    spec = [{"source": str(put(tmp_path / f"{i}.txt", f"story {i}")), "weight": 2} for i in range(6)]
    found = parts(spec, validation=0.34)
    assert sorted(Counter(texts(found["validation"])).values()) == [1, 1]
    assert sorted(Counter(texts(found["train"])).values()) == [2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_a_document_in_two_sources_is_held_out_of_both(seed: int) -> None:
    few, many = (datasets.Dataset.from_list(names("shared", 5) + names("own", n)) for n in (0, 60))
    found = parts([few, many], validation=0.3, seed=seed)
    assert not set(texts(found["train"])) & set(texts(found["validation"]))


@pytest.mark.parametrize("spec", [[{"source": "fables", "weight": 0}], [{"source": "fables", "weight": -1}], []])
def test_a_list_that_gives_nothing_is_refused(spec: list) -> None:
    assert "data.train" in fault(lambda: parts(spec))


@pytest.mark.parametrize(
    "spec", [[{"path": "fables", "weight": 2}], [{"source": "fables", "weight": "much"}], 5, {"a": 1}]
)
def test_a_spec_that_is_none_is_one_fault(spec: Any) -> None:
    said = fault(lambda: parts(spec))
    assert "data.train" in said


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_rows(DataConfig(train=str(tmp_path / "a.txt"), test=str(tmp_path / "b.txt")), LM)
    assert [f.split(":")[0] for f in caught.value.faults] == ["data.train", "data.test"]


@pytest.mark.parametrize("task, column", [(LM, "content"), (LM, "story"), (CLS, "sentence"), (CLS, "review")])
def test_usual_names_are_found(task: Any, column: str) -> None:
    rows = [{column: f"row {i}", "label": "ab"[i % 2]} for i in range(4)]
    assert texts(part(rows, task)) == [f"row {i}" for i in range(4)]


def test_columns_are_renamed() -> None:
    rows = [{"text": "no", "body": "yes", "mood": "good"}]
    assert part(rows, CLS, columns={"text": "body", "label": "mood"}) == [{"text": "yes", "label": "good"}]


def test_sources_say_their_bytes(tmp_path: Path) -> None:
    import hashlib

    file = put(tmp_path / "a.jsonl", as_lines(names("a", 20)))
    (source,) = load_rows(DataConfig(train=str(file)), LM).sources
    assert source == {
        "part": "train", "name": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "rows": 20, "left_out": 0,
    }  # fmt: skip


# --- tables without a header line ------------------------------------------------------------------------------------

HEADERLESS = {
    "csv": 'a fine film,positive\n"dull, long and ""loud""",negative\n太好看了,positive\n',
    "tsv": 'a fine film\tpositive\n"dull, long and ""loud"""\tnegative\n太好看了\tpositive\n',
    "txt": 'a fine film\tpositive\n"dull", long and "loud\tnegative\n太好看了\tpositive\n',
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", HEADERLESS)
@pytest.mark.parametrize("names", [("text,label",), ("text", " label")])
def test_names_are_the_columns_of_a_table_without_a_header(
    tmp_path: Path, kind: str, packed: str, names: tuple[str, ...]
) -> None:
    """In .csv and .tsv a field may stand in quotes; in a .txt a quote is a character, wherever it stands."""
    path = put(tmp_path / f"rows.{kind}{packed}", HEADERLESS[kind])
    second = '"dull", long and "loud' if kind == "txt" else 'dull, long and "loud"'
    found = part(str(path), CLS, names=names)
    assert texts(found) == ["a fine film", second, "太好看了"]
    assert [row["label"] for row in found] == ["positive", "negative", "positive"]


def test_names_of_ones_own_are_renamed_like_any(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", HEADERLESS["csv"])
    found = part(str(path), CLS, names=("said,verdict",), columns={"text": "said", "label": "verdict"})
    assert len(found) == 3


def test_names_leave_alone_what_names_its_columns_itself(tmp_path: Path) -> None:
    assert len(part(str(put(tmp_path / "rows.jsonl", as_lines(ROWS))), CLS, names=("a,b",))) == len(ROWS)


@pytest.mark.parametrize("kind", HEADERLESS)
def test_a_row_of_another_length_is_named_by_its_line(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / f"rows.{kind}", HEADERLESS[kind] + "alone\n")
    line = fault(lambda: part(str(path), CLS, names=("text,label",)))
    assert f"{path} line 4: 1 fields where data.names has 2" in line


def test_a_header_under_names_is_told(tmp_path: Path) -> None:
    path = put(tmp_path / "rows.csv", "text,label\n" + HEADERLESS["csv"])
    assert fault(lambda: part(str(path), CLS, names=("text,label",))).endswith(
        "line 1: is a header itself; leave out data.names"
    )


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_table_whose_first_row_was_taken_for_its_header_is_told_of_names(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / f"rows.{kind}", HEADERLESS[kind])
    with pytest.raises(RecipeError) as caught:
        part(str(path), CLS)
    assert all(f.endswith("or --data.names A,B where the file has no header line") for f in caught.value.faults)


def test_names_are_typed_with_commas_and_go_with_the_data_they_belong_to() -> None:
    from llmkit.parsing import build_recipe

    base, _ = build_recipe(None, ["--task", "causal-lm", "--data", "a.csv", "--data.names", "text,label"])
    assert base.data.names == ("text,label",)
    assert build_recipe(base, ["--data", "b.csv"])[0].data.names == ()
