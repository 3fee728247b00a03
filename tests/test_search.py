"""Search indexes: built by a model, queried exactly, evaluated beside BM25; and what makes one unusable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS, save
from transformers import AutoModel, AutoTokenizer

import llmkit
from llmkit import search
from llmkit.errors import UsageError

DOCUMENTS = [{"id": f"d{i}", "text": text, "page": i} for i, text in enumerate(TEXTS[:8])]


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = AutoModel.from_pretrained(tiny_bert)
    return save(model, AutoTokenizer.from_pretrained(tiny_bert), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def index(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    search.build(str(encoder), lines(folder / "texts.jsonl", DOCUMENTS), str(folder / "index"))
    return folder / "index"


def fault(call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    (line,) = caught.value.faults
    assert "\n" not in line
    return line


def test_an_index_is_three_plain_files(index: Path, encoder: Path) -> None:
    assert {p.name for p in index.iterdir()} == {"index.json", "texts.jsonl", "vectors.npy"}
    vectors = np.load(index / "vectors.npy")
    assert vectors == pytest.approx(llmkit.load(str(encoder)).embed([d["text"] for d in DOCUMENTS]), abs=1e-6)
    about = json.loads((index / "index.json").read_text())
    assert about["model"] == str(encoder.resolve()) and about["texts"] == 8 and len(about["sources"][0]["sha256"]) == 64


def test_a_query_finds_the_nearest_first(index: Path, encoder: Path) -> None:
    opened, model = search.load(str(index)), llmkit.load(str(encoder))
    for question in ("a fox and a crow", "老虎", DOCUMENTS[3]["text"]):
        cosines = model.embed([d["text"] for d in DOCUMENTS]) @ model.embed(question)
        (results,) = opened.query([question], k=3)
        assert [f["id"] for f in results] == [f"d{i}" for i in np.argsort(-cosines)[:3]]
        assert [f["score"] for f in results] == pytest.approx(np.sort(cosines)[::-1][:3].tolist(), abs=1e-5)
    assert results[0] == {"id": "d3", "text": DOCUMENTS[3]["text"], "score": pytest.approx(1.0, abs=1e-5)}
    assert len(opened.query(["a"], k=50)[0]) == 8


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_ids_are_row_numbers_if_the_rows_have_none(encoder: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"texts.{suffix}"
    file.write_text("\n".join(f'"{t}"' for t in TEXTS[:3]) + "\n", encoding="utf-8")
    search.build(str(encoder), str(file), str(tmp_path / "index"), names="text" if suffix == "csv" else None)
    assert search.load(str(tmp_path / "index")).ids == ["1", "2", "3"]


def test_truncated_texts_are_counted(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [*DOCUMENTS, {"id": "long", "text": "fox " * 200}]
    search.build(str(encoder), lines(tmp_path / "t.jsonl", rows), str(tmp_path / "index"))
    assert "1 text cut to 64 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("gains", [False, True], ids=["ids", "gains"])
def test_evaluation_gives_metrics_of_the_index_and_of_bm25(index: Path, tmp_path: Path, gains: bool) -> None:
    """Each text is the best match of itself, by embeddings and by words."""
    rows = [{"query": d["text"], "relevant": {"d0": 0, d["id"]: 2} if gains else [d["id"]]} for d in DOCUMENTS]
    result = search.evaluate(search.load(str(index)), lines(tmp_path / "judgements.jsonl", rows))
    ones = {"ndcg@10": 1.0, "recall@10": 1.0, "mrr": 1.0}
    assert (result["metrics"], result["baselines"]["BM25"], result["examples"]) == (ones, ones, 8)
    assert result["intervals"] == {name: [1.0, 1.0] for name in ones}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "words": "x"}], "line 1: no text in text or content"),
        ([{"text": "x"}, {"text": 3}], "line 2: no text in text or"),
        ([{"text": ""}, {"text": " "}], "texts.jsonl: every text is empty"),
        ([{"id": 1, "text": "x"}, {"id": "1", "text": "y"}], "line 2: the id '1' was used before"),
        ([["x"]], "line 1: list, not a row of columns"),
    ],
)
def test_an_invalid_text_is_a_fault_before_the_model_is_loaded(
    tmp_path: Path, encoder: Path, rows: list, message: str
) -> None:
    file = lines(tmp_path / "texts.jsonl", rows)
    assert message in fault(lambda: search.build(str(encoder), file, str(tmp_path / "index")))
    assert not (tmp_path / "index").exists()


def test_empty_texts_keep_their_ids_and_are_never_found(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture
) -> None:
    """As in Cranfield, whose documents 471 and 995 are empty, and judged."""
    rows = [*DOCUMENTS[:3], {"id": "e1", "text": ""}, *DOCUMENTS[3:], {"id": "e2", "text": None}]
    search.build(str(encoder), lines(tmp_path / "texts.jsonl", rows), str(tmp_path / "index"))
    assert "warning  2 empty texts, never found by a query: e1, e2\n" in capsys.readouterr().err
    index = search.load(str(tmp_path / "index"))
    found = index.query(["a fox and a crow", ""], k=50)
    assert [{hit["id"] for hit in hits} for hits in found] == [{d["id"] for d in DOCUMENTS}] * 2
    judged = [{"query": DOCUMENTS[0]["text"], "relevant": ["d0"]}, {"query": "fox", "relevant": {"e1": 1, "e2": 2}}]
    result = search.evaluate(index, lines(tmp_path / "judged.jsonl", judged))
    assert "warning  2 judgements of empty texts, which count as not found\n" in capsys.readouterr().err
    assert result["metrics"] == {"ndcg@10": 0.5, "recall@10": 0.5, "mrr": 0.5} and result["examples"] == 2


def test_questions_and_data_may_come_in_any_collection(tmp_path: Path, encoder: Path, index: Path) -> None:
    opened, questions = search.load(str(index)), ["a fox and a crow", "老虎"]
    expected = opened.query(questions, k=3)
    for given in (tuple(questions), iter(questions), np.array(questions), pd.Series(questions)):
        assert opened.query(given, k=3) == expected
    assert [hit["id"] for hit in opened.query(questions[0], k=3)] == [hit["id"] for hit in expected[0]]
    search.build(str(encoder), pd.DataFrame(DOCUMENTS), str(tmp_path / "index"))
    assert (tmp_path / "index" / "texts.jsonl").read_text() == (index / "texts.jsonl").read_text()


def test_an_existing_folder_is_left_unchanged(index: Path, encoder: Path, tmp_path: Path) -> None:
    file = lines(tmp_path / "texts.jsonl", DOCUMENTS)
    before = (index / "index.json").read_text()
    assert "already exists and is left unchanged" in fault(lambda: search.build(str(encoder), file, str(index)))
    assert (index / "index.json").read_text() == before


def test_a_model_without_embeddings_is_a_fault(tiny_gpt2: Path, tmp_path: Path) -> None:
    line = fault(lambda: search.build(str(tiny_gpt2), "fables", str(tmp_path / "index")))
    assert line == "a causal-lm model gives no embeddings; train one with llmkit train embed_sentences"


def test_an_index_of_other_weights_is_a_fault(encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    folder = tmp_path / "model"
    save(model, tokenizer, folder)
    search.build(str(folder), lines(tmp_path / "t.jsonl", DOCUMENTS), str(tmp_path / "index"))
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    save(model, tokenizer, folder)
    assert "built with other weights of" in fault(lambda: search.load(str(tmp_path / "index")))


@pytest.mark.parametrize("missing", ["index.json", "vectors.npy", "texts.jsonl"])
def test_an_index_without_one_of_its_files_is_a_fault(index: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(index, tmp_path / "index")
    (tmp_path / "index" / missing).unlink()
    assert "cannot be read" in fault(lambda: search.load(str(tmp_path / "index")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "relevant": ["d9"]}, "line 1: the index has no id 'd9'; it has d0, d1, d2, d3 …"),
        ({"query": "a", "relevant": {"a": "high"}}, "line 1: expected"),
        ({"query": "a", "relevant": []}, 'line 1: expected {"query": "words", "relevant": ["id", …]}'),
        ({"query": "a", "relevant": {"d1": 0}}, "line 1: expected"),
        ({"query": "a", "relevant": "d1"}, "line 1: expected"),
        ({"words": "a", "relevant": ["d1"]}, "line 1: expected"),
    ],
)
def test_an_invalid_judgement_is_a_fault(index: Path, tmp_path: Path, row: dict, message: str) -> None:
    file = lines(tmp_path / "judgements.jsonl", [row])
    assert message in fault(lambda: search.evaluate(search.load(str(index)), file))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.txt"])
def test_empty_texts_and_judgements_are_a_fault(index: Path, encoder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("", encoding="utf-8")
    message = f"{tmp_path / name} is empty"
    assert message in fault(lambda: search.build(str(encoder), str(tmp_path / name), str(tmp_path / "index")))
    assert message in fault(lambda: search.evaluate(search.load(str(index)), str(tmp_path / name)))


def test_index_with_fewer_texts_than_vectors_is_a_fault(index: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "index")
    texts = (index / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "index" / "texts.jsonl").write_text("\n".join(texts[1:]), encoding="utf-8")
    assert "7 texts, 8 vectors; build it again" in fault(lambda: search.load(str(tmp_path / "index")))
