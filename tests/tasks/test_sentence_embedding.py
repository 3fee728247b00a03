"""SentenceEmbedding: losses equal their formulas, and a saved folder keeps pooling and maximum length."""

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
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.cli.main import command
from llmkit.data.loading import load_part
from llmkit.pipeline import evaluate
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
    """Return a function that makes a recipe over some rows, for training and validation; `options` are the task's."""

    def recipe(rows: list[dict], output: str = "run", training: dict | None = None, **options: Any) -> Recipe:
        return Recipe(
            SentenceEmbedding(**options),
            ModelConfig(name=str(tiny_bert)),
            DataConfig(train=rows, validation=rows, max_length=64),
            {**EXACT, "max_steps": 2, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return recipe


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a head, saved by Transformers alone."""
    torch.manual_seed(1)
    model = AutoModel.from_pretrained(tiny_bert)
    return save(model, AutoTokenizer.from_pretrained(tiny_bert), tmp_path_factory.mktemp("encoder"))


def batch_and_vectors(trainer: Any, rows: list[int]) -> tuple[dict, list[list[torch.Tensor]]]:
    """Return a training batch, and the vectors of each row's texts, computed by Transformers alone, one text at a time."""
    task, model, tokenizer = trainer.task, trainer.model.eval(), trainer.processing_class
    batch = task.collate([{**trainer.train_dataset[i], "row": i, "epoch": 0} for i in rows], tokenizer, "padded")
    vectors = []
    for i in rows:
        row = trainer.rows["train"][i]
        texts = [row[c] for c in ("anchor", "positive", "negative", "text", "text_pair") if row.get(c)]
        with torch.no_grad():
            states = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in texts]
        pooled = [s[0] if task.pooling == "cls" else s.mean(0) for s in states]
        vectors.append([v / v.norm() for v in pooled])
    return batch, vectors


def loss_of(trainer: Any, batch: dict) -> float:
    with torch.no_grad():
        loss, _ = trainer.task.loss(trainer.model.eval(), batch)
    assert loss.dtype == torch.float32
    return loss.item()


# -- losses


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("negatives", [(), (1, 3)], ids=["pairs", "some with a negative"])
def test_contrastive_loss_equals_info_nce(make: Any, pooling: str, negatives: tuple[int, ...]) -> None:
    """-log of exp(20 cos(a, p)) over its sum for all positives and negatives of the batch."""
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


def test_symmetric_loss_also_ranks_the_anchors_of_each_positive(make: Any) -> None:
    trainer = build_trainer(make(PAIRS, symmetric=True, scale=5.0))
    batch, vectors = batch_and_vectors(trainer, [0, 1, 2])
    cosines = torch.stack([torch.stack([row[0] @ other[1] for other in vectors]) for row in vectors])
    own = torch.arange(3)
    forth, back = (torch.nn.functional.cross_entropy(5 * c, own, reduction="sum") for c in (cosines, cosines.T))
    assert loss_of(trainer, batch) == pytest.approx(float(forth + back) / 2, rel=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_text_that_answers_an_anchor_is_not_its_negative(make: Any, symmetric: bool) -> None:
    """The same positive twice, the same anchor twice, and a positive that is another row's anchor."""
    rows = [
        {"anchor": "a fox", "positive": "the fox and the crow"},
        {"anchor": "a crow", "positive": "the fox and the crow"},  # the positive of the first row
        {"anchor": "a fox", "positive": "it likes cheese"},  # the anchor of the first row
        {"anchor": "what likes cheese", "positive": "a fox"},  # equal to two anchors
    ]
    trainer = build_trainer(make(rows, symmetric=symmetric))
    batch, vectors = batch_and_vectors(trainer, [0, 1, 2, 3])
    candidates = [{0}, {1, 2, 3}, {2}, {0, 1, 2, 3}]  # of the four positives, for each anchor
    cosines = torch.stack([torch.stack([row[0] @ other[1] for other in vectors]) for row in vectors])
    kept = torch.tensor([[j in candidates[i] for j in range(4)] for i in range(4)])
    logits = (20 * cosines).masked_fill(~kept, float("-inf"))
    own = torch.arange(4)
    expected = torch.nn.functional.cross_entropy(logits, own, reduction="sum")
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(logits.T, own, reduction="sum")) / 2
    assert loss_of(trainer, batch) == pytest.approx(float(expected), rel=1e-4)


def test_graded_loss_is_the_squared_error_of_cosine_and_score(make: Any) -> None:
    trainer = build_trainer(make(SCORED))
    assert (trainer.task.graded, trainer.task.highest) == (True, 5.0)
    batch, vectors = batch_and_vectors(trainer, [0, 2, 5])
    expected = sum((float(a @ b) - SCORED[i]["score"] / 5) ** 2 for i, (a, b) in zip([0, 2, 5], vectors, strict=True))
    assert loss_of(trainer, batch) == pytest.approx(expected, rel=1e-4)


def losses(recipe: Recipe) -> list[float]:
    return [log["loss"] for log in run(recipe).trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("rows", [PAIRS, SCORED], ids=["pairs", "scored"])
def test_accumulated_loss_is_the_mean_of_its_micro_batches(make: Any, rows: list[dict]) -> None:
    """Where a row's loss does not depend on its batch, it also equals that of one batch of eight."""
    fixed = {"train_sampling_strategy": "sequential", "max_steps": 1, "learning_rate": 0.0}
    (two,) = losses(make(rows, "two", {**fixed, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}))
    each = losses(make(rows, "each", {**fixed, "max_steps": 2, "per_device_train_batch_size": 4}))
    assert two == pytest.approx(sum(each) / 2, rel=1e-4)
    if rows is SCORED:
        (whole,) = losses(make(rows, "whole", {**fixed, "per_device_train_batch_size": 8}))
        assert whole == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("rows", [PAIRS, SCORED], ids=["pairs", "scored"])
def test_training_lowers_the_loss(make: Any, rows: list[dict]) -> None:
    values = losses(make(rows, training={"max_steps": 12, "per_device_train_batch_size": 8}))
    assert values[-1] < 0.7 * values[0]


def test_unused_pooler_is_frozen_and_not_reported_as_new(make: Any, capsys: pytest.CaptureFixture) -> None:
    trainer = build_trainer(make(PAIRS))
    frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad]
    assert frozen == ["pooler.dense.weight", "pooler.dense.bias"]
    assert "new weights" not in capsys.readouterr().err


# -- metrics


def test_example_stats_compare_an_anchor_with_every_text_of_the_part(make: Any) -> None:
    rows = [{**PAIRS[0], "negative": "一个别的故事"}, *PAIRS[1:]]
    trainer = build_trainer(make(rows))
    stats = trainer.predict(trainer.part("validation")).predictions
    _, vectors = batch_and_vectors(trainer, list(range(8)))
    documents = torch.stack([*(row[1] for row in vectors), vectors[0][2]])
    ranks = [1 + int((row[0] @ documents.T > row[0] @ row[1]).sum()) for row in vectors]
    assert stats[:, 2].tolist() == pytest.approx([1 / r for r in ranks])
    baselines = trainer.task.baselines(None, None, {"evaluation": trainer.rows["validation"]}, False)
    assert {name: b["kind"] for name, b in baselines.items()} == {"chance": "floor", "BM25": "reference"}


@pytest.mark.parametrize(("train", "test"), [(PAIRS, SCORED), (SCORED, PAIRS)], ids=["scored", "pairs"])
def test_saved_model_is_evaluated_on_rows_of_either_kind(make: Any, train: list, test: list, tmp_path: Path) -> None:
    result = evaluate(str(run(make(train)).output), test)
    assert set(result["metrics"]) == ({"spearman", "pearson"} if test is SCORED else {"ndcg@10", "recall@10", "mrr"})
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        assert low <= value <= high


# -- rows and options


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"anchor": "a", "positive": None}, "no 'positive'"),
        ({"anchor": None, "positive": "b"}, "no 'anchor'"),
        ({"anchor": "a", "positive": " "}, "empty 'positive'"),
        ({"anchor": "a", "positive": 3}, "'positive' is int, not text"),
        ({"anchor": "a", "positive": "b", "negative": ["c"]}, "'negative' is list, not text"),
        ({"text": "a", "text_pair": None, "score": 1.0}, "no 'text_pair'"),
        ({"text": "a", "text_pair": "b", "score": "good"}, "score 'good' is not a number"),
        ({"text": "a", "text_pair": "b", "score": None}, "score None is not a number"),
        ({"text": "a", "text_pair": "b", "score": "inf"}, "score 'inf' is not a number"),
    ],
)
def test_read_row_names_the_reason_of_an_invalid_row(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        SentenceEmbedding().read_row(row)


def test_read_row_takes_an_empty_negative_as_none() -> None:
    kept = {"anchor": "a", "positive": "b", "negative": None}
    assert SentenceEmbedding().read_row({**kept, "negative": ""}) == kept
    assert SentenceEmbedding().read_row({"text": "a", "text_pair": "b", "score": "3.5"})["score"] == 3.5


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (PAIRS, {"pooling": "max"}, "task.pooling: 'max' is not one of mean, cls"),
        (PAIRS, {"scale": 0.0}, "task.scale: 0 is not above 0"),
        (SCORED, {"highest": -1.0}, "task.highest: -1 is not above 0"),
        ([*PAIRS, *SCORED], {}, "data.train: scored pairs and (anchor, positive) rows are mixed"),
        ([*SCORED, *PAIRS], {}, "data.train: scored pairs and (anchor, positive) rows are mixed"),
        (SCORED, {"highest": 0.5}, "beyond 0.5, the score of texts with the same meaning (--task.highest)"),
        ([{**row, "score": 2} for row in SCORED], {}, "every score is 2, so there is nothing to rank"),
        ([{**row, "score": 0} for row in SCORED], {}, "every score is 0, so there is nothing to rank"),
    ],
)
def test_invalid_option_or_rows_are_refused_before_the_model_is_loaded(
    make: Any, rows: list, options: dict, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        build_trainer(make(rows, **options))
    assert any(message in fault and "\n" not in fault for fault in refused.value.faults)


def test_check_collects_all_faults() -> None:
    task = SentenceEmbedding(pooling="max", scale=0.0, longest=-1)
    assert [fault.partition(":")[0] for fault in task.check(Recipe(task))] == [
        "task.pooling", "task.scale", "task.longest",
    ]  # fmt: skip


def test_fit_learns_from_training_rows_and_names_every_faulty_part(capsys: pytest.CaptureFixture) -> None:
    pairs, scored = (load_part(rows, SentenceEmbedding(), DataConfig()) for rows in (PAIRS, SCORED))
    task = SentenceEmbedding().fit({"train": scored, "validation": scored})
    assert (task.graded, task.highest) == (True, 5.0) and "score, 5, mean the same" in capsys.readouterr().err
    assert task.fit({"test": pairs}) == task  # evaluation
    pair_task = SentenceEmbedding(highest=3.0).fit({"train": pairs})
    assert (pair_task.graded, pair_task.highest) == (False, None)
    with pytest.raises(UsageError) as refused:
        SentenceEmbedding().fit({"train": pairs, "validation": scored, "test": scored})
    assert [fault.partition(":")[0] for fault in refused.value.faults] == ["data.validation", "data.test"]


def test_training_and_validation_rows_of_two_kinds_are_refused(make: Any) -> None:
    recipe = make(PAIRS)
    message = r"data.validation: scored pairs, but the training rows are \(anchor, positive\) rows"
    with pytest.raises(UsageError, match=message):
        build_trainer(replace(recipe, data=replace(recipe.data, validation=SCORED)))


def test_rows_with_cut_texts_are_counted(make: Any, capsys: pytest.CaptureFixture) -> None:
    rows = [*PAIRS[1:], {"anchor": "long", "positive": "fox " * 200}]
    trainer = build_trainer(make(rows))
    assert max(n for row in trainer.train_dataset["lengths"] for n in row) == 64
    assert "1 of 8 rows cut to 64 tokens" in capsys.readouterr().err


def test_table_without_a_header_is_read_with_named_columns(make: Any, tmp_path: Path) -> None:
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
    data = ["--data", str(file), "--data.validation", str(file)]
    command(["preview", "sentence-embedding", "--model", str(tiny_bert), *data, "-n", "1"])
    shown = capsys.readouterr().out
    assert "2 texts, label 1\n0: [CLS]a fox and a crow[SEP]\n1: [CLS]Once upon a time a fox met a crow" in shown


# -- prediction


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embed_returns_normalized_float32_vectors_in_order(encoder: Path, pooling: str) -> None:
    model = llmkit.load(str(encoder))
    model = replace(model, task=replace(model.task, pooling=pooling))
    texts = ["fox " * 40, "狐狸", "a", *[r["text"] for r in REVIEWS[::4]]]
    vectors = model.embed(texts, batch_size=3)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(texts), 32))
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            ids = model.tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
            state = model.model(**ids).last_hidden_state[0]
        expected = (state[0] if pooling == "cls" else state.mean(0)).numpy()
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert model.embed("狐狸") == pytest.approx(vectors[1], abs=1e-5)
    assert model.embed([]).shape == (0, 32)


