"""Token classification: the loss of words, seqeval's scores, and positions of entities in the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, TAGGED
from datasets import Dataset
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from transformers import CanineTokenizer

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.cli.predict import read_inputs
from llmkit.cli.preview import preview
from llmkit.data.loading import load_part
from llmkit.errors import UsageError
from llmkit.models.tokenizers import train_tokenizer
from llmkit.tasks import TokenClassification


@pytest.fixture
def recipe(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(
        rows: Any = TAGGED, output: str = "run", test_rows: Any = None, max_length: int = 32, **training: Any
    ) -> Any:
        return Recipe(
            TokenClassification(),
            ModelConfig(name=str(tiny_bert)),
            DataConfig(train=rows, validation=test_rows or TAGGED[::3], max_length=max_length),
            {**EXACT, "learning_rate": 1e-3, "num_train_epochs": 1, **training},
            RunConfig(str(tmp_path / output)),
        )

    return make


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder, trained until the model knows its rows by heart."""
    folder = str(tmp_path_factory.mktemp("trained") / "run")
    training = {**EXACT, "max_steps": 60, "learning_rate": 5e-3, "logging_steps": 30}
    data = DataConfig(train=TAGGED, validation=TAGGED[:3], max_length=32)
    result = run(Recipe(TokenClassification(), ModelConfig(name=str(tiny_bert)), data, training, RunConfig(folder)))
    assert result.metrics["after"]["f1"] > 0.9
    return folder


# -- loss


def test_the_loss_is_that_of_the_first_sub_word_of_each_word(recipe: Callable) -> None:
    """Computed from the tokenizer's own word ids, and by the loss of the model's own head."""
    trainer = build_trainer(recipe(max_length=64))
    task, tokenizer, model = trainer.task, trainer.processing_class, trainer.model.eval()
    features = [{**trainer.features["train"][i], "row": i, "epoch": 0} for i in (0, 6, 12, 18)]
    batch = task.collate(features, tokenizer, "padded")
    expected = []
    for feature, row in zip(features, trainer.rows["train"].select([0, 6, 12, 18]), strict=True):
        chinese = row["tokens"][0] == "小猫"
        words = [f" {w}" if i and not chinese and w not in ".," else w for i, w in enumerate(row["tokens"])]
        encoded = tokenizer(words, is_split_into_words=True)
        assert encoded["input_ids"] == feature["input_ids"]
        numbers = encoded.word_ids()
        first = [n is not None and n != before for n, before in zip(numbers, [None, *numbers[:-1]], strict=True)]
        expected.append([task.labels.index(row["tags"][n]) if f else -100 for n, f in zip(numbers, first, strict=True)])
    assert [f["labels"] for f in features] == expected
    with torch.no_grad():
        own = model(**batch).loss
        loss = task.loss(model, batch)[0] / task.weight(batch)
    assert loss.item() == pytest.approx(own.item(), abs=1e-6)
    assert task.weight(batch) == sum(len(trainer.rows["train"][i]["tokens"]) for i in (0, 6, 12, 18))


def test_losses_are_the_same_with_gradient_accumulation(recipe: Callable) -> None:
    losses = []
    for size, steps in ((8, 1), (4, 2)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = build_trainer(recipe(TAGGED, f"{size}", TAGGED[:4], max_steps=3, **sizes))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4) and len(losses[1]) == 3


# -- scores


def test_scores_equal_seqeval(recipe: Callable) -> None:
    """For random predictions, with sentences of several windows."""
    long = {"tokens": ["Mia", "lives", "in", "Berlin"] * 12, "tags": ["B-PER", "O", "O", "B-LOC"] * 12}
    trainer = build_trainer(recipe(test_rows=[*TAGGED[::2], long], max_length=16))
    task, features, rows = trainer.task, trainer.features["validation"], trainer.rows["validation"]
    assert len(features) > len(rows)
    shape = len(features), max(map(len, features["input_ids"][:]))
    labels = np.random.default_rng(0).integers(0, len(task.labels), shape)
    outputs = np.stack([labels, np.ones(shape), np.ones(shape)], -1)
    predicted = [["O"] * len(tags) for tags in rows["tags"]]
    for feature, output in zip(features, outputs, strict=True):
        for position, word in enumerate(feature["words"]):
            if word >= 0:
                predicted[feature["row"]][word] = task.labels[int(output[position, 0])]
    stats = task.example_stats(outputs.astype(np.float32), features, rows, trainer.processing_class)
    scores, true = task.score(stats), rows["tags"][:]
    assert len(stats) == len(rows)
    assert scores["f1"] == pytest.approx(f1_score(true, predicted)) and 0 < scores["f1"] < 1
    assert scores["precision"] == pytest.approx(precision_score(true, predicted))
    assert scores["recall"] == pytest.approx(recall_score(true, predicted))
    assert scores["loss"] == pytest.approx(1.0) and stats[:, 1].sum() == sum(map(len, true))
    report = classification_report(true, predicted, output_dict=True)
    for label, row in task.details(stats)["by_label"].items():
        assert row["f1"] == pytest.approx(report[label]["f1-score"]) and row["support"] == report[label]["support"]


