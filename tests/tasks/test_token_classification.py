"""Token classification and semantic roles: the loss of the words, seqeval's scores, places in the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, TAGGED
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.errors import RecipeError
from llmkit.models import tokenizers
from llmkit.reporting.preview import preview
from llmkit.tasks import SemanticRoles, TokenClassification

ROLES = [
    {
        "tokens": ["Mia", "wrote", "a", "long", "letter", "."],
        "predicate": 1,
        "tags": ["B-ARG0", "B-V", "B-ARG1", "I-ARG1", "I-ARG1", "O"],
    },
    {
        "tokens": ["妹妹", "学", "画画", "，", "也", "学", "跳舞"],
        "predicate": 5,
        "tags": ["B-ARG0", "O", "O", "O", "O", "O", "B-ARG1"],
    },
    {
        "tokens": ["妹妹", "学", "画画", "，", "也", "学", "跳舞"],
        "predicate": 1,
        "tags": ["B-ARG0", "O", "B-ARG1", "O", "O", "O", "O"],
    },
] * 4


@pytest.fixture
def recipe(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(task: Any = None, rows: Any = TAGGED, output: str = "run", held: Any = None, **training: Any) -> Recipe:
        data = DataConfig(train=rows, validation=held or TAGGED[::3], max_length=training.pop("max_length", 32))
        return Recipe(
            task or TokenClassification(),
            ModelConfig(name=str(tiny_bert)),
            data,
            {**EXACT, "learning_rate": 1e-3, "num_train_epochs": 1, **training},
            RunConfig(str(tmp_path / output)),
        )

    return make


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_each_words_first_sub_word(recipe: Callable) -> None:
    """Made by hand from the tokenizer's own word ids, and taken from the library's own head."""
    trainer = build_trainer(recipe(max_length=64))
    task, tokenizer, model = trainer.task, trainer.processing_class, trainer.model.eval()
    features = [{**trainer.features["train"][i], "row": i, "epoch": 0} for i in (0, 6, 12, 18)]
    batch = task.collate(features, tokenizer, "padded")
    by_hand = []
    for feature, row in zip(features, trainer.rows["train"].select([0, 6, 12, 18]), strict=True):
        chinese = row["tokens"][0] == "小猫"
        words = [f" {w}" if i and not chinese and w not in ".," else w for i, w in enumerate(row["tokens"])]
        encoded = tokenizer(words, is_split_into_words=True)
        assert encoded["input_ids"] == feature["input_ids"]
        numbers = encoded.word_ids()
        first = [n is not None and n != before for n, before in zip(numbers, [None, *numbers[:-1]], strict=True)]
        by_hand.append([task.labels.index(row["tags"][n]) if f else -100 for n, f in zip(numbers, first, strict=True)])
    assert [f["labels"] for f in features] == by_hand
    with torch.no_grad():
        own = model(**batch).loss
        ours = task.loss(model, batch)[0] / task.weight(batch)
    assert ours.item() == pytest.approx(own.item(), abs=1e-6)
    assert task.weight(batch) == sum(len(trainer.rows["train"][i]["tokens"]) for i in (0, 6, 12, 18))


@pytest.mark.parametrize("task", [TokenClassification, SemanticRoles])
def test_a_batch_is_one_batch_however_it_is_cut(recipe: Callable, task: type) -> None:
    rows = ROLES if task is SemanticRoles else TAGGED
    cuts = {
        name: losses(build_trainer(recipe(task(), rows, name, rows[:4], max_steps=3, **sizes)))
        for name, sizes in {
            "whole": {"per_device_train_batch_size": 8},
            "cut": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        }.items()
    }
    assert cuts["cut"] == pytest.approx(cuts["whole"], abs=1e-4) and len(cuts["cut"]) == 3


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_seqevals_on_the_same_tags(recipe: Callable) -> None:
    """Whatever is predicted, over sentences that are several windows and one whose word has no sub-word."""
    long = {"tokens": ["Mia", "lives", "in", "Berlin"] * 12, "tags": ["B-PER", "O", "O", "B-LOC"] * 12}
    trainer = build_trainer(recipe(held=[*TAGGED[::2], long], max_length=16))
    task, features, rows = trainer.task, trainer.features["validation"], trainer.rows["validation"]
    assert len(features) > len(rows)
    draw = np.random.default_rng(0)
    width = max(map(len, features["input_ids"][:]))
    outputs = np.stack(
        [draw.integers(0, len(task.labels), (len(features), width)), np.ones((len(features), width))], -1
    )
    predicted = [["O"] * len(tags) for tags in rows["tags"]]
    for feature, output in zip(features, outputs, strict=True):
        for at, word in enumerate(feature["words"]):
            if word >= 0:
                predicted[feature["row"]][word] = task.labels[int(output[at, 0])]
    examples = task.per_example(outputs.astype(np.float32), features, rows, trainer.processing_class)
    scores, true = task.score(examples), rows["tags"][:]
    assert len(examples) == len(rows)
    assert scores["f1"] == pytest.approx(f1_score(true, predicted)) and 0 < scores["f1"] < 1
    assert scores["precision"] == pytest.approx(precision_score(true, predicted))
    assert scores["recall"] == pytest.approx(recall_score(true, predicted))
    assert scores["loss"] == pytest.approx(1.0) and examples[:, 1].sum() == sum(map(len, true))
    report = classification_report(true, predicted, output_dict=True)
    for label, of in task.details(examples)["by_label"].items():
        assert of["f1"] == pytest.approx(report[label]["f1-score"]) and of["support"] == report[label]["support"]


def test_a_word_without_sub_words_is_outside_and_counts(tmp_path: Path) -> None:
    tokenizer = tokenizers.train("wordpiece", 200, iter(["Mia ran home"] * 3), "bert")
    task = TokenClassification(labels=("B-X", "O"))
    columns = task.encode({"tokens": [["Mia", "\u0007", "ran"]], "tags": [["B-X", "B-X", "O"]]}, tokenizer, 16)
    assert [n for n in columns["words"][0] if n >= 0] == [0, 2]


def test_tags_that_training_never_saw_are_missed(recipe: Callable, capsys) -> None:
    held = [{"tokens": ["Mia", "ran"], "tags": ["B-PER", "B-EVENT"]}] * 2
    trainer = build_trainer(recipe(held=held))
    assert "2 words with tags that training never saw (B-EVENT)" in capsys.readouterr().err
    examples = trainer.per_example("validation")
    assert trainer.task.details(examples)["by_label"]["(not in training)"]["support"] == 2
    assert examples[:, 1].tolist() == [1, 1]  # words of the loss


def test_the_dictionary_is_a_reference_and_the_majority_a_floor(recipe: Callable) -> None:
    held = [{"tokens": ["Mia", "saw", "York"], "tags": ["B-PER", "O", "B-LOC"]}]
    trainer = build_trainer(recipe(held=held))
    raw = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    found = trainer.task.baselines(None, None, raw, False)
    assert found["majority tag"] == {"value": 0.0, "kind": "floor"}
    assert found["dictionary"] == {"value": 1.0, "kind": "reference"}  # I-LOC alone begins a span


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"tokens": ["a"], "tags": ["O"]}] * 20, "every tag is O"),
        ([*TAGGED, {"tokens": ["a", "b"], "tags": ["O"]}], "row 25: 1 tags for 2 words"),
        ([*TAGGED, {"tokens": ["a"], "tags": [1]}], "row 25: tag 0 is 1, not a name"),
    ],
)
def test_bad_rows_are_named_before_the_model_is_loaded(recipe: Callable, rows: list, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        build_trainer(recipe(rows=rows))


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each task, trained until it knows its rows by heart."""
    folder, found = tmp_path_factory.mktemp("taught"), {}
    for task, rows in ((TokenClassification(), TAGGED), (SemanticRoles(), ROLES)):
        training = {**EXACT, "max_steps": 60, "learning_rate": 5e-3, "logging_steps": 30}
        data = DataConfig(train=rows, validation=rows[:3], max_length=32)
        recipe = Recipe(task, ModelConfig(name=str(tiny_bert)), data, training, RunConfig(str(folder / task.name)))
        assert run(recipe).metrics["after"]["f1"] > 0.9
        found[task.name] = folder / task.name
    return found


