"""`llmkit init`: a copy of a recipe, which is never overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from command_line import assert_one_fault, call

from llmkit.cli.recipes import recipe_folder

__all__ = ["call"]  # a fixture


def test_init_copies_a_recipe_and_does_not_overwrite_it(call: Callable, tmp_path: Path) -> None:
    answer = call("init", "finetune-gpt2", tmp_path / "mine")
    copy = tmp_path / "mine/finetune_gpt2.py"
    assert (answer.status, answer.out) == (0, f"{copy}\n")
    assert copy.read_bytes() == (recipe_folder() / "finetune_gpt2.py").read_bytes()
    copy.write_text("mine now")
    assert_one_fault(call("init", "finetune_gpt2", tmp_path / "mine"), str(copy), "left as it is")
    assert copy.read_text() == "mine now"
