"""The model card: data with hashes, metrics, and a snippet that was run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkit import ModelConfig, Result, run
from llmkit.log import format_number
from llmkit.training import card, snippets


@pytest.fixture
def made(causal_recipe: Callable[..., Any]) -> Callable[..., tuple[Result, str]]:
    """Returns a function that makes a short run and returns it with its card."""

    def make(**changes: Any) -> tuple[Result, str]:
        result = run(causal_recipe(**{"training": {"max_steps": 2}, **changes}))
        return result, (result.output / "README.md").read_text(encoding="utf-8")

    return make


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}")[2].partition("\n## ")[0]


def test_card_starts_with_metadata_and_the_task(made: Callable, tiny_gpt2: Path) -> None:
    _, text = made()
    head = "---\nlibrary_name: transformers\ntags:\n- llmkit\n---\n\n"
    assert text.startswith(f"{head}# causal-lm from `{tiny_gpt2}`\n")


def test_card_names_random_weights(made: Callable) -> None:
    config = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    _, text = made(model=ModelConfig("gpt2", from_scratch=True, config=config, tokenizer="bpe", tokenizer_size=300))
    assert "# causal-lm from random weights, architecture of `gpt2`\n" in text


def test_card_names_the_class_of_a_model_object(made: Callable, tiny_gpt2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    _, text = made(model=ModelConfig(model, tokenizer=str(tiny_gpt2)))
    assert "# causal-lm from `GPT2LMHeadModel`\n" in text


def test_data_table_has_name_rows_skipped_rows_and_hash_of_each_source(made: Callable, tmp_path: Path) -> None:
    file = tmp_path / "a<b|c.jsonl"
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS[:12]) + '{"text": ""}\n', encoding="utf-8")
    _, text = made(train=str(file), validation=[{"text": t} for t in TEXTS[:3]], on_error="skip")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    first, second = section(text, "Data").strip().splitlines()[2:]
    assert first == f"| train | {str(file).replace('<', '&lt;').replace('|', chr(92) + '|')} | 12 | 1 | `{digest}` |"
    assert second.startswith("| validation | ") and second.endswith(" | 3 | 0 | `in memory` |")


def test_metrics_and_baselines_are_those_of_metrics_json(made: Callable) -> None:
    result, text = made(training={"max_steps": 2, "seed": 5})
    metrics, part = result.metrics, section(text, "Metrics on the validation part")
    assert part.startswith(f" ({metrics['examples']} rows)\n")
    for name, value in metrics["after"].items():
        assert f"| {name} | {format_number(metrics['before'][name])} | {format_number(value)} |\n" in part
    for name, baseline in metrics["baselines"].items():
        assert f"| {name} ({baseline['kind']}) | loss | {format_number(baseline['value'])} |\n" in part
    assert f"\n2 steps, {metrics['tokens']:,} tokens, {metrics['seconds']:.0f} s, seed 5; python " in part
    assert f"torch {metrics['versions']['torch']}" in part


def test_snippet_prints_the_continuation_of_the_saved_model(made: Callable) -> None:
    result, text = made()
    model = AutoModelForCausalLM.from_pretrained(result.output)
    tokenizer = AutoTokenizer.from_pretrained(result.output)
    prompt = " ".join(result.trainer.rows["train"][0]["text"].split()[:4])[:40]
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=30, do_sample=False)
    printed = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert f"Output when this card was written:\n\n```\n{printed}\n```\n" in section(text, "Use")


def test_snippet_of_llmkits_own_architecture_imports_it(made: Callable) -> None:
    _, text = made(model=ModelConfig("lstm", from_scratch=True, tokenizer="bpe", tokenizer_size=300), packing=False)
    use = section(text, "Use")
    assert "```python\nimport llmkit.models  # registers this architecture" in use and "Output when this card" in use


def test_snippet_of_a_large_model_is_not_run(made: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "RUN_UP_TO", 1)
    _, text = made()
    assert "```python\n" in section(text, "Use") and "Output when this card was written" not in text


@pytest.mark.parametrize(("error", "reason"), [("ValueError('no\\nweights')", "no weights"), ("KeyError", "KeyError")])
def test_snippet_that_does_not_run_is_left_out_with_a_warning(
    error: str, reason: str, made: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(snippets.SNIPPETS, "AutoModelForCausalLM", lambda *_: f"raise {error}")
    _, text = made()
    assert f"the model card has no snippet: it did not run ({reason})" in capfd.readouterr().err
    assert "```" not in text and "## Metrics on" in text


def test_task_without_a_snippet_has_a_card(made: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(snippets.SNIPPETS, "AutoModelForCausalLM")
    _, text = made()
    assert "## Use" not in text and "## Metrics on" in text


def test_running_a_snippet_leaves_the_random_state_unchanged() -> None:
    before = torch.get_rng_state()
    assert card._run("import torch\nprint(torch.rand(1).numel())") == "1"
    assert torch.equal(torch.get_rng_state(), before)
