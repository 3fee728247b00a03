"""The texts that come with llmkit and with Python."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmkit import DataConfig
from llmkit.data import bundled
from llmkit.data.loading import load_part, load_rows
from llmkit.hub import BUNDLED
from llmkit.tasks import CausalLM, TextClassification

LM, CLS = CausalLM(), TextClassification()


@pytest.mark.parametrize("name, task", [("reviews", CLS), ("fables", LM)])
@pytest.mark.parametrize("split", bundled.SPLITS)
def test_bundled_name_reads_its_files(name: str, split: str, task: Any) -> None:
    lines = (BUNDLED / name / f"{split}.jsonl").read_text("utf-8").splitlines()
    expected = [{c: row[c] for c in task.columns if c in row} for row in map(json.loads, lines)]
    assert load_part(f"{name}[{split}]", task, DataConfig()).to_list() == expected
    assert load_rows(DataConfig(train=name), task).rows[split].to_list() == expected


@pytest.mark.parametrize("name", [n for n, splits in bundled.TEXTS.items() if splits == bundled.SPLITS])
def test_splits_of_a_bundled_text_share_no_row(name: str) -> None:
    rows = {split: {json.dumps(r, sort_keys=True) for r in bundled.read_rows(name, split)} for split in bundled.SPLITS}
    assert all(len(split) >= 20 for split in rows.values()) and len(rows["train"]) > 3 * len(rows["validation"])
    assert not rows["train"] & rows["test"] and not rows["train"] & rows["validation"]
    assert not rows["validation"] & rows["test"]


def test_single_split_of_a_bundled_text_is_split_again() -> None:
    rows = load_rows(DataConfig(train="reviews[test]"), CLS).rows
    assert set(rows) == {"train", "validation"} and len(rows["train"]) + len(rows["validation"]) == 220


@pytest.mark.parametrize("name, split", [("demo", "test"), ("fables", "dev")])
def test_unknown_split_is_a_key_error(name: str, split: str) -> None:
    with pytest.raises(KeyError, match=split):
        bundled.read_rows(name, split)
