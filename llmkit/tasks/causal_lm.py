"""Causal language modelling: predict each token from those before it (GPT-2, Llama, Qwen, an LSTM …).

The columns decide the format: plain text is predicted whole; of conversations (messages, ShareGPT, prompt and response,
Alpaca) only what the assistant says is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError
from llmkit.task import Batch, Dataset, Task, np, read_text, torch, valued


@dataclass(frozen=True)
class CausalLM(Task):
    """Text in, the same text to predict. Every document ends with EOS, which is trained on."""

    label_smoothing: float = 0.0
    """of the cross entropy"""
    chat: bool = False
    """whether the training rows are conversations (learned from them)"""

    name: ClassVar[str] = "causal-lm"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("content", "story", "document", "body"),
        "messages": ("conversations", "conversation"),
        "prompt": ("question", "query"),
        "response": ("completion", "answer"),
        "instruction": (),
        "input": (),
        "output": (),
        "history": (),
        "system": (),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("text",),
        ("messages",),
        ("prompt", "response"),
        ("instruction", "output"),
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bits_per_byte")
    higher_is_better: ClassVar[bool] = False
    predicts_next: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    whole_documents: ClassVar[bool] = True
    tokenizer_style: ClassVar[str] = "gpt2"
    can_generate: ClassVar[bool] = True

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        from llmkit.data import conversations

        if row.get("text") is not None:
            return {"text": read_text(row, "text")}
        turns = self._turns(row)
        if all(turn["role"] != "assistant" for turn in turns):
            raise ValueError("no turn of the assistant, whose words alone are learned")
        return {"messages": conversations.with_system(turns, row.get("system"))}

    @staticmethod
    def _turns(row: Mapping[str, Any]) -> list[dict[str, str]]:
        from llmkit.data import conversations

        if row.get("messages") is not None:
            return conversations.read_turns(row["messages"])
        more, before, columns = row.get("input"), row.get("history"), ("instruction", "output")
        if row.get("instruction") is None:
            more, before, columns = None, None, ("prompt", "response")
            if all(row.get(c) is None for c in columns):
                raise ValueError("no 'text'" if "text" in row else "neither text nor a conversation")
        asked, answer = (read_text(row, c) for c in columns)
        asked += f"\n\n{more}" if isinstance(more, str) and more.strip() else ""
        return [
            *conversations.read_history(before),
            {"role": "user", "content": asked},
            conversations.said(answer),
        ]

    def fit(self, rows: Dataset) -> Self:
        if not 0 <= self.label_smoothing <= 1:
            raise RecipeError(f"task.label_smoothing: {self.label_smoothing:g} is not between 0 and 1")
        return self.replace(chat="messages" in rows.column_names)

    def texts(self, rows: Dataset) -> Iterator[str]:
        for row in rows:
            yield row.get("text") or "\n".join(m["content"] for m in row["messages"])

    def ready_tokenizer(self, tokenizer: Any) -> None:
        from llmkit.data.conversations import PLAIN_TEMPLATE

        if self.chat and not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN_TEMPLATE

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        from llmkit.data.packing import chunks

        if any(rows.get("messages", ())) and not tokenizer.chat_template:
            fix = "train it on conversations first"
            raise RecipeError(f"conversations: this model's tokenizer has no chat template; {fix}")
        found = [
            (row, ids, learn)
            for row, document in enumerate(self._documents(rows, tokenizer))
            for ids, learn in zip(*(chunks(part, max_length) for part in document), strict=True)
            if any(learn[1:])
        ]
        columns = {"row": [row for row, _, _ in found], "input_ids": [ids for _, ids, _ in found]}
        return {**columns, "learn": [learn for _, _, learn in found]} if self.chat else columns

    def _documents(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
        """The ids of each row, and 1 for those that are trained on."""
        from llmkit.data.conversations import encode_learning

        texts = rows["text"] if "text" in rows else [None] * len(rows["messages"])
        encoded = tokenizer([text or "" for text in texts], return_attention_mask=False, verbose=False)["input_ids"]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        for i, ids in enumerate(encoded):
            if texts[i] is None:
                yield encode_learning(rows["messages"][i], tokenizer)
            else:
                ids = ids if ids[-1:] == end else [*ids, *end]
                yield ids, [1] * len(ids)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        batch = collation.tokens(features, tokenizer.pad_token_id, layout, causal=True)
        labels = collation.pad([f["input_ids"] for f in features], collation.IGNORED)
        labels[collation.starts(features, labels.shape[1])] = collation.IGNORED  # nothing stands before a first token
        if "learn" in features[0]:
            labels = torch.where(collation.pad([f["learn"] for f in features], 0) == 1, labels, collation.IGNORED)
        return {**batch, "labels": labels}

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[nats, tokens, bytes]` of each row of features; the text's bytes are shared out by tokens."""
        turns = (turn for row in rows if not row.get("text") for turn in row["messages"])
        said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        size = sum(len(text.encode()) for text in [*said, *(row["text"] for row in rows if row.get("text"))])
        tokens = outputs[:, 1].astype(np.float64)
        return np.column_stack([outputs, size * tokens / tokens.sum()])

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import language_model

        return language_model(examples)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation.baselines import ngram_losses

        unigram, bigram = ngram_losses(train, evaluation)
        return valued(floor={"unigram": unigram}, reference={"bigram": bigram})

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        if row.get("messages"):
            from llmkit.data.conversations import snippet

            first = [*(m["role"] for m in row["messages"]), "assistant"].index("assistant")
            return snippet(folder, row["messages"][:first])
        prompt = " ".join(row["text"].split()[:4])[:40]
        return (
            "from transformers import pipeline\n\n"
            f"generator = pipeline('text-generation', {folder!r}, tokenizer={folder!r})\n"
            f"print(generator({prompt!r}, max_new_tokens=30, do_sample=False)[0]['generated_text'])"
        )
