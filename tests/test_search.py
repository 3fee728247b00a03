"""`llmkit search`: the nearest texts, exactly, from a folder that knows which model made it; and how good they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXTS, save
from transformers import AutoModel, AutoTokenizer

import llmkit
from llmkit import search
from llmkit.cli import command
from llmkit.errors import RecipeError

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
    command(["search", "build", str(encoder), lines(folder / "texts.jsonl", DOCUMENTS), "--out", str(folder / "index")])
    return folder / "index"


def fault(call: Callable[[], Any]) -> str:
    with pytest.raises(RecipeError) as refused:
        call()
    (line,) = refused.value.faults
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
        (found,) = opened.query([question], k=3)
        assert [f["id"] for f in found] == [f"d{i}" for i in np.argsort(-cosines)[:3]]
        assert [f["score"] for f in found] == pytest.approx(np.sort(cosines)[::-1][:3].tolist(), abs=1e-5)
    assert found[0] == {"id": "d3", "text": DOCUMENTS[3]["text"], "score": pytest.approx(1.0, abs=1e-5)}
    assert len(opened.query(["a"], k=50)[0]) == 8


def test_the_command_answers_a_line_each(index: Path, capsys: pytest.CaptureFixture) -> None:
    command(["search", "query", str(index), "狐狸", "-k", "2"])
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    command(["search", "query", str(index), "狐狸", "-k", "2", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == "狐狸"
    assert [(f["id"], f["text"]) for f in answer["found"]] == [(i, text) for _, i, text in shown]


def test_questions_are_piped(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a fox\n老虎\n"))
    command(["search", "query", str(index), "-", "--json", "-k", "1"])
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == ["a fox", "老虎"]


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_ids_are_line_numbers_where_the_rows_have_none(encoder: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"texts.{suffix}"
    file.write_text("\n".join(f'"{t}"' for t in TEXTS[:3]) + "\n", encoding="utf-8")
    search.build(str(encoder), str(file), str(tmp_path / "index"), names="text" if suffix == "csv" else None)
    assert search.load(str(tmp_path / "index")).ids == ["1", "2", "3"]


def test_what_is_cut_is_counted(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [*DOCUMENTS, {"id": "long", "text": "fox " * 200}]
    search.build(str(encoder), lines(tmp_path / "t.jsonl", rows), str(tmp_path / "index"))
    assert "1 of 9 texts cut to the 64 tokens that the model reads" in capsys.readouterr().err


@pytest.mark.parametrize("gains", [False, True], ids=["ids", "gains"])
def test_a_search_is_measured_beside_bm25(
    index: Path, tmp_path: Path, gains: bool, capsys: pytest.CaptureFixture
) -> None:
    """Each text finds itself; BM25 too, where the words are told apart."""
    rows = [{"query": d["text"], "relevant": {"d0": 0, d["id"]: 2} if gains else [d["id"]]} for d in DOCUMENTS]
    file = lines(tmp_path / "judgements.jsonl", rows)
    command(["search", "evaluate", str(index), file, "--json"])
    found = json.loads(capsys.readouterr().out)
    ones = {"ndcg@10": 1.0, "recall@10": 1.0, "mrr": 1.0}
    assert (found["metrics"], found["baselines"]["BM25"], found["examples"]) == (ones, ones, 8)
    command(["search", "evaluate", str(index), file])
    assert capsys.readouterr().out.splitlines()[0] == "ndcg@10 1.0000  [1.0000, 1.0000]  BM25 1.0000"


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"id": "a", "words": "x"}], "line 1: no text in text or content"),
        ([{"text": "x"}, {"text": " "}], "line 2: no text in text or"),
        ([{"id": 1, "text": "x"}, {"id": "1", "text": "y"}], "line 2: the id '1' stood before"),
        ([["x"]], "line 1: list, not a row of columns"),
    ],
)
def test_a_bad_text_is_named_before_the_model_is_loaded(tmp_path: Path, encoder: Path, rows: list, why: str) -> None:
    file = lines(tmp_path / "texts.jsonl", rows)
    assert why in fault(lambda: search.build(str(encoder), file, str(tmp_path / "index")))
    assert not (tmp_path / "index").exists()


def test_a_folder_that_is_there_is_left_as_it_is(index: Path, encoder: Path, tmp_path: Path) -> None:
    file = lines(tmp_path / "texts.jsonl", DOCUMENTS)
    before = (index / "index.json").read_text()
    assert "is there already" in fault(lambda: search.build(str(encoder), file, str(index)))
    assert (index / "index.json").read_text() == before


def test_a_model_without_embeddings_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    line = fault(lambda: search.build(str(tiny_gpt2), "fables", str(tmp_path / "index")))
    assert line == "a causal-lm model gives no embeddings; train one with llmkit train embed_sentences"


def test_an_index_whose_model_changed_is_refused(encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    folder = tmp_path / "model"
    save(model, tokenizer, folder)
    search.build(str(folder), lines(tmp_path / "t.jsonl", DOCUMENTS), str(tmp_path / "index"))
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    save(model, tokenizer, folder)
    assert "built with other weights of" in fault(lambda: search.load(str(tmp_path / "index")))


@pytest.mark.parametrize("missing", ["index.json", "vectors.npy", "texts.jsonl"])
def test_an_index_that_lacks_a_file_is_refused(index: Path, tmp_path: Path, missing: str) -> None:
    import shutil

    shutil.copytree(index, tmp_path / "index")
    (tmp_path / "index" / missing).unlink()
    assert "cannot be read" in fault(lambda: search.load(str(tmp_path / "index")))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"query": "a", "relevant": ["d9"]}, "line 1: the index has no id 'd9'; it has d0, d1, d2, d3 …"),
        ({"query": "a", "relevant": {"a": "high"}}, "line 1: expected"),
        ({"query": "a", "relevant": []}, 'line 1: expected {"query": "words", "relevant": ["id", …]}'),
        ({"query": "a", "relevant": {"d1": 0}}, "line 1: expected"),
        ({"query": "a", "relevant": "d1"}, "line 1: expected"),
        ({"words": "a", "relevant": ["d1"]}, "line 1: expected"),
    ],
)
def test_a_bad_judgement_is_named(index: Path, tmp_path: Path, row: dict, why: str) -> None:
    file = lines(tmp_path / "judgements.jsonl", [row])
    assert why in fault(lambda: search.evaluate(search.load(str(index)), file))


@pytest.mark.parametrize(
    "words", [["search"], ["search", "find"], ["search", "query", "x"], ["search", "build", "m", "f"]]
)
def test_a_wrong_call_is_one_line(words: list[str]) -> None:
    assert fault(lambda: command(words)).startswith("llmkit search")
