"""Models: pretrained, from scratch and with an adapter; config fields of the recipe; data types; limits."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Qwen3Config,
)
from transformers.utils import logging

from llmkit import ModelConfig, UsageError
from llmkit.models.load import architecture, check, fit_task, load_model, max_positions, quiet_transformers, read_config
from llmkit.models.tokenizers import load_tokenizer, train_tokenizer
from llmkit.pipeline import prepare
from llmkit.tasks import CausalLM, MaskedLM, SentenceEmbedding, Seq2Seq, TextClassification, TokenClassification

LM, MLM, CLS = CausalLM(), MaskedLM(), TextClassification(labels=("bad", "good", "so so"))
LORA = {"type": "lora", "r": 2, "target_modules": "all-linear"}


def load(name: Any, task: Any = LM, training: bool = True, tokenizer: Any = None, **fields: Any) -> Any:
    config = ModelConfig(name=name if isinstance(name, torch.nn.Module) else str(name), **fields)
    return load_model(config, task, tokenizer or load_tokenizer(str(name)), training)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if "lora" not in name}


def trainable(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def fault(*args: Any, **fields: Any) -> str:
    with pytest.raises(UsageError) as error:
        load(*args, **fields)
    (line,) = error.value.faults
    return line


@pytest.fixture(scope="module")
def in_bf16(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2, stored in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    return folder


# -- pretrained


def test_pretrained_weights_are_those_of_the_folder(tiny_gpt2: Path) -> None:
    model, stored = load(tiny_gpt2), load_file(tiny_gpt2 / "model.safetensors")
    assert type(model).__name__ == "GPT2LMHeadModel" and stored
    found = weights(model)
    assert all(torch.equal(found[name], value) for name, value in stored.items())
    assert trainable(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bert"])
def test_bundled_model_loads_without_new_weights(name: str, capsys: pytest.CaptureFixture) -> None:
    model = load(name, LM if name == "tiny-gpt2" else MLM)
    assert sum(p.numel() for p in model.parameters()) > 100_000 and "new weights" not in capsys.readouterr().err


def test_name_may_be_a_path(tiny_gpt2: Path) -> None:
    model = load_model(ModelConfig(name=tiny_gpt2), LM, load_tokenizer(str(tiny_gpt2)))
    assert torch.equal(model.transformer.wte.weight, load(tiny_gpt2).transformer.wte.weight)


def test_max_length_above_the_limit_of_a_path_is_an_error(tiny_gpt2: Path, causal_recipe: Any) -> None:
    with pytest.raises(UsageError, match=r"data\.max_length.*65"):
        prepare(causal_recipe(model=ModelConfig(name=tiny_gpt2), max_length=65))


def test_model_object_is_used_as_it_is(tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    assert load(model, tokenizer=load_tokenizer(str(tiny_gpt2))) is model


def test_new_head_has_the_labels_of_the_task_and_is_logged(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    model = load(tiny_bert, CLS)
    assert type(model).__name__ == "BertForSequenceClassification" and model.classifier.out_features == 3
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert model.config.label2id == {"bad": 0, "good": 1, "so so": 2}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "new weights, to be trained" in line]
    assert "classifier.bias, classifier.weight" in line and "encoder" not in line


def test_head_with_other_labels_is_replaced(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    load(tiny_bert, TextClassification(labels=("a", "b"))).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    capsys.readouterr()
    model = load(tmp_path, CLS)
    assert model.classifier.out_features == 3 and "classifier.weight" in capsys.readouterr().err


def test_classifier_has_the_pad_token_of_its_tokenizer(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, CLS).eval(), load_tokenizer(str(tiny_gpt2))
    assert model.config.pad_token_id == tokenizer.pad_token_id
    rows = {"text": ["A fox", "A crow held cheese"], "label": ["bad"] * 2}
    features = [{"input_ids": ids, "labels": 0} for ids in CLS.encode(rows, tokenizer, 32)["input_ids"]]
    together, alone = (CLS.collate(fs, tokenizer, "padded") for fs in (features, features[:1]))
    with torch.no_grad():
        assert torch.allclose(CLS.predict_step(model, together)[0], CLS.predict_step(model, alone)[0], atol=1e-5)


# -- the recipe's own config fields


@pytest.mark.parametrize("field", ["attn_pdrop", "resid_pdrop", "embd_pdrop"])
def test_dropout_of_a_pretrained_model_can_be_set(tiny_gpt2: Path, field: str) -> None:
    model, plain = load(tiny_gpt2, config={field: 0.3}), load(tiny_gpt2)
    assert getattr(model.config, field) == 0.3
    assert 0.3 in {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(model).items())


def test_dropout_can_be_set_by_its_common_name(tiny_bert: Path) -> None:
    model = load(tiny_bert, CLS, config={"hidden_dropout_prob": 0.4, "classifier_dropout": 0.2})
    assert model.dropout.p == 0.2 and model.bert.embeddings.dropout.p == 0.4


@pytest.mark.parametrize(
    "config", [{"n_layer": 3}, {"n_embd": 64}, {"n_positions": 128}, {"vocab_size": 999}, {"hidden_size": 64}]
)
def test_field_that_changes_pretrained_shapes_is_an_error(tiny_gpt2: Path, config: dict) -> None:
    line = fault(tiny_gpt2, config=config)
    assert next(iter(config)) in line and "--model.from_scratch" in line


def test_every_unknown_field_is_named(tiny_gpt2: Path) -> None:
    with pytest.raises(UsageError) as error:
        load(tiny_gpt2, config={"n_layers": 2, "drop": 0.1})
    assert ["n_layers" in error.value.faults[0], "drop" in error.value.faults[1]] == [True, True]
    assert "'n_layer'" in error.value.faults[0]


# -- from scratch


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_new_model_by_type(kind: str, tiny_gpt2: Path) -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {} if kind == "gpt2" else {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16}
    tokenizer = load_tokenizer(str(tiny_gpt2))
    model = load(kind, from_scratch=True, config=config, tokenizer=tokenizer)
    assert model.config.model_type == kind and model.dtype == torch.float32
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 2)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(tokenizer)
    assert {model.config.eos_token_id, model.config.pad_token_id} == {tokenizer.eos_token_id}
    ids = torch.arange(10)[None]
    assert model(input_ids=ids).logits.shape == (1, 10, len(tokenizer))


def test_new_model_by_folder_has_its_shapes(tiny_gpt2: Path) -> None:
    old, new = load(tiny_gpt2), load(tiny_gpt2, from_scratch=True)
    assert {n: v.shape for n, v in weights(new).items()} == {n: v.shape for n, v in weights(old).items()}
    assert not torch.equal(new.transformer.wte.weight, old.transformer.wte.weight)


def test_new_model_may_have_other_shapes(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, from_scratch=True, config={"n_layer": 1, "n_embd": 16, "n_positions": 128})
    assert (len(model.transformer.h), model.transformer.wpe.weight.shape) == (1, (128, 16))


def test_new_model_may_have_fewer_layers_than_its_config_lists(tiny_gpt2: Path, tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    Qwen3Config(intermediate_size=64, num_hidden_layers=3, vocab_size=320, **small).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tiny_gpt2))
    model = load(tmp_path, from_scratch=True, config={"num_hidden_layers": 2}, tokenizer=tokenizer)
    assert len(model.model.layers) == 2


def test_new_model_needs_no_weights(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_gpt2 / name).read_bytes())
    assert load(tmp_path, from_scratch=True).config.n_layer == 2
    assert str(tmp_path) in fault(tmp_path)  # pretrained does


def test_new_model_has_a_head(tiny_bert: Path) -> None:
    model = load(tiny_bert, CLS, from_scratch=True)
    assert model.classifier.out_features == 3 and model.config.id2label[2] == "so so"


def test_new_weights_depend_on_the_seed(tiny_gpt2: Path) -> None:
    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load(tiny_gpt2, from_scratch=True).transformer.wte.weight

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))


# -- vocabulary


def test_embeddings_are_resized_to_a_larger_tokenizer(tiny_gpt2: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer, size = load_tokenizer(str(tiny_gpt2)), load(tiny_gpt2).config.vocab_size
    tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    model = load(tiny_gpt2, tokenizer=tokenizer)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == size + 3
    assert model.get_output_embeddings().weight.shape[0] == size + 3
    assert torch.equal(model.transformer.wte.weight[:size], load(tiny_gpt2).transformer.wte.weight)
    assert f"embeddings resized from {size} to {size + 3}" in capsys.readouterr().err


def test_embeddings_are_not_resized_to_a_smaller_tokenizer(tiny_gpt2: Path) -> None:
    small = train_tokenizer("bpe", 300, iter(["a fox and a crow"]))
    assert load(tiny_gpt2, tokenizer=small).get_input_embeddings().num_embeddings > len(small)


# -- dtype


@pytest.mark.parametrize(
    "fields, training, expected",
    [
        ({}, True, torch.float32),
        ({}, False, torch.bfloat16),
        ({"dtype": "bfloat16"}, True, torch.bfloat16),
        ({"dtype": "float16"}, True, torch.float16),
        ({"dtype": "float32"}, False, torch.float32),
        ({"from_scratch": True}, True, torch.float32),
        ({"from_scratch": True, "dtype": "bfloat16"}, True, torch.bfloat16),
    ],
)
def test_dtype_of_weights(in_bf16: Path, fields: dict, training: bool, expected: Any) -> None:
    assert {p.dtype for p in load(in_bf16, training=training, **fields).parameters()} == {expected}


def test_weights_under_an_adapter_keep_their_dtype(in_bf16: Path) -> None:
    model = load(in_bf16, adapter=LORA)
    kinds = {("lora_" in name): p.dtype for name, p in model.named_parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}


def test_bf16_weights_are_exact_in_float32(in_bf16: Path) -> None:
    stored, model = load_file(in_bf16 / "model.safetensors"), load(in_bf16)
    assert all(torch.equal(weights(model)[name], value.float()) for name, value in stored.items())


# -- safetensors, and what a task can use


def test_pickled_weights_are_not_read(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_gpt2 / name).read_bytes())
    torch.save(load_file(tiny_gpt2 / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert "safetensors" in fault(tmp_path)


def test_saved_model_loads_with_transformers(tiny_bert: Path, tmp_path: Path) -> None:
    load(tiny_bert, CLS).save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.label2id["so so"] == 2


@pytest.mark.parametrize("task, folder", [(MLM, "tiny_gpt2"), (TextClassification(labels=("a", "b")), None)])
def test_model_that_does_not_support_the_task_is_named(
    task: Any, folder: str | None, tmp_path: Path, request: Any
) -> None:
    if folder is None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    path = request.getfixturevalue(folder) if folder else tmp_path
    (line,) = check(ModelConfig(name=str(path)), task)
    assert str(path) in line and task.name in line and task.auto_class in line


@pytest.mark.parametrize("limit, expected", [(10**30, 64), (16, 16)])
def test_max_positions_is_the_smaller_limit(tiny_gpt2: Path, limit: int, expected: int) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2))
    tokenizer.model_max_length = limit
    assert max_positions(read_config(str(tiny_gpt2)), tokenizer) == expected


@pytest.mark.parametrize("model_type, fewer", [("roberta", 2), ("bert", 0)])
def test_max_positions_is_the_longest_row_that_the_model_accepts(model_type: str, fewer: int) -> None:
    tokenizer = train_tokenizer("wordpiece", 50, iter(["a b"]), "bert")
    tokenizer.pad_token = "[UNK]"  # id 1, like the pad token of RoBERTa
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 20}
    config = ModelConfig(name=model_type, from_scratch=True, config=shape)
    limit = max_positions(architecture(config, MLM), tokenizer)
    assert limit == max_positions(architecture(config, MLM)) == 20 - fewer
    model = load_model(config, MLM, tokenizer)
    model(torch.full((1, limit), 3))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 3))


def test_max_positions_without_a_limit_is_none() -> None:
    config = ModelConfig(name="lstm", from_scratch=True)
    assert max_positions(architecture(config, LM)) is None


@pytest.mark.parametrize("fields, option", [
    ({"name": None}, "model.name"),
    ({"dtype": "float16"}, "model.dtype"),
    ({"tokenizer_size": 0}, "model.tokenizer_size"),
    ({"adapter": {"type": "prompt_tuning"}}, "model.adapter.type"),
    ({"config": {"n_layers": 2}}, "model.config.n_layers"),
    ({"vectors": "vectors.txt"}, "model.vectors"),
])  # fmt: skip
def test_invalid_option_is_a_fault_before_weights_are_read(tiny_gpt2: Path, fields: dict, option: str) -> None:
    (line,) = check(ModelConfig(**{"name": str(tiny_gpt2), **fields}), LM)
    assert line.startswith(f"{option}: ")


@pytest.mark.parametrize("tokens, faults", [(64, 0), (65, 1), ("65", 0)])
def test_generation_beyond_the_models_positions_is_a_fault(tokens: Any, faults: int) -> None:
    """A value that is not a number is a fault of the task."""
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    config = ModelConfig(name="marian", from_scratch=True, config=shape)
    lines = check(config, Seq2Seq(generation={"max_new_tokens": tokens}))
    fault = "task.generation.max_new_tokens: 65 is more than the model's 64 positions"
    assert lines == [fault] * faults


def test_unused_modules_are_frozen_and_not_logged_as_new(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    """The pooler is missing in a masked-LM checkpoint."""
    model = load(tiny_bert, SentenceEmbedding())
    frozen = {name for name, _ in model.named_parameters()} - trainable(model)
    assert frozen == {"pooler.dense.weight", "pooler.dense.bias"} and "new weights" not in capsys.readouterr().err


def test_task_is_adapted_to_a_pretrained_folder_only(tiny_bert: Path) -> None:
    class Recording(SentenceEmbedding):
        def with_checkpoint(self, folder: Path, config: Any) -> Any:
            seen.append((folder, config))
            return self

        def fit(self, rows: Any) -> Any:
            return self

    seen: list[Any] = []
    fit_task(ModelConfig(name=str(tiny_bert)), Recording(), {})
    assert seen == [(tiny_bert, None)]
    fit_task(ModelConfig(name=str(tiny_bert), from_scratch=True), Recording(), {})
    fit_task(ModelConfig(name=torch.nn.Linear(1, 1)), Recording(), {})
    assert len(seen) == 1


# -- a head that was trained before


MOODS = ["positive", "negative"]


@pytest.fixture(scope="module")
def moody(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose labels are not in alphabetical order."""
    return with_head(tiny_bert, tmp_path_factory.mktemp("moody"), MOODS)


