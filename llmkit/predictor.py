"""Inference from a folder alone: the model, its tokenizer, and the task that config and recipe.yaml tell of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkit import generation
from llmkit.console import quiet_transformers
from llmkit.errors import RecipeError
from llmkit.models import hub, loading, tokenizers
from llmkit.parsing import read_yaml
from llmkit.recipe import ModelConfig
from llmkit.task import Task
from llmkit.tasks import TASKS, CausalLM, find_task
from llmkit.training import hardware


@dataclass(frozen=True)
class Predictor:
    """A model ready to be asked. `model` and `tokenizer` are real Transformers objects."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Continue a prompt (str) or prompts (list), see `llmkit.generation.generate`."""
        self._require_generation()
        return generation.generate(self.model, self.tokenizer, prompts, **options)

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """The continuation of one prompt, piece by piece."""
        self._require_generation()
        return (piece for _, piece in generation.stream(self.model, self.tokenizer, [prompt], **options))

    def predict(self, inputs: Any, batch_size: int = 32) -> Any:
        """The task's answer for an input, or a list of them, in order, for a list."""
        if isinstance(inputs, (str, dict)):
            return self.predict([inputs])[0]
        return list(self.predict_iter(inputs, batch_size))

    def predict_iter(self, inputs: Sequence[Any], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        for i in range(0, len(inputs), batch_size):
            yield from self.task.predict(self.model, self.tokenizer, inputs[i : i + batch_size])

    def embed(self, texts: Any, batch_size: int = 32) -> np.ndarray:
        """float32 vectors of length one: (width,) of a text, (texts, width) of a list. Raises RecipeError where the
        task has none to give."""
        if isinstance(texts, str):
            return self.embed([texts])[0]
        if not texts:
            return self.embed([""])[:0]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding: texts of like length meet
        batches = [[texts[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
        found = np.concatenate([self.task.embed(self.model, self.tokenizer, batch) for batch in batches])
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors

    def _require_generation(self) -> None:
        if not self.task.can_generate:
            raise RecipeError(f"a {self.task.name} model does not generate; ask it with predict")


@quiet_transformers()
def load(name: str, dtype: str = "auto", device: str | None = None) -> Predictor:
    """A predictor from a run folder, any `from_pretrained` folder, .gguf file, hub id or bundled name.

    Weights are float32 on a CPU and as stored elsewhere, unless `dtype` says otherwise. Raises RecipeError.
    """
    if not isinstance(name, (str, Path)):
        raise RecipeError(f"llmkit.load: a {type(name).__name__}; give a folder or name")
    path = hub.find_model(str(name))
    task = task_of(path)
    device = device or hardware.decide().device
    dtype = "float32" if dtype == "auto" and device == "cpu" else dtype
    tokenizer = tokenizers.load(str(name if not path.is_dir() else path))
    task.ready_tokenizer(tokenizer)
    model: Any = loading.load(ModelConfig(name=str(path), dtype=dtype), task, tokenizer, training=False)
    return Predictor(model.to(device).eval(), tokenizer, task)


def task_of(path: Path) -> Task:
    """What a folder's model does: recipe.yaml says it, or else the architecture in config.json."""
    if (path / "recipe.yaml").exists():
        knobs = read_yaml(path / "recipe.yaml")["task"]
        cls = find_task(knobs.pop("name"), distrusted=path)
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items() if k in known})
    if path.suffix == ".gguf":
        return CausalLM()
    config = loading.read_config(str(path))
    for cls in TASKS:
        mapping = getattr(transformers, cls.auto_class)._model_mapping
        if type(config) in mapping and mapping[type(config)].__name__ in (config.architectures or []):
            return cls().with_config(config).with_checkpoint(path)
    named, tasks = ", ".join(config.architectures or ["no architecture"]), ", ".join(t.name for t in TASKS)
    raise RecipeError(f"model {str(path)!r}: {named} in its config fits no task of llmkit ({tasks})")
