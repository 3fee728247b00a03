"""Preference optimisation: a language model learns from pairs of answers to give the kind that was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError
from llmkit.task import Batch, Dataset, F, Task, np, torch, valued


@dataclass(frozen=True)
class Pairs(Task):
    """What learns from pairs of answers to give each a reward, the chosen one's the higher."""

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("conversations", "messages", "question", "query"),
        "chosen": (),
        "rejected": (),
        "system": (),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    document: ClassVar[str | None] = "prompt"
    default_max_length: ClassVar[int] = 1024

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        from llmkit.data import pairs

        return pairs.read_row(row)

    def texts(self, rows: Dataset) -> Iterator[str]:
        from llmkit.data import pairs

        return pairs.texts(rows)

    def rewards(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        """Those of all chosen answers, then of all rejected ones, (2, rows), and the model's outputs."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        from llmkit.data import pairs

        (chosen, rejected), outputs = self.rewards(model, batch)
        return pairs.log_loss(chosen - rejected, getattr(self, "label_smoothing", 0.0)).sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(len(batch["input_ids"]) // 2)

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """The rewards of the chosen and of the rejected answer: (rows, 2)."""
        return self.rewards(model, batch)[0].T

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import preferences

        return preferences(examples[:, 0] - examples[:, 1], getattr(self, "label_smoothing", 0.0))

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation.metrics import preferences

        held, sides = rows["evaluation"].select(evaluation["row"]), ("chosen", "rejected")  # the pairs that fit
        found = {"longer answer": np.array([len(row["chosen"]) - len(row["rejected"]) for row in held])}
        if references:
            from llmkit.data.pairs import as_text
            from llmkit.evaluation.retrieval import tfidf_cosines

            known, prompts = [*self.texts(rows["train"])], [as_text(turns) for turns in held["prompt"]]
            chosen, rejected = (tfidf_cosines(known, prompts, held[side][:]) for side in sides)
            found["TF-IDF nearer to the prompt"] = chosen - rejected
        right = {name: preferences(margins)["accuracy"] for name, margins in found.items()}
        return valued(floor={"coin": 0.5}, reference=right)


@dataclass(frozen=True)
class Preference(Pairs):
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
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "kl", "loss")
    aside: ClassVar[tuple[str, ...]] = ("labels", "reference")
    annotations: ClassVar[tuple[str, ...]] = ("reference",)
    tokenizer_style: ClassVar[str] = "gpt2"
    can_generate: ClassVar[bool] = True

    def fit(self, rows: Dataset) -> Self:
        if self.beta <= 0:
            raise RecipeError(f"task.beta: {self.beta} is not above 0; 0.1 is usual")
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(f"task.label_smoothing: {self.label_smoothing} is not from 0 to below 0.5; 0.1 is usual")
        return self

    def ready_tokenizer(self, tokenizer: Any) -> None:
        from llmkit.data.conversations import PLAIN_TEMPLATE

        tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """`input_ids`: prompt and chosen answer and, behind them, prompt and rejected answer; `chosen`: the length of
        the first two; `prompt`: that of the prompt."""
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
        logps, _ = self._logps(model, batch)
        answers = batch["labels"][:, 1:] != -100
        found = [row[there].tolist() for row, there in zip(logps, answers, strict=True)]
        half = len(found) // 2
        return {"reference": [a + b for a, b in zip(found[:half], found[half:], strict=True)]}

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        """All sequences that were chosen, then all that were rejected; `labels` and `reference` (rows * 2, longest) are
        of the answers' tokens alone."""
        from llmkit.data import collation, pairs

        sequences = pairs.halves(features, ("input_ids",))
        prompts = [f["prompt"] for f in features] * 2
        labels = [[-100] * n + s["input_ids"][n:] for s, n in zip(sequences, prompts, strict=True)]
        batch = collation.tokens(sequences, tokenizer.pad_token_id, "padded", causal=True)
        batch["labels"] = collation.pad(labels, collation.IGNORED)
        if "reference" in features[0]:
            answers = [(f["reference"], f["chosen"] - f["prompt"]) for f in features]
            known = [p for both, end in answers for p in both[:end]] + [p for both, end in answers for p in both[end:]]
            batch["reference"] = torch.zeros(batch["labels"].shape)
            batch["reference"][batch["labels"] != collation.IGNORED] = torch.tensor(known)
        return batch

    def rewards(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        moved, outputs = self._moved(model, batch)
        return self.beta * moved.sum(-1), outputs

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[reward of the chosen, of the rejected, summed exp(d) - 1 - d, tokens]`: (rows, 4)."""
        moved, _ = self._moved(model, batch)
        tokens = (batch["labels"] != -100).unflatten(0, (2, -1)).sum((0, 2))
        return torch.stack([*self.beta * moved.sum(-1), (torch.expm1(moved) - moved).sum((0, 2)), tokens], dim=-1)

    def _moved(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        """How much likelier each token of the answers is than it was, in nats, 0 elsewhere: (2, rows, longest - 1)."""
        logps, outputs = self._logps(model, batch)
        return (logps - batch["reference"][:, 1:]).unflatten(0, (2, -1)), outputs

    def _logps(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The log-probability of each token of the answers, 0 elsewhere, in fp32: (rows * 2, longest - 1)."""
        outputs, labels = self.forward(model, batch), batch["labels"][:, 1:]
        answers = labels != -100  # few of all tokens: only they are turned into probabilities
        nll = F.cross_entropy(outputs.logits[:, :-1][answers].float(), labels[answers], reduction="none")
        return torch.zeros(labels.shape, device=labels.device).masked_scatter(answers, -nll), outputs

    def score(self, examples: np.ndarray) -> dict[str, float]:
        return {**super().score(examples), "kl": float(examples[:, 2].sum() / examples[:, 3].sum())}

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        from llmkit.data.conversations import snippet

        return snippet(folder, row["prompt"])
