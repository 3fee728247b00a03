"""Recipes by name: checked without their code first, then executed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmkit import Recipe, UsageError
from llmkit.cli import recipes
from llmkit.cli.recipes import read_recipe, recipe_folder, recipe_names

USUAL = """
from pathlib import Path
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.tasks import CausalLM

Path("executed").touch()
recipe = Recipe(CausalLM(label_smoothing=0.1), ModelConfig(name="tiny-gpt2"), DataConfig(train="fables"), {"bf16": False})
"""
OTHER_SHAPES = {
    "constant": USUAL.replace("recipe = ", "SMOOTHING = 0.1\nrecipe = ").replace("=0.1)", "=SMOOTHING)"),
    "function": USUAL.replace("recipe = ", "def build(): return ").replace("False})", "False})\nrecipe = build()"),
    "own task": USUAL.replace("CausalLM(l", "Own(l").replace("recipe = ", "class Own(CausalLM): pass\nrecipe = "),
    "changed": USUAL + "recipe = Recipe(recipe.task, recipe.model, recipe.data, recipe.training, recipe.run)\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", recipe_names())
def test_the_draft_of_a_recipe_is_the_recipe_without_its_task(name: str) -> None:
    path = recipe_folder() / f"{name}.py"
    draft, recipe = recipes._draft(path), recipes._execute(path)
    assert dataclasses.replace(draft, task=recipe.task) == recipe
    assert vars(draft.task) == vars(recipe.task) and type(draft.task).__name__ == type(recipe.task).__name__


@pytest.mark.parametrize("text", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_a_file_of_another_shape_is_executed_at_once(folder: Path, text: str) -> None:
    (folder / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=r"data\.max_lenght: no such field"):
        read_recipe(["mine.py", "--data.max_lenght", "8"], "train")
    assert (folder / "executed").exists()
    recipe, switches = read_recipe(["mine.py", "--data.max_length", "8"], "train")
    assert (recipe.task.label_smoothing, recipe.data.max_length, switches) == (0.1, 8, [])


def test_a_file_is_not_executed_if_an_option_is_wrong(folder: Path) -> None:
    (folder / "mine.py").write_text(USUAL)
    with pytest.raises(UsageError) as caught:
        read_recipe(["mine.py", "--data.max_lenght", "8", "--task.label_smoothing", "much"], "train")
    assert len(caught.value.faults) == 2 and not (folder / "executed").exists()


def test_a_file_is_executed_if_all_options_are_right(folder: Path) -> None:
    (folder / "mine.py").write_text(USUAL)
    recipe, _ = read_recipe(["mine.py", "--task.label_smoothing", "0.2"], "train")
    assert (folder / "executed").exists()
    assert hasattr(recipe.task, "loss") and recipe.task.label_smoothing == 0.2


@pytest.mark.parametrize("options", [[], ["--config", "more.yaml"]])
def test_a_wrong_entry_in_yaml_is_found_with_the_options(folder: Path, options: list[str]) -> None:
    (folder / "mine.yaml").write_text("task: {name: causal-lm, smoothing: 1}\nmodel: {name: tiny-gpt2}\n")
    (folder / "more.yaml").write_text("run: {patience: 3}\n")
    with pytest.raises(UsageError, match=r"task\.smoothing: no such field"):
        read_recipe(["mine.yaml", *options], "train")


def test_a_task_s_name_may_have_underscores() -> None:
    (recipe, _), (other, _) = read_recipe(["causal_lm"], "train"), read_recipe(["causal-lm"], "train")
    assert recipe == other and recipe.run.output == "runs/causal-lm"


def test_a_task_s_name_is_its_plain_recipe() -> None:
    recipe, _ = read_recipe(["text-classification", "--model", "tiny-bert"], "train")
    assert isinstance(recipe, Recipe)
    assert (recipe.task.name, recipe.model.name, recipe.run.output) == (
        "text-classification", "tiny-bert", "runs/text-classification"
    )  # fmt: skip


FAULTY = {
    "a class": ("recipe = Recipe(task=CausalLM)", "line 3: task: 'CausalLM' is not a task; give an instance"),
    "a name": (
        "recipe = Recipe(CausalLM(), model='tiny-gpt2')",
        "line 3: model: 'tiny-gpt2' is a str; give a ModelConfig",
    ),
    "a mapping": ("recipe = Recipe(CausalLM(), data={})", "line 3: data: {} is a dict; give a DataConfig"),
    "an error": ("recipe = 1 / 0", "line 3: ZeroDivisionError: division by zero"),
    "syntax": ("recipe = (", "line 3: SyntaxError: '(' was never closed"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_error_in_a_recipe_file_is_a_fault_with_file_and_line(folder: Path, name: str) -> None:
    line, message = FAULTY[name]
    imports = "from llmkit import Recipe\nfrom llmkit.tasks import CausalLM\n"
    (folder / "faulty.py").write_text(imports + line + "\n")
    with pytest.raises(UsageError) as e:
        read_recipe(["faulty.py"], "train")
    assert [fault.startswith("faulty.py " + message) for fault in e.value.faults] == [True], e.value
