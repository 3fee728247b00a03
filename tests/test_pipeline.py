"""A run from top to bottom: what `prepare` returns, adapters, the result, and `evaluate` on new data."""

from __future__ import annotations

import ast
import inspect
import json
import logging as py_logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import EXACT, REVIEWS
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase
from transformers.utils import logging

from llmkit import (
    DataConfig,
    ModelConfig,
    Recipe,
    Result,
    RunConfig,
    RunFailed,
    UsageError,
    build_trainer,
    load,
    pipeline,
    run,
)
from llmkit.tasks import TextClassification

Make = Callable[..., Recipe]


def test_tests_use_a_cache_of_their_own() -> None:
    assert not Path(os.environ["LLMKIT_CACHE"]).is_relative_to(Path.home() / ".cache")


# -- run


def test_run_names_its_steps_on_one_screen() -> None:
    source = inspect.getsource(pipeline.run)
    assert len(source.splitlines()) <= 40
    calls = sorted((n.lineno, ast.unparse(n.func)) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call))
    steps = ["prepare", "build", "trainer.train", "finish.evaluate", "finish.save"]
    assert [name for _, name in calls if name in steps] == steps


def test_result_holds_the_metrics_and_the_trained_objects(review_recipe: Make) -> None:
    recipe = review_recipe(training={"max_steps": 1})
    result = run(recipe)
    assert result.metrics == json.loads((result.output / "metrics.json").read_text(encoding="utf-8"))
    assert result.output == Path(recipe.run.output)
    assert isinstance(result.model, BertForSequenceClassification) and result.model is result.trainer.model
    assert isinstance(result.tokenizer, PreTrainedTokenizerBase) and result.trainer.state.global_step == 1


def test_result_of_a_finished_run_holds_its_metrics_alone(review_recipe: Make) -> None:
    first = run(review_recipe(training={"max_steps": 1}))
    resumed = run(review_recipe(training={"max_steps": 1}, run={"resume": True}))
    assert resumed == Result(first.metrics, first.output, None, None, None)


