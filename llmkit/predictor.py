"""Inference from a folder alone: the model, its tokenizer, and the task that recipe.yaml or config.json names."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from llmkit import generation, hub
from llmkit.errors import UsageError
from llmkit.log import log_all_truncated, sum_truncated
from llmkit.models import load as models
from llmkit.models import tokenizers
from llmkit.recipe import ModelConfig, in_memory, read_yaml
from llmkit.task import Json, Model, Row, Task, Tokenizer, is_causal
from llmkit.tasks import TASKS, find_task, known_tasks
from llmkit.training import hardware


@dataclass(frozen=True)
class Predictor:
    """A model for inference. `model` and `tokenizer` are Transformers' own objects."""

    model: Model
    tokenizer: Tokenizer
    task: Task
    max_length: int
    """Tokens per input of `predict`, `embed` and `llmkit.evaluate`, see `input_length`."""

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Continue a prompt (str or messages) or a list of prompts, see `llmkit.generation.generate`."""
        self.require_generation()
        return generation.generate(self.model, self.tokenizer, prompts, **options)

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Yield the continuation of one prompt piece by piece, see `llmkit.generation.stream`."""
        self.require_generation()
        return (piece for _, piece in generation.stream(self.model, self.tokenizer, [prompt], **options))

    def predict(self, inputs: Any, batch_size: int = 32) -> Any:
        """Return the task's answer for one input (str or dict), or a list of answers, in order, for a list."""
        inputs = in_memory(inputs)
        if isinstance(inputs, (str, dict)):
            return self.predict([inputs])[0]
        return list(self.predict_iter(inputs, batch_size))

    def predict_iter(self, inputs: Iterable[Any], batch_size: int = 32) -> Iterator[Row]:
        """Yield the answers for `inputs`, in order. An iterator is read a batch at a time."""
        inputs = iter(inputs if isinstance(inputs, Iterator) else in_memory(inputs))
        truncated: Counter[tuple[str, int]] = Counter()
        try:
            while batch := [in_memory(given) for given in itertools.islice(inputs, batch_size)]:
                with sum_truncated(truncated):  # not across a yield: other predictions may run in between
                    answers = self.task.predict(self.model, self.tokenizer, batch, self.max_length)
                yield from answers
        finally:
            log_all_truncated(truncated)

    def embed(self, texts: str | Iterable[str], batch_size: int = 32) -> np.ndarray:
        """Return unit vectors in float32: (width,) for a text, (texts, width) for a list.

        Raises UsageError if the task gives no embeddings.
        """
        require_embeddings(self.task)
        texts = in_memory(texts)
        if isinstance(texts, str):
            return self.embed([texts])[0]
        texts = list(texts)
        if not texts:
            return self.embed([""])[:0]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of similar length need little padding
        batches = [[texts[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
        embed = self.task.embed
        truncated: Counter[tuple[str, int]] = Counter()
        with sum_truncated(truncated):
            out = np.concatenate([embed(self.model, self.tokenizer, batch, self.max_length) for batch in batches])
        log_all_truncated(truncated)
        vectors = np.empty_like(out)
        vectors[order] = out
        return vectors

    def require_generation(self) -> None:
        """Raise UsageError if the model does not generate."""
        if not is_causal(self.task):
            raise UsageError(f"a {self.task.name} model does not generate; use predict")


def require_embeddings(task: Task) -> None:
    """Raise UsageError unless the task has `embed(model, tokenizer, texts, max_length)`, which is optional."""
    if not hasattr(task, "embed"):
        raise UsageError(f"a {task.name} model gives no embeddings; train one with llmkit train embed_sentences")


@models.quiet_transformers()
def load(name: str | Path, dtype: str = "auto", device: str | None = None) -> Predictor:
    """Return a predictor for a run folder, any `from_pretrained` folder, .gguf file, hub id or bundled name.

    Weights are float32 on a CPU and as stored elsewhere, unless `dtype` says otherwise. Raises UsageError.
    """
    if not isinstance(name, (str, Path)):
        raise UsageError(f"llmkit.load: got {type(name).__name__}; expected a folder or name")
    path = hub.find_model(str(name))
    task = task_of(path)
    device = device or hardware.detect().device
    dtype = "float32" if dtype == "auto" and device == "cpu" else dtype
    tokenizer = tokenizers.load_tokenizer(str(name if not path.is_dir() else path))
    task.configure(tokenizer)
    model = models.load_model(ModelConfig(name=str(path), dtype=dtype), task, tokenizer, training=False)
    length = input_length(recipe_of(path), task, models.max_positions(model.config, tokenizer))
    return Predictor(model.to(device).eval(), tokenizer, task, length)  # type: ignore[arg-type]


def recipe_of(path: Path) -> Json:
    """Return the recipe.yaml of a run folder; empty for any other folder or file."""
    file = path / "recipe.yaml"
    return read_yaml(file) if file.is_file() else {}


def input_length(recipe: Row, task: Task, limit: int | None) -> int:
    """Return the tokens per row that a saved model reads: as many as in its run, at most `limit`, the model's own.

    A folder that is no run has the model's limit. Running text, which is cut into rows and not off, has the default.
    """
    default = task.default_max_length if recipe or task.language_modeling else limit or task.default_max_length
    length = (recipe.get("data") or {}).get("max_length") or default
    return min(limit or length, length)


def task_of(path: Path) -> Task:
    """Return the task of a folder: as recipe.yaml names it, or else by the architecture in config.json."""
    if recipe := recipe_of(path):
        options = dict(recipe["task"])
        cls = find_task(options.pop("name"), untrusted=path)
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in known})
    if path.suffix == ".gguf":
        return find_task("causal-lm")()
    config = models.read_config(str(path))
    for cls in known_tasks():
        mapping = getattr(transformers, cls.auto_class)._model_mapping
        if type(config) in mapping and mapping[type(config)].__name__ in (config.architectures or []):
            return cls().with_checkpoint(path, config)
    architectures = ", ".join(config.architectures or ["no architecture"])
    raise UsageError(f"model {str(path)!r}: {architectures} in its config fits no task of llmkit ({', '.join(TASKS)})")
