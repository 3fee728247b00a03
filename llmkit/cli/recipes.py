"""Finding recipes by name, and reading one with the options that follow it, without importing torch where possible."""

import argparse
import ast
import contextlib
import io
import runpy
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from llmkit.cli.options import build_recipe
from llmkit.errors import UsageError, suggest
from llmkit.recipe import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.tasks import TASKS, find_task, task_options


class _CodeNeeded(Exception):
    """Something can only be checked by importing a task or executing a recipe file."""


def recipe_folder() -> Path:
    """Return `llmkit/recipes` in an installed package, `recipes` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of llmkit's own recipes."""
    return sorted(p.stem for p in recipe_folder().glob("*.py") if not p.stem.startswith("_"))


def usage(verb: str) -> str:
    """Return the usage line of a verb that takes a recipe."""
    return f"llmkit {verb} RECIPE [--part.field value …]"


def add_recipe(parser: argparse.ArgumentParser, verb: str) -> None:
    """Let a verb take a recipe and its options, as the list `args.words`."""
    parser.set_defaults(words=[])
    parser.usage = usage(verb)
    parser.epilog = (
        "RECIPE is a recipe's name, a .py or .yaml file, or a task's name. `llmkit train RECIPE --help` lists every "
        f"option. Recipes: {', '.join(recipe_names())}. Tasks: {', '.join(TASKS)}"
    )


def read_recipe(words: Sequence[str], verb: str) -> tuple[Recipe, list[str]]:
    """Return the recipe that the first word names with the options after it applied, and the switches among them.

    All that can be checked without the task's code is checked before that is imported, which takes seconds.
    """
    if not words or words[0].startswith("-"):
        first = f"{words[0]!r}: the recipe comes first" if words else "no recipe"
        raise UsageError(f"{first}; usage: {usage(verb)}; recipes: {', '.join(recipe_names())}")
    name, *options = words
    if Path(name).suffix in (".yaml", ".yml"):
        options = ["--config", name, *options]
    with contextlib.suppress(_CodeNeeded), contextlib.redirect_stderr(io.StringIO()):  # warnings are logged below
        draft = build_recipe(_find_recipe(name, _options_only, _draft), options, _options_only)
        if "help" in draft[1]:
            return draft
    return build_recipe(_find_recipe(name, find_task, _execute), options)


def _find_recipe(name: str, find: Callable[[str], type], read: Callable[[Path], Recipe]) -> Recipe | None:
    """Return the recipe called `name`, or None for a YAML file. `find` returns a task's class, `read` a file's recipe."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return None
    if path.suffix != ".py" and name.replace("-", "_") in recipe_names():
        path = recipe_folder() / f"{name.replace('-', '_')}.py"
    if path.suffix == ".py":
        if not path.exists():
            raise UsageError(f"{name!r}: no such recipe file; llmkit's own recipes: {', '.join(recipe_names())}")
        return read(path)
    task = name if ":" in name else name.replace("_", "-")
    if task in TASKS or ":" in task:
        return Recipe(task=find(task)(), run=RunConfig(output=f"runs/{task.split(':')[-1]}"))
    raise UsageError(f"{name!r}: no such recipe; {suggest(name, [*recipe_names(), *TASKS])}")


def _execute(path: Path) -> Recipe:
    """Execute a recipe file and return its `recipe`."""
    try:
        recipe = runpy.run_path(str(path), run_name="__recipe__").get("recipe")
    except Exception as e:  # whatever the file raises
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == str(path)]
        line = e.lineno if isinstance(e, SyntaxError) else (lines or [None])[-1]
        where = f"{path} line {line}" if line else f"{path}"
        faults = e.faults if isinstance(e, UsageError) else [f"{type(e).__name__}: {getattr(e, 'msg', e)}"]
        raise UsageError(*(f"{where}: {fault}" for fault in faults)) from e
    if not isinstance(recipe, Recipe):
        raise UsageError(f"{path}: defines no `recipe = Recipe(…)`")
    return recipe


def _options_only(name: str) -> type:
    """Return a task's options as a class, without its code."""
    if ":" in name:
        raise _CodeNeeded
    return task_options(name) or find_task(name)  # which raises UsageError


def _draft(path: Path) -> Recipe:
    """Return the recipe of a file with the options of its task alone, without executing the file.

    Raises _CodeNeeded unless the file has the usual shape: one `recipe = Recipe(…)` of literal values.
    """
    with contextlib.suppress(Exception):  # whatever a file of another shape raises
        body = ast.parse(path.read_text(encoding="utf-8")).body
        (call,) = (n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "recipe")
        imports = [n.names for n in body if isinstance(n, ast.ImportFrom) and n.module == "llmkit.tasks"]
        imported = {alias.name for names in imports for alias in names}
        classes = {cls: task_options(name) for name, cls in TASKS.items() if cls in imported}
        configs = {cls.__name__: cls for cls in (Recipe, ModelConfig, DataConfig, RunConfig)}
        recipe = eval(compile(ast.Expression(call), str(path), "eval"), {"__builtins__": {}} | configs | classes)
        if isinstance(recipe, Recipe):
            return recipe
    raise _CodeNeeded