def with_head(base: Path, folder: Path, labels: list[str]) -> Path:
    names = dict(enumerate(labels))
    options = {"id2label": names, "label2id": {n: i for i, n in names.items()}}
    AutoModelForSequenceClassification.from_pretrained(base, **options).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def labelled(labels: list[Any]) -> dict[str, Dataset]:
    return {"train": Dataset.from_list([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])}


def head(model: Any) -> torch.Tensor:
    return model.classifier.weight.detach()


def refit(name: Any, values: list[Any], capsys: Any, **options: Any) -> tuple[Any, Any, str]:
    """The fitted task, the model that is trained, and what was logged before it was loaded."""
    config = ModelConfig(name=name if isinstance(name, torch.nn.Module) else str(name))
    task = fit_task(config, TextClassification(**options), labelled(values))
    logged = capsys.readouterr().err
    tokenizer = (
        train_tokenizer("bpe", 300, iter(["a"]), "bert") if not isinstance(name, Path) else load_tokenizer(str(name))
    )
    return task, load_model(config, task, tokenizer), logged


@pytest.mark.parametrize("order", [["negative", "positive"], ["positive", "negative"]])
@pytest.mark.parametrize("options", [{}, {"labels": ("negative", "positive")}])
def test_head_for_the_same_labels_is_kept_and_they_are_in_its_order(
    moody: Path, order: list[str], options: dict, capsys: pytest.CaptureFixture
) -> None:
    task, model, logged = refit(moody, order, capsys, **options)
    assert list(task.labels) == MOODS == list(model.config.id2label.values())
    assert torch.equal(head(model), load_file(moody / "model.safetensors")["classifier.weight"])
    assert "labels in the order of the model's head, which is trained further: positive, negative" in logged


