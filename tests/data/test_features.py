"""From rows to features: cached under everything that they depend on, checked, stored in small types, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import REVIEWS, TEXTS
from datasets import Dataset

from llmkit import UsageError
from llmkit.data import features as features_module
from llmkit.data.features import encode, prepare_features
from llmkit.models.tokenizers import load_tokenizer, train_tokenizer
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

LM, CLS = CausalLM(), TextClassification(labels=("negative", "positive"))
ROWS = {
    "train": Dataset.from_list([{"text": t} for t in TEXTS]),
    "validation": Dataset.from_list([{"text": "A fox and a crow."}]),
    "test": Dataset.from_list([{"text": "乌鸦和狐狸。"}]),
}
LABELLED = {"train": Dataset.from_list(REVIEWS), "validation": Dataset.from_list(REVIEWS[:5])}


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Returns the names of the entries in a cache of the test's own."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    return lambda: {p.name for p in (tmp_path / "cache").glob("*")}


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Any:
    return load_tokenizer(str(tiny_bert))


def columns(features: dict[str, Dataset]) -> dict[str, list]:
    return {part: dataset.to_list() for part, dataset in features.items()}


# -- the cache key


@pytest.mark.parametrize(
    "task, rows", [(LM, ROWS), (MaskedLM(), ROWS), (CLS, LABELLED)], ids=lambda v: getattr(v, "name", "")
)
def test_second_call_reads_the_cache(entries: Any, tiny_bert: Path, task: Any, rows: Any, capsys: Any) -> None:
    packed = task.language_modeling
    first = columns(prepare_features(task, rows, load_tokenizer(str(tiny_bert)), 32, packed))
    before = entries()
    assert len(before) == len(rows) and "(cached)" not in capsys.readouterr().err
    again = columns(prepare_features(task, rows, load_tokenizer(str(tiny_bert)), 32, packed))
    assert again == first and entries() == before
    assert capsys.readouterr().err.count("(cached)") == len(rows)


def test_same_rows_from_another_dataset_hit_the_cache(entries: Any, tokenizer: Any) -> None:
    prepare_features(LM, {"train": ROWS["train"]}, tokenizer, 32, True)
    before = entries()
    again = Dataset.from_list([{"text": t} for t in TEXTS])
    prepare_features(LM, {"train": again}, tokenizer, 32, True)
    selected = Dataset.from_list([{"text": t} for t in [*TEXTS, "x"]]).select(range(len(TEXTS)))
    prepare_features(LM, {"train": selected}, tokenizer, 32, True)
    assert entries() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer": lambda: train_tokenizer("bpe", 300, iter(TEXTS), "bert")},
        {"rows": lambda: Dataset.from_list([{"text": t} for t in [*TEXTS, "one more"]])},
        {"rows": lambda: ROWS["train"].select(range(len(TEXTS))[::-1])},
        {"rows": lambda: Dataset.from_list([{"text": t + " "} for t in TEXTS])},
        {"max_length": lambda: 31},
        {"packed": lambda: False},
        {"task": MaskedLM},
    ],
    ids=["tokenizer", "another row", "order", "another space", "max_length", "packing", "task"],
)
def test_changed_input_misses_the_cache(entries: Any, tokenizer: Any, changed: dict[str, Callable]) -> None:
    def prepare(**other: Any) -> list[dict]:
        values = {"task": LM, "rows": ROWS["train"], "tokenizer": tokenizer, "max_length": 32, "packed": True} | other
        task, rows, *more = values.values()
        return prepare_features(task, {"train": rows}, *more)["train"].to_list()

    before = prepare()
    assert len(entries()) == 1
    assert prepare(**{name: make() for name, make in changed.items()}) != before
    assert len(entries()) == 2


def test_changed_task_option_misses_the_cache(entries: Any, tiny_bert: Path) -> None:
    def labels(*names: str) -> list[int]:
        task, tokenizer = TextClassification(labels=names), load_tokenizer(str(tiny_bert))
        return prepare_features(task, {"train": LABELLED["train"]}, tokenizer, 32, False)["train"]["labels"]

    one, other = labels("negative", "positive"), labels("positive", "negative")
    assert [a + b for a, b in zip(one, other, strict=True)] == [1] * len(REVIEWS)


# -- what encode returns


@pytest.mark.parametrize("task, packed", [(LM, True), (LM, False), (MaskedLM(), True), (CLS, False)])
def test_features_are_stored_in_small_integer_types(entries: Any, tokenizer: Any, task: Any, packed: bool) -> None:
    features = prepare_features(task, {"train": LABELLED["train"]}, tokenizer, 32, packed)["train"]
    types = {name: features.data.schema.field(name).type for name in features.column_names}
    assert types["input_ids"] == pa.list_(pa.uint16())
    assert pa.int64() not in {t.value_type if pa.types.is_list(t) else t for t in types.values()}
    assert not {"attention_mask", "token_type_ids", "text"} & set(types)


def returning(**columns: Any) -> CausalLM:
    """A task whose `encode` returns these columns."""

    @dataclass(frozen=True)
    class Fixed(CausalLM):
        name = "fixed"

        def encode(self, rows: Any, tokenizer: Any, max_length: int) -> dict[str, list]:
            return dict(columns)

    return Fixed()


def encoded(rows: int = 2, max_length: int = 4, **columns: Any) -> Dataset:
    texts = Dataset.from_list([{"text": "a"}] * rows)
    return encode(returning(**columns), texts, None, max_length)[0]


def test_ids_of_a_large_vocabulary_are_stored_exactly() -> None:
    assert encoded(input_ids=[[70_000, 1]] * 2, row=[0, 1])[0]["input_ids"] == [70_000, 1]


@pytest.mark.parametrize(
    "columns, fault",
    [
        ({"input_ids": [[1], [2]]}, "encode returned no 'row'"),
        ({"row": [0, 1]}, "encode returned no 'input_ids'"),
        ({"input_ids": [[[1], [2]]], "row": [0]}, "'input_ids' that is not a flat list of ids per row"),
        ({"input_ids": [["a"]], "row": [0]}, "'input_ids' that is not a flat list of ids per row"),
        ({"input_ids": [1, 2], "row": [0, 1]}, "'input_ids' that is not a flat list of ids per row"),
        ({"input_ids": [[1], [2]], "row": [0]}, "'row' with 1 values, and 'input_ids' with 2"),
        ({"input_ids": [[1], [2]], "row": [0, 1], "labels": [[1]]}, "'labels' with 1 values, and 'input_ids' with 2"),
        ({"input_ids": [[1], [2]], "row": [0, 1], "labels": [1, "a"]}, "'labels' with values of several types"),
        ({"input_ids": [[1], [2]], "row": [0, 2]}, "'row' that is not an index of its rows, 0 to 1"),
        ({"input_ids": [[1], [2]], "row": [-1, 0]}, "'row' that is not an index of its rows, 0 to 1"),
        ({"input_ids": [[1], [2]], "row": ["0", "1"]}, "'row' that is not an index of its rows, 0 to 1"),
        ({"input_ids": [[1, 2, 3]], "row": [0], "lengths": [[1, 1]]}, "'lengths' that are not lists which sum to"),
        ({"input_ids": [[1, 2, 3]], "row": [0], "lengths": [3]}, "'lengths' that are not lists which sum to"),
        ({"input_ids": [[1] * 5], "row": [0]}, "'input_ids' with 5 ids in a sequence, more than max_length 4"),
        ({"input_ids": [[1] * 7], "row": [0], "lengths": [[2, 5]]}, "'input_ids' with 5 ids in a sequence"),
    ],
)  # fmt: skip
def test_encode_with_a_wrong_shape_names_task_and_column(columns: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError) as error:
        encoded(**columns)
    (line,) = error.value.faults
    assert line.startswith("task fixed: ") and fault in line


def test_row_may_exceed_max_length_if_no_sequence_does() -> None:
    features = encoded(input_ids=[[1] * 8, [2] * 3], row=[0, 1], lengths=[[4, 4], [1, 2]])
    assert features["lengths"][:] == [[4, 4], [1, 2]] and features["input_ids"][0] == [1] * 8


def test_one_row_may_become_several_features_and_another_none() -> None:
    rows = Dataset.from_list([{"text": "a"}] * 3)
    task = returning(input_ids=[[1], [2], [3]], row=[0, 0, 2], truncated=[True, False, True])
    features, notes = encode(task, rows, None, 4)
    assert features["row"][:] == [0, 0, 2] and notes == {"truncated": 2, "dropped": 1}
    assert "truncated" not in features.column_names


def test_chunks_with_different_integer_types_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Numbers(CausalLM):
        def encode(self, rows: Any, tokenizer: Any, max_length: int) -> dict[str, list]:
            valid = [(i, int(text)) for i, text in enumerate(rows["text"]) if int(text) >= 0]
            return {
                "input_ids": [[n] for _, n in valid],
                "row": [i for i, _ in valid],
                "labels": [[-n] for _, n in valid],
            }

    monkeypatch.setattr(features_module, "CHUNK", 2)
    rows = Dataset.from_list([{"text": str(n)} for n in (1, 2, -1, -1, 70_000, 3, 5_000_000_000, 1)])
    features, _ = encode(Numbers(), rows, None, 4)
    assert [ids for (ids,) in features["input_ids"]] == [1, 2, 70_000, 3, 5_000_000_000, 1]
    assert features["row"][:] == [0, 1, 4, 5, 6, 7] and features["labels"][2] == [-70_000]


def test_row_is_counted_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "CHUNK", 2)
    assert encoded(rows=6, input_ids=[[1], [2]], row=[0, 1])["row"][:] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("packed", [True, False])
def test_every_token_of_the_text_is_kept(entries: Any, tiny_gpt2: Path, packed: bool) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2))
    features = prepare_features(LM, {"train": ROWS["train"]}, tokenizer, 64, packed)["train"]
    expected = Counter(i for text in TEXTS for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    assert Counter(i for ids in features["input_ids"] for i in ids) == expected
    assert max(map(len, features["input_ids"])) <= 64


def test_features_hold_the_index_of_their_row(tokenizer: Any) -> None:
    rows = Dataset.from_list([{"text": TEXTS[i % 8] * (1 + i % 3)} for i in range(2500)])
    features, notes = encode(LM, rows, tokenizer, 16)
    assert sorted(set(features["row"])) == list(range(2500)) and notes == {"truncated": 0, "dropped": 0}
    for i in (0, 1500, 2499):
        chunks = [f["input_ids"] for f in features.filter(lambda f, i=i: f["row"] == i)]
        assert chunks[0] + [t for c in chunks[1:] for t in c[1:]] == tokenizer(rows[i]["text"])["input_ids"]


# -- what is logged


@pytest.mark.parametrize("call", ["first", "from the cache"])
def test_truncation_is_counted_and_logged(
    entries: Any, tokenizer: Any, capsys: pytest.CaptureFixture, call: str
) -> None:
    long = {"text": "far too long to fit " * 5, "label": "negative"}
    rows = Dataset.from_list([{"text": "short", "label": "positive"}] * 3 + [long] * 2)
    for _ in range(1 if call == "first" else 2):
        capsys.readouterr()
        features = prepare_features(CLS, {"train": rows}, tokenizer, 12, False)["train"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "train: 2 of 5 rows cut to 12 tokens" in warnings[0]
    assert "--data.max_length" in warnings[0]
    assert [len(ids) for ids in features["input_ids"]][3:] == [12, 12] and "truncated" not in features.column_names


def test_chunked_documents_are_not_reported_as_truncated(
    entries: Any, tokenizer: Any, capsys: pytest.CaptureFixture
) -> None:
    prepare_features(LM, ROWS, tokenizer, 16, True)
    assert "warning" not in capsys.readouterr().err


def test_rows_without_tokens_to_train_on_are_counted_and_logged(
    entries: Any, tiny_gpt2: Path, capsys: pytest.CaptureFixture
) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2))
    rows = Dataset.from_list([{"text": "a fox"}, {"text": tokenizer.eos_token}, {"text": "a crow"}])
    features = prepare_features(LM, {"train": rows}, tokenizer, 16, False)["train"]
    assert list(features["row"]) == [0, 2]
    assert "train: 1 of 3 rows dropped" in capsys.readouterr().err


def test_part_without_tokens_to_train_on_is_an_error(entries: Any, tiny_gpt2: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2))
    with pytest.raises(UsageError, match=r"data\.train.*has tokens to train on"):
        prepare_features(LM, {"train": Dataset.from_list([{"text": tokenizer.eos_token}])}, tokenizer, 16, False)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_unknown_tokens_are_logged_with_a_fix_for_train(entries: Any, capsys: pytest.CaptureFixture, part: str) -> None:
    tokenizer = train_tokenizer("char", 50, iter(["abc"]), "gpt2")
    prepare_features(LM, {part: Dataset.from_list([{"text": "abcxyz"}])}, tokenizer, 16, False)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert f"{part}: 43% of the tokens are unknown" in line  # three of six characters and EOS
    assert ("--model.new_characters" in line) == (part == "train")
