"""Adapters: new ones, those of a folder, and the base model under them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXACT, PAIRS
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError
from llmkit.models.adapters import base_model_of, weights_sha256
from llmkit.models.load import check, load_model
from llmkit.models.tokenizers import load_tokenizer
from llmkit.tasks import CausalLM, MaskedLM, Preference, RewardModel, SentenceEmbedding, TextClassification

LM, CLS = CausalLM(), TextClassification(labels=("bad", "good", "so so"))
LORA = {"type": "lora", "r": 2, "target_modules": "all-linear"}


def load(name: Any, task: Any = LM, training: bool = True, **fields: Any) -> Any:
    return load_model(ModelConfig(name=str(name), **fields), task, load_tokenizer(str(name)), training)


def trainable(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 14)[None]).logits


def fault(work: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as error:
        work()
    (line,) = error.value.faults
    return line


def saved_adapter(base: Path, folder: Path, task: Any = LM, adapter: Any = LORA) -> Path:
    """A folder with an adapter, as plain PEFT saves it, that changes the output."""
    model = load(base, task, adapter=adapter)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    model.save_pretrained(folder)
    load_tokenizer(str(base)).save_pretrained(folder)
    return folder


def merge(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command that a message ends with, in `folder`."""
    monkeypatch.chdir(folder)
    code = re.search('give --model MERGED: python -c "(.*)"$', line)
    assert code is not None
    exec(code[1], {})


@pytest.fixture
def adapter(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return saved_adapter(tiny_gpt2, tmp_path / "adapter")


# -- new adapters


def test_only_the_adapter_is_trained(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, adapter={"type": "lora", "r": 2, "lora_alpha": 8})
    assert trainable(model) and all("lora_" in name for name in trainable(model))
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type, config.fan_in_fan_out) == (2, 8, "CAUSAL_LM", True)
    assert model.config.model_type == "gpt2"


@pytest.mark.parametrize("folder, new", [("tiny_bert", {"classifier", "bert.pooler.dense"}), ("tiny_gpt2", {"score"})])
def test_new_weights_are_trained_with_an_adapter(folder: str, new: set[str], request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(folder), CLS, adapter={"r": 2})
    others = {name for name in trainable(model) if "lora_" not in name}
    assert {n.split(".modules_to_save")[0] for n in others} == {f"base_model.model.{n}" for n in new}
    assert len(others) < len(trainable(model))


def test_new_adapter_does_not_change_the_output(tiny_gpt2: Path) -> None:
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(load(tiny_gpt2, adapter=LORA)(input_ids=ids).logits, load(tiny_gpt2)(input_ids=ids).logits)


def test_no_adapter_is_added_for_inference(tiny_gpt2: Path) -> None:
    assert not hasattr(load(tiny_gpt2, adapter=LORA, training=False), "peft_config")


@pytest.mark.parametrize(
    "adapter, needles",
    [
        ({"type": "lorra"}, ("model.adapter.type", "'lorra'", "'lora'")),
        ({"rank": 8}, ("model.adapter.rank", "LoraConfig")),
        ({"r": 0}, ("model.adapter", "0")),
        ({"target_modules": ["q_proj"]}, ("model.adapter", "q_proj")),
    ],
)
def test_invalid_adapter_is_named(tiny_gpt2: Path, adapter: dict, needles: tuple[str, ...]) -> None:
    line = fault(lambda: load(tiny_gpt2, adapter=adapter))
    assert [n for n in needles if n not in line] == []


def test_base_model_of_an_adapter_is_found_in_this_installation(tmp_path: Path) -> None:
    def base(name: str) -> str:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
        return base_model_of(tmp_path)

    assert base("/elsewhere/llmkit/bundled/tiny-gpt2") == "tiny-gpt2"
    assert base("openai/gpt2") == "openai/gpt2" and base(str(tmp_path)) == str(tmp_path)


# -- an adapter's folder


@pytest.mark.parametrize("training", [True, False])
def test_adapter_folder_gives_the_weights_that_plain_peft_gives(tiny_gpt2: Path, adapter: Path, training: bool) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    expected = logits(PeftModel.from_pretrained(base, adapter))
    model = load(adapter, training=training)
    assert torch.equal(logits(model), expected) and not torch.allclose(expected, logits(load(tiny_gpt2)))
    assert bool(trainable(model)) is training and all("lora_" in name for name in trainable(model))


@pytest.mark.parametrize("more", [{}, {"type": "lora"}, {"type": "lora", "r": 2}])
def test_adapter_of_a_folder_is_trained_further(
    adapter: Path, tiny_gpt2: Path, tmp_path: Path, more: dict, causal_recipe: Any, capsys: pytest.CaptureFixture
) -> None:
    """Also by plain Transformers: what is saved is one adapter, over the base model of the first."""
    model = ModelConfig(name=str(adapter), adapter=more)
    before = logits(load(adapter))
    result = llmkit.run(causal_recipe(model=model, training={"max_steps": 2, "learning_rate": 1e-2}))
    assert f"adapter lora of {adapter}, trained further" in capsys.readouterr().err
    for again in (llmkit.load(result.output).model, AutoModelForCausalLM.from_pretrained(result.output)):
        assert torch.allclose(logits(again), logits(result.model), atol=1e-5)
        assert not torch.allclose(logits(again), before, atol=1e-3)
    assert base_model_of(result.output) == str(tiny_gpt2)


