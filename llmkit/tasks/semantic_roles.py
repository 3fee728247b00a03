"""Semantic roles: who did what to whom, when and where; the arguments of one predicate as labeled spans."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmkit.data import spans
from llmkit.errors import UsageError
from llmkit.task import Json, Model, Row, Tokenizer, read_list
from llmkit.tasks.token_classification import TokenClassification, Words


@dataclass(frozen=True)
class SemanticRoles(TokenClassification):
    """Words, the index of the predicate among them, and the roles of its arguments as tags. The encoder sees the
    predicate between two separators ([SEP], </s>). The predicate's own tag (V) is known, and not trained on."""

    name: ClassVar[str] = "semantic-roles"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words", "text", "sentence"), "predicate": ("verb",), "tags": ("roles", "labels"), "frames": (),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("tokens", "predicate", "tags"), ("tokens", "frames"))
    split_group: ClassVar[str | None] = "tokens"
    predict_columns: ClassVar[tuple[str, ...]] = ("tokens", "predicate")
    spans_key: ClassVar[str] = "roles"

    def read_row(self, row: Row) -> Sequence[Row | ValueError]:
        frames = [row] if row.get("tags") is not None else row.get("frames")
        if not isinstance(frames, (list, tuple)):
            raise ValueError("no tags and no frames")
        return [self._read_frame(row["tokens"], frame) for frame in frames]

    def _read_frame(self, tokens: object, frame: Row) -> Json:
        words = spans.read_words(read_list(tokens))
        tags = [
            "O" if re.fullmatch(r"[BI]-(C-)?V", t) else t for t in spans.read_tags(read_list(frame.get("tags")), words)
        ]
        return {"tokens": words, "predicate": spans.predicate_index(frame.get("predicate"), words), "tags": tags}

    def read_question(self, row: Row) -> list[Any]:
        """Return one input for each predicate: a row of a CoNLL-U file marks several."""
        frames = row.get("frames") if row.get("predicate") is None else None
        rows = [row] if frames is None else [{**row, "predicate": frame["predicate"]} for frame in frames]
        return [question for one in rows for question in super(SemanticRoles, self).read_question(one)]

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        super().configure(tokenizer, model)
        if not (tokenizer.sep_token or tokenizer.eos_token):
            name = type(tokenizer).__name__
            raise UsageError(f"{name} has no sep_token and no eos_token to mark predicates; use another tokenizer")

    def model_words(self, row: Row, mark: str) -> spans.Words:
        words, index = [*super().model_words(row, mark)], row["predicate"]
        words[index : index + 1] = [(mark, spans.MARK), (words[index][0], spans.UNREAD), (mark, spans.MARK)]
        return words

    def dictionary_keys(self, row: Row) -> Sequence[Any]:
        """Return each word, and on which side of the predicate it is."""
        return [(word, i < row["predicate"]) for i, word in enumerate(row["tokens"])]

    def locate(self, values: Row) -> Json:
        """Return the same with `predicate`, the index of its word. The input has it, or words that occur once."""
        sentence = super().locate(values)
        text, words, positions = sentence["text"], sentence["tokens"], sentence["positions"]
        first, last = spans.find_predicate(values.get("predicate"), text, positions)
        start, end = positions[first][0], positions[last - 1][1]
        words[first:last], positions[first:last] = [text[start:end]], [(start, end)]  # "关闭" is one word here
        return {**sentence, "predicate": first}

    def answer(self, question: Row, words: Words) -> Json:
        """Return the same with `predicate`, as `{"text", "start", "end"}`; the spans are called `roles`."""
        start, end = question["positions"][question["predicate"]]
        predicate = {"text": question["text"][start:end], "start": start, "end": end}
        return {**super().answer(question, words), "predicate": predicate}

    def format_prediction(self, answer: Row, given: object) -> str:
        roles = [{**answer["predicate"], "label": "V"}, *answer["roles"]]
        return super().format_prediction({**answer, "roles": roles}, given)
