"""Questions about a text as they come: SQuAD's JSON (articles of paragraphs of questions, 1 and 2), or one a row."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmkit.task import read_text


def flat(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The questions of an article (`paragraphs`) or a paragraph (`qas`), each with its `context`; another row as it is.
    Raises ValueError."""
    if row.get("paragraphs") is None and row.get("qas") is None:
        yield row
        return
    paragraphs = row["paragraphs"] if row.get("paragraphs") is not None else [row]
    for paragraph in paragraphs if isinstance(paragraphs, list) else [paragraphs]:
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list) or not all(isinstance(q, Mapping) for q in questions):
            raise ValueError("a paragraph is no mapping of 'context' and 'qas', a list of questions")
        yield from ({**question, "context": paragraph.get("context")} for question in questions)


def read(row: Mapping[str, Any]) -> list[dict[str, Any] | ValueError]:
    """`{question, context, answers: {text, answer_start}}` of each question of a raw row, or the ValueError that says
    what is wrong with it. Where there is no answer, `text` is empty. Raises ValueError."""
    found: list[dict[str, Any] | ValueError] = []
    for question in flat(row):
        try:
            found.append(_question(question))
        except ValueError as e:
            found.append(ValueError(f"question {question['id']!r}: {e}" if question.get("id") is not None else str(e)))
    return found


def _question(row: Mapping[str, Any]) -> dict[str, Any]:
    context = read_text(row, "context")
    found = [_located(context, text, start) for text, start in _answers(row)]
    if found and row.get("is_impossible") in (True, "true", "True"):
        raise ValueError(f"is_impossible, and yet answered by {found[0][0]!r}")
    if not found and row.get("is_impossible") in (False, "false", "False"):
        raise ValueError("no answer, and yet not is_impossible")
    return {
        "question": read_text(row, "question"),
        "context": context,
        "answers": {"text": [text for text, _ in found], "answer_start": [start for _, start in found]},
    }


def _answers(row: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    answers, answer = row.get("answers"), row.get("answer")
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        if not isinstance(starts, list) or len(starts) != len(answers["text"]):
            raise ValueError(f"{len(answers['text'])} texts in 'answers', and other than as many in its 'answer_start'")
        return list(zip(answers["text"], starts, strict=True))
    if isinstance(answers, list) and all(isinstance(a, Mapping) for a in answers):
        return [(a.get("text"), a.get("answer_start")) for a in answers]
    if answers is None and isinstance(answer, str):
        return [(answer, row.get("answer_start"))] if answer.strip() else []
    if answers is None and row.get("is_impossible") in (True, "true", "True"):
        return []
    what = "no 'answers'" if answers is None else f"'answers' is {str(answers)[:40]!r}"
    raise ValueError(f"{what}; they are a list of text and answer_start, empty where there is none")


def _located(context: str, text: Any, start: Any) -> tuple[str, int]:
    """The answer without white space around it, and where it stands. Raises ValueError where it does not."""
    start = int(start) if isinstance(start, str) and start.strip().isdecimal() else start
    if not isinstance(text, str) or not text.strip() or not isinstance(start, int):
        raise ValueError(f"answer {text!r} at {start!r}: not a text and a whole number")
    said = text.strip()
    for at in (start, start + len(text) - len(text.lstrip())):
        if at >= 0 and context.startswith(said, at):
            return said, at
    there = context.find(said)
    where = f"but at {there}" if there >= 0 else "nor anywhere else"
    raise ValueError(f"answer {said[:40]!r} does not stand at character {start} of its context, {where}")
