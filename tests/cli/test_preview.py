"""`llmkit preview`: tokens as the model sees them, whole characters, labels by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS

from llmkit import DataConfig, ModelConfig, Recipe
from llmkit.cli.preview import preview
from llmkit.task import Task
from llmkit.tasks import CausalLM, MaskedLM, TextClassification

RARE = "龘𠮷🦊从没见过 é"  # characters that the tokenizer was not trained on, three or four tokens each


def first_row(task: Task, model: Path, rows: list[dict[str, Any]], **data: Any) -> list[str]:
    recipe = Recipe(task, ModelConfig(name=str(model)), DataConfig(train=rows, validation=rows[:2], **data))
    return preview(recipe, 1).split("\n\n")[1].split("\n")


def test_the_tokens_of_a_character_are_one_piece(tiny_gpt2: Path) -> None:
    _, text = first_row(CausalLM(), tiny_gpt2, [{"text": RARE}] * 4, packing=False)
    assert text.replace("«", "").split("|")[:3] == ["龘", "𠮷", "🦊"]
    assert text.replace("«", "").replace("|", "").strip("»") == f"{RARE}<endoftext>"


@pytest.mark.parametrize("text", ["\ufffd", "a\ufffd\ufffdb 从", "从\ufffd"])
def test_a_replacement_character_in_the_text_is_kept(tiny_bert: Path, text: str) -> None:
    rows = [{"text": text, "label": "a"}, {"text": "b", "label": "b"}]
    assert first_row(TextClassification(), tiny_bert, rows)[1] == f"[CLS]{text}[SEP]"


def test_packed_documents_are_separated_and_counted(tiny_gpt2: Path) -> None:
    head, text = first_row(CausalLM(), tiny_gpt2, [{"text": t[:20]} for t in TEXTS[:4]], max_length=64)
    assert "documents" in head and text.count("‖") == int(head.split(" documents")[0].split()[-1]) - 1
    (one, _) = first_row(CausalLM(), tiny_gpt2, [{"text": "The fox"}] * 4, packing=False)
    assert one.startswith("row 1: ") and "document" not in one


def test_a_masked_token_is_printed_with_its_label(tiny_bert: Path) -> None:
    _, text = first_row(MaskedLM(mask_probability=1.0), tiny_bert, [{"text": "The fox"}] * 4)
    assert "[MASK]⟦" in text
