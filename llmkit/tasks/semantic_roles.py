"""Semantic roles: who did what to whom, when and where; the arguments of one predicate as labelled spans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmkit.errors import RecipeError
from llmkit.tasks.token_classification import TokenClassification


@dataclass(frozen=True)
class SemanticRoles(TokenClassification):
    """Words, the number of the predicate among them, and the roles of its arguments as tags. The encoder sees the
    predicate between two separators ([SEP], </s>). The predicate's own tag (V) is given, and not learned."""

    name: ClassVar[str] = "semantic-roles"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words", "text", "sentence"),
        "predicate": ("verb",),
        "tags": ("roles", "labels"),
        "frames": (),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("tokens", "predicate", "tags"), ("tokens", "frames"))
    document: ClassVar[str | None] = "tokens"
    asks: ClassVar[tuple[str, ...]] = ("tokens", "predicate")
    answers: ClassVar[str] = "roles"

    def read_row(self, row: Mapping[str, Any]) -> Any:
        frames = [row] if row.get("tags") is not None else row.get("frames")
        if not isinstance(frames, (list, tuple)):
            raise ValueError("no tags and no frames")
        return [self._read_frame(row["tokens"], frame) for frame in frames]

    def _read_frame(self, words: Any, frame: Mapping[str, Any]) -> dict[str, Any]:
        from llmkit.data.tagging import number_of

        read = super().read_row({"tokens": words, "tags": frame.get("tags")})
        tags = ["O" if re.fullmatch(r"[BI]-(C-)?V", tag) else tag for tag in read["tags"]]
        return {"tokens": read["tokens"], "predicate": number_of(frame.get("predicate"), read["tokens"]), "tags": tags}

    def shown(self, row: Mapping[str, Any], mark: str) -> list[tuple[str, int]]:
        from llmkit.data.tagging import MARK, UNREAD

        words, at = super().shown(row, mark), row["predicate"]
        return [*words[:at], (mark, MARK), (words[at][0], UNREAD), (mark, MARK), *words[at + 1 :]]

    def clues(self, row: Mapping[str, Any]) -> list[Any]:
        """Each word, and on which side of the predicate it stands."""
        return [(word, i < row["predicate"]) for i, word in enumerate(row["tokens"])]

    def ready_tokenizer(self, tokenizer: Any) -> None:
        super().ready_tokenizer(tokenizer)
        if not (tokenizer.sep_token or tokenizer.eos_token):
            name = type(tokenizer).__name__
            raise RecipeError(f"{name} has no separator (sep_token, eos_token) to mark predicates with")

    def read_question(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One for each predicate that a CoNLL-U file marks in a sentence."""
        frames = row.get("frames") if row.get("predicate") is None else None
        rows = [row] if frames is None else [{**row, "predicate": frame["predicate"]} for frame in frames]
        return [question for asked in rows for question in super(SemanticRoles, self).read_question(asked)]

    def question(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same with `predicate`, the number of its word (from 0), where `given` has it or words that stand once."""
        from llmkit.data.tagging import locate

        found = super().question(given)
        words, places = found["tokens"], found["places"]
        first, last = locate(given.get("predicate"), found["text"], places)
        whole = (places[first][0], places[last - 1][1])  # "关闭" is one word here, though no space says so
        words[first:last], places[first:last] = [found["text"][slice(*whole)]], [whole]
        return {**found, "predicate": first}

    def answer(self, question: Mapping[str, Any], tags: Sequence[tuple[str, float]]) -> dict[str, Any]:
        """The same with `predicate` as `{"text", "start", "end"}`; the spans are called `roles`."""
        start, end = question["places"][question["predicate"]]
        predicate = {"text": question["text"][start:end], "start": start, "end": end}
        return {**super().answer(question, tags), "predicate": predicate}

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        spans = [{**answer["predicate"], "label": "V"}, *answer["roles"]]
        return super().show({**answer, "roles": spans}, given)
