"""A saved model on new data, through the same preparation and Trainer as its training."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmkit.errors import RecipeError, raise_faults

if TYPE_CHECKING:
    from llmkit.predictor import Predictor


def measure(
    name: str,
    data: Any,
    columns: Mapping[str, str] | None = None,
    *,
    names: tuple[str, ...] = (),
    max_length: int | None = None,
    batch_size: int = 16,
    on_error: str = "raise",
) -> dict[str, Any]:
    """`{"task", "metrics", "intervals": {metric: [low, high]}, "examples"}` of the model `name` on `data`."""
    from transformers import TrainingArguments

    from llmkit import predictor
    from llmkit.data import annotation, load_part, preparation
    from llmkit.evaluation.metrics import intervals
    from llmkit.models import hub, loading
    from llmkit.parsing import read_yaml
    from llmkit.recipe import DataConfig
    from llmkit.training.trainer import Trainer

    path = hub.find_model(name)
    task = predictor.task_of(path)
    config = DataConfig(columns=columns or {}, names=names, on_error=on_error)
    rows = load_part(data, task, config)  # before the model is loaded
    raise_faults(task.check_rows(rows, "data"))
    loaded = predictor.load(name)
    limit = loading.positions(loaded.model.config, loaded.tokenizer)
    if max_length is not None and not 2 <= max_length <= (limit or max_length):
        raise RecipeError(f"--max-length {max_length}: give 2 to {limit or 'any number'}")
    kept = path / "recipe.yaml"
    recipe = read_yaml(kept) if kept.is_file() else {"data": {}}
    usual = recipe["data"].get("max_length") or task.default_max_length  # that its own figures were taken at
    length = max_length or min(limit or usual, usual)
    features = preparation.prepare(task, {"test": rows}, loaded.tokenizer, length, packed=False)
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {"remove_unused_columns": False, "disable_tqdm": True, "log_level": "error"}
        cpu = loaded.model.device.type == "cpu"
        args = TrainingArguments(output_dir=folder, per_device_eval_batch_size=batch_size, use_cpu=cpu, **quiet)
        if task.annotations:
            untrained = _before_training(recipe, loaded)
            features = annotation.annotate(task, features, untrained, loaded.tokenizer, "padded", args)
        trainer = Trainer(task, loaded.model, args, loaded.tokenizer, features, {"test": rows}, layout="padded")
        examples = trainer.per_example("test")
    return {
        "task": task.name,
        "metrics": task.score(examples),
        "intervals": {k: list(v) for k, v in intervals(task, examples).items()},
        "examples": len(rows),
        **({"details": details} if (details := task.details(examples)) else {}),
    }


def _before_training(recipe: Mapping[str, Any], trained: Predictor) -> Any:
    """The model that a run began with, by its recipe and seed. Raises RecipeError where the recipe cannot say it."""
    from transformers import set_seed

    from llmkit.models import loading
    from llmkit.recipe import ModelConfig

    config = ModelConfig(**recipe["model"] | {"dtype": str(trained.model.dtype).removeprefix("torch.")})
    set_seed(recipe["training"].get("seed", 42))
    return loading.load(config, trained.task, trained.tokenizer)
