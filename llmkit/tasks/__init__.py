"""Every task llmkit knows: one file each, one tuple of them. Importing them does not import torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from llmkit.errors import RecipeError, suggest
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

TASKS: tuple[type[Task], ...] = (
    CausalLM,
    MaskedLM,
    TextClassification,
    TokenClassification,
    SemanticRoles,
    QuestionAnswering,
    Seq2Seq,
    SentenceEmbedding,
    Preference,
    RewardModel,
)

__all__ = ["TASKS", "find_task", *(task.__name__ for task in TASKS)]


def find_task(name: str, distrusted: Path | None = None) -> type[Task]:
    """The task called `name`, or the class at an import path such as `pkg.module:MyTask`. Raises RecipeError, also for
    a module that lies in the folder `distrusted`: a downloaded model brings no code to run."""
    known = {task.name: task for task in TASKS}
    module, colon, attribute = name.partition(":")
    if not colon:
        if name.replace("_", "-") not in known:
            raise RecipeError(f"task {name!r}: no such task; {suggest(name, known)}, or pkg.module:MyTask")
        return known[name.replace("_", "-")]
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as python -m would: a module beside the recipe
    if distrusted is not None:
        spec = importlib.util.find_spec(module.partition(".")[0])
        if spec is not None and spec.origin and Path(spec.origin).resolve().is_relative_to(distrusted.resolve()):
            raise RecipeError(f"task {name!r}: is code that the model's own folder brings; it is not run")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise RecipeError(f"task {name!r}: cannot be imported ({e})") from None
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise RecipeError(f"task {name!r}: not a subclass of llmkit.task.Task")
    return found
