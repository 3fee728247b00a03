"""Reward models: a number for an answer to a prompt, learned from pairs of answers one of which was preferred."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from llmkit.collate import Feature, token_batch
from llmkit.data import chat
from llmkit.log import log_truncated
from llmkit.task import Batch, Columns, Json, Model, Outputs, Row, Rows, Tokenizer, model_outputs
from llmkit.tasks._pairs import SIDES, Pairs, plain_text, read_turns, split_pairs


@dataclass(frozen=True)
class RewardModel(Pairs):
    """Loss: -log sigmoid(reward of the chosen - reward of the rejected answer) (Ouyang et al. 2022).

    A tokenizer with a chat template (that of a decoder) renders prompt and answer with it; any other encodes them as a
    pair of texts.
    """

    name: ClassVar[str] = "reward-model"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {**Pairs.columns, "response": ("completion", "answer")}
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    config_fields: ClassVar[Mapping[str, int]] = {"num_labels": 1}
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "loss")
    predict_columns: ClassVar[tuple[str, ...]] = ("prompt", "response")

    def read_question(self, row: Row) -> list[Row]:
        inputs = super().read_question(row)
        if row.get("system") in (None, ""):
            return inputs
        return [{**i, "prompt": chat.with_system(read_turns(i["prompt"], "prompt", "user"), row)} for i in inputs]

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        tokenizer.truncation_side = "left"  # saved: other libraries then cut a pair as `encode` does
        if not tokenizer.chat_template and tokenizer.sep_token is None:
            tokenizer.chat_template = chat.PLAIN_TEMPLATE

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        names = ("input_ids", "token_type_ids")
        columns: Columns = {name: [] for name in (*names, "lengths", "row", "truncated")}
        for row, prompt in enumerate(rows["prompt"]):
            pair = [_encode(prompt, rows[side][row], tokenizer, max_length) for side in SIDES]
            if not any(sequence["answer_cut"] for sequence in pair):
                for name in names:
                    columns[name].append([*pair[0][name], *pair[1][name]])
                columns["lengths"].append([len(sequence["input_ids"]) for sequence in pair])
                columns["row"].append(row)
                columns["truncated"].append(any(sequence["prompt_cut"] for sequence in pair))
        return columns

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        """Return the chosen sequences (label 1), then the rejected ones (label 0)."""
        batch = _collate(split_pairs(features, ("input_ids", "token_type_ids")), tokenizer)
        return {**batch, "labels": torch.tensor([1, 0]).repeat_interleave(len(features))}

    def rewards(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        outputs = model_outputs(self, model, batch)
        return outputs.logits.float().view(2, -1), outputs

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Row], max_length: int) -> list[Row]:
        """Return `{"reward", "truncated"}` of each `{"prompt", "response"}`. Cuts a response that does not fit, too."""
        prompts = [read_turns(i["prompt"], "prompt", "user") for i in inputs]
        sequences = [_encode(p, i["response"], tokenizer, max_length) for p, i in zip(prompts, inputs, strict=True)]
        truncated = [s["prompt_cut"] or s["answer_cut"] for s in sequences]
        log_truncated(sum(truncated), "input", max_length)
        with torch.no_grad():
            batch = {name: tensor.to(model.device) for name, tensor in _collate(sequences, tokenizer).items()}
            rewards = model(**batch).logits.float().squeeze(-1).tolist()
        return [{"reward": r, "truncated": t} for r, t in zip(rewards, truncated, strict=True)]

    def format_prediction(self, answer: Row, given: Row) -> str:
        return f"{answer['reward']:.4f}\t{' '.join(given['response'].split())}"


def _encode(prompt: list[chat.Turn], answer: str, tokenizer: Tokenizer, max_length: int) -> Json:
    """Return `input_ids` and `token_type_ids` of a prompt with an answer, and whether either was cut.

    The tokenizer itself could cut a pair, but takes a second for a long prompt, all of whose overflow it keeps.
    """
    if tokenizer.chat_template:
        prompt_ids, (answer_ids,) = chat.encode_answers(prompt, [answer], tokenizer)
    else:
        options = {"add_special_tokens": False, "verbose": False}
        prompt_ids, answer_ids = tokenizer([plain_text(prompt), answer], **options)["input_ids"]
    before, between, after, types = _pair_format(tokenizer)
    room = max_length - len(before) - len(between) - len(after)
    kept_prompt, kept_answer = prompt_ids[-max(room - len(answer_ids), 1) :], answer_ids[: room - 1]
    first, second = [*before, *kept_prompt, *between], [*kept_answer, *after]
    return {
        "input_ids": first + second,
        "token_type_ids": [types[0]] * len(first) + [types[1]] * len(second),
        "prompt_cut": len(kept_prompt) < len(prompt_ids),
        "answer_cut": len(kept_answer) < len(answer_ids),
    }


def _pair_format(tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int], tuple[int, int]]:
    """Return the special tokens before, between and after two texts, and the token types of the texts.

    A chat template brings its own special tokens.
    """
    if tokenizer.chat_template:
        return [], [], [], (0, 0)
    pair = tokenizer("a", "a").encodings[0]
    (a, *more), (b, *rest) = ([i for i, text in enumerate(pair.sequence_ids) if text == n] for n in (0, 1))
    ids, types = pair.ids, pair.type_ids
    return ids[:a], ids[a + len(more) + 1 : b], ids[b + len(rest) + 1 :], (types[a], types[b])


def _collate(sequences: Sequence[Feature], tokenizer: Tokenizer) -> Batch:
    names: list[str] = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
    inputs = [{name: sequence[name] for name in names} for sequence in sequences]
    return token_batch(inputs, tokenizer.pad_token_id, "padded", causal=False)
