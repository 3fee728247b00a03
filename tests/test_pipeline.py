"""A run from top to bottom: what `prepare` returns, adapters, the result, and `evaluate` on new data."""

from __future__ import annotations

import ast
import inspect
import json
import logging as py_logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import EXACT, REVIEWS
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase, TrainerCallback
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
from llmkit.errors import Stopped
from llmkit.tasks import TextClassification
from llmkit.training import callbacks

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
        "threads": torch.get_num_threads(), "warnings": [*warnings.filters], "path": [*sys.path],
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr), "grad": torch.is_grad_enabled(),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), np.get_printoptions()),
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
@pytest.mark.parametrize("error", [ValueError("from a callback"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_exception_in_a_callback_leaves_the_host_unchanged(causal_recipe: Make, error: BaseException) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            raise error

    before = host_state()
    with pytest.raises(type(error)):
        trainer = build_trainer(causal_recipe())
        trainer.add_callback(Failing())
        trainer.train()
    assert host_state() == before


@pytest.mark.usefixtures("verbose")
@pytest.mark.parametrize("signals", [1, 2])
def test_interrupted_run_leaves_the_host_unchanged(
    causal_recipe: Make, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(callbacks.LogFile, "on_step_end", interrupt)
    before = host_state()
    with pytest.raises(Stopped if signals == 1 else KeyboardInterrupt):
        run(causal_recipe(training={"max_steps": 5}))
    assert host_state() == before


@pytest.mark.usefixtures("verbose")
def test_refused_calls_leave_the_host_unchanged(causal_recipe: Make, tmp_path: Path) -> None:
    before = host_state()
    for work in (
        lambda: run(causal_recipe(training={"max_stepz": 1})), lambda: load(tmp_path / "missing"),
        lambda: pipeline.evaluate("tiny-gpt2", [{"txt": "a"}]), lambda: load("tiny-gpt2").generate("a", top_q=1),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            work()
        assert host_state() == before


@pytest.mark.usefixtures("verbose")
def test_built_trainer_leaves_the_host_unchanged_and_trains_as_a_run_does(causal_recipe: Make, tiny_gpt2: Path) -> None:
    model, before = ModelConfig(name=str(tiny_gpt2), config={"resid_pdrop": 0.3}), host_state()
    trainer = build_trainer(causal_recipe("built", model))
    assert host_state() == before
    torch.rand(7)  # the host draws numbers of its own before it trains
    before = host_state()
    trainer.train()
    assert host_state() == before
    losses, of_run = (
        [log["loss"] for log in t.state.log_history if "loss" in log]
        for t in (trainer, run(causal_recipe("run", model)).trainer)
    )
    assert losses == of_run and len(losses) > 1


@pytest.mark.usefixtures("verbose")
def test_cores_that_accelerate_would_share_are_given_back(causal_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = torch.get_num_threads(), []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 2 * (before + 1))
    monkeypatch.setattr(callbacks.LogFile, "on_step_end", lambda *_, **__: during.append(torch.get_num_threads()))
    run(causal_recipe(training={"max_steps": 1}))
    assert during == [before + 1] and torch.get_num_threads() == before


@pytest.mark.usefixtures("verbose")
def test_models_can_be_loaded_and_used_in_several_threads(tiny_gpt2: Path) -> None:
    """Transformers leaves torch patched, and every later model empty, if two threads load at once."""
    model, before = load(tiny_gpt2), host_state()
    expected = model.generate("Once", max_new_tokens=5)
    with ThreadPoolExecutor(4) as pool:
        loaded = pool.map(lambda _: load(tiny_gpt2).generate("Once", max_new_tokens=5), range(6))
        used = pool.map(lambda _: model.generate("Once", max_new_tokens=5), range(6))
        assert {*loaded, *used} == {expected}
    assert host_state() == before
    assert load(tiny_gpt2).generate("Once", max_new_tokens=5) == expected


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
