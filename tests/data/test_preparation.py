"""Features are encoded once and kept under everything they depend on, stored small, and what was cut is counted and said."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import REVIEWS, TEXTS
from datasets import Dataset
from huggingface_hub import constants

from llmkit import RecipeError
from llmkit.data import cache
from llmkit.data.preparation import encode, prepare
from llmkit.models import tokenizers
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

LM, CLS = CausalLM(), TextClassification(labels=("negative", "positive"))
ROWS = {
    "train": Dataset.from_list([{"text": t} for t in TEXTS]),
    "validation": Dataset.from_list([{"text": "A fox and a crow."}]),
    "test": Dataset.from_list([{"text": "乌鸦和狐狸。"}]),
}
LABELLED = {"train": Dataset.from_list(REVIEWS), "validation": Dataset.from_list(REVIEWS[:5])}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """The names in a cache of the test's own."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    return lambda: {p.name for p in (tmp_path / "cache").glob("*")}


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Any:
    return tokenizers.load(str(tiny_bert))


def columns(features: dict[str, Dataset]) -> dict[str, list]:
    return {part: dataset.to_list() for part, dataset in features.items()}


@pytest.mark.parametrize(
    "task, rows", [(LM, ROWS), (MaskedLM(), ROWS), (CLS, LABELLED)], ids=lambda v: getattr(v, "name", "")
)
def test_a_second_call_reads_what_the_first_kept(kept: Any, tiny_bert: Path, task: Any, rows: Any, capsys: Any) -> None:
    first = columns(prepare(task, rows, tokenizers.load(str(tiny_bert)), 32, task.packs))
    there = kept()
    assert len(there) == len(rows) and "prepared before" not in capsys.readouterr().err
    again = columns(prepare(task, rows, tokenizers.load(str(tiny_bert)), 32, task.packs))
    assert again == first and kept() == there
    assert capsys.readouterr().err.count("prepared before") == len(rows)


def test_the_same_rows_from_elsewhere_are_the_same(kept: Any, tokenizer: Any) -> None:
    prepare(LM, {"train": ROWS["train"]}, tokenizer, 32, True)
    there = kept()
    again = Dataset.from_list([{"text": t} for t in TEXTS])
    prepare(LM, {"train": again}, tokenizer, 32, True)
    prepare(
        LM,
        {"train": Dataset.from_list([{"text": t} for t in [*TEXTS, "x"]]).select(range(len(TEXTS)))},
        tokenizer,
        32,
        True,
    )
    assert kept() == there


def other_tokenizer() -> Any:
    return tokenizers.train("bpe", 300, iter(TEXTS), "bert")


def turned(rows: Dataset) -> Dataset:
    return rows.select(range(len(rows))[::-1])


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer": other_tokenizer},
        {"rows": lambda: Dataset.from_list([{"text": t} for t in [*TEXTS, "one more"]])},
        {"rows": lambda: turned(ROWS["train"])},
        {"rows": lambda: Dataset.from_list([{"text": t + " "} for t in TEXTS])},
        {"max_length": lambda: 31},
        {"packed": lambda: False},
        {"task": MaskedLM},
    ],
    ids=["tokenizer", "a row more", "order", "a space more", "max_length", "packing", "task"],
)
def test_what_changed_is_prepared_anew(kept: Any, tokenizer: Any, changed: dict[str, Callable]) -> None:
    def call(**given: Any) -> list[dict]:
        values = {"task": LM, "rows": ROWS["train"], "tokenizer": tokenizer, "max_length": 32, "packed": True} | given
        found = prepare(
            values["task"], {"train": values["rows"]}, values["tokenizer"], values["max_length"], values["packed"]
        )
        return found["train"].to_list()

    before = call()
    assert len(kept()) == 1
    assert call(**{name: make() for name, make in changed.items()}) != before
    assert len(kept()) == 2


def test_a_knob_of_the_task_is_part_of_it(kept: Any, tiny_bert: Path) -> None:
    def labels(*names: str) -> list[int]:
        task, tokenizer = TextClassification(labels=names), tokenizers.load(str(tiny_bert))
        return prepare(task, {"train": LABELLED["train"]}, tokenizer, 32, False)["train"]["label"]

    one, other = labels("negative", "positive"), labels("positive", "negative")
    assert [a + b for a, b in zip(one, other, strict=True)] == [1] * len(REVIEWS)


def test_a_changed_encode_never_meets_the_old_one_s_features(
    kept: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number in (5, 6):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "changing_task.py").write_text(
            "from dataclasses import dataclass\nfrom llmkit.tasks import CausalLM\n\n\n"
            "@dataclass(frozen=True)\nclass Mine(CausalLM):\n    def encode(self, rows, tokenizer, max_length):\n"
            f"        return {{'input_ids': [[{number}, {number}]] * len(rows['text']), 'row': list(range(len(rows['text'])))}}\n"
        )
        monkeypatch.syspath_prepend(folder)
        sys.modules.pop("changing_task", None)
        task = importlib.import_module("changing_task").Mine()
        found.append(prepare(task, {"train": ROWS["train"]}, tokenizer, 32, False)["train"][0]["input_ids"])
    sys.modules.pop("changing_task")
    assert found == [[5, 5], [6, 6]]


