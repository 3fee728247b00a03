"""Every task keeps the contract: rows, features, a summed loss with its weight, metrics by name, a folder that answers.
Tasks from outside the package do too, given as an instance or an import path."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, PAIRS, PHRASES, QUESTIONS, REVIEWS, TAGGED, TEXTS

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.errors import UsageError
from llmkit.task import OLD_MEMBERS, Task, is_causal
from llmkit.tasks import (
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
    known_tasks,
)

TASKS = known_tasks()

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
    """A tiny model for each Auto class."""
    return {"AutoModelForCausalLM": tiny_gpt2, "AutoModelForSeq2SeqLM": tiny_t5, "": tiny_bert}


def recipe_for(task: type, models: dict[str, Path], output: Path, **training: Any) -> Recipe:
    model = models.get(task.auto_class, models[""])
    data = DataConfig(train=ROWS[task], validation=ROWS[task][::4], max_length=32)
    return Recipe(
        task(), ModelConfig(name=str(model)), data, {**EXACT, "max_steps": 3, **training}, RunConfig(output=str(output))
    )


@pytest.fixture(scope="module", params=TASKS, ids=lambda t: t.name)
def trainer(request, models: dict[str, Path], tmp_path_factory) -> Any:
    return build_trainer(recipe_for(request.param, models, tmp_path_factory.mktemp("run") / "r"))


def test_every_task_has_rows_here() -> None:
    assert set(ROWS) == set(TASKS)


def test_task_is_frozen_and_rebuilt_from_its_fields(trainer: Any) -> None:
    with pytest.raises(AttributeError):
        trainer.task.anything = 1
    assert find_task(trainer.task.name) is type(trainer.task)
    assert repr(trainer.task) == repr(type(trainer.task)(**trainer.task.__dict__))


def test_features_name_their_row(trainer: Any) -> None:
    for part, features in trainer.features.items():
        assert min(features["row"]) >= 0 and max(features["row"]) < len(trainer.rows[part])


def test_loss_is_a_sum_over_what_weight_counts(trainer: Any) -> None:
    """The loss of two batches in one is the sum of their losses, and its weight the sum of their weights."""
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
    if "excluded" not in whole:  # the negatives of an embedding are the other texts of the batch
        assert total.item() == pytest.approx(sum(p.item() for p in parts), rel=1e-5)
    assert int(task.weight(whole)) == int(task.weight(first)) + int(task.weight(second)) > 0


def test_example_stats_are_numbers_per_example(trainer: Any) -> None:
    stats = trainer.stats("validation")
    assert stats.ndim == 2 and len(stats) in (len(trainer.features["validation"]), len(trainer.rows["validation"]))


def test_score_returns_the_named_metrics(trainer: Any) -> None:
    stats = trainer.stats("validation")
    scores = trainer.task.score(stats)
    json.dumps(trainer.task.details(stats))
    assert set(scores) == set(trainer.task.metrics)


def test_baselines_name_their_kind(trainer: Any) -> None:
    raw = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    found = trainer.task.baselines(trainer.features["train"], trainer.features["validation"], raw, True)
    assert found
    for baseline in found.values():
        assert baseline["kind"] in ("floor", "reference") and isinstance(baseline["value"], float)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_saved_folder_loads_and_answers(task: type, models: dict[str, Path], tmp_path: Path) -> None:
    result = run(recipe_for(task, models, tmp_path / "r"))
    model = llmkit.load(str(result.output))
    assert model.task == result.trainer.task
    row = {"response": "a fine film", **ROWS[task][0]}
    asks = model.task.predict_columns
    text = row.get(asks[0], TEXTS[0]) if len(asks) == 1 else {column: row[column] for column in asks}
    if is_causal(task()):
        prompt = row.get("text") or row["prompt"]
        answer = model.generate(prompt, max_new_tokens=3)
        assert answer.startswith(prompt) != bool(model.tokenizer.chat_template)  # of a chat the answer alone
        with pytest.raises(UsageError, match="does not predict"):
            model.predict(text)
    else:
        assert isinstance(model.predict([text])[0], dict)
        with pytest.raises(UsageError, match="does not generate"):
            model.generate("a fine film")


OUTSIDE = '''
from dataclasses import dataclass
from typing import ClassVar
import torch
from llmkit.tasks import TextClassification

@dataclass(frozen=True)
class Shouting(TextClassification):
    """A task from outside the package: the negatives count `factor` times."""
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
def test_outside_task_trains_saves_and_reloads(how: str, tiny_bert: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "elsewhere.py").write_text(OUTSIDE)
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


def test_outside_task_that_cannot_be_imported_says_where_to_run(tiny_bert: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_bert, folder)
    (folder / "recipe.yaml").write_text("task: {name: 'not_here:Shouting'}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"not_here:Shouting.*on PYTHONPATH; run from the folder that holds not_here.py"
    ):
        llmkit.load(str(folder))


@pytest.mark.parametrize("name", OLD_MEMBERS)
def test_task_with_an_old_member_is_told_what_replaced_it(name: str) -> None:
    with pytest.raises(UsageError, match=f"Old: {name} ") as e:
        type("Old", (Task,), {name: None, "__module__": "elsewhere"})
    assert OLD_MEMBERS[name] in str(e.value)
    assert not hasattr(CausalLM(), name)
    with pytest.raises(AttributeError, match=f"{name!r}; it {re.escape(OLD_MEMBERS[name])}"):
        getattr(CausalLM(), name)


def test_old_member_of_a_base_class_is_refused_and_an_option_of_that_name_is_not() -> None:
    mixin = type("Mixin", (), {"aside": ("labels",), "__module__": "elsewhere"})
    with pytest.raises(UsageError, match="elsewhere:Old: aside is now non_model_columns"):
        type("Old", (mixin, Task), {"__module__": "elsewhere"})
    new = type("New", (Task,), {"steps": 3, "__annotations__": {"steps": int}, "__module__": "elsewhere"})
    assert dataclass(frozen=True)(new)(steps=4).steps == 4


@pytest.mark.parametrize("task", [t for t in TASKS if "label_smoothing" in t.__dataclass_fields__])
def test_label_smoothing_out_of_range_is_a_fault_of_every_task_that_has_it(task: type, models, tmp_path: Path) -> None:
    recipe = replace(recipe_for(task, models, tmp_path / "r"), task=task(label_smoothing=2.0))
    with pytest.raises(UsageError, match=r"task\.label_smoothing: 2"):
        build_trainer(recipe)


@pytest.mark.parametrize("length", [1, 100_000])
def test_all_faults_of_options_are_named_together(models: dict[str, Path], tmp_path: Path, length: int) -> None:
    recipe = recipe_for(CausalLM, models, tmp_path / "r", learning_rate=-1)
    recipe = replace(recipe, task=CausalLM(label_smoothing=2), data=replace(recipe.data, max_length=length))
    with pytest.raises(UsageError) as e:
        build_trainer(recipe)
    assert len(e.value.faults) == 3
    for name in ("training.learning_rate: -1", "task.label_smoothing: 2", f"data.max_length: {length}"):
        assert name in str(e.value)
