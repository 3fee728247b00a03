"""Causal language modelling: predict each token from those before it (GPT-2, Llama, Qwen, an LSTM …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmkit.task import Batch, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset


@dataclass(frozen=True)
class CausalLM(Task):
    """Text in, the same text to predict. Every document ends with EOS, which is trained on."""

    label_smoothing: float = 0.0
    """of the cross entropy"""

    name: ClassVar[str] = "causal-lm"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("content", "story", "document", "body")}
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte")
    primary: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    whole_documents: ClassVar[bool] = True
    tokenizer_style: ClassVar[str] = "gpt2"
    can_generate: ClassVar[bool] = True

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        from llmkit.data.packing import chunks

        encoded = tokenizer(list(rows["text"]), add_special_tokens=True, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        eos = tokenizer.eos_token_id
        documents = (ids if ids[-1:] == [eos] or eos is None else [*ids, eos] for ids in encoded)
        pieces = [
            (row, piece) for row, ids in enumerate(documents) if len(ids) > 1 for piece in chunks(ids, max_length)
        ]
        return {"input_ids": [ids for _, ids in pieces], "row": [row for row, _ in pieces]}

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        batch = collation.tokens(features, tokenizer.pad_token_id, layout, causal=True)
        labels = collation.pad([f["input_ids"] for f in features], collation.IGNORED)
        labels[collation.starts(features, labels.shape[1])] = collation.IGNORED  # nothing stands before a first token
        return {**batch, "labels": labels}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        outputs, nll = self._nll(model, batch, self.label_smoothing)
        return nll.sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"] != -100).sum()

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[summed negative log-likelihood in nats, predicted tokens]` of each row: (rows, 2)."""
        import torch

        _, nll = self._nll(model, batch, 0.0)
        return torch.stack([nll.sum(-1), (batch["labels"] != -100).sum(-1)], dim=-1)

    def _nll(self, model: Any, batch: Batch, label_smoothing: float) -> tuple[Any, torch.Tensor]:
        """Nats of each predicted token, 0 elsewhere, in fp32: (rows, longest - 1)."""
        import torch.nn.functional as F

        inputs = {k: v for k, v in batch.items() if k != "labels"}
        outputs = model(**inputs)
        logits, labels = outputs.logits[:, :-1].float(), batch["labels"][:, 1:]
        nll = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none", label_smoothing=label_smoothing
        )
        return outputs, nll.view_as(labels)

    def score(self, outputs: np.ndarray, features: Dataset, rows: Dataset) -> dict[str, float]:
        from llmkit.evaluation.metrics import language_model

        return language_model(outputs, features, rows)

    def baselines(
        self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool
    ) -> dict[str, Any]:
        from llmkit.evaluation.baselines import bigram_loss

        return {"bigram": {"value": bigram_loss(train, evaluation), "kind": "reference"}}

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        prompt = " ".join(row["text"].split()[:4])[:40]
        return (
            "from transformers import pipeline\n\n"
            f"generator = pipeline('text-generation', {folder!r})\n"
            f"print(generator({prompt!r}, max_new_tokens=30, do_sample=False)[0]['generated_text'])"
        )
