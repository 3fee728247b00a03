"""Run llmkit commands in this process, and check what they print."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from llmkit.cli.main import command, guard

LABELS = {0: "bad", 1: "good"}
"""Labels of the classifier."""
FILMS = ["a fine film", "dull", "太好看了，推荐", "the plot makes no sense at all", "warm, funny and wise"]


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Answer]:
    """Run `llmkit` with some words in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any, stdin: str = "") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = guard(lambda: command([str(word) for word in words]))
        return Answer(status, *capsys.readouterr())

    return run


def assert_one_fault(answer: Answer, *words: str) -> None:
    """Exit status 2, nothing on stdout, and one line on stderr with all `words` in it."""
    assert (answer.status, answer.out) == (2, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("llmkit: ")
    assert [word for word in words if word not in line] == [], line


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder saved by Transformers alone, without recipe.yaml."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
        id2label=LABELS, label2id={name: i for i, name in LABELS.items()},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
