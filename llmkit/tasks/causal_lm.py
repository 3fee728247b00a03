"""Causal language modeling: predict each token from the tokens before it (GPT-2, Llama, Qwen, an LSTM, ...).

The columns decide the format: plain text is trained on as a whole; of a conversation (messages, ShareGPT, prompt and
response, Alpaca) only what the assistant says is trained on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from llmkit.collate import IGNORED, Feature, document_starts, pad, token_batch
from llmkit.data import chat
from llmkit.data.packing import chunk
from llmkit.data.rows import peek
from llmkit.errors import UsageError
from llmkit.metrics import language_model
from llmkit.metrics.baselines import ngram_losses
from llmkit.task import Batch, Columns, Dataset, Model, Row, Rows, Task, Tokenizer, baseline_values, read_text


def _question(row: Row) -> Row:
    """Return a row without the answers that are trained on: rows that differ in them alone are not split."""
    if row.get("messages") is None:
        return row
    return {"messages": [turn for turn, weight in _weighted_turns(row) if not weight]}


@dataclass(frozen=True)
class CausalLM(Task):
    """Every document ends with EOS, which is trained on. Long documents are cut into chunks that share one token."""

    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy, from 0 to 1"""
    chat: bool = False
    """Whether the training rows are conversations (set from the rows)"""

    name: ClassVar[str] = "causal-lm"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("content", "story", "document", "body"), "messages": ("conversations", "conversation"),
        "prompt": ("question", "query"), "response": ("completion", "answer"), "instruction": (),
        "input": ("context",), "output": ("response",), "history": (), "system": ("system_prompt",), "label": ("kto_tag",),
    }  # fmt: skip
    formats: ClassVar = (("text",), ("messages",), ("prompt", "response"), ("instruction", "output"))
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte")
    higher_is_better: ClassVar[bool] = False
    language_modeling: ClassVar[bool] = True
    split_group: ClassVar[Callable[[Row], Row]] = staticmethod(_question)

    def read_row(self, row: Row) -> Row:
        """Return `{"text": text}` or `{"messages": turns}`, with `weights` if an answer is not trained on."""
        if row.get("text") is not None:
            return {"text": read_text(row, "text")}
        turns = chat.with_system(_read_conversation(row), row)
        if (label := peek(row, "label")) is not None and str(label).lower() in ("true", "false"):
            fix = "keep the good answers alone: jq -c 'select(.label) | del(.label)' FILE.jsonl"
            raise ValueError(f"label {label}: a KTO row, an answer marked as good or bad, has no task yet; {fix}")
        weights = [turn.get("weight", 1) if turn["role"] == "assistant" else 0 for turn in turns]
        if not any(weights):
            raise ValueError("no turn of the assistant that is trained on")
        if all(len(turn) == 2 for turn in turns):  # none has a weight
            return {"messages": turns}
        return {"messages": [{"role": t["role"], "content": t["content"]} for t in turns], "weights": weights}

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        return replace(self, chat="messages" in rows["train"].column_names) if "train" in rows else self

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row.get("text") or "\n".join(turn["content"] for turn in row["messages"]) for row in rows)

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        if self.chat and not tokenizer.chat_template:
            tokenizer.chat_template = chat.PLAIN_TEMPLATE

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return chunks of documents; of conversations also `loss_mask`, 1 for the tokens that are trained on.

        An answer whose question is not in its chunk as a whole is not trained on.
        """
        if any(rows.get("messages", ())) and not tokenizer.chat_template:
            raise UsageError("conversations: this tokenizer has no chat template; train on conversations first")
        chunks, truncated = [], []
        for row, (document, document_mask) in enumerate(_documents(rows, tokenizer)):
            learned = document_mask if all(document_mask) else _learned_with_question(document_mask, max_length)
            parts = zip(*(chunk(part, max_length, overlap=1) for part in (document, learned)), strict=True)
            chunks += [(row, ids, mask) for ids, mask in parts if any(mask[1:])]
            truncated.append(0 < sum(learned[1:]) < sum(document_mask[1:]))
        names = ("row", "input_ids", "loss_mask") if self.chat else ("row", "input_ids")
        return {name: [values[i] for values in chunks] for i, name in enumerate(names)} | {"truncated": truncated}

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        batch = token_batch(features, tokenizer.pad_token_id, layout, causal=True)
        labels = pad([f["input_ids"] for f in features], IGNORED)
        labels[document_starts(features, labels.shape[1])] = IGNORED  # a first token is predicted from nothing
        if "loss_mask" in features[0]:
            labels[pad([f["loss_mask"] for f in features], 0) == 0] = IGNORED
        return {**batch, "labels": labels}

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[summed loss, tokens, bytes]` of each row of features.

        `bytes` divides the UTF-8 bytes of all texts that are predicted among the rows, by their number of tokens. The
        first token of a document is not predicted, so that its bytes do not count.
        """
        documents = [row["text"] for row in rows if row.get("text")]
        num_bytes = sum(len(text.encode()) for row in rows for text in _learned_texts(row))
        num_bytes -= _first_token_bytes(documents, tokenizer)
        num_tokens = outputs[:, 1].astype(np.float64)
        return np.column_stack([outputs, num_bytes * num_tokens / num_tokens.sum()])

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return language_model.scores(stats)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        unigram, bigram = ngram_losses(train, evaluation)
        return baseline_values(floor={"unigram": unigram}, reference={"bigram": bigram})


