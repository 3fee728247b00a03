"""The rows of each part: given, found in a folder or split off, weighted, and compared with the training rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from llmkit import DataConfig, UsageError
from llmkit.cli.options import build_recipe
from llmkit.data import loading
from llmkit.data.loading import load_part, load_rows
from llmkit.tasks import CausalLM, Preference, TextClassification

LM, CLS = CausalLM(), TextClassification()
ROWS = [{"text": f"row {i}"} for i in range(100)]


def parts(spec: Any, task: Any = LM, **fields: Any) -> dict[str, list[str]]:
    return {p: list(rows["text"]) for p, rows in load_rows(DataConfig(train=spec, **fields), task).rows.items()}


def fault(spec: Any, **fields: Any) -> str:
    with pytest.raises(UsageError) as error:
        parts(spec, **fields)
    (line,) = error.value.faults
    return line


def warnings(err: str) -> str:
    return err[err.index("warning") :] if "warning" in err else ""


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(prefix: str, count: int) -> list[dict]:
    return [{"text": f"{prefix} {i}"} for i in range(count)]


# -- the validation part


def test_a_tenth_is_held_out_by_default() -> None:
    assert {p: len(r) for p, r in parts(ROWS).items()} == {"train": 90, "validation": 10}
    assert {p: len(r) for p, r in parts(ROWS, validation=0.3).items()} == {"train": 70, "validation": 30}


def test_split_depends_on_the_seed_of_the_recipe() -> None:
    assert set(parts(ROWS)["validation"]) != set(parts(ROWS, seed=3)["validation"])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2])
def test_fraction_outside_0_and_1_is_an_error(fraction: float) -> None:
    assert "between 0 and 1" in fault(ROWS, validation=fraction)


def test_given_parts_are_not_split() -> None:
    found = parts(ROWS, validation=[{"text": "held"}], test=[{"text": "tested"}])
    assert found == {"train": [r["text"] for r in ROWS], "validation": ["held"], "test": ["tested"]}


def test_one_file_is_cut_and_several_files_are_held_out_whole(tmp_path: Path) -> None:
    stories = [f"story {i}\n" * 30 for i in range(10)]
    for i, story in enumerate(stories):
        (tmp_path / f"{i}.txt").write_text(story)
    alone, together = parts(str(tmp_path / "0.txt")), parts(str(tmp_path))
    assert alone["train"] + alone["validation"] != [stories[0]]
    assert "".join(alone["train"] + alone["validation"]) == stories[0]
    assert sorted(together["train"] + together["validation"]) == stories and len(together["validation"]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_document_in_two_sources_is_held_out_of_both(seed: int) -> None:
    few, many = (datasets.Dataset.from_list(numbered("shared", 5) + numbered("own", n)) for n in (0, 60))
    found = parts([few, many], validation=0.3, seed=seed)
    assert not set(found["train"]) & set(found["validation"])


def test_rows_in_train_and_another_part_are_logged(capsys: pytest.CaptureFixture) -> None:
    parts(ROWS, validation=ROWS[:3], test=[{"text": "new"}, ROWS[5]])
    warning = warnings(capsys.readouterr().err)
    assert "3 rows of validation" in warning and "1 row of test" in warning


# -- the parts of a folder


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_files_of_a_folder_are_its_parts(tmp_path: Path, name: str) -> None:
    for part in ("train", "validation", "test"):
        write(tmp_path / f"{part}.jsonl", numbered(f"{part}.jsonl", 3))
    assert parts(str(tmp_path))[name] == [f"{name}.jsonl {i}" for i in range(3)]


@pytest.mark.parametrize("layout", ["{}.jsonl", "reviews_{}.jsonl", "{}-00000-of-00001.jsonl", "{}/reviews.jsonl"])
def test_test_files_of_a_folder_are_not_trained_on(tmp_path: Path, layout: str) -> None:
    for name in ("train", "test"):
        write(tmp_path / layout.format(name), numbered(name, 10))
    found = parts(str(tmp_path))
    assert {t.split()[0] for t in found["train"] + found["validation"]} == {"train"}
    assert found["test"] == [f"test {i}" for i in range(10)]


def test_test_file_beside_other_files_is_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", numbered("a", 10))
    write(tmp_path / "test.jsonl", numbered("test", 10))
    found = parts(str(tmp_path))
    assert {t.split()[0] for t in found["train"]} == {"a"} and len(found["test"]) == 10


def test_folder_of_documents_is_training_data(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for i in range(10):
        (tmp_path / f"deep/{i}.txt").write_text(f"story {i}")
    (tmp_path / "picture.png").write_bytes(b"no text")
    found = parts(str(tmp_path))
    assert sorted(found["train"] + found["validation"]) == [f"story {i}" for i in range(10)]
    assert len(found["validation"]) == 1 and "test" not in found


def test_saved_dataset_dict_has_its_own_parts(tmp_path: Path) -> None:
    made = {p: datasets.Dataset.from_list(numbered(p, 4)) for p in ("train", "test")}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    found = parts(str(tmp_path / "saved"))
    assert found["test"] == [f"test {i}" for i in range(4)]
    assert sorted(found["train"] + found["validation"]) == [f"train {i}" for i in range(4)]
    with pytest.raises(UsageError, match="'validation'"):
        load_part(str(tmp_path / "saved"), LM, DataConfig(), "validation")


def test_saved_dataset_is_split(tmp_path: Path) -> None:
    datasets.Dataset.from_list(numbered("row", 20)).save_to_disk(str(tmp_path / "saved"))
    found = parts(str(tmp_path / "saved"))
    assert {p: len(rows) for p, rows in found.items()} == {"train": 18, "validation": 2}
    assert not set(found["train"]) & set(found["validation"])


# -- weights


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path / "a.jsonl", numbered("a", 20)), write(tmp_path / "b.jsonl", numbered("b", 20))


@pytest.mark.parametrize("weight, total", [(1, 20), (2, 40), (0.5, 10), (2.5, 50)])
def test_weights_multiply_training_rows(two: tuple[str, str], weight: float, total: int) -> None:
    held_out = numbered("held", 3)
    counts = Counter(parts([two[0], {"source": two[1], "weight": weight}], validation=held_out)["train"])
    of_b = [n for text, n in counts.items() if text.startswith("b")]
    assert sum(of_b) == total and max(of_b) - min(of_b) <= 1
    assert all(counts[row["text"]] == 1 for row in numbered("a", 20))


def test_weights_of_nested_lists_multiply(two: tuple[str, str]) -> None:
    spec = [{"source": [two[0], {"source": two[1], "weight": 2}], "weight": 2}]
    counts = Counter(parts(spec, validation=numbered("held", 3))["train"])
    assert {counts["a 0"], counts["b 0"]} == {2, 4}


def test_fractional_weight_is_reproducible_and_depends_on_the_seed(two: tuple[str, str]) -> None:
    spec = [{"source": two[0], "weight": 0.5}]
    first, again = (sorted(parts(spec, validation=numbered("held", 3))["train"]) for _ in range(2))
    assert first == again
    assert first != sorted(parts(spec, validation=numbered("held", 3), seed=1)["train"])


def test_held_out_rows_are_not_weighted(two: tuple[str, str]) -> None:
    found = parts([two[0], {"source": two[1], "weight": 3}], validation=0.25)
    train, held_out = Counter(found["train"]), Counter(found["validation"])
    assert set(held_out.values()) == {1} and len(held_out) == 10
    assert not set(train) & set(held_out)
    assert {train[t] for t in train if t.startswith("b")} == {3} and len(train) == 30


def test_single_documents_are_weighted_after_the_split(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(f"story {i}")
    spec = [{"source": str(tmp_path / f"{i}.txt"), "weight": 2} for i in range(6)]
    found = parts(spec, validation=0.34)
    assert sorted(Counter(found["validation"]).values()) == [1, 1]
    assert sorted(Counter(found["train"]).values()) == [2, 2, 2, 2]


# -- sources and faults


def test_sources_are_listed_with_their_hash(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", numbered("a", 20))
    (source,) = load_rows(DataConfig(train=file), LM).sources
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert source == {"part": "train", "name": file, "sha256": digest, "rows": 20, "left_out": 0}


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_rows(DataConfig(train=str(tmp_path / "a.txt"), test=str(tmp_path / "b.txt")), LM)
    assert [f.split(":")[0] for f in error.value.faults] == ["data.train", "data.test"]


@pytest.mark.parametrize("fields, option, fix", [
    ({"train": None}, "data.train", "--data FILE"),
    ({"document": "page"}, "data.document", "file, line, paragraph"),
    ({"on_error": "ignore"}, "data.on_error", "raise, skip, report"),
    ({"max_length": 1}, "data.max_length", "at least 2"),
    ({"streaming": True}, "data.streaming", "--data.validation"),
    ({"streaming": True, "validation": 0.1}, "data.streaming", "--data.validation"),
])  # fmt: skip
def test_invalid_option_is_a_fault(fields: dict[str, Any], option: str, fix: str) -> None:
    (line,) = loading.check(DataConfig(**{"train": "a.jsonl", **fields}), LM)
    assert line.startswith(f"{option}: ") and fix in line


@pytest.mark.parametrize("task, fields, option", [
    (CLS, {"packing": True}, "data.packing"),
    (Preference(), {"streaming": True, "validation": "b.jsonl"}, "data.streaming"),
])  # fmt: skip
def test_option_that_the_task_cannot_use_is_a_fault(task: Any, fields: dict[str, Any], option: str) -> None:
    (line,) = loading.check(DataConfig(train="a.jsonl", **fields), task)
    assert line.startswith(f"{option}: ") and task.name in line


def test_valid_options_have_no_fault() -> None:
    assert loading.check(DataConfig(train="a.jsonl", streaming=True, validation="b.jsonl", max_length=2), LM) == []


def test_names_are_comma_separated_and_belong_to_their_data() -> None:
    base, _ = build_recipe(None, ["--task", "causal-lm", "--data", "a.csv", "--data.names", "text,label"])
    assert base.data.names == ("text,label",)
    assert build_recipe(base, ["--data", "b.csv"])[0].data.names == ()


def test_encoding_is_cleared_by_other_training_data() -> None:
    base, _ = build_recipe(None, ["--task", "causal-lm", "--data", "a.csv", "--data.encoding", "cp1252"])
    assert base.data.encoding == "cp1252" and build_recipe(base, ["--data", "b.csv"])[0].data.encoding == "utf-8"
