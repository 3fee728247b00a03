"""Contexts, rows and articles for the tests of question answering."""

from __future__ import annotations

from typing import Any

FERRY = "Old Marrow the ferryman lost his brass bell on Tuesday. His granddaughter Pia found it in the goat shed."
LONG = " ".join(f"House {i} of the long street is painted {c}." for i, c in enumerate(["red", "blue", "green"] * 12))
CHINESE = "老渔夫方大河每天清晨划着一条绿色的小船去打鱼。星期三早上，他捡到一只受伤的白鹭。"
TUESDAY = {"text": "Tuesday", "answer_start": FERRY.index("Tuesday")}


def make_row(question: str, context: str, answer: str | None) -> dict[str, Any]:
    """A row as the task keeps it."""
    texts = [] if answer is None else [answer]
    answers = {"text": texts, "answer_start": [context.index(text) for text in texts]}
    return {"question": question, "context": context, "answers": answers}


def make_article(context: str, *questions: dict[str, Any]) -> dict[str, Any]:
    """An article of SQuAD's JSON with one paragraph."""
    return {"title": "a title", "paragraphs": [{"context": context, "qas": list(questions)}]}
