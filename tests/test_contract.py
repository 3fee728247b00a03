"""Every task keeps the contract: rows in, features, a summed loss with its weight, metrics by name, a folder that
answers; and so does a stranger's task, given as an instance or an import path."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, PAIRS, PHRASES, QUESTIONS, REVIEWS, TAGGED, TEXTS

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.errors import RecipeError
from llmkit.tasks import (
    TASKS,
    CausalLM,
    MaskedLM,
    Preference,
    QuestionAnswering,
    RewardModel,
    SemanticRoles,
    SentenceEmbedding,
    Seq2Seq,
    TextClassification,
    TokenClassification,
    find_task,
)

ROWS: dict[type, list[dict]] = {
    CausalLM: [{"text": t} for t in TEXTS],
    MaskedLM: [{"text": t} for t in TEXTS],
    TextClassification: REVIEWS,
    TokenClassification: TAGGED,
    SemanticRoles: [{**row, "predicate": 1} for row in TAGGED],
    QuestionAnswering: QUESTIONS,
    SentenceEmbedding: [{"anchor": t[: len(t) // 2], "positive": t[len(t) // 2 :]} for t in TEXTS[:8]],
    Seq2Seq: [{"source": row["en"], "target": row["zh"]} for row in PHRASES],
    Preference: PAIRS,
    RewardModel: PAIRS,
}


@pytest.fixture(scope="module")
def models(tiny_gpt2: Path, tiny_bert: Path, tiny_t5: Path) -> dict[str, Path]:
    """A tiny model for each style of tokenizer."""
    return {"gpt2": tiny_gpt2, "bert": tiny_bert, "t5": tiny_t5}


def recipe_for(task: type, models: dict[str, Path], output: Path, **training: Any) -> Recipe:
    model = models[task.tokenizer_style]
    data = DataConfig(train=ROWS[task], validation=ROWS[task][::4], max_length=32)
    return Recipe(
        task(), ModelConfig(name=str(model)), data, {**EXACT, "max_steps": 3, **training}, RunConfig(output=str(output))
    )


@pytest.fixture(scope="module", params=TASKS, ids=lambda t: t.name)
def trainer(request, models: dict[str, Path], tmp_path_factory) -> Any:
    return build_trainer(recipe_for(request.param, models, tmp_path_factory.mktemp("run") / "r"))


def test_every_task_is_tried_here() -> None:
    assert set(ROWS) == set(TASKS)


def test_a_task_is_a_frozen_value(trainer: Any) -> None:
    with pytest.raises(AttributeError):
        trainer.task.anything = 1
    assert find_task(trainer.task.name) is type(trainer.task)
    assert repr(trainer.task) == repr(type(trainer.task)(**trainer.task.__dict__))


def test_features_name_the_row_they_come_from(trainer: Any) -> None:
    for part, features in trainer.features.items():
        assert min(features["row"]) >= 0 and max(features["row"]) < len(trainer.rows[part])


def test_the_loss_is_a_sum_that_weight_divides(trainer: Any) -> None:
    """Two batches together cost the sum of what they cost alone, and weigh the sum of their weights."""
    view = next(iter(trainer.get_train_dataloader())).keys()
    assert "labels" in view
    task, model = trainer.task, trainer.model.eval()
    rows = [{**trainer.train_dataset[i], "row": i, "epoch": 0} for i in range(4)]
    whole, first, second = (
        trainer._prepare_inputs(task.collate(part, trainer.processing_class, trainer.layout))
        for part in (rows, rows[:2], rows[2:])
    )
    with torch.no_grad():
        total, parts = task.loss(model, whole)[0], [task.loss(model, b)[0] for b in (first, second)]
    assert total.dtype == torch.float32
    if task.row_alone:  # elsewhere a larger batch has other negatives
        assert total.item() == pytest.approx(sum(p.item() for p in parts), rel=1e-5)
    assert int(task.weight(whole)) == int(task.weight(first)) + int(task.weight(second)) > 0


def test_an_example_is_a_few_numbers(trainer: Any) -> None:
    examples = trainer.per_example("validation")
    assert examples.ndim == 2 and len(examples) in (
        len(trainer.features["validation"]),
        len(trainer.rows["validation"]),
    )


def test_scores_are_the_metrics_it_names(trainer: Any) -> None:
    examples = trainer.per_example("validation")
    scores = trainer.task.score(examples)
    json.dumps(trainer.task.details(examples))
    assert set(scores) == set(trainer.task.metrics)
    assert trainer.task.primary in scores


def test_a_baseline_says_its_kind(trainer: Any) -> None:
    raw = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    found = trainer.task.baselines(trainer.features["train"], trainer.features["validation"], raw, True)
    assert found
    for baseline in found.values():
        assert baseline["kind"] in ("floor", "reference") and isinstance(baseline["value"], float)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_a_saved_folder_answers_by_itself(task: type, models: dict[str, Path], tmp_path: Path) -> None:
    result = run(recipe_for(task, models, tmp_path / "r"))
    model = llmkit.load(str(result.output))
    assert model.task == result.trainer.task
    row = {"response": "a fine film", **ROWS[task][0]}
    asks = model.task.asks
    text = row.get(asks[0], TEXTS[0]) if len(asks) == 1 else {column: row[column] for column in asks}
    if task.can_generate:
        prompt = row.get("text") or row["prompt"]
        answer = model.generate(prompt, max_new_tokens=3)
        assert answer.startswith(prompt) != bool(model.tokenizer.chat_template)  # of a chat the answer alone
        with pytest.raises(RecipeError, match="does not predict"):
            model.predict(text)
    else:
        assert isinstance(model.predict([text])[0], dict)
        with pytest.raises(RecipeError, match="does not generate"):
            model.generate("a fine film")


STRANGER = '''
from dataclasses import dataclass
from typing import ClassVar
import torch
from llmkit.tasks import TextClassification

@dataclass(frozen=True)
class Shouting(TextClassification):
    """A stranger's task: the negatives count `factor` times."""
    factor: float = 3.0
    name: ClassVar[str] = "shouting"

    def loss(self, model, batch):
        weights = torch.where(batch["labels"] == 0, self.factor, 1.0)
        outputs = model(**{k: v for k, v in batch.items() if k != "labels"})
        nll = -outputs.logits.float().log_softmax(-1).gather(1, batch["labels"][:, None])[:, 0]
        return (nll * weights).sum(), outputs

    def weight(self, batch):
        return torch.where(batch["labels"] == 0, self.factor, 1.0).sum()
'''


@pytest.mark.parametrize("how", ["instance", "import path"])
def test_a_strangers_task_trains_saves_and_reloads(how: str, tiny_bert: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "elsewhere.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "elsewhere", None)
    del sys.modules["elsewhere"]
    output = tmp_path / "run"
    if how == "instance":
        from elsewhere import Shouting

        run(
            Recipe(
                Shouting(factor=2.0),
                ModelConfig(name=str(tiny_bert)),
                DataConfig(train=REVIEWS),
                {**EXACT, "max_steps": 2},
                RunConfig(str(output)),
            )
        )
    else:
        words = [
            "--model",
            str(tiny_bert),
            "--data",
            "reviews",
            "--data.max_length",
            "32",
            "--training.max_steps",
            "2",
            "--output",
            str(output),
        ]
        assert command(["train", "elsewhere:Shouting", *words, "--task.factor", "2"]) == 0
    model = llmkit.load(str(output))
    assert type(model.task).__name__ == "Shouting" and model.task.factor == 2.0
    assert model.predict("a fine film")["label"] in ("positive", "negative")
