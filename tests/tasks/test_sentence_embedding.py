"""Sentence embeddings: losses as their formulas say, metrics as the libraries give them, a folder that says how it is read."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, REVIEWS, TEXTS, save
from local_hub import LocalHub
from transformers import AutoModel, AutoTokenizer

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RecipeError, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.evaluation import retrieval
from llmkit.tasks import SentenceEmbedding

PAIRS = [
    {"anchor": a, "positive": b}
    for a, b in [
        ("a fox and a crow", TEXTS[0]),
        ("cheese", TEXTS[1]),
        ("狐狸", TEXTS[2]),
        ("a lazy dog", TEXTS[3]),
        ("a lion and a mouse", TEXTS[4]),
        ("老虎", TEXTS[5]),
        ("summer", TEXTS[6]),
        ("a race", TEXTS[7]),
    ]
]
SCORED = [
    {"text": t, "text_pair": u, "score": s}
    for t, u, s in [
        (TEXTS[0], TEXTS[1], 3.2),
        (TEXTS[0], TEXTS[0], 5.0),
        (TEXTS[2], TEXTS[5], 1.5),
        (TEXTS[3], TEXTS[6], 0.0),
        (TEXTS[4], TEXTS[7], 0.4),
        (TEXTS[5], "山里的老虎。", 4.0),
        (TEXTS[6], "An ant in summer", 3.6),
        (TEXTS[7], TEXTS[2], 0.2),
    ]
]


@pytest.fixture
def make(tiny_bert: Path, tmp_path: Path) -> Any:
    """A recipe over some rows, which also measure it; keywords are the task's knobs or `training`."""

    def recipe(rows: list[dict], output: str = "run", training: dict | None = None, **knobs: Any) -> Recipe:
        return Recipe(
            SentenceEmbedding(**knobs),
            ModelConfig(name=str(tiny_bert)),
            DataConfig(train=rows, validation=rows, max_length=64),
            {**EXACT, "max_steps": 2, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return recipe


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare encoder, saved by plain transformers."""
    torch.manual_seed(1)
    model = AutoModel.from_pretrained(tiny_bert)
    return save(model, AutoTokenizer.from_pretrained(tiny_bert), tmp_path_factory.mktemp("encoder"))


def batch_and_vectors(trainer: Any, rows: list[int]) -> tuple[dict, list[list[torch.Tensor]]]:
    """A batch as the trainer makes it, and the vectors of each row's texts, by transformers alone, one text at a time."""
    task, model, tokenizer = trainer.task, trainer.model.eval(), trainer.processing_class
    batch = task.collate([{**trainer.train_dataset[i], "row": i, "epoch": 0} for i in rows], tokenizer, "padded")
    found = []
    for i in rows:
        row = trainer.rows["train"][i]
        texts = [row[c] for c in ("anchor", "positive", "negative", "text", "text_pair") if row.get(c)]
        with torch.no_grad():
            states = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in texts]
        pooled = [s[0] if task.pooling == "cls" else s.mean(0) for s in states]
        found.append([v / v.norm() for v in pooled])
    return batch, found


def loss_of(trainer: Any, batch: dict) -> float:
    with torch.no_grad():
        loss, _ = trainer.task.loss(trainer.model.eval(), batch)
    assert loss.dtype == torch.float32
    return loss.item()


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("negatives", [(), (1, 3)], ids=["pairs", "some with a negative"])
def test_the_contrastive_loss_is_info_nce_by_hand(make: Any, pooling: str, negatives: tuple[int, ...]) -> None:
    """Multiple negatives ranking, sentence-transformers' formula: -log of exp(20 cos(a, p)) over its sum for all
    positives and negatives of the batch."""
    rows = [{**row, "negative": PAIRS[-1 - i]["anchor"]} if i in negatives else row for i, row in enumerate(PAIRS)]
    trainer = build_trainer(make(rows, pooling=pooling))
    batch, vectors = batch_and_vectors(trainer, [0, 1, 2, 3])
    candidates = [v for row in vectors for v in row[1:]]
    assert len(candidates) == 4 + len(negatives)
    expected = 0.0
    for row in vectors:
        anchor, positive = row[:2]
        total = sum(math.exp(20 * float(anchor @ c)) for c in candidates)
        expected -= math.log(math.exp(20 * float(anchor @ positive)) / total)
    assert loss_of(trainer, batch) == pytest.approx(expected, rel=1e-4)
    assert int(trainer.task.weight(batch)) == 4


def test_the_symmetric_loss_also_asks_each_positive_for_its_anchor(make: Any) -> None:
    trainer = build_trainer(make(PAIRS, symmetric=True, scale=5.0))
    batch, vectors = batch_and_vectors(trainer, [0, 1, 2])
    cosines = torch.stack([torch.stack([row[0] @ other[1] for other in vectors]) for row in vectors])
    own = torch.arange(3)
    forth, back = (torch.nn.functional.cross_entropy(5 * c, own, reduction="sum") for c in (cosines, cosines.T))
    assert loss_of(trainer, batch) == pytest.approx(float(forth + back) / 2, rel=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_text_is_no_negative_of_an_anchor_that_it_answers(make: Any, symmetric: bool) -> None:
    """The same positive twice, the same anchor twice, a positive that is another's anchor: none counts against itself."""
    rows = [
        {"anchor": "a fox", "positive": "the fox and the crow"},
        {"anchor": "a crow", "positive": "the fox and the crow"},  # the first's positive too
        {"anchor": "a fox", "positive": "it likes cheese"},  # the first's anchor again
        {"anchor": "what likes cheese", "positive": "a fox"},  # says what two anchors say
    ]
    trainer = build_trainer(make(rows, symmetric=symmetric))
    batch, vectors = batch_and_vectors(trainer, [0, 1, 2, 3])
    counted = [{0}, {1, 2, 3}, {2}, {0, 1, 2, 3}]  # of the four positives, for each anchor
    cosines = torch.stack([torch.stack([row[0] @ other[1] for other in vectors]) for row in vectors])
    kept = torch.tensor([[j in counted[i] for j in range(4)] for i in range(4)])
    logits = (20 * cosines).masked_fill(~kept, float("-inf"))
    own = torch.arange(4)
    expected = torch.nn.functional.cross_entropy(logits, own, reduction="sum")
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(logits.T, own, reduction="sum")) / 2
    assert loss_of(trainer, batch) == pytest.approx(float(expected), rel=1e-4)


def test_the_graded_loss_is_the_squared_distance_of_cosine_and_score(make: Any) -> None:
    trainer = build_trainer(make(SCORED))
    assert (trainer.task.graded, trainer.task.highest) == (True, 5.0)
    batch, vectors = batch_and_vectors(trainer, [0, 2, 5])
    expected = sum((float(a @ b) - SCORED[i]["score"] / 5) ** 2 for i, (a, b) in zip([0, 2, 5], vectors, strict=True))
    assert loss_of(trainer, batch) == pytest.approx(expected, rel=1e-4)


def losses(recipe: Recipe) -> list[float]:
    return [log["loss"] for log in run(recipe).trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("rows", [PAIRS, SCORED], ids=["pairs", "scored"])
def test_equal_micro_batches_cost_the_same_however_they_are_accumulated(make: Any, rows: list[dict]) -> None:
    """Of one step: two micro-batches of four are the mean of the two; where a row stands alone, also one of eight."""
    fixed = {"train_sampling_strategy": "sequential", "max_steps": 1, "learning_rate": 0.0}
    (two,) = losses(make(rows, "two", {**fixed, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}))
    each = losses(make(rows, "each", {**fixed, "max_steps": 2, "per_device_train_batch_size": 4}))
    assert two == pytest.approx(sum(each) / 2, rel=1e-4)
    if rows is SCORED:
        (whole,) = losses(make(rows, "whole", {**fixed, "per_device_train_batch_size": 8}))
        assert whole == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("rows", [PAIRS, SCORED], ids=["pairs", "scored"])
def test_training_lowers_the_loss(make: Any, rows: list[dict]) -> None:
    found = losses(make(rows, training={"max_steps": 12, "per_device_train_batch_size": 8}))
    assert found[-1] < 0.7 * found[0]


def test_what_is_not_used_is_frozen_and_not_called_new(make: Any, capsys: pytest.CaptureFixture) -> None:
    trainer = build_trainer(make(PAIRS))
    frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad]
    assert frozen == ["pooler.dense.weight", "pooler.dense.bias"]
    assert "new weights" not in capsys.readouterr().err


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_correlations_are_scipys() -> None:
    from scipy.stats import pearsonr, spearmanr

    random = np.random.default_rng(0)
    examples = np.column_stack([random.integers(0, 6, 50), random.normal(size=50)])
    found = retrieval.correlation(examples)
    assert found["spearman"] == pytest.approx(spearmanr(*examples.T).statistic, abs=1e-12)
    assert found["pearson"] == pytest.approx(pearsonr(*examples.T).statistic, abs=1e-12)
    assert retrieval.correlation(np.ones((3, 2))) == {"spearman": 0.0, "pearson": 0.0}


def test_ndcg_is_scikit_learns_and_recall_and_rank_are_counted() -> None:
    from sklearn.metrics import ndcg_score

    random = np.random.default_rng(0)
    scores, gains = random.normal(size=(20, 40)), random.integers(0, 4, (20, 40)) * (random.random((20, 40)) < 0.2)
    gains[:, 0] = 1
    relevant = [{i: float(g) for i, g in enumerate(row) if g} for row in gains]
    found = retrieval.rank(scores, relevant)
    for row, gain, (ndcg, recall, reciprocal) in zip(scores, gains, found, strict=True):
        assert ndcg == pytest.approx(ndcg_score([gain], [row], k=10), abs=1e-12)
        order = np.argsort(-row)
        assert recall == (gain[order[:10]] > 0).sum() / (gain > 0).sum()
        assert reciprocal == 1 / next(place for place, i in enumerate(order, 1) if gain[i])
    assert list(retrieval.score(found)) == ["ndcg@10", "recall@10", "mrr"]


def test_of_equal_scores_the_relevant_comes_last() -> None:
    assert retrieval.rank([np.zeros(30)], [{0: 1.0}]).tolist() == [[0.0, 0.0, 1 / 30]]


def test_bm25_is_its_formula() -> None:
    documents = ["the fox and the crow", "a lion", "山里的老虎", "the crow, the crow"]
    query = "the crow 老虎"
    lists = [retrieval.words(d) for d in documents]
    mean = sum(map(len, lists)) / 4

    def score(words: list[str]) -> float:
        total = 0.0
        for term in retrieval.words(query):
            n = sum(term in other for other in lists)
            f = words.count(term)
            idf = math.log(1 + (4 - n + 0.5) / (n + 0.5))
            total += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(words) / mean))
        return total

    (found,) = retrieval.BM25(documents).scores([query])
    assert found.tolist() == pytest.approx([score(words) for words in lists])
    assert found.argmax() == 2  # two Chinese words of it


