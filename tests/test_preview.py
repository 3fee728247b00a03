"""`llmkit preview`: every token as the model sees it, whole characters, labels by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS

from llmkit import DataConfig, ModelConfig, Recipe
from llmkit.reporting.preview import preview
from llmkit.task import Task
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

TORN = "龘𠮷🦊从没见过 é"  # of characters that no training text had: three or four tokens each


def shown(task: Task, model: Path, rows: list[dict[str, Any]], **data: Any) -> list[str]:
    recipe = Recipe(task, ModelConfig(name=str(model)), DataConfig(train=rows, validation=rows[:2], **data))
    return preview(recipe, 1).split("\n\n")[1].split("\n")


def test_the_bytes_of_a_character_are_one_piece(tiny_gpt2: Path) -> None:
    _, text = shown(CausalLM(), tiny_gpt2, [{"text": TORN}] * 4, packing=False)
    assert text.replace("«", "").split("|")[:3] == ["龘", "𠮷", "🦊"]
    assert text.replace("«", "").replace("|", "").strip("»") == f"{TORN}<endoftext>"


@pytest.mark.parametrize("text", ["\ufffd", "a\ufffd\ufffdb 从", "从\ufffd"])
def test_a_character_that_stands_for_none_is_left_as_it_is(tiny_bert: Path, text: str) -> None:
    rows = [{"text": text, "label": "a"}, {"text": "b", "label": "b"}]
    assert shown(TextClassification(), tiny_bert, rows)[1] == f"[CLS]{text}[SEP]"


def test_documents_are_parted_and_counted(tiny_gpt2: Path) -> None:
    head, text = shown(CausalLM(), tiny_gpt2, [{"text": t[:20]} for t in TEXTS[:4]], max_length=64)
    assert "documents" in head and text.count("‖") == int(head.split(" documents")[0].split()[-1]) - 1
    (one, _) = shown(CausalLM(), tiny_gpt2, [{"text": "The fox"}] * 4, packing=False)
    assert one.startswith("row 1: ") and "document" not in one


def test_what_was_hidden_is_said(tiny_bert: Path) -> None:
    _, text = shown(MaskedLM(mask_probability=1.0), tiny_bert, [{"text": "The fox"}] * 4)
    assert "[MASK]⟦" in text
