"""llmkit: a thin recipe layer over Transformers. See README.md; every name here is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "recipe", "DataConfig": "recipe", "ModelConfig": "recipe", "RunConfig": "recipe",
    "RecipeError": "errors", "RunFailed": "errors", "Task": "task",
    "run": "running", "build_trainer": "running", "Result": "running",
    "load": "predictor", "Predictor": "predictor", "main": "cli",
}  # fmt: skip
__all__ = sorted([*_HOMES, "__version__"])

if TYPE_CHECKING:
    from llmkit.cli import main as main
    from llmkit.errors import RecipeError as RecipeError
    from llmkit.errors import RunFailed as RunFailed
    from llmkit.predictor import Predictor as Predictor
    from llmkit.predictor import load as load
    from llmkit.recipe import DataConfig as DataConfig
    from llmkit.recipe import ModelConfig as ModelConfig
    from llmkit.recipe import Recipe as Recipe
    from llmkit.recipe import RunConfig as RunConfig
    from llmkit.running import Result as Result
    from llmkit.running import build_trainer as build_trainer
    from llmkit.running import run as run
    from llmkit.task import Task as Task


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"llmkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
