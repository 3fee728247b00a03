"""The end of a run: the content of metrics.json against the logs and a hand computation, and what is logged of it."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, REVIEWS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llmkit import DataConfig, ModelConfig, Recipe, Result, RunConfig, build_trainer, run
from llmkit.recipe import read_yaml
from llmkit.tasks import TextClassification
from llmkit.training import finish

TRAIN = REVIEWS[:28]
TEST = [*REVIEWS[2::3], {"text": "a film about a fox, and a fine one", "label": "positive"}]
SETTINGS = {**EXACT, "per_device_train_batch_size": 5, "max_steps": 9, "eval_strategy": "epoch", "seed": 3}


def recipe(tiny_bert: Path, output: Path, **data: Any) -> Recipe:
    config = DataConfig(train=TRAIN, validation=REVIEWS[::3], max_length=32, **data)
    model = ModelConfig(name=str(tiny_bert))
    return Recipe(TextClassification(), model, config, {**SETTINGS, "learning_rate": 1e-2}, RunConfig(str(output)))


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with a test part."""
    return run(recipe(tiny_bert, tmp_path_factory.mktemp("finish") / "run", test=TEST))


# -- metrics.json


def test_metrics_json_holds_the_metrics_of_the_result(finished: Result) -> None:
    assert json.loads((finished.output / "metrics.json").read_text(encoding="utf-8")) == finished.metrics


def test_metrics_are_those_of_the_first_and_the_last_log_of_the_test_part(finished: Result) -> None:
    logs = [log for log in finished.trainer.state.log_history if "test_loss" in log]
    for name, log in (("before", logs[0]), ("after", logs[-1])):
        assert finished.metrics[name] == {metric: log[f"test_{metric}"] for metric in finished.trainer.task.metrics}
    assert [log["step"] for log in logs] == [0, 9]


def test_metrics_equal_those_computed_with_transformers_alone(finished: Result) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(finished.output).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.output)
    losses, correct = [], []
    for row in TEST:
        label = model.config.label2id[row["label"]]
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")).logits[0]
        losses.append(-logits.log_softmax(-1)[label].item())
        correct.append(logits.argmax().item() == label)
    after = finished.metrics["after"]
    assert after["loss"] == pytest.approx(sum(losses) / len(TEST), abs=1e-5)
    assert after["accuracy"] == pytest.approx(sum(correct) / len(TEST))


def test_majority_baseline_is_the_accuracy_of_the_commonest_training_label(finished: Result) -> None:
    (label, _), (_, fewer) = Counter(row["label"] for row in TRAIN).most_common()
    assert fewer < len(TRAIN) / 2
    accuracy = sum(row["label"] == label for row in TEST) / len(TEST)
    assert finished.metrics["baselines"] == {"majority": {"value": pytest.approx(accuracy), "kind": "floor"}}


def test_amounts_and_versions(finished: Result) -> None:
    metrics = finished.metrics
    tokens = sum(len(ids) for ids in finished.trainer.train_dataset["input_ids"])
    assert metrics["tokens"] == round(tokens * 9 / math.ceil(len(TRAIN) / 5))
    assert (metrics["split"], metrics["examples"], metrics["steps"], metrics["seed"]) == ("test", len(TEST), 9, 3)
    assert (metrics["task"], metrics["primary"]) == ("text-classification", "accuracy")
    assert metrics["higher_is_better"] is True
    assert metrics["seconds"] > 0 and 2**26 < metrics["peak_memory_bytes"] < 2**40
    versions = metrics["versions"]
    assert {name: importlib.metadata.version(name) for name in versions if name != "python"}.items() <= versions.items()


def test_without_a_test_part_the_metrics_are_those_of_validation(tiny_bert: Path, tmp_path: Path) -> None:
    result = run(recipe(tiny_bert, tmp_path / "run"))
    assert (result.metrics["split"], result.metrics["examples"]) == ("validation", len(REVIEWS[::3]))
    first, *_, last = [log for log in result.trainer.state.log_history if "eval_loss" in log]
    assert (first["step"], last["step"]) == (0, 9)
    assert (result.metrics["before"]["loss"], result.metrics["after"]["loss"]) == (
        first["eval_loss"],
        last["eval_loss"],
    )


# -- the folder


