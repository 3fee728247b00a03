"""llmkit: a thin recipe layer over Transformers. See README.md. Every name here is loaded when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit.cli.main import main
    from llmkit.errors import RunFailed, UsageError
    from llmkit.pipeline import Result, build_trainer, evaluate, run
    from llmkit.predictor import Predictor, load
    from llmkit.recipe import DataConfig, ModelConfig, Recipe, RunConfig
    from llmkit.task import Task

__version__ = "0.1.0"
__all__ = [
    "DataConfig", "ModelConfig", "Predictor", "Recipe", "Result", "RunConfig", "RunFailed", "Task", "UsageError",
    "__version__", "build_trainer", "evaluate", "load", "main", "run",
]  # fmt: skip
_MODULES = {
    "errors": ("RunFailed", "UsageError"), "task": ("Task",), "predictor": ("Predictor", "load"), "cli.main": ("main",),
    "recipe": ("DataConfig", "ModelConfig", "Recipe", "RunConfig"),
    "pipeline": ("Result", "build_trainer", "evaluate", "run"),
}  # fmt: skip
"""Each module with its public names."""


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"llmkit.{module}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