def test_entities_stand_where_they_are_said_to(taught: dict[str, Path]) -> None:
    model = llmkit.load(str(taught["token-classification"]))
    text = "Mia  lives in New York. 小猫住在北京。"
    answer = model.predict(text)
    assert answer["text"] == text
    for entity in answer["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"] and 0 < entity["score"] <= 1
    assert ("Mia", "PER") in {(e["text"], e["label"]) for e in answer["entities"]}
    given = model.predict({"tokens": TAGGED[0]["tokens"]})
    assert given["text"] == "Mia lives in New York."
    assert [(e["text"], e["label"]) for e in given["entities"]] == [("Mia", "PER"), ("New York", "LOC")]
    assert model.predict([[*TAGGED[0]["tokens"]], "", "?"])[0] == given
    assert model.predict("")["entities"] == []


def test_a_text_longer_than_the_model_is_read_to_its_end(taught: dict[str, Path]) -> None:
    model = llmkit.load(str(taught["token-classification"]))
    text = "Mia lives in New York. " * 40
    found = model.predict(text)["entities"]
    assert len(model.tokenizer(text)["input_ids"]) > 3 * model.model.config.max_position_embeddings
    assert max(e["end"] for e in found) > len(text) - 30
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found)


def test_roles_are_those_of_the_predicate_that_is_asked(taught: dict[str, Path]) -> None:
    model = llmkit.load(str(taught["semantic-roles"]))
    for row in ROLES[1:3]:
        answer = model.predict({"tokens": row["tokens"], "predicate": row["predicate"]})
        assert answer["predicate"]["text"] == "学"
        assert [r["text"] for r in answer["roles"]] == ["妹妹", "跳舞" if row["predicate"] == 5 else "画画"]
    answer = model.predict({"text": "Mia wrote a long letter.", "predicate": "wrote"})
    assert answer["predicate"] == {"text": "wrote", "start": 4, "end": 9}
    assert [(r["text"], r["label"]) for r in answer["roles"]] == [("Mia", "ARG0"), ("a long letter", "ARG1")]
    assert model.task.show(answer, None) == "[Mia ARG0] [wrote V] [a long letter ARG1]."
    for given, why in [("Mia wrote", "predicate None"), ({"text": "Mia wrote", "predicate": "read"}, "no word of")]:
        with pytest.raises(RecipeError, match=why):
            model.predict(given)