def test_a_word_without_sub_words_is_predicted_as_outside() -> None:
    tokenizer = train_tokenizer("wordpiece", 200, iter(["Mia ran home"] * 3), "bert")
    task = TokenClassification(labels=("B-X", "O"))
    rows = {"tokens": [["Mia", "\u0007", "ran"]], "tags": [["B-X", "B-X", "O"]]}
    columns = task.encode(rows, tokenizer, 16)
    assert [n for n in columns["words"][0] if n >= 0] == [0, 2]
    outputs = np.zeros((1, len(columns["input_ids"][0]), 3))  # B-X everywhere
    (stats,) = task.example_stats(outputs, Dataset.from_dict(columns), Dataset.from_dict(rows), tokenizer)
    assert stats.tolist() == [0, 2, 1, 2, 2, 0, 0, 0]  # the word between them is no span, and has no loss


def test_tags_that_are_not_in_the_training_rows_count_as_missed(recipe: Callable, capsys) -> None:
    trainer = build_trainer(recipe(test_rows=[{"tokens": ["Mia", "ran"], "tags": ["B-PER", "B-EVENT"]}] * 2))
    logged = capsys.readouterr().err
    assert "2 words with tags the model has no label for (B-EVENT)" in logged
    assert '--task.labels \'["B-LOC", "B-PER", "I-LOC", "I-PER", "O", "B-EVENT"]\'' in logged
    stats = trainer.predict(trainer.part("validation")).predictions
    assert trainer.task.details(stats)["by_label"]["(not in training)"]["support"] == 2
    assert stats[:, 1].tolist() == [1, 1]  # words with a loss


def test_lists_in_the_cells_of_a_table_are_words_and_tags(recipe: Callable[..., Recipe]) -> None:
    rows = [{name: str(values) for name, values in row.items()} for row in TAGGED]
    expected, found = (build_trainer(recipe(r)).rows["train"].to_list() for r in (TAGGED, rows))
    assert found == expected
    assert TokenClassification().read_question({"tokens": "['Mia', 'lives']"}) == [{"tokens": ["Mia", "lives"]}]