def test_recipe_is_written_before_the_first_step(tiny_bert: Path, tmp_path: Path) -> None:
    made = recipe(tiny_bert, tmp_path / "new" / "run")
    finish.write_recipe(build_trainer(made), made)
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["recipe.yaml"]
    assert read_yaml(tmp_path / "new" / "run" / "recipe.yaml")["training"]["seed"] == 3


def test_saved_model_uses_its_cache(causal_recipe: Any) -> None:
    """The Trainer turns it off for training."""
    folder = run(causal_recipe(training={"max_steps": 1})).output
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


# -- what is logged


def logged(capsys: pytest.CaptureFixture, **changes: Any) -> list[str]:
    """The lines of `log_result` for an accuracy of 0.75."""
    metrics = {
        "primary": "accuracy", "higher_is_better": True, "before": {"accuracy": 0.5, "loss": 0.7},
        "after": {"accuracy": 0.75, "loss": 0.25}, "baselines": {}, "split": "test", "examples": 10, "steps": 1, "seconds": 2.4,
    }  # fmt: skip
    finish.log_result(metrics | changes, Path("runs/a"))
    return capsys.readouterr().err.splitlines()


def floor(value: float) -> dict[str, Any]:
    return {"majority": {"value": value, "kind": "floor"}}


def reference(value: float) -> dict[str, Any]:
    return {"tf-idf": {"value": value, "kind": "reference"}}


NOTHING = "(not beaten: nothing was learned; check data and learning rate)"


def test_result_names_each_metric_with_that_of_the_untrained_model(capsys: pytest.CaptureFixture) -> None:
    assert logged(capsys) == [
        "result   test accuracy 0.7500, untrained 0.5000",
        "result   test loss 0.2500, untrained 0.7000",
        "result   runs/a: 1 step in 2 s",
    ]


@pytest.mark.parametrize(("examples", "warned"), [(9, True), (10, False)])
def test_metrics_of_few_rows_are_called_unreliable(examples: int, warned: bool, capsys: pytest.CaptureFixture) -> None:
    assert ("warning  metrics of only 9 rows are unreliable" in logged(capsys, examples=examples)) == warned


def test_result_without_metrics_of_the_untrained_model(capsys: pytest.CaptureFixture) -> None:
    lines = logged(capsys, before={}, baselines=floor(0.5))
    assert lines[0] == "result   test accuracy 0.7500" and lines[2].endswith("majority: accuracy 0.5000 (beaten)")


@pytest.mark.parametrize(
    ("baselines", "line"),
    [
        (floor(0.5), "result   baseline majority: accuracy 0.5000 (beaten)"),
        (floor(0.75), f"warning  baseline majority: accuracy 0.7500 {NOTHING}"),
        (floor(0.8), f"warning  baseline majority: accuracy 0.8000 {NOTHING}"),
        (reference(0.5), "result   baseline tf-idf: accuracy 0.5000 (beaten)"),
        (reference(0.75), "result   baseline tf-idf: accuracy 0.7500 (not beaten)"),
        (reference(0.8), "result   baseline tf-idf: accuracy 0.8000 (not beaten)"),
    ],
)
def test_baseline_is_beaten_or_not_and_a_floor_must_be(baselines: dict, line: str, capsys: Any) -> None:
    assert logged(capsys, baselines=baselines)[2] == line


@pytest.mark.parametrize(("before", "warned"), [(0.7, False), (0.75, True), (0.9, True)])
def test_untrained_model_is_a_floor(before: float, warned: bool, capsys: pytest.CaptureFixture) -> None:
    lines = logged(capsys, before={"accuracy": before})
    assert (f"warning  baseline untrained: accuracy {before:.4f} {NOTHING}" in lines) == warned


@pytest.mark.parametrize(("value", "words"), [(0.3, "(beaten)"), (0.25, "(not beaten)"), (0.2, "(not beaten)")])
def test_lower_value_beats_where_lower_is_better(value: float, words: str, capsys: pytest.CaptureFixture) -> None:
    lines = logged(capsys, primary="loss", higher_is_better=False, baselines=reference(value))
    assert f"result   baseline tf-idf: loss {value:.4f} {words}" in lines
    assert lines[0].startswith("result   test loss")  # the first metric comes first