def host_state() -> dict[str, Any]:
    """What a library must not change for the program that calls it."""
    return {
        "environment": dict(os.environ), "folder": Path.cwd(), "Python": random.getstate(),
        "NumPy": str(np.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "verbosity": (logging.get_verbosity(), datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()),
        "levels": [py_logging.getLogger(name).level for name in ("", "transformers", "datasets", "accelerate")],
    }  # fmt: skip


@pytest.fixture
def verbose() -> Iterator[None]:
    """Libraries as verbose as they are by default; a test of the command line may have quieted them."""
    before = logging.get_verbosity(), datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logging.set_verbosity_warning()
    datasets.logging.set_verbosity_warning()
    datasets.enable_progress_bars()
    yield
    logging.set_verbosity(before[0])
    datasets.logging.set_verbosity(before[1])
    (datasets.disable_progress_bars if before[2] else datasets.enable_progress_bars)()


@pytest.mark.usefixtures("verbose")
def test_run_load_and_evaluate_leave_the_host_unchanged(review_recipe: Make) -> None:
    before = host_state()
    folder = run(review_recipe(training={"max_steps": 1, "eval_strategy": "epoch"})).output
    assert host_state() == before
    load(folder).predict(["a fine film"])
    assert host_state() == before
    pipeline.evaluate(str(folder), REVIEWS)
    assert host_state() == before


@pytest.mark.usefixtures("verbose")
def test_failed_run_leaves_the_host_unchanged(causal_recipe: Make) -> None:
    before = host_state()
    with pytest.raises(RunFailed):
        run(causal_recipe(training={"learning_rate": 1e38, "num_train_epochs": 5, "max_grad_norm": 0}))
    assert host_state() == before


@pytest.mark.usefixtures("verbose")
def test_trainer_leaves_the_verbosity_unchanged(causal_recipe: Make) -> None:
    before = host_state()["verbosity"]
    build_trainer(causal_recipe()).train()
    assert host_state()["verbosity"] == before


# -- prepare and build


def test_prepared_run_has_a_fitted_task_and_no_weights(review_recipe: Make, tiny_bert: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((tiny_bert / name).read_text())
    prepared = pipeline.prepare(review_recipe(model=ModelConfig(name=str(tmp_path)), max_length=None))
    assert prepared.recipe.task.labels == ("negative", "positive")
    assert (prepared.max_length, prepared.packed) == (64, False)
    assert {part: len(rows) for part, rows in prepared.features.items()} == {"train": 32, "validation": 11}
    assert {part: len(rows) for part, rows in prepared.loaded.rows.items()} == {"train": 32, "validation": 11}
    assert prepared.args.metric_for_best_model == "accuracy"
    with pytest.raises(UsageError, match="safetensors"):
        pipeline.build(prepared)


def test_second_run_reads_features_from_the_cache(causal_recipe: Make, capfd: pytest.CaptureFixture) -> None:
    build_trainer(causal_recipe(max_length=31))
    assert "(cached)" not in capfd.readouterr().err
    build_trainer(causal_recipe(max_length=31))
    assert capfd.readouterr().err.count("(cached)") == 2


def test_new_weights_depend_on_the_seed_alone(causal_recipe: Make) -> None:
    config = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    model = ModelConfig("gpt2", from_scratch=True, config=config, tokenizer="bpe", tokenizer_size=300)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        torch.rand(seed + 7)  # another global random state
        return build_trainer(causal_recipe(model=model, training={"seed": seed})).model.transformer.wpe.weight

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


def test_model_that_cannot_separate_packed_documents_is_trained_without_packing(
    causal_recipe: Make, capfd: pytest.CaptureFixture
) -> None:
    model = ModelConfig("lstm", from_scratch=True, config={"hidden_size": 16}, tokenizer="bpe", tokenizer_size=300)
    trainer = build_trainer(causal_recipe(model=model))
    line = "packing is off: LSTMForCausalLM lets packed documents see each other (verified on this model)"
    assert line in capfd.readouterr().err
    assert trainer.layout == "padded" and "segments" not in trainer.train_dataset.column_names


# -- adapters


def test_adapter_run_loads_like_any_other(causal_recipe: Make, tiny_gpt2: Path) -> None:
    adapter = {"type": "lora", "r": 2, "target_modules": "all-linear"}
    result = run(causal_recipe(model=ModelConfig(name=str(tiny_gpt2), adapter=adapter), training={"max_steps": 3}))
    names = {p.name for p in result.output.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names
    loaded, ids = load(str(result.output)), torch.tensor([[5, 6, 7]])
    assert torch.allclose(loaded.model(ids).logits, result.model.eval()(ids).logits, atol=1e-5)
    assert isinstance(loaded.generate("从前", max_new_tokens=2), str)


def test_adapter_run_keeps_its_classification_head(review_recipe: Make, tiny_bert: Path) -> None:
    model = ModelConfig(name=str(tiny_bert), adapter={"type": "lora", "r": 2})
    result = run(review_recipe(model=model, training={"max_steps": 4, "learning_rate": 1e-2}))
    loaded = load(str(result.output))
    ids = loaded.tokenizer("太好看了，推荐", return_tensors="pt")
    assert torch.allclose(loaded.model(**ids).logits, result.model.eval()(**ids).logits, atol=1e-5)


# -- evaluate


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run whose rows are cut to 16 tokens."""
    output = tmp_path_factory.mktemp("evaluate") / "run"
    data = DataConfig(train=REVIEWS, validation=REVIEWS[::3], max_length=16)
    settings = {**EXACT, "max_steps": 4, "learning_rate": 1e-2}
    return run(Recipe(TextClassification(), ModelConfig(name=str(tiny_bert)), data, settings, RunConfig(str(output))))


def test_evaluate_gives_the_metrics_of_the_run(classifier: Result) -> None:
    evaluated = pipeline.evaluate(str(classifier.output), REVIEWS[::3])
    assert evaluated["metrics"] == pytest.approx(classifier.metrics["after"], rel=1e-5)
    assert (evaluated["task"], evaluated["examples"]) == ("text-classification", len(REVIEWS[::3]))
    assert evaluated["details"] == classifier.metrics["details"]


def test_evaluate_gives_an_interval_around_each_metric(classifier: Result) -> None:
    evaluated = pipeline.evaluate(str(classifier.output), "reviews[test]", batch_size=32)
    assert evaluated["examples"] == 220 and evaluated["intervals"].keys() == evaluated["metrics"].keys()
    for name, value in evaluated["metrics"].items():
        low, high = evaluated["intervals"][name]
        assert low <= value <= high and low < high


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluate_does_not_depend_on_the_batch_size(classifier: Result, batch_size: int) -> None:
    expected, other = (pipeline.evaluate(str(classifier.output), REVIEWS, batch_size=n) for n in (16, batch_size))
    assert other["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)


def test_evaluate_cuts_rows_at_the_length_of_the_run_unless_told_otherwise(
    classifier: Result, capfd: pytest.CaptureFixture
) -> None:
    def loss_and_warnings(**options: Any) -> tuple[float, list[str]]:
        loss = pipeline.evaluate(str(classifier.output), REVIEWS, **options)["metrics"]["loss"]
        return loss, [line for line in capfd.readouterr().err.splitlines() if " cut to " in line]

    loss, (warning,) = loss_and_warnings()
    assert "rows cut to 16 tokens" in warning
    assert loss_and_warnings(max_length=16)[0] == loss
    longer, warnings = loss_and_warnings(max_length=64)
    assert longer != loss and warnings == []


def test_evaluate_reads_other_columns_and_skips_invalid_rows(classifier: Result) -> None:
    rows = [{"body": row["text"], "label": row["label"]} for row in REVIEWS]
    folder, columns = str(classifier.output), {"text": "body"}
    expected = pipeline.evaluate(folder, REVIEWS)
    assert pipeline.evaluate(folder, rows, columns)["metrics"] == expected["metrics"]
    with pytest.raises(UsageError, match="1 invalid row"):
        pipeline.evaluate(folder, [*rows, {"body": "", "label": "positive"}], columns)
    skipped = pipeline.evaluate(folder, [*rows, {"body": "", "label": "positive"}], columns, on_error="skip")
    assert skipped == expected


def test_evaluate_reads_a_table_without_a_header(classifier: Result, tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("".join(f"{row['text']}\t{row['label']}\n" for row in REVIEWS), encoding="utf-8")
    table = pipeline.evaluate(str(classifier.output), str(file), names=("text,label",))
    assert table == pipeline.evaluate(str(classifier.output), REVIEWS)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([{"text": "so so", "label": "meh"}] * 4, {}, "meh"),
        ([{"text": "so so"}] * 4, {}, "no column for 'label'"),
        (REVIEWS, {"max_length": 65}, "--max-length 65: expected 2 to 64"),
        (REVIEWS, {"max_length": 1}, "--max-length 1: expected 2 to 64"),
    ],
)
def test_evaluate_refuses_what_the_model_cannot_use(
    data: Any, options: dict[str, Any], message: str, classifier: Result
) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline.evaluate(str(classifier.output), data, **options)


def test_evaluate_checks_the_data_before_it_loads_the_model(classifier: Result, tmp_path: Path) -> None:
    for name in ("recipe.yaml", "config.json"):
        (tmp_path / name).write_text((classifier.output / name).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match="meh"):
        pipeline.evaluate(str(tmp_path), [{"text": "so so", "label": "meh"}])


def test_evaluate_leaves_no_file_behind(classifier: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in classifier.output.rglob("*"))
    pipeline.evaluate(str(classifier.output), REVIEWS)
    assert sorted(path.name for path in classifier.output.rglob("*")) == before and [*tmp_path.iterdir()] == []
