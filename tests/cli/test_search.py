"""`llmkit search`: results on stdout, one per line or as JSON; queries from the command line and from stdin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import assert_one_fault, call
from conftest import TEXTS, save
from transformers import AutoModel, AutoTokenizer

__all__ = ["call"]  # a fixture
DOCUMENTS = [{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS[:8])]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def index(tiny_bert: Path, call: Callable, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    encoder = save(AutoModel.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_bert), tmp_path / "encoder")
    answer = call("search", "build", encoder, write_jsonl(tmp_path / "texts.jsonl", DOCUMENTS), "--out", "index")
    assert (answer.status, answer.out) == (0, ""), answer.err
    return tmp_path / "index"


def test_a_query_prints_a_line_per_result(call: Callable, index: Path) -> None:
    lines = [line.split("\t") for line in call("search", "query", index, "狐狸", "-k", 2).lines]
    (answer,) = call("search", "query", index, "狐狸", "-k", 2, "--json").json
    assert answer["query"] == "狐狸" and len(lines) == 2
    assert [(result["id"], result["text"]) for result in answer["found"]] == [(key, text) for _, key, text in lines]


def test_a_dash_reads_queries_from_stdin(call: Callable, index: Path) -> None:
    answer = call("search", "query", index, "-", "--json", "-k", 1, stdin="a fox\n老虎\n")
    assert [row["query"] for row in answer.json] == ["a fox", "老虎"]


def test_evaluate_prints_metrics_with_intervals_and_those_of_bm25(call: Callable, index: Path, tmp_path: Path) -> None:
    judgements = write_jsonl(tmp_path / "j.jsonl", [{"query": d["text"], "relevant": [d["id"]]} for d in DOCUMENTS])
    (result,) = call("search", "evaluate", index, judgements, "--json").json
    ones = {"ndcg@10": 1.0, "recall@10": 1.0, "mrr": 1.0}
    assert (result["metrics"], result["baselines"]["BM25"], result["examples"]) == (ones, ones, 8)
    first = call("search", "evaluate", index, judgements).lines[0]
    assert first == "ndcg@10 1.0000  [1.0000, 1.0000]  BM25 1.0000"


@pytest.mark.parametrize("words", [[], ["find"], ["query", "x"], ["build", "m", "f"]], ids=" ".join)
def test_wrong_usage_is_one_fault(call: Callable, words: list[str]) -> None:
    assert_one_fault(call("search", *words), "llmkit search")


def test_files_in_another_encoding_are_read_as_the_message_says(call: Callable, index: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("un café\ndéçu\n".encode("cp1252"))
    words = ["search", "build", "encoder", "texts.txt", "--out", "french"]
    assert_one_fault(call(*words), "texts.txt: byte 6 is not UTF-8", "; --encoding cp1252 reads it as")
    assert call(*words, "--encoding", "cp1252").status == 0
    (tmp_path / "j.jsonl").write_bytes('{"query": "café", "relevant": [1]}\n'.encode("utf-16"))
    words = ["search", "evaluate", "french", "j.jsonl", "--json"]
    assert_one_fault(call(*words), "j.jsonl: byte 0 is not UTF-8", "; --encoding utf-16 reads it as")
    assert call(*words, "--encoding", "utf-16").json[0]["examples"] == 1
