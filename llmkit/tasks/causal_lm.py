"""Causal language modeling: predict each token from the tokens before it (GPT-2, Llama, Qwen, an LSTM, ...).

The columns decide the format: plain text is trained on as a whole; of a conversation (messages, ShareGPT, prompt and
response, Alpaca) only what the assistant says is trained on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from llmkit.collate import IGNORED, Feature, document_starts, pad, token_batch
from llmkit.data import chat
from llmkit.data.packing import chunk
from llmkit.errors import UsageError
from llmkit.metrics import language_model
from llmkit.metrics.baselines import ngram_losses
from llmkit.task import Batch, Columns, Dataset, Model, Row, Rows, Task, Tokenizer, baseline_values, read_text


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
        "prompt": ("question", "query"), "response": ("completion", "answer"),
        "instruction": (), "input": (), "output": (), "history": (), "system": (),
    }  # fmt: skip
    formats: ClassVar = (("text",), ("messages",), ("prompt", "response"), ("instruction", "output"))
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte")
    higher_is_better: ClassVar[bool] = False
    language_modeling: ClassVar[bool] = True

    def read_row(self, row: Row) -> Row:
        """Return `{"text": text}` or `{"messages": turns}`."""
        if row.get("text") is not None:
            return {"text": read_text(row, "text")}
        turns = _read_conversation(row)
        if all(turn["role"] != "assistant" for turn in turns):
            raise ValueError("no turn of the assistant, and only these are trained on")
        return {"messages": chat.with_system(turns, row.get("system"))}

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        return replace(self, chat="messages" in rows["train"].column_names) if "train" in rows else self

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row.get("text") or "\n".join(turn["content"] for turn in row["messages"]) for row in rows)

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        if self.chat and not tokenizer.chat_template:
            tokenizer.chat_template = chat.PLAIN_TEMPLATE

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return chunks of documents; of conversations also `loss_mask`, 1 for the tokens that are trained on."""
        if any(rows.get("messages", ())) and not tokenizer.chat_template:
            raise UsageError("conversations: this tokenizer has no chat template; train on conversations first")
        chunks = [
            (row, ids, mask)
            for row, document in enumerate(_documents(rows, tokenizer))
            for ids, mask in zip(*(chunk(part, max_length, overlap=1) for part in document), strict=True)
            if any(mask[1:])
        ]
        names = ("row", "input_ids", "loss_mask") if self.chat else ("row", "input_ids")
        return {name: [values[i] for values in chunks] for i, name in enumerate(names)}

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
        documents = [r["text"] for r in rows if r.get("text")]
        answers = [t["content"] for r in rows if not r.get("text") for t in r["messages"] if t["role"] == "assistant"]
        num_bytes = sum(len(text.encode()) for text in documents + answers) - _first_token_bytes(documents, tokenizer)
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


def _read_conversation(row: Row) -> list[chat.Turn]:
    if row.get("messages") is not None:
        return chat.read_turns(row["messages"])
    is_alpaca = row.get("instruction") is not None
    columns = ("instruction", "output") if is_alpaca else ("prompt", "response")
    if all(row.get(column) is None for column in columns):
        raise ValueError("no 'text'" if "text" in row else "neither text nor a conversation")
    question, answer = (read_text(row, column) for column in columns)
    more, history = (row.get("input"), row.get("history")) if is_alpaca else (None, None)
    question += f"\n\n{more}" if isinstance(more, str) and more.strip() else ""
    return [*chat.read_history(history), {"role": "user", "content": question}, chat.assistant_turn(answer)]


def _documents(rows: Rows, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of each row, and 1 for the ids that are trained on."""
    texts = rows["text"] if "text" in rows else [None] * len(rows["messages"])
    encoded = tokenizer([text or "" for text in texts], return_attention_mask=False, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        if text is None:
            yield chat.encode_with_mask(rows["messages"][i], tokenizer)
        else:
            ids = ids if ids[-1:] == end else [*ids, *end]
            yield ids, [1] * len(ids)
