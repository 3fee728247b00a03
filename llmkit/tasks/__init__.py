"""The tasks of llmkit: a registry of their names, and their classes, loaded on first use.

Importing this package does not import torch: the command line checks names and options here before it loads a task.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest

if TYPE_CHECKING:
    from llmkit.task import Task
    from llmkit.tasks.causal_lm import CausalLM as CausalLM
    from llmkit.tasks.masked_lm import MaskedLM as MaskedLM
    from llmkit.tasks.preference import Preference as Preference
    from llmkit.tasks.question_answering import QuestionAnswering as QuestionAnswering
    from llmkit.tasks.reward_model import RewardModel as RewardModel
    from llmkit.tasks.semantic_roles import SemanticRoles as SemanticRoles
    from llmkit.tasks.sentence_embedding import SentenceEmbedding as SentenceEmbedding
    from llmkit.tasks.seq2seq import Seq2Seq as Seq2Seq
    from llmkit.tasks.text_classification import TextClassification as TextClassification
    from llmkit.tasks.token_classification import TokenClassification as TokenClassification

TASKS = {
    "causal-lm": "CausalLM",
    "masked-lm": "MaskedLM",
    "text-classification": "TextClassification",
    "token-classification": "TokenClassification",
    "semantic-roles": "SemanticRoles",
    "question-answering": "QuestionAnswering",
    "seq2seq": "Seq2Seq",
    "sentence-embedding": "SentenceEmbedding",
    "preference": "Preference",
    "reward-model": "RewardModel",
}
"""Each task's name and class; `causal-lm` is in `causal_lm.py`, and so on. Their order is that in which a checkpoint
without a recipe is tried."""
__all__ = ["TASKS", "find_task", "known_tasks", *TASKS.values()]


def __getattr__(class_name: str) -> Any:
    name = next((name for name, cls in TASKS.items() if cls == class_name), None)
    if name is None:
        raise AttributeError(f"module 'llmkit.tasks' has no attribute {class_name!r}")
    return find_task(name)


def find_task(name: str, untrusted: Path | None = None) -> type[Task]:
    """Return the class of the task called `name`, or at an import path such as `pkg.module:MyTask`.

    Raises UsageError, also for a module inside the folder `untrusted`: a downloaded model must not bring code to run.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if (known := name.replace("_", "-")) not in TASKS:
            raise UsageError(
                f"task {name!r}: no such task; {suggest(known, TASKS)} A task of yours is pkg.module:MyTask"
            )
        return getattr(importlib.import_module(f"llmkit.tasks.{known.replace('-', '_')}"), TASKS[known])
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a module beside the recipe
    if module.endswith(".py"):
        path = ".".join(Path(module).with_suffix("").parts)
        raise UsageError(f"task {name!r}: give its import path, {path}:{attribute}, from the folder that holds it")
    package = module.partition(".")[0]
    with as_usage_error(f"task {name!r}: not an import path", ValueError):
        spec = importlib.util.find_spec(package)
    if spec is None:
        fix = f"run from the folder that holds {package}.py"
        raise UsageError(f"task {name!r}: no module {package!r} in {Path.cwd()} or on PYTHONPATH; {fix}")
    if untrusted and spec.origin and Path(spec.origin).resolve().is_relative_to(untrusted.resolve()):
        raise UsageError(f"task {name!r}: its code is in the model's own folder, and is not run")
    with as_usage_error(f"task {name!r}: cannot be imported", Exception):  # whatever the module raises
        cls = getattr(importlib.import_module(module), attribute)
    contract = importlib.import_module("llmkit.task")
    if not (isinstance(cls, type) and issubclass(cls, contract.Task)):
        raise UsageError(f"task {name!r}: not a subclass of llmkit.task.Task")
    raise_faults(contract.class_faults(cls))
    return cls


def known_tasks() -> list[type[Task]]:
    """Return the classes of all registered tasks, in the order of `TASKS`."""
    return [find_task(name) for name in TASKS]


def task_options(name: str) -> type | None:
    """Return a dataclass with the options of a registered task and no methods, read from its source; None for others.

    Lets the command line check and list options without importing torch. Its `help` holds the text of each option.
    """
    name = name.replace("_", "-")
    if name not in TASKS:
        return None
    classes: dict[str, ast.ClassDef] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes |= {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    owner, texts, nodes = TASKS[name], dict[str, str](), dict[str, ast.AnnAssign]()
    while owner in classes:
        node = classes[owner]
        texts = documented_fields(node) | texts
        nodes = {ast.unparse(n.target): n for n in node.body if isinstance(n, ast.AnnAssign)} | nodes
        owner = ast.unparse(node.bases[0])
    scope = {"Any": Any, "Mapping": Mapping, "Sequence": Sequence, "Row": Mapping[str, Any], "field": dataclasses.field}
    fields = [
        (
            field,
            eval(ast.unparse(nodes[field].annotation), scope),
            eval(ast.unparse(nodes[field].value or ast.Constant(None)), scope),
        )
        for field in texts
    ]
    cls = dataclasses.make_dataclass(TASKS[name], fields, frozen=True, namespace={"name": name, "help": texts})
    cls.__module__ = f"llmkit.tasks.{name.replace('-', '_')}"
    return cls


def documented_fields(node: ast.ClassDef) -> dict[str, str]:
    """Return the dataclass fields of a class with the string literal below each."""
    return {
        field.target.id: str(text.value.value)
        for field, text in itertools.pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar")
        and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }  # fmt: skip
