"""Semantic roles: the marked predicate, one row for each predicate, and roles with their positions in the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import EXACT
from datasets import Dataset

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.errors import UsageError
from llmkit.models.tokenizers import load_tokenizer
from llmkit.tasks import SemanticRoles

LEARN = ["妹妹", "学", "画画", "，", "也", "学", "跳舞"]
LETTER = ["Mia", "wrote", "a", "long", "letter", "."]
ROWS = [
    {"tokens": LETTER, "predicate": 1, "tags": ["B-ARG0", "B-V", "B-ARG1", "I-ARG1", "I-ARG1", "O"]},
    {"tokens": LEARN, "predicate": 5, "tags": ["B-ARG0", *["O"] * 5, "B-ARG1"]},
    {"tokens": LEARN, "predicate": 1, "tags": ["B-ARG0", "O", "B-ARG1", *["O"] * 4]},
] * 4


def recipe(model: Path, output: Path, **training: float) -> Recipe:
    data = DataConfig(train=ROWS, validation=ROWS[:3], max_length=32)
    return Recipe(SemanticRoles(), ModelConfig(name=str(model)), data, {**EXACT, **training}, RunConfig(str(output)))


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder, trained until the model knows its rows by heart."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = run(recipe(tiny_bert, folder, max_steps=60, learning_rate=5e-3, logging_steps=30))
    assert result.metrics["after"]["f1"] > 0.9
    return str(folder)


def test_losses_are_the_same_with_gradient_accumulation(tiny_bert: Path, tmp_path: Path) -> None:
    losses = []
    for size, steps in ((8, 1), (4, 2)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = build_trainer(recipe(tiny_bert, tmp_path / f"{size}", max_steps=3, learning_rate=1e-3, **sizes))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4) and len(losses[1]) == 3


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_the_predicate_is_between_two_separators_and_not_trained_on(name: str) -> None:
    tokenizer = load_tokenizer(name)
    task = SemanticRoles().fit({"train": Dataset.from_list(ROWS)})
    columns = task.encode({k: [row[k] for row in ROWS[:3]] for k in ROWS[0]}, tokenizer, 64)
    mark = tokenizer.sep_token_id if name == "tiny-bert" else tokenizer.eos_token_id
    for ids, words, row in zip(columns["input_ids"], columns["words"], ROWS, strict=False):
        first, second = [i for i, token in enumerate(ids) if token == mark][:2]
        assert tokenizer.decode(ids[first + 1 : second]).strip() == row["tokens"][row["predicate"]]
        assert [n for n in words if n >= 0] == [i for i in range(len(row["tokens"])) if i != row["predicate"]]
    assert columns["input_ids"][1] != columns["input_ids"][2]


def test_predict_gives_the_roles_of_the_predicate(trained: str) -> None:
    model = llmkit.load(trained)
    for row in ROWS[1:3]:
        answer = model.predict({"tokens": row["tokens"], "predicate": row["predicate"]})
        assert answer["predicate"]["text"] == "学"
        assert [r["text"] for r in answer["roles"]] == ["妹妹", "跳舞" if row["predicate"] == 5 else "画画"]
    answer = model.predict({"text": "Mia wrote a long letter.", "predicate": "wrote"})
    assert answer["predicate"] == {"text": "wrote", "start": 4, "end": 9}
    assert [(r["text"], r["label"]) for r in answer["roles"]] == [("Mia", "ARG0"), ("a long letter", "ARG1")]
    assert model.task.format_prediction(answer, None) == "[Mia ARG0] [wrote V] [a long letter ARG1]."
    for given, message in [
        ("Mia wrote", "predicate None"),
        ({"text": "Mia wrote", "predicate": "read"}, "not a word of"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.predict(given)


def test_predict_reads_a_typed_object_and_the_predicates_of_a_conllu_file(trained: str, tmp_path: Path, capsys) -> None:
    assert command(["predict", trained, '{"text": "Mia wrote", "predicate": "wrote"}']) == 0
    assert "[wrote V]" in capsys.readouterr().out
    words = [("Mia", "\t_\tARG0"), ("wrote", "\twrite\tV")]
    lines = [f"{i}\t{word}" + "\t_" * 8 + end + "\n" for i, (word, end) in enumerate(words, 1)]
    (tmp_path / "a.conllu").write_text("".join(lines), encoding="utf-8")
    assert command(["predict", trained, str(tmp_path / "a.conllu")]) == 0
    assert "[wrote V]" in capsys.readouterr().out
    with pytest.raises(UsageError, match="input 1: predicate 'went' is not a word"):
        command(["predict", trained, '{"text": "Mia wrote", "predicate": "went"}'])
