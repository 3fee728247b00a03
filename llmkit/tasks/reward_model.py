"""Reward models: a number for an answer to a prompt, learned from pairs of which one was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llmkit.task import Batch, torch
from llmkit.tasks.preference import Pairs


@dataclass(frozen=True)
class RewardModel(Pairs):
    """-log sigmoid(reward of the chosen - reward of the rejected) (Ouyang et al. 2022).

    A tokenizer with a chat template (a decoder's) puts prompt and answer into it; any other makes a pair of them.
    """

    name: ClassVar[str] = "reward-model"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {**Pairs.columns, "response": ("completion", "answer")}
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "loss")
    asks: ClassVar[tuple[str, ...]] = ("prompt", "response")

    def ready_tokenizer(self, tokenizer: Any) -> None:
        from llmkit.data.conversations import PLAIN_TEMPLATE

        tokenizer.truncation_side = "left"  # so that whoever cuts a pair later does as is done here
        if not tokenizer.chat_template and tokenizer.sep_token is None:
            tokenizer.chat_template = PLAIN_TEMPLATE

    def model_kwargs(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """`input_ids` and `token_type_ids` of the chosen sequence and, behind it, the rejected one."""
        columns: dict[str, list[Any]] = {k: [] for k in ("input_ids", "token_type_ids", "chosen", "row", "truncated")}
        for row, prompt in enumerate(rows["prompt"]):
            both = rows["chosen"][row], rows["rejected"][row]
            chosen, rejected = (_encode(prompt, answer, tokenizer, max_length) for answer in both)
            if chosen["answer_cut"] or rejected["answer_cut"]:
                continue
            for name in ("input_ids", "token_type_ids"):
                columns[name].append(chosen[name] + rejected[name])
            columns["chosen"].append(len(chosen["input_ids"]))
            columns["row"].append(row)
            columns["truncated"].append(chosen["prompt_cut"] or rejected["prompt_cut"])
        return columns

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        """All sequences that were chosen (label 1), then all that were rejected (0)."""
        from llmkit.data import pairs

        sequences = pairs.halves(features, ("input_ids", "token_type_ids"))
        return {**_tensors(sequences, tokenizer), "labels": torch.tensor([1, 0]).repeat_interleave(len(features))}

    def rewards(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        outputs = self.forward(model, batch)
        return outputs.logits.float().view(2, -1), outputs

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"reward", "truncated"}` of each `{"prompt", "response"}`. Here an answer that does not fit is cut, too."""
        from llmkit.data.pairs import read_prompt
        from llmkit.models.loading import positions

        limit = positions(model.config, tokenizer) or 10**9
        sequences = [_encode(read_prompt(i["prompt"]), i["response"], tokenizer, limit) for i in inputs]
        with torch.no_grad():
            batch = {k: v.to(model.device) for k, v in _tensors(sequences, tokenizer).items()}
            rewards = model(**batch).logits.float().squeeze(-1).tolist()
        return [
            {"reward": reward, "truncated": s["prompt_cut"] or s["answer_cut"]}
            for reward, s in zip(rewards, sequences, strict=True)
        ]

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        return f"{answer['reward']:.4f}\t{' '.join(given['response'].split())}"

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        from llmkit.data import conversations, pairs

        load = (
            "from transformers import pipeline\n\n"
            f"reward = pipeline('text-classification', {folder!r}, tokenizer={folder!r}, function_to_apply='none')\n"
        )
        if (Path(folder) / "chat_template.jinja").exists():
            messages = [*row["prompt"], conversations.said(row["chosen"])]
            return (
                f"{load}messages = {messages!r}\n"
                "text = reward.tokenizer.apply_chat_template(messages, tokenize=False)\n"
                "print(reward(text, add_special_tokens=False))"
            )
        pair = {"text": pairs.as_text(row["prompt"]), "text_pair": row["chosen"]}
        return f"{load}print(reward({pair!r}, truncation='only_first'))"


def _encode(prompt: Any, answer: str, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """`input_ids` and `token_type_ids` of a prompt and an answer, and what of them had to be cut."""
    from llmkit.data import conversations, pairs

    if tokenizer.chat_template:
        asked, (said,) = conversations.encode_answers(prompt, [answer], tokenizer)
        frame: tuple[list[int], ...] = ([], [], [])
        types = (0, 0)
    else:
        asked, said = tokenizer([pairs.as_text(prompt), answer], add_special_tokens=False, verbose=False)["input_ids"]
        frame, types = _frame(tokenizer)
    room = max_length - sum(map(len, frame))
    kept, cut = asked[-max(room - len(said), 1) :], said[: room - 1]
    before, between, after = frame
    first = [*before, *kept, *between]  # the mark between them counts to the first
    return {
        "input_ids": [*first, *cut, *after],
        "token_type_ids": [types[0]] * len(first) + [types[1]] * (len(cut) + len(after)),
        "prompt_cut": len(kept) < len(asked),
        "answer_cut": len(cut) < len(said),
    }


def _frame(tokenizer: Any) -> tuple[tuple[list[int], list[int], list[int]], tuple[int, int]]:
    """The special tokens before, between and after a pair, and the types of its two parts. Found by trying; cutting
    pairs with the tokenizer itself takes a second for a long prompt, all of whose pieces it keeps."""
    pair = tokenizer("a", "a").encodings[0]
    (a, *more), (b, *rest) = ([i for i, s in enumerate(pair.sequence_ids) if s == part] for part in (0, 1))
    ids, types = pair.ids, pair.type_ids
    return (ids[:a], ids[a + len(more) + 1 : b], ids[b + len(rest) + 1 :]), (types[a], types[b])


def _tensors(sequences: Sequence[Mapping[str, list[int]]], tokenizer: Any) -> dict[str, torch.Tensor]:
    from llmkit.data import collation

    names = ("input_ids", "token_type_ids") if "token_type_ids" in tokenizer.model_input_names else ("input_ids",)
    shown = [{name: s[name] for name in names} for s in sequences]
    return collation.tokens(shown, tokenizer.pad_token_id, "padded", causal=False)
