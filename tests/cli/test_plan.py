"""`--plan`: the figures of a run before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM

from llmkit.cli.plan import plan
from llmkit.pipeline import prepare


def test_plan_gives_parameters_tokens_and_steps(causal_recipe: Callable, tiny_gpt2: Path) -> None:
    recipe = causal_recipe(packing=False, training={"num_train_epochs": 2, "per_device_train_batch_size": 4})
    lines = dict(line.split(maxsplit=1) for line in plan(recipe).splitlines())
    total = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_gpt2).parameters())
    train = prepare(recipe).features["train"]
    tokens, steps = sum(map(len, train["input_ids"])), -(-len(train) // 4)
    assert lines["parameters"] == f"{total:,}, of which {total:,} are trained"
    assert lines["data"] == f"{tokens:,} tokens in {len(train)} rows of at most 32"
    assert lines["steps"].startswith(f"{2 * steps} ({steps} per epoch), batch 4 × 1 accumulated × 1 process")
    assert lines["tokens"] == f"{2 * tokens:,} in the whole run"
    assert {"memory", "time"} <= lines.keys()


def test_plan_writes_no_run(causal_recipe: Callable) -> None:
    recipe = causal_recipe()
    plan(recipe)
    assert not Path(recipe.run.output).exists()


def test_plan_counts_the_parameters_of_an_adapter(causal_recipe: Callable, tiny_gpt2: Path) -> None:
    from llmkit import ModelConfig

    recipe = causal_recipe(model=ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 2}))
    (line,) = (line for line in plan(recipe).splitlines() if line.startswith("parameters"))
    total, trained = (int(n.replace(",", "")) for n in line.removesuffix(" are trained").split()[1::3])
    assert 0 < trained < total // 10