def test_weights_under_a_continued_adapter_keep_their_dtype(tiny_gpt2: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path / "base")
    model = load(saved_adapter(tmp_path / "base", tmp_path / "adapter"))
    assert {("lora_" in name): p.dtype for name, p in model.named_parameters()} == {
        False: torch.bfloat16,
        True: torch.float32,
    }


@pytest.mark.parametrize(
    "fields, names",
    [
        ({"r": 8}, ("model.adapter.r: 8", "has 2")),
        ({"type": "ia3"}, ("model.adapter.type: 'ia3'", "has 'lora'")),
        ({"target_modules": ["c_proj"]}, ("model.adapter.target_modules: {'c_proj'}", "but the adapter in")),
    ],
)
def test_adapter_unlike_that_of_the_folder_is_refused_and_the_way_out_works(
    adapter: Path, fields: dict, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = check(ModelConfig(name=str(adapter), adapter=fields), LM)
    assert [n for n in names if n not in line] == [] and "leave it out to train that adapter further" in line
    merge(line, tmp_path, monkeypatch)
    assert torch.allclose(logits(load("MERGED")), logits(load(adapter)), atol=1e-4)
    assert check(ModelConfig(name="MERGED", adapter=fields), LM) == []


def test_adapter_that_could_not_be_loaded_again_is_refused(tiny_gpt2: Path, adapter: Path) -> None:
    (line,) = check(ModelConfig(name=str(tiny_gpt2), from_scratch=True, adapter=LORA), LM)
    assert "model.adapter: the random weights under it would not be saved" in line
    (line,) = check(ModelConfig(name=load(adapter), adapter=LORA), LM)
    assert "model.adapter: the model has an adapter already" in line


def test_another_head_is_trained_on_an_adapter_and_saved_with_it(
    adapter: Path, tiny_gpt2: Path, tmp_path: Path
) -> None:
    """A reward model that starts from an adapter tuned on conversations."""

    def hidden(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(input_ids=torch.arange(4, 14)[None], output_hidden_states=True).hidden_states[-1]

    model = load(adapter, RewardModel())
    assert torch.allclose(hidden(model), hidden(load(adapter)), atol=1e-5)
    assert {name for name in trainable(model) if "lora_" not in name} == {
        "base_model.model.score.modules_to_save.default.weight"
    }
    data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
    result = llmkit.run(
        Recipe(
            RewardModel(), ModelConfig(str(adapter)), data, {**EXACT, "max_steps": 2}, RunConfig(str(tmp_path / "run"))
        )
    )
    pair = {"prompt": PAIRS[0]["prompt"], "response": PAIRS[0]["chosen"]}
    (expected,) = RewardModel().predict(result.model.eval(), result.tokenizer, [pair], 64)
    assert llmkit.load(result.output).predict(pair)["reward"] == pytest.approx(expected["reward"], abs=1e-5)


@pytest.mark.parametrize("options", [LORA, {"r": 2}])
def test_adapter_with_weights_that_the_model_has_no_place_for_is_refused(
    tiny_bert: Path, tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT would only warn, and train a new one: without its head BERT's modules have other names."""
    folder = saved_adapter(tiny_bert, tmp_path / "adapter", MaskedLM(), options)
    line = fault(lambda: load(folder, SentenceEmbedding()))
    assert f"model '{folder}': does not fit" in line and "sentence-embedding" in line
    merge(line, tmp_path, monkeypatch)
    load("MERGED", SentenceEmbedding())


def test_tokenizer_cannot_grow_over_a_continued_adapter(adapter: Path) -> None:
    tokenizer = load_tokenizer(str(adapter))
    tokenizer.add_tokens(["<one>"])
    line = fault(lambda: load_model(ModelConfig(name=str(adapter)), LM, tokenizer))
    assert "an adapter cannot add embeddings" in line


def test_reference_of_preferences_is_the_adapters_model(adapter: Path, tmp_path: Path) -> None:
    """Not its base model: the untrained policy equals the reference, in the run and in a later evaluation."""
    data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
    model = ModelConfig(str(adapter), adapter={"type": "lora"})
    settings = {**EXACT, "eval_strategy": "epoch", "max_steps": 3, "learning_rate": 1e-2}
    result = llmkit.run(Recipe(Preference(), model, data, settings, RunConfig(str(tmp_path / "run"))))
    before, after = result.metrics["before"], result.metrics["after"]
    assert before["margin"] == pytest.approx(0, abs=1e-5) and before["kl"] == pytest.approx(0, abs=1e-6)
    assert after["kl"] > 1e-4
    assert llmkit.evaluate(str(result.output), PAIRS[::3])["metrics"] == pytest.approx(after, rel=1e-4)


# -- the base model


def copied(base: Path, folder: Path) -> Path:
    return shutil.copytree(base, folder)


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: w + 1 for name, w in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def run_over_base(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causal_recipe: Any) -> Path:
    """A run with an adapter over `here/base`, which was given by a relative path."""
    (tmp_path / "here").mkdir()
    copied(tiny_gpt2, tmp_path / "here/base")
    monkeypatch.chdir(tmp_path / "here")
    training = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    return llmkit.run(causal_recipe(model=ModelConfig(name="base", adapter=LORA), training=training)).output


def test_base_is_saved_by_absolute_path_with_the_hash_of_its_weights(
    run_over_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "here/base"
    for folder in (run_over_base, run_over_base / "checkpoint-1"):
        assert base_model_of(folder) == str(base)
        sha256 = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
        assert json.loads((folder / "base_model.json").read_text()) == {"sha256": sha256}
    expected = logits(llmkit.load(run_over_base).model)
    (tmp_path / "there").mkdir()
    change_weights(copied(base, tmp_path / "there/base"))
    monkeypatch.chdir(tmp_path / "there")  # where another model has that name
    assert torch.equal(logits(llmkit.load(run_over_base).model), expected)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(run_over_base)), expected, atol=1e-6)


def test_base_with_other_weights_is_refused_and_the_ways_out_work(run_over_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "here/base", tmp_path / "original")
    expected = logits(llmkit.load(run_over_base).model)
    was = weights_sha256(tmp_path / "here/base")
    change_weights(tmp_path / "here/base")
    config, record = run_over_base / "adapter_config.json", run_over_base / "base_model.json"
    line = fault(lambda: llmkit.load(run_over_base))
    assert [
        n for n in (was[:12], weights_sha256(tmp_path / "here/base")[:12], str(config), str(record)) if n not in line
    ] == []
    assert check(ModelConfig(name=str(run_over_base)), LM) == [line]  # before data is read
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "base_model_name_or_path": str(tmp_path / "original")}))
    assert torch.equal(logits(llmkit.load(run_over_base).model), expected)
    config.write_text(json.dumps(fields))
    record.unlink()
    assert not torch.allclose(logits(llmkit.load(run_over_base).model), expected)


