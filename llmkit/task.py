"""The contract of a task: what one kind of problem adds to the way that all of them share.

A task is a frozen dataclass. Its fields are its knobs (and what `fit` learned); its methods are asked in this order:

    rows ──read_row──► fit ──► encode ──► (pack) ──► (annotate) ──► collate ──► loss
                                                                           └──► predict_step ──► per_example ──► score
    predict: raw inputs to answers, from a saved folder

Only `encode`, `collate`, `score` and `predict` need be written; and `loss`, `weight`, `predict_step` and `per_example`
where labels are not classes, one a token. Nothing here imports torch before it is used, so that a command line can name
tasks without it; tokenizers and models are passed in and never kept. What is a class variable here may be a property of
a task whose `fit` decides it (the metrics of a regression, say).
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llmkit.errors import RecipeError


class _Late:
    """A module that is imported when something of it is first used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from datasets import Dataset
    from transformers import PreTrainedModel as Model
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    np, torch, F = map(_Late, ("numpy", "torch", "torch.nn.functional"))
    Dataset = Model = Tokenizer = Any

Batch = dict[str, Any]
TOGETHER = 32
"""Rows of features that `predict` asks the model about at a time, or as many as it has inputs: a context has dozens."""


def read_text(row: Mapping[str, Any], column: str) -> str:
    """The text in a raw row's column. Raises ValueError where there is none."""
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"no {column!r}" if value is None else f"{column!r} is {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError(f"empty {column!r}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{column!r} holds half a character (a lone surrogate)")
    return value


def is_number(word: str) -> bool:
    """Whether a word says a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def valued(**kinds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What `baselines` gives, from `floor={name: value}` and `reference={name: value}`."""
    return {name: {"value": v, "kind": kind} for kind, found in kinds.items() for name, v in found.items()}