def test_embed_cuts_long_texts_with_a_warning(encoder: Path, capsys: pytest.CaptureFixture) -> None:
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    capsys.readouterr()
    long, short = SentenceEmbedding().embed(model, tokenizer, ["fox " * 40, "a fox"], 16)
    assert "1 text cut to 16 tokens" in capsys.readouterr().err
    ids = tokenizer("fox " * 40, truncation=True, max_length=16)["input_ids"]
    assert long == pytest.approx(
        SentenceEmbedding().embed(model, tokenizer, [tokenizer.decode(ids[1:-1])], 16)[0], abs=1e-5
    )
    assert short == pytest.approx(SentenceEmbedding().embed(model, tokenizer, ["a fox"], 16)[0], abs=1e-5)
    assert "cut" not in capsys.readouterr().err


def test_predict_command_prints_embeddings_as_json(encoder: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(["predict", str(encoder), "a fox", "狐狸", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [a["text"] for a in answers] == ["a fox", "狐狸"]
    assert answers[1]["embedding"] == pytest.approx(llmkit.load(str(encoder)).embed("狐狸").tolist(), abs=1e-6)
    command(["predict", str(encoder), "a fox"])
    assert json.loads(capsys.readouterr().out) == answers[0]["embedding"]


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_bert"])
def test_model_of_another_task_has_no_embeddings(fixture: str, request: pytest.FixtureRequest) -> None:
    model = llmkit.load(str(request.getfixturevalue(fixture)))
    with pytest.raises(UsageError, match=f"a {model.task.name} model gives no embeddings"):
        model.embed("a fox")


# -- folders


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_saved_folder_keeps_pooling_and_maximum_length(make: Any, pooling: str) -> None:
    """For sentence-transformers, and for llmkit without recipe.yaml."""
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
    """A folder with an encoder and the files of sentence-transformers."""
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
        {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True},  # since 6.0
    ],
)
def test_training_uses_the_pooling_of_the_model_folder(encoder: Path, make: Any, tmp_path: Path, pooling: dict) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", pooling, ("Normalize",))
    recipe = replace(make(PAIRS), model=ModelConfig(name=str(folder)))
    assert llmkit.load(str(folder)).task.pooling == "cls"
    assert build_trainer(recipe).task.pooling == "cls"
    mean = replace(recipe, task=SentenceEmbedding(pooling="mean"))
    assert build_trainer(mean).task.pooling == "mean"


@pytest.mark.parametrize(
    ("pooling", "more", "unsupported"),
    [
        ({"pooling_mode_max_tokens": True}, (), "pooling by max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "pooling by cls and mean"),
        ({"pooling_mode": "lasttoken"}, (), "pooling by lasttoken"),
        ({"pooling_mode_mean_tokens": True}, ("Dense", "Normalize"), "Dense"),
    ],
)
def test_folder_with_unsupported_modules_is_refused(
    encoder: Path, tmp_path: Path, pooling: dict, more: tuple[str, ...], unsupported: str
) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", pooling, more)
    with pytest.raises(UsageError) as refused:
        llmkit.load(str(folder))
    (line,) = refused.value.faults
    assert f"{unsupported} in modules.json is not supported; ignore it with --task.pooling mean" in line
    assert str(folder) in line


HUB = """
from llmkit import hub
from llmkit.tasks import SentenceEmbedding
folder = hub.find_model("someone/sentences")
print(SentenceEmbedding().with_checkpoint(folder, None).pooling, (folder / "onnx").exists())
"""


def test_pooling_is_read_from_the_hub_and_then_from_the_cache(encoder: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(encoder, tmp_path / "st", {"pooling_mode_cls_token": True})
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    env = {k: v for k, v in os.environ.items() if "OFFLINE" not in k and "proxy" not in k.lower()}
    env |= {"HF_HOME": str(tmp_path / "home")}
    with LocalHub({"someone/sentences": folder}) as hub:
        for more in ({"HF_ENDPOINT": hub.url}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run([sys.executable, "-c", HUB], env={**env, **more}, capture_output=True, text=True)
            assert done.stdout == "cls False\n", done.stderr[-2000:]