def test_anchors_are_judged_once_with_all_their_positives() -> None:
    rows = [
        {"anchor": "a", "positive": "x", "negative": None},
        {"anchor": "a", "positive": "y", "negative": "z"},
        {"anchor": "b", "positive": "x", "negative": "y"},
    ]
    anchors, documents, relevant = retrieval.judged(rows)
    assert (anchors, documents) == ({"a": (0, 0), "b": (2, 0)}, {"x": (0, 1), "y": (1, 1), "z": (1, 2)})
    assert relevant == [{0: 1.0, 1: 1.0}, {0: 1.0}]


def test_chance_is_the_mean_over_all_orders() -> None:
    rows = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(25)]
    chance, _ = retrieval.chance_and_bm25(rows)
    random = np.random.default_rng(0)
    lots = [retrieval.rank([random.random(25)], [{3: 1.0}])[0, 0] for _ in range(4000)]
    assert chance == pytest.approx(np.mean(lots), abs=0.02)


def test_evaluation_searches_every_text_of_the_part(make: Any) -> None:
    rows = [{**PAIRS[0], "negative": "一个别的故事"}, *PAIRS[1:]]
    trainer = build_trainer(make(rows))
    examples = trainer.per_example("validation")
    _, vectors = batch_and_vectors(trainer, list(range(8)))
    searched = torch.stack([*(row[1] for row in vectors), vectors[0][2]])
    ranks = [1 + int((row[0] @ searched.T > row[0] @ row[1]).sum()) for row in vectors]
    assert examples[:, 2].tolist() == pytest.approx([1 / r for r in ranks])
    baselines = trainer.task.baselines(None, None, {"evaluation": trainer.rows["validation"]}, False)
    assert {name: b["kind"] for name, b in baselines.items()} == {"chance": "floor", "BM25": "reference"}


