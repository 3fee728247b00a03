"""Preferences: two answers to a prompt, of which one was chosen; their rows, and batches of twice as many sequences.

A row is prompt, chosen and rejected, each a text or messages (ShareGPT too); a prompt that is a text is a user's turn.
Features hold both sequences in one list, `chosen` the length of the first. A prompt that is too long loses its
beginning; an answer is never cut: a pair with one that does not fit is left out, and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from llmkit.data import conversations

SIDES = ("chosen", "rejected")


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """`{"prompt": turns, "chosen": text, "rejected": text}`. Where the answers are whole conversations, what they begin
    with is the prompt. Raises ValueError."""
    answers, before = {}, {}
    for side in SIDES:
        *before[side], last = _turns(row.get(side), side, "assistant")
        if last["role"] != "assistant" or not last["content"].strip():
            raise ValueError(f"{side!r} is no answer of the assistant")
        answers[side] = last["content"]
    if before["chosen"] != before["rejected"]:
        raise ValueError("'chosen' and 'rejected' differ before their last turn")
    if answers["chosen"] == answers["rejected"]:
        raise ValueError("'chosen' and 'rejected' are the same")
    prompt = before["chosen"] or read_prompt(row.get("prompt"))
    return {"prompt": conversations.with_system(prompt, row.get("system")), **answers}


def read_prompt(prompt: Any) -> list[dict[str, str]]:
    """The turns of a prompt, to which the assistant answers. Raises ValueError."""
    turns = _turns(prompt, "prompt", "user")
    if turns[-1]["role"] == "assistant":
        raise ValueError("'prompt' ends with a turn of the assistant, which is an answer already")
    return turns


def _turns(value: Any, column: str, role: str) -> list[dict[str, str]]:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"no {column!r}")
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return conversations.read_turns([value] if isinstance(value, Mapping) else value, column)


def as_text(turns: Sequence[Mapping[str, str]]) -> str:
    """A prompt for a model without a chat template: a single turn as it is, several with who says them."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def texts(rows: Dataset) -> Iterator[str]:
    for row in rows:
        yield from (as_text(row["prompt"]), row["chosen"], row["rejected"])


def halves(features: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, list[int]]]:
    """The sequences of features: all that were chosen, then all that were rejected, in the same order."""
    chosen = [{name: f[name][: f["chosen"]] for name in names} for f in features]
    return chosen + [{name: f[name][f["chosen"] :] for name in names} for f in features]


def log_loss(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The negative log-likelihood of each preference under the Bradley-Terry model, where a share `label_smoothing` of
    them is the wrong way round (Mitchell 2023)."""
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
