"""SQuAD's formats, and features of a question with a long context.

A raw row is an article or a paragraph of SQuAD's JSON (versions 1.1 and 2.0), or a single question. Its features are
overlapping windows of the context, each after the question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from llmkit.collate import IGNORED
from llmkit.errors import UsageError
from llmkit.task import Columns, Json, Row, Rows, Tokenizer, read_text

QUESTIONS = 32
"""Questions that are encoded at a time: a long context has dozens of windows."""
Span = tuple[int, int]
"""Start and end in characters."""


def questions(row: Row) -> Iterator[Row]:
    """Yield the questions of an article (`paragraphs`) or a paragraph (`qas`), each with its `context`.

    Any other row is yielded as it is. Raises ValueError for a malformed paragraph.
    """
    if row.get("paragraphs") is None and row.get("qas") is None:
        yield row
        return
    paragraphs = row["paragraphs"] if row.get("paragraphs") is not None else [row]
    for paragraph in paragraphs if isinstance(paragraphs, list) else [paragraphs]:
        qas = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(qas, list) or not all(isinstance(question, Mapping) for question in qas):
            raise ValueError("a paragraph is not a mapping of 'context' and 'qas', a list of questions")
        yield from ({**question, "context": paragraph.get("context")} for question in qas)


def read(row: Row) -> list[Row | ValueError]:
    """Return `{question, context, answers: {text, answer_start}}` for each question of a raw row.

    An invalid question becomes a ValueError with the reason. Without an answer, `text` is empty. An answer that is not
    at its place has the start -1: its text is right, but it is no label. A question needs one that is at its place.
    """
    rows: list[Row | ValueError] = []
    for question in questions(row):
        try:
            rows.append(_read_question(question))
        except ValueError as e:
            rows.append(ValueError(f"question {question['id']!r}: {e}" if question.get("id") is not None else str(e)))
    return rows


def _read_question(row: Row) -> Row:
    context = read_text(row, "context")
    given = _answers(row)
    answers = [_locate(context, text, start) for text, start in given]
    if answers and all(start < 0 for _, start in answers):
        raise ValueError(_misplaced(context, answers[0][0], given[0][1]))
    if answers and row.get("is_impossible") in (True, "true", "True"):
        raise ValueError(f"is_impossible is true, but the answer is {answers[0][0]!r}")
    if not answers and row.get("is_impossible") in (False, "false", "False"):
        raise ValueError("is_impossible is false, but there is no answer")
    return {
        "question": read_text(row, "question"),
        "context": context,
        "answers": {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]},
    }


def _answers(row: Row) -> list[tuple[Any, Any]]:
    """Text and start of each answer, in whichever columns they are."""
    answers, answer = row.get("answers"), row.get("answer")
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        if not isinstance(starts, list) or len(starts) != len(answers["text"]):
            raise ValueError(f"{len(answers['text'])} texts in 'answers', but a different number of 'answer_start'")
        return list(zip(answers["text"], starts, strict=True))
    if isinstance(answers, list) and all(isinstance(a, Mapping) for a in answers):
        return [(a.get("text"), a.get("answer_start")) for a in answers]
    if answers is None and isinstance(answer, str):
        return [(answer, row.get("answer_start"))] if answer.strip() else []
    if answers is None and row.get("is_impossible") in (True, "true", "True"):
        return []
    fault = "no 'answers'" if answers is None else f"'answers' is {str(answers)[:40]!r}"
    raise ValueError(f"{fault}; expected a list of text and answer_start, empty if there is no answer")


def _locate(context: str, text: object, start: object) -> tuple[str, int]:
    """Return the answer without surrounding white space, and its start, or -1 if it is not there. Raises ValueError."""
    start = int(start) if isinstance(start, str) and start.strip().isdecimal() else start
    if not isinstance(text, str) or not text.strip() or not isinstance(start, int):
        raise ValueError(f"answer {text!r} at {start!r}: expected a text and a whole number")
    answer = text.strip()
    for position in (start, start + len(text) - len(text.lstrip())):
        if position >= 0 and context.startswith(answer, position):
            return answer, position
    return answer, -1


def _misplaced(context: str, answer: str, start: object) -> str:
    actual = context.find(answer)
    where = f"but at {actual}" if actual >= 0 else "nor anywhere else"
    return f"answer {answer[:40]!r} is not at character {start} of its context, {where}"


# -- features


def encode_windows(
    rows: Rows, spans: Sequence[Span | None], tokenizer: Tokenizer, max_length: int, stride: int
) -> Columns:
    """Return the features of all windows, and for each question whether it was `truncated`.

    `spans` are the answers in characters. `start` and `end` are the answer's first and last token. In a window that
    does not hold the whole answer they are `null`, the token that stands for no answer; if no window holds it they are
    -100, since `null` would teach that there is no answer. `char_starts` and `char_ends` are each token's position in
    the context, -1 outside of it. A question takes at most half of a row; neighbouring windows share `stride` tokens,
    at most a third of a row. Raises UsageError for a slow tokenizer, or if `max_length` is too small.
    """
    if not tokenizer.is_fast:
        raise UsageError(f"{type(tokenizer).__name__} does not report the offsets of its tokens; use a fast tokenizer")
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 3:
        raise UsageError(f"data.max_length: {max_length} leaves no room for a question and its context; increase it")
    texts, truncated = _truncate(rows["question"], tokenizer, room // 2)
    stride = min(stride, max_length // 3, room - room // 2 - 1)
    features: list[Json] = []
    for first in range(0, len(texts), QUESTIONS):
        pairs = texts[first : first + QUESTIONS], list(rows["context"][first : first + QUESTIONS])
        options = {"truncation": "only_second", "max_length": max_length, "stride": stride}
        encoded = tokenizer(*pairs, **options, return_overflowing_tokens=True)
        for window, i in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
            types = {"token_type_ids": window.type_ids} if "token_type_ids" in encoded else {}
            features.append({**_feature(window, spans[first + i], tokenizer.cls_token_id), **types, "row": first + i})
    answered = {f["row"] for f in features if f["start"] != f["null"]}
    for feature in features:
        if spans[feature["row"]] and feature["row"] not in answered:
            feature["start"] = feature["end"] = IGNORED
            truncated[feature["row"]] = True
    return {**{name: [f[name] for f in features] for name in features[0]}, "truncated": truncated}


def _truncate(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> tuple[list[str], list[bool]]:
    """Return texts of at most `length` tokens, and which of them were cut."""
    encodings = tokenizer(list(texts), add_special_tokens=False, verbose=False).encodings
    cut = [len(e) > length for e in encodings]
    return [t[: e.offsets[length - 1][1]] if c else t for t, e, c in zip(texts, encodings, cut, strict=True)], cut


def _feature(window: Encoding, span: Span | None, cls_id: int | None) -> Json:
    inside = np.array([sequence == 1 for sequence in window.sequence_ids])
    starts, ends = np.where(inside, np.array(window.offsets).T, -1)
    null = window.ids.index(cls_id) if cls_id in window.ids else 0
    start = end = null
    context = np.flatnonzero(inside)
    if span and len(context) and starts[context[0]] <= span[0] and span[1] <= ends[context[-1]]:
        first = context[0] + np.searchsorted(ends[context], span[0], side="right")
        last = context[0] + np.searchsorted(starts[context], span[1]) - 1
        if first <= last:  # otherwise the tokenizer drops these characters
            start, end = int(first), int(last)
    return {"input_ids": window.ids, "char_starts": starts, "char_ends": ends, "null": null, "start": start, "end": end}