@pytest.mark.parametrize(("trained", "measured"), [(PAIRS, SCORED), (SCORED, PAIRS)], ids=["scored", "pairs"])
def test_a_saved_model_is_measured_by_what_the_rows_are(
    make: Any, trained: list, measured: list, tmp_path: Path
) -> None:
    from llmkit.evaluation.measure import measure

    folder = run(make(trained)).output
    found = measure(str(folder), measured)
    assert set(found["metrics"]) == ({"spearman", "pearson"} if measured is SCORED else {"ndcg@10", "recall@10", "mrr"})
    for name, value in found["metrics"].items():
        low, high = found["intervals"][name]
        assert low <= value <= high


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"anchor": "a", "positive": None}, "no 'positive'"),
        ({"anchor": None, "positive": "b"}, "no 'anchor'"),
        ({"anchor": "a", "positive": " "}, "empty 'positive'"),
        ({"anchor": "a", "positive": 3}, "'positive' is int, not text"),
        ({"anchor": "a", "positive": "b", "negative": ["c"]}, "'negative' is list, not text"),
        ({"text": "a", "text_pair": None, "score": 1.0}, "no 'text_pair'"),
        ({"text": "a", "text_pair": "b", "score": "good"}, "score 'good' is no number"),
        ({"text": "a", "text_pair": "b", "score": None}, "score None is no number"),
        ({"text": "a", "text_pair": "b", "score": "inf"}, "score 'inf' is no number"),
    ],
)
def test_a_bad_row_is_told_why(row: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        SentenceEmbedding().read_row(row)


def test_an_empty_negative_is_none() -> None:
    kept = {"anchor": "a", "positive": "b", "negative": None}
    assert SentenceEmbedding().read_row({**kept, "negative": ""}) == kept
    assert SentenceEmbedding().read_row({"text": "a", "text_pair": "b", "score": "3.5"})["score"] == 3.5


@pytest.mark.parametrize(
    ("rows", "knobs", "why"),
    [
        (PAIRS, {"pooling": "max"}, "task.pooling: 'max' is none of mean, cls"),
        (PAIRS, {"scale": 0.0}, "task.scale: 0 is not above 0"),
        (SCORED, {"highest": -1.0}, "task.highest: -1 is not above 0"),
        ([*PAIRS, *SCORED], {}, "data.train: scored pairs beside (anchor, positive) rows"),
        ([*SCORED, *PAIRS], {}, "data.train: scored pairs beside (anchor, positive) rows"),
        (SCORED, {"highest": 0.5}, "beyond the 0.5 of texts that mean the same (--task.highest)"),
        ([{**row, "score": 2} for row in SCORED], {}, "every score is 2: nothing to rank"),
    ],
)
def test_what_cannot_be_learned_is_said_before_the_model_is_loaded(
    make: Any, rows: list, knobs: dict, why: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        build_trainer(make(rows, **knobs))
    assert any(why in fault and "\n" not in fault for fault in refused.value.faults)


def test_training_and_validation_are_of_one_kind(make: Any) -> None:
    recipe = make(PAIRS)
    with pytest.raises(RecipeError, match=r"data.validation: scored pairs, where training is on \(anchor, positive\)"):
        build_trainer(replace(recipe, data=replace(recipe.data, validation=SCORED)))


def test_texts_that_are_cut_are_counted(make: Any, capsys: pytest.CaptureFixture) -> None:
    rows = [*PAIRS[1:], {"anchor": "long", "positive": "fox " * 200}]
    trainer = build_trainer(make(rows))
    assert max(n for row in trainer.train_dataset["lengths"] for n in row) == 64
    assert "1 of 8 rows cut to 64 tokens" in capsys.readouterr().err


def test_a_table_without_a_header_is_trained_on(make: Any, tmp_path: Path) -> None:
    lines = [f"{r['text']}\t{r['text_pair']}\t{r['score']}" for r in SCORED]
    (tmp_path / "sts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = make(SCORED)
    data = replace(recipe.data, train=str(tmp_path / "sts.tsv"), names=("sentence1,sentence2,score",))
    assert build_trainer(replace(recipe, data=data)).rows["train"].to_list() == SCORED


def test_sources_with_and_without_negatives_are_trained_on_together(make: Any, tmp_path: Path) -> None:
    more = [{**row, "negative": "一个别的故事"} for row in PAIRS[:4]]
    for name, rows in (("a.jsonl", PAIRS[4:]), ("b.jsonl", more)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make(PAIRS)
    data = replace(recipe.data, train=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    trainer = build_trainer(replace(recipe, data=data))
    assert [len(lengths) for lengths in trainer.train_dataset["lengths"]] == [2] * 4 + [3] * 4


def test_preview_shows_each_text(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    command(
        [
            "preview",
            "sentence-embedding",
            "--model",
            str(tiny_bert),
            "--data",
            str(file),
            "--data.validation",
            str(file),
            "-n",
            "1",
        ]
    )
    shown = capsys.readouterr().out
    assert "2 texts, label 1\n0: [CLS]a fox and a crow[SEP]\n1: [CLS]Once upon a time a fox met a crow" in shown


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embed_gives_float32_vectors_of_length_one_in_order(encoder: Path, pooling: str) -> None:
    model = llmkit.load(str(encoder))
    model = replace(model, task=model.task.replace(pooling=pooling))
    texts = ["fox " * 40, "狐狸", "a", *[r["text"] for r in REVIEWS[::4]]]
    found = model.embed(texts, batch_size=3)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), 32))
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            ids = model.tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
            state = model.model(**ids).last_hidden_state[0]
        alone = (state[0] if pooling == "cls" else state.mean(0)).numpy()
        assert vector == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)
    assert model.embed("狐狸") == pytest.approx(found[1], abs=1e-5)
    assert model.embed([]).shape == (0, 32)


def test_predict_gives_embeddings_as_json(encoder: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(["predict", str(encoder), "a fox", "狐狸", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [a["text"] for a in answers] == ["a fox", "狐狸"]
    assert answers[1]["embedding"] == pytest.approx(llmkit.load(str(encoder)).embed("狐狸").tolist(), abs=1e-6)
    command(["predict", str(encoder), "a fox"])
    assert json.loads(capsys.readouterr().out) == answers[0]["embedding"]


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_bert"])
def test_a_model_of_another_task_gives_none(fixture: str, request: pytest.FixtureRequest) -> None:
    model = llmkit.load(str(request.getfixturevalue(fixture)))
    with pytest.raises(RecipeError, match=f"a {model.task.name} model gives no embeddings"):
        model.embed("a fox")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_saved_folder_says_how_it_is_read(make: Any, pooling: str) -> None:
    """As sentence-transformers reads it, and to llmkit where recipe.yaml is gone."""
    recipe = make(PAIRS, pooling=pooling, longest=16)
    result = run(replace(recipe, data=replace(recipe.data, max_length=None)))
    folder = result.output
    modules = json.loads((folder / "modules.json").read_text())
    assert [m["type"].split(".")[-1] for m in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((folder / modules[1]["path"] / "config.json").read_text()) == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
    }
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 16
    texts = ["a fox", "狐狸 " * 30]
    before = llmkit.load(str(folder))
    assert before.task == result.trainer.task and before.tokenizer.model_max_length == 16
    (folder / "recipe.yaml").unlink()
    after = llmkit.load(str(folder))
    assert (after.task.pooling, after.task.longest) == (pooling, 16)
    assert np.array_equal(before.embed(texts), after.embed(texts))


def sentence_transformer(encoder: Path, folder: Path, pooling: Any, more: tuple[str, ...] = ()) -> Path:
    save(AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder), folder)
    kinds = ("Transformer", "Pooling", *more)
    modules = [{"idx": i, "path": f"{i}_{k}" if i else "", "type": f"x.models.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
        {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True},  # as of 6.0
    ],
)
def test_a_model_is_trained_as_its_folder_says_it_is_pooled(
    encoder: Path, make: Any, tmp_path: Path, pooling: dict
) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", pooling, ("Normalize",))
    recipe = replace(make(PAIRS), model=ModelConfig(name=str(folder)))
    assert llmkit.load(str(folder)).task.pooling == "cls"
    assert build_trainer(recipe).task.pooling == "cls"
    mean = replace(recipe, task=SentenceEmbedding(pooling="mean"))
    assert build_trainer(mean).task.pooling == "mean"


@pytest.mark.parametrize(
    ("pooling", "more", "why"),
    [
        ({"pooling_mode_max_tokens": True}, (), "pooling by max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "pooling by cls and mean"),
        ({"pooling_mode": "lasttoken"}, (), "pooling by lasttoken"),
        ({"pooling_mode_mean_tokens": True}, ("Dense", "Normalize"), "Dense"),
    ],
)
def test_a_folder_that_does_more_to_a_vector_is_refused(
    encoder: Path, tmp_path: Path, pooling: dict, more: tuple[str, ...], why: str
) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", pooling, more)
    with pytest.raises(RecipeError) as refused:
        llmkit.load(str(folder))
    (line,) = refused.value.faults
    assert f"{why} in its modules.json is not read here; say --task.pooling mean" in line and str(folder) in line


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x.Pooling"}]'])
def test_a_broken_modules_json_is_refused_in_one_line(encoder: Path, tmp_path: Path, content: str) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", {})
    (folder / "modules.json").write_text(content)
    with pytest.raises(RecipeError, match=r"modules.json") as refused:
        llmkit.load(str(folder))
    assert "\n" not in str(refused.value)


HUB = """
from llmkit.models import hub
from llmkit.tasks import SentenceEmbedding
folder = hub.find_model("someone/sentences")
print(SentenceEmbedding().with_checkpoint(folder).pooling, (folder / "onnx").exists())
"""


def test_a_hub_gives_the_pooling_too_and_then_the_cache(encoder: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", {"pooling_mode_cls_token": True})
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    env = {k: v for k, v in os.environ.items() if "OFFLINE" not in k and "proxy" not in k.lower()}
    env |= {"HF_HOME": str(tmp_path / "home")}
    with LocalHub({"someone/sentences": folder}) as hub:
        for more in ({"HF_ENDPOINT": hub.url}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run([sys.executable, "-c", HUB], env={**env, **more}, capture_output=True, text=True)
            assert done.stdout == "cls False\n", done.stderr[-2000:]
