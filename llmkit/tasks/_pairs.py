"""Shared by tasks that learn from pairs of answers to a prompt, one of which was preferred.

A row is prompt, chosen and rejected, each a text or messages (ShareGPT too); a prompt that is a text is a user's turn.
Answers may be whole conversations, also as texts of HH-RLHF ("\\n\\nHuman: …\\n\\nAssistant: …").
In features `input_ids` holds the chosen and the rejected sequence, `lengths` the length of each. A prompt that is too
long loses its beginning; an answer is never cut: a pair with an answer that does not fit is dropped, and counted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from llmkit.collate import Feature, split_sequences
from llmkit.data import chat
from llmkit.metrics import preference
from llmkit.metrics.retrieval import tfidf_cosines
from llmkit.task import Batch, Dataset, Model, Outputs, Row, Task, baseline_values, read_text

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pairs(Task):
    """Base class: learns a reward for answers, higher for the chosen one (Bradley-Terry model)."""

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("conversations", "messages", "question", "query"), "chosen": (), "rejected": (),
        "system": ("system_prompt",),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (SIDES,)
    split_group: ClassVar[str | None] = "prompt"
    default_max_length: ClassVar[int] = 1024
    label_smoothing = 0.0  # an option of Preference only

    def read_row(self, row: Row) -> Row:
        """Return `{"prompt": turns, "chosen": text, "rejected": text}`.

        Of answers that are conversations, the turns before the last one are part of the prompt, or repeat it.
        """
        answers, before = {}, {}
        for side in SIDES:
            *before[side], last = read_turns(row.get(side), side, "assistant")
            answers[side] = read_text({side: last["content"]}, side)
        if before["chosen"] != before["rejected"]:
            raise ValueError("'chosen' and 'rejected' differ before their last turn")
        if answers["chosen"] == answers["rejected"]:
            raise ValueError("'chosen' and 'rejected' are the same")
        return {"prompt": chat.with_system(_read_prompt(row, before["chosen"]), row), **answers}

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (text for row in rows for text in (plain_text(row["prompt"]), row["chosen"], row["rejected"]))

    def rewards(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Return the rewards of the chosen and of the rejected answers, (2, rows), and the model's outputs."""
        raise NotImplementedError

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """Return the sum of the losses of `llmkit.metrics.preference.scores`."""
        (chosen, rejected), outputs = self.rewards(model, batch)
        margins, smoothing = chosen - rejected, self.label_smoothing
        return (-(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)).sum(), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(len(batch["input_ids"]) // 2)

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the rewards of the chosen and of the rejected answer: (rows, 2)."""
        return self.rewards(model, batch)[0].T

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return preference.scores(stats[:, 0] - stats[:, 1], self.label_smoothing)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        pairs = rows["evaluation"].select(evaluation["row"])  # those that were not dropped
        margins = {"longer answer": np.array([len(row["chosen"]) - len(row["rejected"]) for row in pairs])}
        if references:
            corpus, prompts = [*self.texts(rows["train"])], [plain_text(turns) for turns in pairs["prompt"]]
            chosen, rejected = (tfidf_cosines(corpus, prompts, pairs[side][:]) for side in SIDES)
            margins["TF-IDF similarity to the prompt"] = chosen - rejected
        accuracies = {name: preference.scores(values)["accuracy"] for name, values in margins.items()}
        return baseline_values(floor={"coin": 0.5}, reference=accuracies)


def read_turns(value: object, column: str, role: str = "") -> list[chat.Turn]:
    """Return the turns in a column, given as text or messages. Raises ValueError.

    role: user for a prompt, which must not end with a turn of the assistant; assistant for an answer, which must.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"no {column!r}")
    if isinstance(value, str):
        value = _read_hh(value) or [{"role": role or "user", "content": value}]
    turns = chat.read_turns([value] if isinstance(value, Mapping) else value, column)
    if any("weight" in turn for turn in turns):
        raise ValueError(f"{column!r} has a turn of weight 0, which only causal-lm obeys")
    if role and (turns[-1]["role"] == "assistant") != (role == "assistant"):
        raise ValueError(f"{column!r} ends with a turn of the {turns[-1]['role']}, not of the {role}")
    return turns


def _read_hh(content: str) -> list[chat.Turn]:
    """Return the turns in a text of HH-RLHF, without a last turn that is empty; none if the text is not of this kind."""
    if not re.match(r"\s*Human:", content) or "\n\nAssistant:" not in content:
        return []
    _, *pieces = re.split(r"(?:\A\s*|\n\n)(Human|Assistant):", content)
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    turns = [{"role": chat.ROLES[name.lower()], "content": text.strip()} for name, text in pairs]
    return turns if turns[-1]["content"] else turns[:-1]


def _read_prompt(row: Row, turns: list[chat.Turn]) -> list[chat.Turn]:
    """Return the prompt of a row and the `turns` before its answers as one conversation. Raises ValueError."""
    if not turns or row.get("prompt") in (None, ""):
        return turns or read_turns(row.get("prompt"), "prompt", "user")
    (system, prompt), (own, turns) = (_split_system(t) for t in (read_turns(row["prompt"], "prompt"), turns))
    follows = not turns or (prompt and prompt[-1]["role"] != turns[0]["role"])
    joined = next((t for t in (turns, prompt) if t[: len(prompt)] == prompt and t[-len(turns) :] == turns), None)
    if (system and own and system != own) or not (joined or follows):
        raise ValueError("'prompt' is not the beginning of the conversation in 'chosen', and cannot precede it either")
    return [*(system or own), *(joined or prompt + turns)]


def _split_system(turns: list[chat.Turn]) -> tuple[list[chat.Turn], list[chat.Turn]]:
    return (turns[:1], turns[1:]) if turns[0]["role"] == "system" else ([], turns)


def plain_text(turns: Sequence[chat.Turn]) -> str:
    """Return a prompt for a tokenizer without a chat template: the content of a single turn; several with roles."""
    lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n".join(lines) if len(turns) > 1 else turns[0]["content"]


def split_pairs(features: Sequence[Feature], names: Sequence[str] = ("input_ids",)) -> list[dict[str, list[int]]]:
    """Return the chosen sequences of all features, then the rejected ones, in the same order."""
    chosen, rejected = zip(*split_sequences(features, names), strict=True)
    return [*chosen, *rejected]
