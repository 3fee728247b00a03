"""A recipe as YAML 1.2 and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.cli.options import apply, build_recipe
from llmkit.recipe import read_yaml, scalar, write_yaml
from llmkit.tasks import CausalLM, TextClassification

FULL = Recipe(
    task=TextClassification(labels=("0", "no", "差", "a: b"), label_smoothing=1e-5),
    model=ModelConfig(name="gpt2", from_scratch=True, config={"n_layer": 2}, tokenizer="bpe", adapter={"r": 8}),
    data=DataConfig(train=["a.jsonl", {"source": "b #1.jsonl", "weight": 0.5}], validation=0.2, packing=False),
    training={
        "learning_rate": 5e-05, "eval_strategy": "no", "lr_scheduler_kwargs": {"min_lr": 1e-6}, "bf16": True
    },
    run=RunConfig(output="runs/2024: 1", prompts=("从前", "no", "1e3"), patience=2, references=True),
)  # fmt: skip
SMALL = Recipe(
    task=CausalLM(),
    model=ModelConfig(name="tiny-gpt2", config={"attn_pdrop": 0.2}),
    data=DataConfig(train="fables", validation="fables[validation]", test="fables[test]", columns={"text": "body"}),
    training={"num_train_epochs": 6, "learning_rate": 1e-3},
    run=RunConfig(output="runs/base", prompts=("Once",)),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5E3", 5000.0), ("12", 12), ("0o17", 15), ("0x1F", 31), ("007", 7), ("true", True),
        ("null", None), ("~", None), ("", ""), ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"),
        ("none", "none"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("*.txt", "*.txt"),
        ("reviews[test]", "reviews[test]"), ("[a, 2]", ["a", 2]), ("{a: 1e-4}", {"a": 1e-4}), ("[torn", "[torn"),
        ("@odd", "@odd"),
    ],
)  # fmt: skip
def test_a_word_is_parsed_as_yaml_1_2(text: str, value: Any) -> None:
    assert scalar(text) == value and type(scalar(text)) is type(value)


@pytest.mark.parametrize("recipe", [SMALL, Recipe(task=CausalLM()), FULL], ids=["small", "bare", "full"])
def test_recipe_yaml_gives_the_same_recipe(recipe: Recipe, tmp_path: Path) -> None:
    write_yaml(recipe.to_dict(), tmp_path / "recipe.yaml")
    assert apply(None, read_yaml(tmp_path / "recipe.yaml")) == recipe
    assert build_recipe(None, ["--config", str(tmp_path / "recipe.yaml")])[0] == recipe


def test_recipe_yaml_holds_paths_as_text(tmp_path: Path) -> None:
    model, data = ModelConfig(name=Path("m"), tokenizer=Path("t")), DataConfig(train=Path("a.txt"), test=[Path("b")])
    write_yaml(Recipe(CausalLM(), model, data).to_dict(), tmp_path / "recipe.yaml")
    again = apply(None, read_yaml(tmp_path / "recipe.yaml"))
    assert (again.model.name, again.model.tokenizer, again.data.train, again.data.test) == ("m", "t", "a.txt", ["b"])


def test_recipe_yaml_describes_objects_that_it_cannot_hold() -> None:
    recipe = Recipe(CausalLM(), ModelConfig(name=object()), DataConfig(train=[{"text": "a"}, {"text": "b"}]))
    written = recipe.to_dict()
    assert "object" in written["model"]["name"] and "2 rows" in written["data"]["train"]
