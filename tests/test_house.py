"""Rules of the package, checked on its source: imports go down, torch loads late, no pickle, no foreign code."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llmkit
from llmkit import tasks
from llmkit.task import Task

PACKAGE = Path(llmkit.__file__).parent
FILES = {
    ".".join(("llmkit", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if "recipes" not in p.parts
}
"""Each module by its full name."""
FLOORS = (
    ("errors", "log"),
    ("collate",),
    ("recipe",),
    ("task",),
    ("hub",),
    ("data",),
    ("models",),
    ("metrics",),
    ("tasks",),
    ("generation",),
    ("training",),
    ("predictor",),
    ("search",),
    ("pipeline",),
    ("cli",),
    ("", "__main__"),
)
"""From the ground up; a folder stands on one floor with all of its files, the package itself on the top one."""
TORCH_FREE = ("errors", "log", "recipe", "training.fields", "tasks", "cli.main", "cli.options", "")
"""Modules that the command line imports before it loads a task."""
HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "sklearn", "scipy"}
MAX_LATE_IMPORTS, MAX_ANY, MAX_FUNCTION = 50, 150, 50


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """Yield `(module, is_late)` for every import in a file, late ones and those for type checkers included."""

    def walk(node: ast.AST, in_function: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{name}: a relative import"
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield (inner if inner in FILES else str(child.module)), in_function
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, in_function or is_function)

    return walk(tree(name), False)


def own_imports(name: str) -> set[str]:
    return {module for module, _ in imports(name) if module in FILES} - {name}


def floor(name: str) -> int:
    room = name.removeprefix("llmkit").lstrip(".").split(".")[0]
    return next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for name in FILES:
        for node in ast.walk(tree(name)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{node.name}", node


def members() -> tuple[set[str], set[str]]:
    """The public methods and class variables of the contract."""
    public = {name for name in {*vars(Task), *Task.__annotations__} if not name.startswith("_")}
    methods = {name for name in public if callable(getattr(Task, name, None))}
    return methods, public - methods


@pytest.mark.parametrize("name", FILES)
def test_imports_point_to_lower_floors(name: str) -> None:
    assert {other for other in own_imports(name) if floor(other) > floor(name)} == set()


def test_no_import_circle_within_a_floor() -> None:
    graph = {name: {o for o in own_imports(name) if floor(o) == floor(name)} for name in FILES}
    while leaves := {name for name, others in graph.items() if not others & set(graph)}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert graph == {}


@pytest.mark.parametrize("name", TORCH_FREE)
def test_module_does_not_import_torch(name: str) -> None:
    module = f"llmkit.{name}".rstrip(".")
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_late_imports_are_few_and_only_in_the_command_line() -> None:
    late = [(name, module) for name in FILES for module, is_late in imports(name) if is_late]
    assert len(late) < MAX_LATE_IMPORTS
    assert {name for name, _ in late if not name.startswith("llmkit.cli")} == set()


def test_any_is_rare() -> None:
    uses = [n for name in FILES for n in ast.walk(tree(name)) if isinstance(n, ast.Name) and n.id == "Any"]
    assert len(uses) < MAX_ANY


def test_functions_are_at_most_fifty_lines() -> None:
    assert {name: n for name, node in functions() if (n := node.end_lineno - node.lineno + 1) > MAX_FUNCTION} == {}


def test_contract_has_at_most_twenty_methods_and_twelve_fields() -> None:
    methods, fields = members()
    assert len(methods) <= 20, methods
    assert len(fields) <= 12, fields


def test_every_member_of_the_contract_has_a_docstring() -> None:
    methods, fields = members()
    body = next(n for n in tree("llmkit.task").body if isinstance(n, ast.ClassDef) and n.name == "Task").body
    documented = {n.name for n in body if isinstance(n, ast.FunctionDef) and ast.get_docstring(n)}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            documented.add(field.target.id)
    assert methods | fields <= documented


def test_no_decision_depends_on_a_task_name() -> None:
    comparisons = [
        f"{name}: {ast.unparse(node)}"
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.Compare, ast.Match))
        for side in ([node.subject] if isinstance(node, ast.Match) else [node.left, *node.comparators])
        if ast.unparse(side).split(".")[-2:] == ["task", "name"]
    ]
    assert comparisons == []


def test_no_code_from_a_repository_runs() -> None:
    values = {
        (name, ast.unparse(node.value))
        for name in FILES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    }
    assert values and {value for _, value in values} == {"False"}
    assert [name for name in FILES if "trust_remote_code=True" in FILES[name].read_text(encoding="utf-8")] == []


def test_no_pickle_is_loaded() -> None:
    calls = {ast.unparse(n.func) for name in FILES for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
    assert not calls & {"torch.load", "pickle.load", "pickle.loads", "joblib.load"}
    assert not {m for name in FILES for m, _ in imports(name)} & {"pickle", "joblib", "dill", "cloudpickle"}


def test_tests_mirror_the_package() -> None:
    """Every test file in a folder of tests/ stands for the file of the package with the same path."""
    root = Path(__file__).parent
    mirrored = {f"llmkit.{p.parent.name}.{p.stem.removeprefix('test_')}" for p in root.glob("*/test_*.py")}
    assert mirrored <= set(FILES), mirrored - set(FILES)
    for room in ("cli", "data", "metrics", "models", "tasks", "training"):
        assert (root / room).is_dir(), room


def test_public_names_are_complete() -> None:
    configs = {"Recipe", "DataConfig", "ModelConfig", "RunConfig"}
    calls = {"run", "build_trainer", "evaluate", "load", "main"}
    types = {"Task", "Result", "Predictor", "UsageError", "RunFailed"}
    assert set(llmkit.__all__) == configs | calls | types | {"__version__"}
    assert len(llmkit.__all__) == len(set(llmkit.__all__))
    assert dir(llmkit) == llmkit.__all__


@pytest.mark.parametrize("name", llmkit.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(llmkit, name) is not None


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="finetune"):
        llmkit.finetune  # noqa: B018


def test_registry_names_every_task_once() -> None:
    assert [cls.name for cls in tasks.known_tasks()] == list(tasks.TASKS)
    assert {cls.__name__ for cls in tasks.known_tasks()} <= set(tasks.__all__)