@dataclass(frozen=True)
class Task:
    """One kind of problem. See the module's docstring for who calls what."""

    name: ClassVar[str]
    """What `--task` and recipe.yaml call it."""
    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """Each column the task reads, with the usual names it is also found under. All are required, or `formats` say."""
    formats: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Sets of columns of which one is enough, the first that is there deciding; empty: all `columns` are required."""
    auto_class: ClassVar[str]
    """The Transformers Auto class, as a string."""
    metrics: ClassVar[tuple[str, ...]]
    """The names that `score` gives; the first decides, unless `primary` is another."""
    higher_is_better: ClassVar[bool] = True
    packs: ClassVar[bool] = False
    """Whether several documents share one row of features unless `data.packing` says otherwise."""
    whole_documents: ClassVar[bool] = False
    """Whether a .txt file is a document to this task (a language model's view)."""
    document: ClassVar[str | None] = None
    """A column whose equal values stay on one side of a split (the context that several questions share)."""
    asks: ClassVar[tuple[str, ...]] = ("text",)
    """The columns that a question to `predict` consists of; of one column, an input is its text alone."""
    row_alone: ClassVar[bool] = True
    """Whether what a row costs is its own affair; not where the batch gives the negatives."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Modules that a model may have and the loss never reaches (an encoder's pooler): they are frozen."""
    aside: ClassVar[tuple[str, ...]] = ("labels",)
    """What of a batch the model is not given."""
    predicts_next: ClassVar[bool] = False
    """Whether the logits at a token are for the label of the next one."""
    annotations: ClassVar[tuple[str, ...]] = ()
    """Columns of features that `annotate` adds, once, from the model as it is before training. They may depend on no
    knob: what is kept on disk serves every value of them."""
    tokenizer_style: ClassVar[str] = "bert"
    """Special tokens of a tokenizer that is trained for the task: bert, gpt2 or t5."""
    can_generate: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    """Whether labels are the tokens of another text than `input_ids`: what the model writes when it has read those."""
    default_max_length: ClassVar[int] = 512

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return self.metrics[0]

    @classmethod
    def name_in_recipe(cls) -> str:
        """llmkit's own name for it, or `module:Class` for a task from elsewhere."""
        return cls.name if cls.__module__.startswith("llmkit.tasks.") else f"{cls.__module__}:{cls.__qualname__}"

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any] | ValueError]:
        """The raw row as this task keeps it: `columns`, of one type each; a list where a raw row holds several (the
        questions of an article), a bad one of them as the ValueError that says why. Raises ValueError."""
        return {column: read_text(row, column) for column in self.columns}

    def asked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns `asks` of a raw row or typed JSON object. Raises ValueError for one that is missing."""
        found = {c: next((row[n] for n in (c, *self.columns[c]) if row.get(n) is not None), None) for c in self.asks}
        if missing := [c for c, value in found.items() if value is None]:
            raise ValueError(f"no {' and no '.join(missing)}; {self.name} asks for {', '.join(self.asks)}")
        return found

    def read_question(self, row: Mapping[str, Any]) -> list[Any]:
        """What a raw row asks of `predict`: mappings of `asks`, or texts where it asks for one column; several where a
        raw row holds several. Raises ValueError that says what is wrong."""
        found = self.asked(row)
        for column, value in found.items():
            if not isinstance(value, str):
                raise ValueError(f"no text in {column!r} but {type(value).__name__}")
            if len(found) > 1 and not value.strip():
                raise ValueError(f"empty {column!r}")
        return [found if len(found) > 1 else next(iter(found.values()))]

    def check_rows(self, rows: Dataset, part: str) -> list[str]:
        """Faults of a part's rows that only the fitted task can see (labels that training never saw)."""
        return []

    def fit(self, rows: Dataset) -> Self:
        """A task that knows what the training rows teach (labels, format). `rows` hold `columns`."""
        return self

    def texts(self, rows: Dataset) -> Iterator[str]:
        """What a tokenizer for these rows is trained on."""
        return (row[next(iter(self.columns))] for row in rows)

    def ready_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Give the tokenizer what the fitted task needs of it (a chat template); it is saved with the model."""

    def ready_model(self, model: Model, tokenizer: Tokenizer) -> None:
        """Set a loaded model up for the task (how it generates), wherever one is loaded, to train or to be asked."""

    def with_config(self, config: Any) -> Self:
        """A task that knows what a checkpoint trained elsewhere says of itself (its labels)."""
        return self

    def with_checkpoint(self, folder: Path) -> Self:
        """A task that knows what the pretrained folder it starts from, or is asked in, says beside its config (how an
        encoder's tokens are pooled). Raises RecipeError for what the task cannot do."""
        return self

    def model_kwargs(self) -> dict[str, Any]:
        """Config fields the model must be built with (labels, say)."""
        return {}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer, max_length: int) -> dict[str, list[Any]]:
        """Features of a batch of rows, as columns. `row` gives the index within the batch that each came from; their
        number may differ from the rows'. `truncated` (bool), if given, is counted and dropped."""
        raise NotImplementedError

    def annotate(self, model: Model, batch: Batch) -> dict[str, list[Any]]:
        """`annotations` of a batch's rows. Runs without gradients, once; kept on disk under a key of the weights."""
        raise NotImplementedError

    def collate(self, features: list[dict[str, Any]], tokenizer: Tokenizer, layout: str) -> Batch:
        """A batch of tensors from features, which carry `row` and `epoch` (the only randomness a batch may have
        comes from these). `layout` says how packed documents are kept apart, see `data.collation`."""
        raise NotImplementedError

    def forward(self, model: Model, batch: Batch) -> Any:
        """The model's outputs."""
        return model(**{k: v for k, v in batch.items() if k not in self.aside})

    def nats(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> tuple[Any, torch.Tensor]:
        """The model's outputs, and what each token's label costs: (rows, longest), 0 where there is none, in fp32."""
        outputs, labels = self.forward(model, batch), batch["labels"]
        logits = outputs.logits
        if self.predicts_next:
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return outputs, each.view_as(labels)

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The loss as a sum over what `weight` counts, in fp32, and the model's outputs."""
        outputs, nats = self.nats(model, batch, getattr(self, "label_smoothing", 0.0))
        return nats.sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        """How many tokens or examples `loss` sums over; the Trainer divides once, by the global sum."""
        return (batch["labels"] != -100).sum()

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """What `per_example` needs of each row, as small as can be: (rows, …), padded with -100 where widths differ.
        Runs without gradients. Here `[nats, tokens]`."""
        _, nats = self.nats(model, batch)
        return torch.stack([nats.sum(-1), (batch["labels"] != -100).sum(-1)], dim=-1)

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """The few numbers of each example that `score` is made of (its answer and the truth, or its counts): (examples,
        numbers), from every row's `predict_step` in the order of `features`; `rows` are the raw ones."""
        return outputs

    def score(self, examples: np.ndarray) -> dict[str, float]:
        """Metrics of any choice of examples: of all, and of each bootstrap sample."""
        raise NotImplementedError

    def details(self, examples: np.ndarray) -> dict[str, Any]:
        """What stands beside the metrics in metrics.json (a report by class), as JSON."""
        return {}

    def say_label(self, label: int, token: int, tokenizer: Tokenizer) -> str:
        """What `preview` writes behind a token whose label this is; empty where the token says it."""
        return "" if label == token else str(tokenizer.decode([label]))

    def say_labels(self, labels: torch.Tensor, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """What `preview` writes of a row's labels where they are not one a token; `ids` are the row's tokens."""
        value, names = labels.item() if labels.numel() == 1 else labels.tolist(), getattr(self, "labels", ())
        if names and isinstance(value, list):
            return ", ".join(n for n, on in zip(names, value, strict=True) if on) or "none"
        return f"{names[value]} ({value})" if names and isinstance(value, int) else str(value)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        """`{name: {"value": v, "kind": "floor" | "reference"}}` of the primary metric, from encoded features."""
        return {}

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Answers for raw inputs, in order."""
        raise RecipeError(f"a {self.name} model does not predict; ask it with generate")

    def steps(
        self, model: Model, tokenizer: Tokenizer, rows: Mapping[str, Sequence[Any]], length: int
    ) -> tuple[list[dict[str, Any]], list[np.ndarray], int]:
        """For `predict`: features of inputs as rows without truths, the `predict_step` of each, and how many inputs
        were truncated."""
        columns = self.encode(rows, tokenizer, length)
        truncated = sum(columns.pop("truncated", []))
        features = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        found: list[np.ndarray] = []
        size = max(TOGETHER, *map(len, rows.values()))
        for at in range(0, len(features), size):
            batch = self.collate(features[at : at + size], tokenizer, "padded")
            with torch.no_grad():
                step = self.predict_step(model, {name: tensor.to(model.device) for name, tensor in batch.items()})
            found += [*step.float().cpu().numpy()]
        return features, found, truncated

    def embed(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
        """float32 vectors of length one, in order: (texts, width)."""
        raise RecipeError(f"a {self.name} model gives no embeddings; train one with llmkit train embed_sentences")

    def after_training(self, model: Model, examples: Callable[[], np.ndarray]) -> None:
        """Mend the trained model by what it answers on the validation part (its temperature); before the final
        figures are taken and the folder is saved. `examples` are `per_example`'s."""

    def finish(self, folder: Path) -> None:
        """Add to the saved folder what other libraries look for in it."""

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        """An answer as one line for people."""
        return f"{answer}"

    def loading(self, folder: str) -> str:
        """How a snippet begins that has no pipeline."""
        return (
            f"from transformers import {self.auto_class}, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
            f"model = {self.auto_class}.from_pretrained({folder!r})\n"
        )

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        """Code for the model card that uses the saved folder without llmkit, on a training row; empty if none can."""
        return ""

    def replace(self, **knobs: Any) -> Self:
        return dataclasses.replace(self, **knobs)
