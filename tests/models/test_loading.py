"""Models: pretrained, from scratch, under an adapter; what the recipe lays over the config; which weights are float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llmkit import ModelConfig, RecipeError
from llmkit.models import loading, tokenizers
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

LM, MLM, CLS = CausalLM(), MaskedLM(), TextClassification(labels=("bad", "good", "so so"))
LORA = {"type": "lora", "r": 2, "target_modules": "all-linear"}


def load(name: Any, task: Any = LM, training: bool = True, tokenizer: Any = None, **fields: Any) -> Any:
    config = ModelConfig(name=name if isinstance(name, torch.nn.Module) else str(name), **fields)
    return loading.load(config, task, tokenizer or tokenizers.load(str(name)), training)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if "lora" not in name}


def trained(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def fault(*args: Any, **fields: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*args, **fields)
    (only,) = caught.value.faults
    return only


@pytest.fixture(scope="module")
def in_bf16(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2, stored as bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    return folder


# -- pretrained


def test_pretrained_weights_are_the_folder_s(tiny_gpt2: Path) -> None:
    model, stored = load(tiny_gpt2), load_file(tiny_gpt2 / "model.safetensors")
    assert type(model).__name__ == "GPT2LMHeadModel" and stored
    found = weights(model)
    assert all(torch.equal(found[name], value) for name, value in stored.items())
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bert"])
def test_bundled_models_load(name: str, capsys: pytest.CaptureFixture) -> None:
    model = load(name, LM if name == "tiny-gpt2" else MLM)
    assert sum(p.numel() for p in model.parameters()) > 100_000 and "new weights" not in capsys.readouterr().err


def test_a_path_is_as_good_as_its_name(tiny_gpt2: Path) -> None:
    model = loading.load(ModelConfig(name=tiny_gpt2), LM, tokenizers.load(str(tiny_gpt2)))
    assert torch.equal(model.transformer.wte.weight, load(tiny_gpt2).transformer.wte.weight)


def test_a_path_is_held_to_its_positions(tiny_gpt2: Path, causal_recipe: Any) -> None:
    from llmkit.running import prepare

    with pytest.raises(RecipeError, match=r"data\.max_length.*65"):
        prepare(causal_recipe(model=ModelConfig(name=tiny_gpt2), max_length=65))


def test_a_model_object_is_taken_as_it_is(tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    assert load(model, tokenizer=tokenizers.load(str(tiny_gpt2))) is model


def test_a_new_head_has_the_task_s_labels_and_is_said(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    model = load(tiny_bert, CLS)
    assert type(model).__name__ == "BertForSequenceClassification" and model.classifier.out_features == 3
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert model.config.label2id == {"bad": 0, "good": 1, "so so": 2}
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "new weights, to be trained" in line]
    assert "classifier.bias, classifier.weight" in said and "encoder" not in said


def test_a_head_of_other_labels_is_made_anew(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    load(tiny_bert, TextClassification(labels=("a", "b"))).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    capsys.readouterr()
    model = load(tmp_path, CLS)
    assert model.classifier.out_features == 3 and "classifier.weight" in capsys.readouterr().err


def test_a_classifier_pads_as_its_tokenizer_does(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, CLS).eval(), tokenizers.load(str(tiny_gpt2))
    assert model.config.pad_token_id == tokenizer.pad_token_id
    features = [
        {"input_ids": ids, "label": 0}
        for ids in CLS.encode({"text": ["A fox", "A crow held cheese"], "label": ["bad"] * 2}, tokenizer, 32)[
            "input_ids"
        ]
    ]
    together, alone = (CLS.collate(fs, tokenizer, "padded") for fs in (features, features[:1]))
    with torch.no_grad():
        assert torch.allclose(CLS.predict_step(model, together)[0], CLS.predict_step(model, alone)[0], atol=1e-5)


# -- the recipe's own config fields


@pytest.mark.parametrize("field", ["attn_pdrop", "resid_pdrop", "embd_pdrop"])
def test_a_pretrained_model_takes_dropout(tiny_gpt2: Path, field: str) -> None:
    model, plain = load(tiny_gpt2, config={field: 0.3}), load(tiny_gpt2)
    assert getattr(model.config, field) == 0.3
    assert 0.3 in {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(model).items())


def test_dropout_by_the_library_s_common_name(tiny_bert: Path) -> None:
    model = load(tiny_bert, CLS, config={"hidden_dropout_prob": 0.4, "classifier_dropout": 0.2})
    assert model.dropout.p == 0.2 and model.bert.embeddings.dropout.p == 0.4


@pytest.mark.parametrize(
    "config", [{"n_layer": 3}, {"n_embd": 64}, {"n_positions": 128}, {"vocab_size": 999}, {"hidden_size": 64}]
)
def test_a_pretrained_model_keeps_its_shapes(tiny_gpt2: Path, config: dict) -> None:
    said = fault(tiny_gpt2, config=config)
    assert next(iter(config)) in said and "--model.from_scratch" in said


def test_every_unknown_field_is_named(tiny_gpt2: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tiny_gpt2, config={"n_layers": 2, "drop": 0.1})
    assert ["n_layers" in caught.value.faults[0], "drop" in caught.value.faults[1]] == [True, True]
    assert "'n_layer'" in caught.value.faults[0]


# -- from scratch


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_from_scratch_by_type(kind: str, tiny_gpt2: Path) -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {} if kind == "gpt2" else {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16}
    tokenizer = tokenizers.load(str(tiny_gpt2))
    model = load(kind, from_scratch=True, config=config, tokenizer=tokenizer)
    assert model.config.model_type == kind and model.dtype == torch.float32
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 2)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(tokenizer)
    assert {model.config.eos_token_id, model.config.pad_token_id} == {tokenizer.eos_token_id}
    ids = torch.arange(10)[None]
    assert model(input_ids=ids).logits.shape == (1, 10, len(tokenizer))


def test_from_scratch_by_folder(tiny_gpt2: Path) -> None:
    old, new = load(tiny_gpt2), load(tiny_gpt2, from_scratch=True)
    assert {n: v.shape for n, v in weights(new).items()} == {n: v.shape for n, v in weights(old).items()}
    assert not torch.equal(new.transformer.wte.weight, old.transformer.wte.weight)


def test_from_scratch_takes_other_shapes(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, from_scratch=True, config={"n_layer": 1, "n_embd": 16, "n_positions": 128})
    assert (len(model.transformer.h), model.transformer.wpe.weight.shape) == (1, (128, 16))


def test_from_scratch_takes_fewer_layers_of_a_folder_that_lists_them(tiny_gpt2: Path, tmp_path: Path) -> None:
    from transformers import Qwen3Config

    small = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
    }
    Qwen3Config(num_hidden_layers=3, vocab_size=320, **small).save_pretrained(tmp_path)
    model = load(
        tmp_path, from_scratch=True, config={"num_hidden_layers": 2}, tokenizer=tokenizers.load(str(tiny_gpt2))
    )
    assert len(model.model.layers) == 2


def test_from_scratch_needs_no_weights(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_gpt2 / name).read_bytes())
    assert load(tmp_path, from_scratch=True).config.n_layer == 2
    assert str(tmp_path) in fault(tmp_path)  # pretrained does


def test_from_scratch_with_a_head(tiny_bert: Path) -> None:
    model = load(tiny_bert, CLS, from_scratch=True)
    assert model.classifier.out_features == 3 and model.config.id2label[2] == "so so"


def test_new_weights_are_the_seed_s(tiny_gpt2: Path) -> None:
    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load(tiny_gpt2, from_scratch=True).transformer.wte.weight

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))


# -- vocabulary


def test_embeddings_grow_with_the_tokenizer(tiny_gpt2: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer, size = tokenizers.load(str(tiny_gpt2)), load(tiny_gpt2).config.vocab_size
    tokenizer.add_tokens(["<one>", "<two>", "<three>"])
    model = load(tiny_gpt2, tokenizer=tokenizer)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == size + 3
    assert model.get_output_embeddings().weight.shape[0] == size + 3
    assert torch.equal(model.transformer.wte.weight[:size], load(tiny_gpt2).transformer.wte.weight)
    assert f"from {size} to the tokenizer's {size + 3}" in capsys.readouterr().err


def test_spare_embeddings_are_left_alone(tiny_gpt2: Path) -> None:
    small = tokenizers.train("bpe", 300, iter(["a fox and a crow"]))
    assert load(tiny_gpt2, tokenizer=small).get_input_embeddings().num_embeddings > len(small)


# -- adapters


def test_an_adapter_trains_itself_alone(tiny_gpt2: Path) -> None:
    model = load(tiny_gpt2, adapter={"type": "lora", "r": 2, "lora_alpha": 8})
    assert trained(model) and all("lora_" in name for name in trained(model))
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type, config.fan_in_fan_out) == (2, 8, "CAUSAL_LM", True)
    assert model.config.model_type == "gpt2"


@pytest.mark.parametrize("folder, new", [("tiny_bert", {"classifier", "bert.pooler.dense"}), ("tiny_gpt2", {"score"})])
def test_under_an_adapter_what_is_new_trains_too(folder: str, new: set[str], request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(folder), CLS, adapter={"r": 2})
    others = {name for name in trained(model) if "lora_" not in name}
    assert {n.split(".modules_to_save")[0] for n in others} == {f"base_model.model.{n}" for n in new}
    assert len(others) < len(trained(model))


def test_an_adapter_at_the_start_changes_nothing(tiny_gpt2: Path) -> None:
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(load(tiny_gpt2, adapter=LORA)(input_ids=ids).logits, load(tiny_gpt2)(input_ids=ids).logits)


def test_an_adapter_s_folder_loads_with_its_base(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = load(tiny_gpt2, adapter=LORA)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(p)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    ids = torch.arange(10)[None]
    again = load(tmp_path, training=False).eval()
    with torch.no_grad():
        found, expected = again(input_ids=ids).logits, model.eval()(input_ids=ids).logits
        assert torch.allclose(found, expected) and not torch.allclose(found, load(tiny_gpt2)(input_ids=ids).logits)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 2


def test_for_inference_no_adapter_is_added(tiny_gpt2: Path) -> None:
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
def test_a_wrong_adapter_is_named(tiny_gpt2: Path, adapter: dict, needles: tuple[str, ...]) -> None:
    said = fault(tiny_gpt2, adapter=adapter)
    assert [n for n in needles if n not in said] == []


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
def test_weights_train_as_float32_unless_told_otherwise(
    in_bf16: Path, fields: dict, training: bool, expected: Any
) -> None:
    assert {p.dtype for p in load(in_bf16, training=training, **fields).parameters()} == {expected}


def test_under_an_adapter_weights_stay_as_they_are_stored(in_bf16: Path) -> None:
    model = load(in_bf16, adapter=LORA)
    kinds = {("lora_" in name): p.dtype for name, p in model.named_parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}


def test_float32_training_of_bf16_weights_loses_nothing(in_bf16: Path) -> None:
    stored, model = load_file(in_bf16 / "model.safetensors"), load(in_bf16)
    assert all(torch.equal(weights(model)[name], value.float()) for name, value in stored.items())


# -- safetensors, and what a task can use


def test_pickled_weights_are_not_read(tiny_gpt2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_gpt2 / name).read_bytes())
    torch.save(load_file(tiny_gpt2 / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert "safetensors" in fault(tmp_path)


def test_a_saved_model_is_a_plain_one(tiny_bert: Path, tmp_path: Path) -> None:
    load(tiny_bert, CLS).save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.label2id["so so"] == 2


@pytest.mark.parametrize("task, folder", [(MLM, "tiny_gpt2"), (TextClassification(labels=("a", "b")), None)])
def test_a_model_that_cannot_do_the_task_is_named(task: Any, folder: str | None, tmp_path: Path, request: Any) -> None:
    if folder is None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    path = request.getfixturevalue(folder) if folder else tmp_path
    (said,) = loading.check(ModelConfig(name=str(path)), task)
    assert str(path) in said and task.name in said and task.auto_class in said


@pytest.mark.parametrize("limit, expected", [(10**30, 64), (16, 16)])
def test_positions_are_the_smaller_limit(tiny_gpt2: Path, limit: int, expected: int) -> None:
    tokenizer = tokenizers.load(str(tiny_gpt2))
    tokenizer.model_max_length = limit
    assert loading.positions(loading.read_config(str(tiny_gpt2)), tokenizer) == expected


@pytest.mark.parametrize("architecture, fewer", [("roberta", 2), ("bert", 0)])
def test_the_longest_row_is_one_that_the_model_takes(architecture: str, fewer: int) -> None:
    tokenizer = tokenizers.train("wordpiece", 50, iter(["a b"]), "bert")
    tokenizer.pad_token = "[UNK]"  # of id 1, as RoBERTa's pad token is
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 20}
    config = ModelConfig(name=architecture, from_scratch=True, config=shape)
    limit = loading.positions(loading.architecture(config, MLM), tokenizer)
    assert limit == 20 - fewer
    model = loading.load(config, MLM, tokenizer)
    model(torch.full((1, limit), 3))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 3))