@pytest.mark.parametrize("labels", [["joy", "anger"], ["negative", "neutral", "positive"], [["positive"], ["x"]]])
def test_head_for_other_labels_is_named_and_replaced(moody: Path, labels: list, capsys: pytest.CaptureFixture) -> None:
    """Also one of the same size, which would fit; the body of the model is kept."""
    _, model, logged = refit(moody, labels, capsys)
    assert "the model's head was trained for positive, negative, the data has" in logged and "new head" in logged
    saved = load_file(moody / "model.safetensors")
    assert not torch.equal(head(model), saved["classifier.weight"]) and head(model).std() > 0
    assert torch.equal(model.bert.pooler.dense.weight, saved["bert.pooler.dense.weight"])


def test_head_for_more_labels_than_the_data_has_can_be_kept(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = with_head(tiny_bert, tmp_path, ["positive", "neutral", "negative"])
    _, _, logged = refit(folder, ["positive", "negative"], capsys)
    labels = json.loads(re.search("to keep it, set --task.labels '(.*)'", logged)[1])
    task, model, logged = refit(folder, ["positive", "negative"], capsys, labels=tuple(labels))
    assert list(task.labels) == ["positive", "neutral", "negative"] and "head" not in logged
    assert torch.equal(head(model), load_file(folder / "model.safetensors")["classifier.weight"])


def test_head_without_names_is_kept_and_that_is_said(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = with_head(tiny_bert, tmp_path, ["LABEL_0", "LABEL_1"])
    _, model, logged = refit(folder, ["b", "a"], capsys)
    assert "has no names for its labels; it is trained further as a, b" in logged
    assert torch.equal(head(model), load_file(folder / "model.safetensors")["classifier.weight"])
    assert "new head" in refit(folder, ["a", "b", "c"], capsys)[2]


def test_body_without_a_head_says_nothing_of_labels(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    task, _, logged = refit(tiny_bert, ["b", "a"], capsys)
    assert task.labels == ("a", "b") and "head" not in logged


def test_head_of_a_regression_is_not_used_for_labels(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = with_head(tiny_bert, tmp_path, ["score"])
    assert refit(folder, [0.5, 1.5], capsys)[2].count("head") == 0
    assert "trained for score, the data has a, b: it is replaced" in refit(folder, ["a", "b"], capsys)[2]


def test_labels_of_an_object_are_those_of_its_head(moody: Path, capsys: pytest.CaptureFixture) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(moody)
    task, _, _ = refit(model, ["negative", "positive"], capsys)
    assert list(task.labels) == MOODS
    with pytest.raises(
        UsageError, match="was trained for positive, negative, the data has a, b; give a model with a head"
    ):
        refit(model, ["a", "b"], capsys)


def test_new_head_over_a_model_with_another_is_trained_with_an_adapter(
    moody: Path, capsys: pytest.CaptureFixture
) -> None:
    task = TextClassification(labels=("a", "b"))
    names = {n for n in trainable(load(moody, task, adapter={"r": 2})) if "lora_" not in n}
    assert names == {f"base_model.model.classifier.modules_to_save.default.{p}" for p in ("weight", "bias")}


def test_tags_are_in_the_order_of_the_head(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ["O", "B-PER", "I-PER"]
    AutoModelForTokenClassification.from_pretrained(tiny_bert, id2label=dict(enumerate(names))).save_pretrained(
        tmp_path
    )
    rows = {"train": Dataset.from_list([{"tokens": ["a", "b", "c"], "tags": ["B-PER", "I-PER", "O"]}])}
    task = fit_task(ModelConfig(name=str(tmp_path)), TokenClassification(), rows)
    assert list(task.labels) == names and "labels in the order of the model's head" in capsys.readouterr().err


@pytest.mark.parametrize("fails", [True, False])
def test_quiet_transformers_restores_its_settings(fails: bool) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with contextlib.suppress(ZeroDivisionError), quiet_transformers():
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
        if fails:
            raise ZeroDivisionError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