def test_baselines_are_the_majority_tag_and_a_dictionary(recipe: Callable) -> None:
    trainer = build_trainer(recipe(test_rows=[{"tokens": ["Mia", "saw", "York"], "tags": ["B-PER", "O", "B-LOC"]}]))
    rows = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    baselines = trainer.task.baselines(None, None, rows, False)
    assert baselines["majority tag"] == {"value": 0.0, "kind": "floor"}
    assert baselines["dictionary"] == {"value": 1.0, "kind": "reference"}  # I-LOC alone begins a span


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"tokens": ["a"], "tags": ["O"]}] * 20, "every tag is O"),
        ([*TAGGED, {"tokens": ["a", "b"], "tags": ["O"]}], "row 25: 1 tags for 2 words"),
        ([*TAGGED, {"tokens": ["a"], "tags": [1]}], "row 25: tag 0 is 1, not a name"),
    ],
)
def test_invalid_rows_are_reported_before_the_model_is_loaded(recipe: Callable, rows: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_trainer(recipe(rows=rows))


# -- annotated texts

TEXT = "Mia lives in New York."
PLACES = [[0, 3, "PER"], [13, 21, "LOC"]]
SPANS = [{"start": start, "end": end, "label": label} for start, end, label in PLACES]
TOKENS = [{"text": t, "start": TEXT.index(t), "end": TEXT.index(t) + len(t)} for t in TAGGED[0]["tokens"]]
RESULT = [
    {"value": {"start": s, "end": e, "text": TEXT[s:e], "labels": [name]}, "from_name": "label", "type": "labels"}
    for s, e, name in PLACES
]
EXPORTS = {
    "doccano": {"id": 1, "text": TEXT, "label": PLACES, "Comments": []},
    "doccano with entities": {"id": 1, "text": TEXT, "entities": SPANS, "relations": []},
    "Prodigy": {"text": TEXT, "meta": {}, "tokens": TOKENS, "spans": SPANS, "answer": "accept"},
    "spaCy": {"text": TEXT, "spans": SPANS},
    "Label Studio": {"id": 1, "annotations": [{"result": RESULT}], "data": {"text": TEXT}, "predictions": []},
    "Label Studio JSON_MIN": {"text": TEXT, "id": 1, "label": [part["value"] for part in RESULT], "annotator": 1},
}
"""A row of each format that tools for annotation export."""


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_annotation_tools_are_read_as_they_come(name: str, tmp_path: Path) -> None:
    file = tmp_path / "admin.json"
    file.write_text(json.dumps([EXPORTS[name]] * 2), encoding="utf-8")
    rows = load_part(str(file), TokenClassification(), DataConfig())
    assert rows.to_list() == [{"tokens": TAGGED[0]["tokens"], "tags": TAGGED[0]["tags"]}] * 2
    (question, _) = read_inputs([str(file)], TokenClassification())
    assert question == {"text": TEXT}


def test_answers_of_predict_are_read_as_rows(trained: str) -> None:
    answer = llmkit.load(trained).predict(TEXT)
    (row,) = load_part([answer], TokenClassification(), DataConfig())
    assert (row["tokens"], row["tags"]) == (TAGGED[0]["tokens"], TAGGED[0]["tags"])


@pytest.mark.parametrize("answer", ["reject", "ignore"])
def test_rows_that_the_annotator_rejected_are_named(answer: str) -> None:
    rows = [EXPORTS["Prodigy"], {**EXPORTS["Prodigy"], "answer": answer}]
    with pytest.raises(UsageError, match=f"row 2: the annotator's answer is '{answer}'; .*--data.on_error skip"):
        load_part(rows, TokenClassification(), DataConfig())
    assert len(load_part(rows, TokenClassification(), DataConfig(on_error="skip"))) == 1


# -- prediction


def test_entities_have_their_positions_in_the_text(trained: str) -> None:
    model = llmkit.load(trained)
    text = "Mia  lives in New York. 小猫住在北京。"
    answer = model.predict(text)
    assert answer["text"] == text
    for entity in answer["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"] and 0 < entity["score"] <= 1
    assert ("Mia", "PER") in {(e["text"], e["label"]) for e in answer["entities"]}
    answer = model.predict({"tokens": TAGGED[0]["tokens"]})
    assert answer["text"] == "Mia lives in New York."
    assert [(e["text"], e["label"]) for e in answer["entities"]] == [("Mia", "PER"), ("New York", "LOC")]
    assert model.predict([[*TAGGED[0]["tokens"]], "", "?"])[0] == answer
    assert model.predict("")["entities"] == []


def test_a_text_longer_than_the_model_is_read_to_its_end(trained: str) -> None:
    model = llmkit.load(trained)
    text = "Mia lives in New York. " * 40
    entities = model.predict(text)["entities"]
    assert len(model.tokenizer(text)["input_ids"]) > 3 * model.model.config.max_position_embeddings
    assert max(e["end"] for e in entities) > len(text) - 30
    assert all(text[e["start"] : e["end"]] == e["text"] for e in entities)


def test_predict_reads_texts_and_files_and_names_the_invalid_line(trained: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "a.conll").write_text("Mia\tO\nlives\tO\n\nBerlin\tO\n", encoding="utf-8")
    assert command(["predict", trained, str(tmp_path / "a.conll"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["tokens"] for line in lines] == [["Mia", "lives"], ["Berlin"]] and lines[1]["text"] == "Berlin"
    assert command(["predict", trained, "Mia lives in New York."]) == 0
    assert capsys.readouterr().out == "[Mia PER] lives in [New York LOC].\n"
    (tmp_path / "a.jsonl").write_text('{"text": "Mia"}\n{"text": 3}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"a.jsonl line 2: words are int"):
        command(["predict", trained, str(tmp_path / "a.jsonl")])


def test_evaluate_gives_intervals_and_scores_by_label(trained: str, tmp_path: Path, capsys) -> None:
    lines = ["\t".join(pair) for row in TAGGED[::3] for pair in [*zip(row["tokens"], row["tags"], strict=True), ("",)]]
    (tmp_path / "test.bio").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert command(["evaluate", trained, "--data", str(tmp_path / "test.bio"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    low, high = report["intervals"]["f1"]
    assert low <= report["metrics"]["f1"] <= high and set(report["details"]["by_label"]) == {"LOC", "PER"}


def test_preview_shows_the_tags_by_name(recipe: Callable) -> None:
    text = preview(recipe(rows=TAGGED[:1] * 8), 1)
    assert "⟦B-PER⟧" in text and "⟦I-LOC⟧" in text and "6 trained on" in text and "⟦O⟧" not in text


def test_a_tokenizer_that_does_not_map_tokens_to_words_is_refused() -> None:
    with pytest.raises(UsageError, match="CanineTokenizer does not map tokens to words"):
        TokenClassification().configure(CanineTokenizer())
