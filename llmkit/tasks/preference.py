"""Preference optimisation: a language model learns from pairs of answers to prefer the chosen kind (DPO)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llmkit.collate import IGNORED, Feature, token_batch
from llmkit.data import chat
from llmkit.recipe import Recipe
from llmkit.task import Batch, Columns, Model, Outputs, Rows, Tokenizer, model_outputs, token_losses
from llmkit.tasks._pairs import SIDES, Pairs, split_pairs


@dataclass(frozen=True)
class Preference(Pairs):
    """Direct preference optimisation (Rafailov et al. 2023).

    The reward of an answer is `beta` times the log-ratio of its probability under the model and under the untrained
    (reference) model, whose log-probabilities are computed once and stored with the features.

    `kl`, in nats per token, is the mean of exp(d) - 1 - d over the tokens of both answers, where d is the token's
    log-ratio. For answers sampled from the reference it is an unbiased estimate of KL(reference || model) (Schulman
    2020, k3); for other answers it measures how far the model has moved on them.
    """

    beta: float = 0.1
    """KL strength: higher keeps the policy closer to the reference"""
    label_smoothing: float = 0.0
    """Share of pairs assumed to be labelled the wrong way round (conservative DPO), below 0.5"""

    name: ClassVar[str] = "preference"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "kl", "loss")
    non_model_columns: ClassVar[tuple[str, ...]] = ("labels", "reference")

    def check(self, recipe: Recipe) -> list[str]:
        faults = []
        if self.beta <= 0:
            faults.append(f"task.beta: {self.beta} is not above 0; 0.1 is usual")
        if not 0 <= self.label_smoothing < 0.5:
            faults.append(f"task.label_smoothing: {self.label_smoothing} is not from 0 to below 0.5; 0.1 is usual")
        return faults

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        tokenizer.chat_template = tokenizer.chat_template or chat.PLAIN_TEMPLATE

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return both sequences of each pair, the prompt with an answer, and the `prompt_length` they share."""
        columns: Columns = {name: [] for name in ("input_ids", "lengths", "prompt_length", "row", "truncated")}
        for row, turns in enumerate(rows["prompt"]):
            prompt, answers = chat.encode_answers(turns, [rows[side][row] for side in SIDES], tokenizer)
            room = max_length - max(map(len, answers))
            if room > 0 and prompt:  # the first token of an answer is predicted from the last one of the prompt
                kept = prompt[-room:]
                columns["input_ids"].append([token for answer in answers for token in (*kept, *answer)])
                columns["lengths"].append([len(kept) + len(answer) for answer in answers])
                columns["prompt_length"].append(len(kept))
                columns["row"].append(row)
                columns["truncated"].append(len(kept) < len(prompt))
        return columns

    def precompute(self, model: Model, batch: Batch) -> Columns:
        """Return `reference`: the log-probability of each token of the chosen answer, then of the rejected one."""
        log_probs, _ = self._log_probs(model, batch)
        answers = batch["labels"][:, 1:] != IGNORED
        values = [row[mask].tolist() for row, mask in zip(log_probs, answers, strict=True)]
        half = len(values) // 2
        return {"reference": [a + b for a, b in zip(values[:half], values[half:], strict=True)]}

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        """Return the chosen sequences, then the rejected ones: (2 * rows, longest).

        `labels` and `reference` have the same shape, and values at the tokens of the answers only.
        """
        sequences, prompts = split_pairs(features), [f["prompt_length"] for f in features] * 2
        for sequence, n in zip(sequences, prompts, strict=True):
            sequence["labels"] = [IGNORED] * n + sequence["input_ids"][n:]
        batch = token_batch(sequences, tokenizer.pad_token_id, "padded", causal=True, labels=IGNORED)
        if "reference" in features[0]:
            answers = [{**f, "lengths": [n - f["prompt_length"] for n in f["lengths"]]} for f in features]
            values = [value for answer in split_pairs(answers, ("reference",)) for value in answer["reference"]]
            batch["reference"] = torch.zeros(batch["labels"].shape)
            batch["reference"][batch["labels"] != IGNORED] = torch.tensor(values)
        return batch

    def rewards(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        log_ratios, outputs = self._log_ratios(model, batch)
        return self.beta * log_ratios.sum(-1), outputs

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return `[reward of the chosen, of the rejected, sum of exp(d) - 1 - d, number of tokens]`: (rows, 4)."""
        log_ratios, _ = self._log_ratios(model, batch)
        num_tokens = (batch["labels"] != IGNORED).unflatten(0, (2, -1)).sum((0, 2))
        kl = (torch.expm1(log_ratios) - log_ratios).sum((0, 2))
        return torch.stack([*self.beta * log_ratios.sum(-1), kl, num_tokens], dim=-1)

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return {**super().score(stats), "kl": float(stats[:, 2].sum() / stats[:, 3].sum())}

    def _log_ratios(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Log-ratio of each token of the answers, 0 elsewhere, (2, rows, longest - 1), and the model's outputs."""
        log_probs, outputs = self._log_probs(model, batch)
        return (log_probs - batch["reference"][:, 1:]).unflatten(0, (2, -1)), outputs

    def _log_probs(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Log-probability of each token of the answers, 0 elsewhere, in fp32: (2 * rows, longest - 1)."""
        outputs, labels = model_outputs(self, model, batch), batch["labels"][:, 1:]
        answers = labels != IGNORED  # saves the softmax over the prompts, which are most of the tokens
        losses = token_losses(outputs.logits[:, :-1][answers], labels[answers])
        return torch.zeros(labels.shape, device=labels.device).masked_scatter(answers, -losses), outputs