def test_base_that_moved_is_named_with_the_file_to_change(run_over_base: Path, tmp_path: Path) -> None:
    expected = logits(llmkit.load(run_over_base).model)
    (tmp_path / "here/base").rename(tmp_path / "moved")
    line = fault(lambda: llmkit.load(run_over_base))
    config = run_over_base / "adapter_config.json"
    assert str(tmp_path / "here/base") in line and f"write its path into base_model_name_or_path in {config}" in line
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "moved")})
    )
    assert torch.equal(logits(llmkit.load(run_over_base).model), expected)


def test_adapter_of_plain_peft_has_no_hash_and_loads(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_gpt2), LoraConfig(task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    assert torch.equal(logits(llmkit.load(tmp_path).model), logits(model))


@pytest.mark.parametrize("content, reason", [("{", "cannot be read"), ("{}", "names no base model")])
def test_adapter_without_a_base_is_refused(adapter: Path, content: str, reason: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    assert reason in fault(lambda: llmkit.load(adapter))


def test_weights_in_several_files_have_one_hash(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first ")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"first second").hexdigest()
    (tmp_path / "b.safetensors").write_bytes(b"other ")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"first other ").hexdigest()


def test_object_without_a_folder_is_said_to_be_an_unnamed_base(tiny_gpt2: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer, model = load_tokenizer(str(tiny_gpt2)), AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    load_model(ModelConfig(name=model, adapter=LORA), LM, tokenizer)
    assert "warning" not in capsys.readouterr().err
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1))
    load_model(ModelConfig(name=model, adapter=LORA), LM, tokenizer)
    assert "will not say what its base model is" in capsys.readouterr().err


def test_head_of_an_adapter_is_kept_for_its_labels_and_refused_for_others(
    tiny_bert: Path, review_recipe: Any, capsys: pytest.CaptureFixture
) -> None:
    first = review_recipe("first", model=ModelConfig(name=str(tiny_bert), adapter={"r": 2}), training={"max_steps": 4})
    task = TextClassification(labels=("positive", "negative"))  # not in alphabetical order
    run = llmkit.run(replace(first, task=task))
    again = llmkit.build_trainer(review_recipe("again", model=ModelConfig(name=str(run.output))))
    assert again.task.labels == ("positive", "negative")
    assert again.task.score(again.stats("validation")) == pytest.approx(run.metrics["after"], rel=1e-4)
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    other = review_recipe("other", model=ModelConfig(name=str(run.output)), train=rows, validation=rows[::3])
    assert "was trained for positive, negative, the data has a, b" in (
        line := fault(lambda: llmkit.build_trainer(other))
    )
    assert "merge it first" in line
