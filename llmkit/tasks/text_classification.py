"""Text classification: one label for a text (sentiment, intent, topic)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llmkit.task import Batch, Task, read_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset


@dataclass(frozen=True)
class TextClassification(Task):
    """A text and its label. Labels, words or numbers, are learned from the training rows and saved in the config."""

    labels: tuple[str, ...] = ()
    """in the order of the logits (left out: those of the training rows, sorted)"""
    label_smoothing: float = 0.0
    """of the cross entropy"""

    name: ClassVar[str] = "text-classification"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("sentence", "review", "content", "body"),
        "label": ("labels", "category", "class", "sentiment", "intent"),
    }
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro", "loss")
    primary: ClassVar[str] = "accuracy"

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        label = row.get("label")
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if label is None or not str(label).strip() or isinstance(label, (float, list, dict)):
            raise ValueError(f"label {label!r} is neither a word nor a whole number")
        label = str(label).strip()
        if self.labels and label not in self.labels:
            raise ValueError(f"label {label!r} is none of {', '.join(self.labels[:8])}")
        return {"text": read_text(row, "text"), "label": label}

    def fit(self, rows: Dataset) -> Self:
        from llmkit.errors import RecipeError

        found = sorted(
            set(rows["label"]), key=lambda s: (not s.lstrip("-").isdigit(), int(s) if s.lstrip("-").isdigit() else s)
        )
        if self.labels:
            return self
        if len(found) < 2:
            raise RecipeError(f"data.train: only one label, {found[0]!r}: nothing to tell apart")
        return self.replace(labels=tuple(found))

    def check_rows(self, rows: Dataset, part: str) -> list[str]:
        foreign = sorted(set(rows["label"]) - set(self.labels))
        return [f"data.{part}: labels that training never saw: {', '.join(foreign[:8])}"] if foreign else []

    def with_config(self, config: Any) -> Self:
        return self if self.labels else self.replace(labels=tuple(config.id2label[i] for i in range(config.num_labels)))

    def model_kwargs(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        encoded = tokenizer(list(rows["text"]), truncation=True, max_length=max_length, return_attention_mask=False)
        ids = {name: i for i, name in enumerate(self.labels)}
        return {
            "input_ids": encoded["input_ids"],
            "label": [ids[label] for label in rows["label"]],
            "row": list(range(len(rows["text"]))),
            "truncated": [bool(e.overflowing) for e in encoded.encodings],
        }

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        import torch

        from llmkit.data import collation

        batch = collation.tokens(features, tokenizer.pad_token_id, layout, causal=False)
        return {**batch, "labels": torch.tensor([f["label"] for f in features])}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        import torch.nn.functional as F

        outputs = model(**{k: v for k, v in batch.items() if k != "labels"})
        loss = F.cross_entropy(
            outputs.logits.float(), batch["labels"], reduction="sum", label_smoothing=self.label_smoothing
        )
        return loss, outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        import torch

        return torch.tensor(len(batch["labels"]))

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """Logits: (rows, labels)."""
        return model(**{k: v for k, v in batch.items() if k != "labels"}).logits.float()

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[label, logits …]` of each row."""
        import numpy as np

        return np.column_stack([features.with_format("numpy")["label"][:], outputs])

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import Classification, cross_entropy

        truth, logits = examples[:, 0].astype(int), examples[:, 1:]
        scores = Classification().compute(predictions=logits.argmax(-1), references=truth)
        return {"loss": cross_entropy(logits, truth), **scores}

    def baselines(
        self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool
    ) -> dict[str, Any]:
        from llmkit.evaluation.baselines import majority_accuracy, tfidf_accuracy

        found = {"majority": {"value": majority_accuracy(train["label"], evaluation["label"]), "kind": "floor"}}
        if references:
            found["tfidf + logistic regression"] = {
                "value": tfidf_accuracy(rows["train"], rows["evaluation"]),
                "kind": "reference",
            }
        return found

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"label", "score"}` of each text: the likeliest label and its probability."""
        import torch

        from llmkit.models.loading import positions

        encoded = tokenizer(
            list(inputs),
            truncation=True,
            max_length=positions(model.config, tokenizer),
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.no_grad():
            best = model(**encoded).logits.float().softmax(-1).max(-1)
        names = model.config.id2label
        return [
            {"label": names[i], "score": p} for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        return f"{answer['label']}\t{answer['score']:.4f}\t{' '.join(given.split())}"

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        return (
            "from transformers import pipeline\n\n"
            f"classify = pipeline('text-classification', {folder!r})\n"
            f"print(classify({row['text'][:200]!r}, truncation=True))"
        )