def test_files_and_pipes_are_answered_in_order(taught: dict[str, Path], tmp_path: Path, capsys) -> None:
    folder = str(taught["token-classification"])
    (tmp_path / "a.conll").write_text("Mia\tO\nlives\tO\n\nBerlin\tO\n", encoding="utf-8")
    assert command(["predict", folder, str(tmp_path / "a.conll"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["tokens"] for line in lines] == [["Mia", "lives"], ["Berlin"]] and lines[1]["text"] == "Berlin"
    assert command(["predict", folder, "Mia lives in New York."]) == 0
    assert capsys.readouterr().out == "[Mia PER] lives in [New York LOC].\n"
    (tmp_path / "a.jsonl").write_text('{"text": "Mia"}\n{"text": 3}\n', encoding="utf-8")
    assert command(["predict", str(taught["semantic-roles"]), '{"text": "Mia wrote", "predicate": "wrote"}']) == 0
    assert "[wrote V]" in capsys.readouterr().out
    columns = [
        f"{i}\t{w}" + "\t_" * 8 + end for i, (w, end) in enumerate([("Mia", "\t_\tARG0"), ("wrote", "\twrite\tV")], 1)
    ]
    (tmp_path / "a.conllu").write_text("\n".join(columns) + "\n", encoding="utf-8")
    assert command(["predict", str(taught["semantic-roles"]), str(tmp_path / "a.conllu")]) == 0
    assert "[wrote V]" in capsys.readouterr().out
    with pytest.raises(RecipeError, match=r"a.jsonl line 2: words are int"):
        command(["predict", folder, str(tmp_path / "a.jsonl")])
    with pytest.raises(RecipeError, match="input 1: predicate 'went' is no word"):
        command(["predict", str(taught["semantic-roles"]), '{"text": "Mia wrote", "predicate": "went"}'])


def test_evaluating_gives_intervals_and_a_report_by_label(taught: dict[str, Path], tmp_path: Path, capsys) -> None:
    lines = ["\t".join(pair) for row in TAGGED[::3] for pair in [*zip(row["tokens"], row["tags"], strict=True), ("",)]]
    (tmp_path / "test.bio").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert (
        command(["evaluate", str(taught["token-classification"]), "--data", str(tmp_path / "test.bio"), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    low, high = found["intervals"]["f1"]
    assert low <= found["metrics"]["f1"] <= high and set(found["details"]["by_label"]) == {"LOC", "PER"}


# --- what the encoder sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_a_predicate_stands_between_two_separators(name: str) -> None:
    tokenizer = tokenizers.load(name)
    task = SemanticRoles().fit(_rows(ROLES))
    columns = task.encode({k: [r[k] for r in ROLES[:3]] for k in ROLES[0]}, tokenizer, 64)
    mark = tokenizer.sep_token_id if name == "tiny-bert" else tokenizer.eos_token_id
    for ids, words, row in zip(columns["input_ids"], columns["words"], ROLES, strict=False):
        first, second = [i for i, t in enumerate(ids) if t == mark][:2]
        assert tokenizer.decode(ids[first + 1 : second]).strip() == row["tokens"][row["predicate"]]
        assert [n for n in words if n >= 0] == [i for i in range(len(row["tokens"])) if i != row["predicate"]]
    assert columns["input_ids"][1] != columns["input_ids"][2]


def _rows(rows: list[dict]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


def test_a_preview_names_the_labels(recipe: Callable) -> None:
    shown = preview(recipe(rows=TAGGED[:1] * 8), 1)
    assert "⟦B-PER⟧" in shown and "⟦I-LOC⟧" in shown and "6 trained on" in shown and "⟦O⟧" not in shown


def test_a_tokenizer_that_knows_no_words_is_refused(recipe: Callable) -> None:
    from transformers import CanineTokenizer

    with pytest.raises(RecipeError, match="CanineTokenizer cannot say which word"):
        TokenClassification().ready_tokenizer(CanineTokenizer())
