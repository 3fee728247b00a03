"""Preference optimisation: a language model learns from pairs of answers to give the kind that was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llmkit.errors import RecipeError
from llmkit.task import Batch, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset


@dataclass(frozen=True)
class Preference(Task):
    """DPO (Rafailov et al. 2023): the reward of an answer is `beta` times how much likelier it has become than it was
    to the untrained model, whose log-probabilities are computed once and kept with the rows.

    `kl` is in nats a token: the mean, over the tokens of both answers, of exp(d) - 1 - d, where d is the token's
    log-probability now less that before. Were the answers drawn from the untrained model, it would be an unbiased
    estimate of KL(untrained || trained) (Schulman 2020, k3); of others', it says how far the model has moved on them.
    """

    beta: float = 0.1
    """how dear it is to leave the untrained model: higher stays nearer"""
    label_smoothing: float = 0.0
    """the share of pairs that may be the wrong way round (conservative DPO)"""

    name: ClassVar[str] = "preference"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("conversations", "messages", "question", "query"),
        "chosen": (),
        "rejected": (),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    document: ClassVar[str | None] = "prompt"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "kl", "loss")
    primary: ClassVar[str] = "accuracy"
    annotations: ClassVar[tuple[str, ...]] = ("reference",)
    tokenizer_style: ClassVar[str] = "gpt2"
    can_generate: ClassVar[bool] = True
    default_max_length: ClassVar[int] = 1024

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        from llmkit.data import pairs

        return pairs.read_row(row)

    def fit(self, rows: Dataset) -> Self:
        if self.beta <= 0:
            raise RecipeError(f"task.beta: {self.beta} is not above 0; 0.1 is usual")
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(f"task.label_smoothing: {self.label_smoothing} is not from 0 to below 0.5; 0.1 is usual")
        return self

    def texts(self, rows: Dataset) -> Iterator[str]:
        from llmkit.data import pairs

        return pairs.texts(rows)

    def ready_tokenizer(self, tokenizer: Any) -> None:
        from llmkit.data.conversations import PLAIN_TEMPLATE

        tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """`input_ids`: prompt and chosen answer and, behind them, prompt and rejected answer; `chosen`: the length of the
        first two; `prompt`: that of the prompt."""
        from llmkit.data import conversations

        columns: dict[str, list[Any]] = {k: [] for k in ("input_ids", "chosen", "prompt", "row", "truncated")}
        for row, turns in enumerate(rows["prompt"]):
            both = [rows["chosen"][row], rows["rejected"][row]]
            prompt, (chosen, rejected) = conversations.encode_answers(turns, both, tokenizer)
            room = max_length - max(len(chosen), len(rejected))
            if room < 1 or not prompt:  # an answer's first token is predicted from what stands before it
                continue
            kept = prompt[-room:]
            columns["input_ids"].append([*kept, *chosen, *kept, *rejected])
            columns["chosen"].append(len(kept) + len(chosen))
            columns["prompt"].append(len(kept))
            columns["row"].append(row)
            columns["truncated"].append(len(kept) < len(prompt))
        return columns

    def annotate(self, model: Any, batch: Batch) -> dict[str, list[Any]]:
        """`reference`: the log-probability of each token of the chosen answer, then of the rejected one."""
        _, logps = self._logps(model, batch)
        answers = batch["labels"][:, 1:] != -100
        found = [row[there].tolist() for row, there in zip(logps, answers, strict=True)]
        half = len(found) // 2
        return {"reference": [a + b for a, b in zip(found[:half], found[half:], strict=True)]}

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        """All sequences that were chosen, then all that were rejected; `labels` and `reference` (rows * 2, longest) are
        of the answers' tokens alone."""
        import torch

        from llmkit.data import collation, pairs

        sequences = pairs.halves(features, ("input_ids",))
        prompts = [f["prompt"] for f in features] * 2
        labels = [[-100] * n + s["input_ids"][n:] for s, n in zip(sequences, prompts, strict=True)]
        batch = collation.tokens(sequences, tokenizer.pad_token_id, "padded", causal=True)
        batch["labels"] = collation.pad(labels, collation.IGNORED)
        if "reference" in features[0]:
            ends = [f["chosen"] - f["prompt"] for f in features]
            known = [p for f, end in zip(features, ends, strict=True) for p in f["reference"][:end]]
            known += [p for f, end in zip(features, ends, strict=True) for p in f["reference"][end:]]
            batch["reference"] = torch.zeros(batch["labels"].shape)
            batch["reference"][batch["labels"] != collation.IGNORED] = torch.tensor(known)
        return batch

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        from llmkit.data import pairs

        outputs, moved = self._moved(model, batch)
        chosen, rejected = (self.beta * moved.sum(-1)).chunk(2)
        return pairs.log_loss(chosen - rejected, self.label_smoothing).sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        import torch

        return torch.tensor(len(batch["labels"]) // 2)

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[reward of the chosen, of the rejected, summed exp(d) - 1 - d, tokens]`: (rows, 4)."""
        import torch

        _, moved = self._moved(model, batch)
        chosen, rejected = (self.beta * moved.sum(-1)).chunk(2)
        distance = (torch.expm1(moved) - moved).sum(-1).view(2, -1).sum(0)
        tokens = (batch["labels"] != -100).sum(-1).view(2, -1).sum(0)
        return torch.stack([chosen, rejected, distance, tokens], dim=-1)

    def _moved(self, model: Any, batch: Batch) -> tuple[Any, torch.Tensor]:
        """How much likelier each token of the answers is than it was, in nats, 0 elsewhere: (rows * 2, longest - 1)."""
        outputs, logps = self._logps(model, batch)
        return outputs, logps - batch["reference"][:, 1:]

    def _logps(self, model: Any, batch: Batch) -> tuple[Any, torch.Tensor]:
        """The log-probability of each token of the answers, 0 elsewhere, in fp32: (rows * 2, longest - 1)."""
        import torch
        import torch.nn.functional as F

        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        labels = batch["labels"][:, 1:]
        answers = labels != -100  # few of all tokens: only they are turned into probabilities
        nll = F.cross_entropy(outputs.logits[:, :-1][answers].float(), labels[answers], reduction="none")
        return outputs, torch.zeros(labels.shape, device=labels.device).masked_scatter(answers, -nll)

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        return outputs

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import preferences

        scores = preferences(examples[:, 0] - examples[:, 1], self.label_smoothing)
        return {**scores, "kl": float(examples[:, 2].sum() / examples[:, 3].sum())}

    def baselines(
        self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool
    ) -> dict[str, Any]:
        from llmkit.evaluation.baselines import of_preferences

        return of_preferences(rows["train"], rows["evaluation"], references)

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        from llmkit.data.conversations import snippet

        return snippet(folder, row["prompt"])
