"""Streams: passes over the sources that depend on (seed, pass) alone, cut into micro-batches; and runs that read them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, TEXTS

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.data import bundled, stream
from llmkit.data.stream import Stream, sample
from llmkit.models.tokenizers import load_tokenizer
from llmkit.tasks import CausalLM, TextClassification

COUNT = 23


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Two files of rows that are told apart by their first tokens, in chunks of 5 rows."""
    monkeypatch.setattr(stream, "CHUNK", 5)
    for name, numbers in (("a", range(13)), ("b", range(13, COUNT))):
        lines = [json.dumps({"text": f"{i} row"}) for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return DataConfig(train=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    return load_tokenizer(str(tiny_gpt2))


def make(config: DataConfig, tokenizer: Any, packed: bool = False) -> Stream:
    return Stream(CausalLM(), config, tokenizer, 32, packed)


def take(features: Any, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(features, count))


def texts(features: list[dict[str, Any]], tokenizer: Any) -> list[str]:
    return [tokenizer.decode(f["input_ids"], skip_special_tokens=True) for f in features]


def test_each_pass_yields_every_row_once_in_another_order(config: DataConfig, tokenizer: Any) -> None:
    features = take(make(config, tokenizer).features(), 2 * COUNT)
    first, second = texts(features[:COUNT], tokenizer), texts(features[COUNT:], tokenizer)
    assert sorted(first) == sorted(second) == sorted(f"{i} row" for i in range(COUNT)) and first != second
    assert [f["epoch"] for f in features] == [0] * COUNT + [1] * COUNT
    assert [f["row"] for f in features] == list(range(2 * COUNT))


def test_stream_is_reproducible_and_depends_on_the_seed(config: DataConfig, tokenizer: Any) -> None:
    first, again = (take(make(config, tokenizer).features(), 2 * COUNT) for _ in range(2))
    other = DataConfig(train=config.train, seed=1)
    assert first == again != take(make(other, tokenizer).features(), 2 * COUNT)


@pytest.mark.parametrize("size, processes", [(4, 2), (2, 4), (1, 8), (8, 1)])
def test_global_batches_are_equal_for_every_size(config: DataConfig, tokenizer: Any, size: int, processes: int) -> None:
    whole = take(make(config, tokenizer).features(), 32)
    ranks = [take(make(config, tokenizer).batches(size, rank, processes), 32 // 8) for rank in range(processes)]
    assert [f for micro in zip(*ranks, strict=True) for batch in micro for f in batch] == whole


def test_packed_stream_keeps_every_token(config: DataConfig, tokenizer: Any) -> None:
    features = list(itertools.takewhile(lambda f: f["epoch"] == 0, make(config, tokenizer, packed=True).features()))
    plain = take(make(config, tokenizer).features(), COUNT)
    assert len(features) < COUNT and all(sum(f["segments"]) == len(f["input_ids"]) <= 32 for f in features)
    assert sorted(t for f in features for t in f["input_ids"]) == sorted(t for f in plain for t in f["input_ids"])


def test_sample_holds_the_first_rows(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SAMPLE", 10)
    assert sample(CausalLM(), config)["text"][:] == [f"{i} row" for i in range(10)]


def test_weighted_source_is_an_error(config: DataConfig) -> None:
    weighted = DataConfig(train=[{"source": config.train[0], "weight": 2}])
    with pytest.raises(UsageError, match=r"a\.jsonl has a weight.*list it twice"):
        sample(CausalLM(), weighted)


def test_invalid_rows_raise_or_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n{"text": ""}\n{"text": "two"}\n')
    with pytest.raises(UsageError, match="line 2"):
        sample(CausalLM(), DataConfig(train=str(file)))
    assert sample(CausalLM(), DataConfig(train=str(file), on_error="skip"))["text"][:] == ["one", "two"]


def test_columns_that_are_not_read_are_logged_once(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 5)
    monkeypatch.setattr(stream, "SAMPLE", 10)
    rows = [{"text": f"{i} row", "mood": 1, **({"late": 1} if i > 12 else {})} for i in range(20)]
    config = DataConfig(train=rows)
    sample(CausalLM(), config)
    assert capsys.readouterr().err == "warning  train: columns not read: mood (10 rows)\n"
    take(make(config, tokenizer).features(), 60)
    assert capsys.readouterr().err == "warning  train: columns not read: late (2 rows)\n"


def test_stream_reads_late_columns_weights_and_refuses_unlike_rows(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": turns}] * 150 + [{"messages": [*turns, turns[0], {**turns[1], "weight": 0}], "system": "s"}]
    task = CausalLM(chat=True)
    task.configure(tokenizer)
    assert sample(task, DataConfig(train=rows))["weights"][-1] == [0, 0, 1, 0, 0]
    features = take(Stream(task, DataConfig(train=rows), tokenizer, 64, False).features(), 151)
    longest = max(features, key=lambda f: len(f["input_ids"]))
    assert "System: s" in tokenizer.decode(longest["input_ids"])
    assert sum(longest["loss_mask"]) == sum(features[0]["loss_mask"])
    pairs = [{"text": "a", "label": "x"}] * 150 + [{"text": "a", "text_pair": "b", "label": "y"}]
    with pytest.raises(UsageError, match="row 151: has 'text_pair', unlike the rows before"):
        sample(TextClassification(), DataConfig(train=pairs))


def test_rows_that_are_cut_while_streaming_are_logged_once(tokenizer: Any, capsys: pytest.CaptureFixture) -> None:
    talk = [{"role": "user", "content": "q " * 200}, {"role": "assistant", "content": "a"}]
    task = CausalLM(chat=True)
    task.configure(tokenizer)
    rows = [{"messages": talk}, {"messages": [{"role": "user", "content": "q"}, talk[1]]}]
    take(Stream(task, DataConfig(train=rows), tokenizer, 48, False).features(), 3)
    err = capsys.readouterr().err
    assert err.count("warning") == 1 and "1 of 2 rows dropped: no tokens to train on within 48 tokens" in err


# -- runs


@pytest.fixture
def recipe(tiny_gpt2: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Returns a function that makes a recipe that streams TEXTS, each with a number."""
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(f"{text} {i}" for i, text in enumerate(TEXTS)), encoding="utf-8")

    def make(output: str, packing: bool, resume: bool = False, **training: Any) -> Recipe:
        options = {"validation": [{"text": TEXTS[0]}], "max_length": 64, "packing": packing}
        data = DataConfig(train=str(rows), document="line", streaming=True, **options)
        run = RunConfig(str(tmp_path / output), resume=resume)
        return Recipe(CausalLM(), ModelConfig(name=str(tiny_gpt2)), data, {**EXACT, **training}, run)

    return make


def test_streamed_run_has_equal_losses_for_every_batch_size(recipe: Callable[..., Recipe]) -> None:
    losses = []
    for batch, accumulation in ((8, 1), (4, 2)):
        size = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        result = run(recipe(f"by-{batch}", packing=False, max_steps=6, **size))
        losses.append([log["loss"] for log in result.trainer.state.log_history if "loss" in log])
        assert result.metrics["tokens"] > 0 and result.metrics["baselines"] == {}
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_resumed_streamed_run_equals_an_uninterrupted_one(
    packing: bool, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    settings = {"per_device_train_batch_size": 2, "max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    whole = run(recipe("whole", packing, **settings))
    unfinished = shutil.ignore_patterns("checkpoint-8", "metrics.json")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts", ignore=unfinished)
    resumed = run(recipe("parts", packing, resume=True, **settings))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_streamed_run_uses_the_other_parts_of_its_source(tiny_bert: Path, tmp_path: Path) -> None:
    data = DataConfig(train="reviews", streaming=True, max_length=32)
    settings = {**EXACT, "max_steps": 1, "per_device_eval_batch_size": 64}
    task, model = TextClassification(), ModelConfig(name=str(tiny_bert))
    rows = build_trainer(Recipe(task, model, data, settings, RunConfig(str(tmp_path / "run")))).rows
    expected = {part: len(bundled.read_rows("reviews", part)) for part in ("validation", "test")}
    assert {part: len(dataset) for part, dataset in rows.items() if part != "train"} == expected


def test_streamed_rows_are_read_in_the_encoding_of_the_file(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "le café"}\n'.encode("cp1252") * 3)
    config = DataConfig(train=str(tmp_path / "a.jsonl"), streaming=True)
    with pytest.raises(UsageError, match=r"a\.jsonl: byte 16 is not UTF-8 .*--data.encoding cp1252"):
        sample(CausalLM(), config)
    assert sample(CausalLM(), replace(config, encoding="cp1252"))["text"][:] == ["le café"] * 3
    rows = itertools.islice(make(replace(config, encoding="cp1252"), tokenizer).features(), 6)
    assert {tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in rows} == {"le café"}
