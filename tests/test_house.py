"""The laws of the house, read off the source: imports go down, torch comes late, no task by name, no pickle, no foreign code."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import llmkit

PACKAGE = Path(llmkit.__file__).parent
FILES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
"""Each module, without `llmkit.` before it (the package itself is the empty word)."""

LAYERS = (  # bottom to top; a room stands for its files, but for those that are named
    ("", "errors", "console"),
    ("task",),
    ("recipe",),
    ("data", "models"),
    ("evaluation.metrics", "evaluation.squad", "evaluation.retrieval", "evaluation.overlap"),
    ("evaluation.baselines",),
    ("evaluation.labels",),
    ("tasks",),
    ("parsing", "generation"),
    ("training",),
    ("predictor",),
    ("evaluation",),
    ("reporting.files", "reporting.card", "search"),
    ("running",),
    ("reporting", "asking"),
    ("cli", "__main__"),
)
NO_TORCH = sorted(
    {
        "",
        "cli",
        "recipe",
        "parsing",
        "task",
        "errors",
        "console",
        "data",
        "data.sources",
        "data.cleaning",
        "data.splits",
    }
    | {name for name in FILES if name.split(".")[0] == "tasks"}
)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> tuple[tuple[str, bool], ...]:
    """`(module, whether only when a function runs)` of every import in a file but those for type checkers."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, late: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    found.append((inner if inner.removeprefix("llmkit.") in FILES else str(child.module), late))
            else:
                walk(child, late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    walk(tree(name), False)
    return tuple(found)


def own(name: str) -> set[str]:
    """The modules of llmkit that a file imports, early or late."""
    inside = {m for m, _ in imports(name) if m.split(".")[0] == "llmkit"}
    return {m.removeprefix("llmkit").lstrip(".") for m in inside} - {name}


def layer(name: str) -> int | None:
    word = name
    while True:
        for height, names in enumerate(LAYERS):
            if word in names and (word or not name):
                return height
        if "." not in word:
            return None
        word = word.rpartition(".")[0]


def test_every_file_has_a_layer() -> None:
    assert [name for name in FILES if layer(name) is None] == []


@pytest.mark.parametrize("name", FILES, ids=lambda n: n or "llmkit")
def test_imports_go_down(name: str) -> None:
    assert {other for other in own(name) if layer(other) > layer(name)} == set()


def test_no_file_imports_itself_by_a_detour() -> None:
    level = {name: {o for o in own(name) if layer(o) == layer(name)} for name in FILES}
    while leaves := [name for name, others in level.items() if not others]:
        level = {name: others - set(leaves) for name, others in level.items() if name not in leaves}
    assert level == {}


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("tasks.")])
def test_a_task_leans_on_the_contract_alone(name: str) -> None:
    early = {m for m, late in imports(name) if not late and m.startswith("llmkit")}
    parents = {m for m in early if m.startswith("llmkit.tasks.")}  # a task may be another one, asked otherwise
    assert early - parents <= {"llmkit.task", "llmkit.errors"} and len(parents) <= 1


@pytest.mark.parametrize("name", NO_TORCH, ids=lambda n: n or "llmkit")
def test_torch_comes_late(name: str) -> None:
    heavy = {"torch", "transformers", "datasets", "accelerate", "peft"}
    assert {m for m, late in imports(name) if not late and m.split(".")[0] in heavy} == set()


def test_importing_these_rooms_imports_no_torch() -> None:
    modules = [f"llmkit.{name}".rstrip(".") for name in NO_TORCH]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_nothing_is_decided_by_a_task_s_name() -> None:
    asked = [
        f"{name}: {ast.unparse(node)}"
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.Compare, ast.Match))
        for side in ([node.subject] if isinstance(node, ast.Match) else [node.left, *node.comparators])
        if ast.unparse(side).split(".")[-2:] == ["task", "name"]
    ]
    assert asked == []


def test_no_code_of_a_repository_is_run() -> None:
    values = {
        (name, ast.unparse(node.value))
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    }
    assert values and {value for _, value in values} == {"False"}
    assert [name for name in FILES if "trust_remote_code=True" in FILES[name].read_text(encoding="utf-8")] == []


def test_no_pickle_is_read() -> None:
    calls = {ast.unparse(n.func) for name in FILES for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
    assert not calls & {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}
    assert not {m for name in FILES for m, _ in imports(name)} & {"pickle", "joblib", "dill", "cloudpickle"}


def test_public_names_are_these_and_no_more() -> None:
    configs = {"Recipe", "DataConfig", "ModelConfig", "RunConfig"}
    calls = {"run", "build_trainer", "load", "main"}
    types = {"Task", "Result", "Predictor", "RecipeError", "RunFailed"}
    assert set(llmkit.__all__) == configs | calls | types | {"__version__"}
    assert len(llmkit.__all__) == len(set(llmkit.__all__))
    assert dir(llmkit) == llmkit.__all__


@pytest.mark.parametrize("name", llmkit.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(llmkit, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="finetune"):
        llmkit.finetune  # noqa: B018


def test_every_task_s_names_are_there() -> None:
    tasks = importlib.import_module("llmkit.tasks")
    assert {cls.__name__ for cls in tasks.TASKS} <= set(tasks.__all__)
    assert len({cls.name for cls in tasks.TASKS}) == len(tasks.TASKS)