def _first_token_bytes(texts: Sequence[str], tokenizer: Tokenizer) -> int:
    """Return the number of UTF-8 bytes in the first tokens of texts; a BOS token has none."""
    if not texts:
        return 0
    starts = tokenizer([text[:200] for text in texts], return_attention_mask=False, verbose=False)["input_ids"]
    first = [ids[0] for ids in starts if ids]
    pieces = zip(tokenizer.convert_ids_to_tokens(first), first, strict=True)
    decoded = [(token, str(tokenizer.decode([i], skip_special_tokens=True))) for token, i in pieces]
    # part of a character decodes to U+FFFD; each character of a byte-level token is one byte
    return sum(len(token if "\ufffd" in text else text.encode()) for token, text in decoded)


def _learned_with_question(mask: list[int], length: int) -> list[int]:
    """Return the mask of a conversation without the answers, or ends of answers, whose question an earlier chunk holds."""
    learned = [*mask]
    for start in range(length - 1, len(mask) - 1 if len(mask) > length else 0, length - 1):
        if mask[start] or not mask[start - 1]:  # a chunk that does not begin with a question
            end = [*mask, 0].index(0, [*mask, 1].index(1, start))
            learned[start + 1 : end] = [0] * (end - start - 1)
    return learned


def _learned_texts(row: Row) -> list[str]:
    return [row["text"]] if row.get("text") else [turn["content"] for turn, weight in _weighted_turns(row) if weight]


def _weighted_turns(row: Row) -> Iterator[tuple[chat.Turn, int]]:
    """Yield each turn of a conversation, and 1 if it is trained on."""
    return zip(row["messages"], chat.turn_weights(row["messages"], row.get("weights", ())), strict=True)


def _read_conversation(row: Row) -> list[chat.Turn]:
    if row.get("messages") is not None:
        return chat.read_turns(row["messages"])
    columns = ("instruction", "output") if row.get("instruction") is not None else ("prompt", "response")
    if all(row.get(column) is None for column in columns):
        raise ValueError("no 'text'" if "text" in row else "neither text nor a conversation")
    question, answer = (read_text(row, column) for column in columns)
    if (more := row.get("input")) is not None and str(more).strip():
        question += f"\n\n{read_text(row, 'input')}"
    return [*chat.read_history(row.get("history")), {"role": "user", "content": question}, chat.assistant_turn(answer)]


def _documents(rows: Rows, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of each row, and 1 for the ids that are trained on."""
    texts = rows["text"] if "text" in rows else [None] * len(rows["messages"])
    weights = rows.get("weights") or [()] * len(texts)
    encoded = tokenizer([text or "" for text in texts], return_attention_mask=False, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        if text is None:
            yield chat.encode_with_mask(rows["messages"][i], tokenizer, weights[i])
        else:
            ids = ids if ids[-1:] == end else [*ids, *end]
            yield ids, [1] * len(ids)