def test_a_torn_entry_is_prepared_anew(kept: Any, tokenizer: Any) -> None:
    before = prepare(LM, {"train": ROWS["train"]}, tokenizer, 32, True)["train"].to_list()
    (name,) = kept()
    (cache.cache_root() / name / "notes.json").unlink()
    assert prepare(LM, {"train": ROWS["train"]}, tokenizer, 32, True)["train"].to_list() == before


@pytest.mark.parametrize(
    "env, expected",
    [
        ({"LLMKIT_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/llmkit"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/llmkit"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/llmkit"),
    ],
)
def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str) -> None:
    with monkeypatch.context() as patch:
        for name in ("LLMKIT_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            patch.delenv(name, raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        importlib.reload(constants)  # which reads the environment when it is imported
        found = str(cache.cache_root())
    importlib.reload(constants)
    assert found == expected


@pytest.mark.parametrize("task, packed", [(LM, True), (LM, False), (MaskedLM(), True), (CLS, False)])
def test_features_are_stored_small(kept: Any, tokenizer: Any, task: Any, packed: bool) -> None:
    rows = LABELLED["train"]
    features = prepare(task, {"train": rows}, tokenizer, 32, packed)["train"]
    types = {name: features.data.schema.field(name).type for name in features.column_names}
    assert types["input_ids"] == pa.list_(pa.uint16())
    assert pa.int64() not in {t.value_type if pa.types.is_list(t) else t for t in types.values()}
    assert not {"attention_mask", "token_type_ids", "labels", "text"} & set(types)


def test_a_large_vocabulary_is_stored_whole(kept: Any, tokenizer: Any) -> None:
    @dataclass(frozen=True)
    class Large(CausalLM):
        def encode(self, rows: Any, tokenizer: Any, max_length: int) -> dict[str, list]:
            return {"input_ids": [[70_000, 1]] * len(rows["text"]), "row": list(range(len(rows["text"])))}

    features = prepare(Large(), {"train": ROWS["train"]}, tokenizer, 32, False)["train"]
    assert features[0]["input_ids"] == [70_000, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_every_token_of_the_text_is_there(kept: Any, tiny_gpt2: Path, packed: bool) -> None:
    tokenizer = tokenizers.load(str(tiny_gpt2))
    features = prepare(LM, {"train": ROWS["train"]}, tokenizer, 64, packed)["train"]
    expected = Counter(i for text in TEXTS for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    assert Counter(i for ids in features["input_ids"] for i in ids) == expected
    assert max(map(len, features["input_ids"])) <= 64


def test_a_feature_knows_its_row(kept: Any, tokenizer: Any) -> None:
    rows = Dataset.from_list([{"text": TEXTS[i % 8] * (1 + i % 3)} for i in range(2500)])
    features, notes = encode(LM, rows, tokenizer, 16)
    assert sorted(set(features["row"])) == list(range(2500)) and notes == {"truncated": 0, "dropped": 0}
    for i in (0, 1500, 2499):
        pieces = [f["input_ids"] for f in features.filter(lambda f, i=i: f["row"] == i)]
        assert pieces[0] + [t for piece in pieces[1:] for t in piece[1:]] == tokenizer(rows[i]["text"])["input_ids"]


@pytest.mark.parametrize("call", ["first", "from the cache"])
def test_truncation_is_counted_and_said(kept: Any, tokenizer: Any, capsys: pytest.CaptureFixture, call: str) -> None:
    rows = [{"text": "short", "label": "positive"}] * 3 + [
        {"text": "far too long to fit " * 5, "label": "negative"}
    ] * 2
    for _ in range(1 if call == "first" else 2):
        capsys.readouterr()
        features = prepare(CLS, {"train": Dataset.from_list(rows)}, tokenizer, 12, False)["train"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(said) == 1 and "train: 2 of 5 rows cut to 12 tokens" in said[0] and "--data.max_length" in said[0]
    assert [len(ids) for ids in features["input_ids"]][3:] == [12, 12] and "truncated" not in features.column_names


def test_nothing_cut_says_nothing(kept: Any, tokenizer: Any, capsys: pytest.CaptureFixture) -> None:
    prepare(LM, ROWS, tokenizer, 16, True)  # long documents are continued in the next row, not cut
    assert "warning" not in capsys.readouterr().err


def test_rows_that_teach_nothing_are_counted_and_said(
    kept: Any, tiny_gpt2: Path, capsys: pytest.CaptureFixture
) -> None:
    tokenizer = tokenizers.load(str(tiny_gpt2))
    rows = Dataset.from_list([{"text": "a fox"}, {"text": tokenizer.eos_token}, {"text": "a crow"}])
    features = prepare(LM, {"train": rows}, tokenizer, 16, False)["train"]
    assert list(features["row"]) == [0, 2]
    assert "train: 1 of 3 rows dropped" in capsys.readouterr().err


def test_nothing_left_is_a_fault(kept: Any, tiny_gpt2: Path) -> None:
    tokenizer = tokenizers.load(str(tiny_gpt2))
    with pytest.raises(RecipeError, match=r"data\.train.*has anything to learn from"):
        prepare(LM, {"train": Dataset.from_list([{"text": tokenizer.eos_token}])}, tokenizer, 16, False)
