"""SQuAD's formats are read as they come, and windows cover a context with the right labels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from squad_rows import CHINESE, FERRY, LONG, TUESDAY, make_article, make_row

from llmkit import DataConfig
from llmkit.data.loading import load_part
from llmkit.errors import UsageError
from llmkit.models.tokenizers import load_tokenizer, train_tokenizer
from llmkit.tasks import QuestionAnswering, _squad


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    return load_tokenizer(str(tiny_bert))


@pytest.fixture(scope="module")
def typed() -> Any:
    """A tokenizer that returns token_type_ids, as BERT's does."""
    tokenizer = train_tokenizer("wordpiece", 300, iter([FERRY, LONG, CHINESE]), "bert")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


# -- rows

FORMATS = {
    "SQuAD 1": make_article(FERRY, {"id": "q1", "question": "When?", "answers": [TUESDAY]}),
    "SQuAD 2": make_article(FERRY, {"id": "q1", "question": "When?", "answers": [TUESDAY], "is_impossible": False}),
    "paragraph": {"context": FERRY, "qas": [{"id": 1, "question": "When?", "answers": [TUESDAY]}]},
    "list of answers": {"question": "When?", "context": FERRY, "answers": [TUESDAY]},
    "lists of answers": {"question": "When?", "context": FERRY, "answers": {k: [v] for k, v in TUESDAY.items()}},
    "one answer": {"query": "When?", "passage": FERRY, "answer": "Tuesday", "answer_start": 47},
    "csv": {"question": "When?", "context": FERRY, "answer": "Tuesday", "answer_start": "47"},
    "space around answer": {"question": "When?", "context": FERRY, "answer": " Tuesday ", "answer_start": 46},
    "start after space": {"question": "When?", "context": FERRY, "answer": " Tuesday", "answer_start": 47},
}


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_row(row: dict[str, Any]) -> None:
    (loaded,) = load_part([row], QuestionAnswering(), DataConfig())
    assert loaded == make_row("When?", FERRY, "Tuesday")


def test_answer_that_is_not_at_its_place_is_no_label_and_keeps_the_question(
    capsys: pytest.CaptureFixture, tokenizer: Any
) -> None:
    """CMRC 2018 gives three answers per question, some of them at a wrong place."""
    answers = [{"text": "on Friday", "answer_start": 3}, {"text": "Tuesday", "answer_start": 40}, TUESDAY]
    row = {"question": "When?", "context": FERRY, "answers": answers}
    rows = load_part([row, make_row("When?", FERRY, "Tuesday")], QuestionAnswering(), DataConfig())
    texts = ["on Friday", "Tuesday", "Tuesday"]
    assert rows["answers"][0] == {"text": texts, "answer_start": [-1, -1, TUESDAY["answer_start"]]}
    task = QuestionAnswering().fit({"train": rows})
    line = "train: 2 answers of questions with several not at the given place in the context, so no label"
    assert task.unanswerable is False and line in capsys.readouterr().err
    several, single = (encode([question], tokenizer, 64) for question in rows)
    assert several["start"] == single["start"] and several["end"] == single["end"] and max(single["start"]) > 0


impossible = {"question": "Who?", "answers": [], "plausible_answers": [TUESDAY], "is_impossible": True}
UNANSWERABLE = {
    "SQuAD 2": make_article(FERRY, impossible),
    "empty list": {"question": "Who?", "context": FERRY, "answers": []},
    "empty lists": {"question": "Who?", "context": FERRY, "answers": {"text": [], "answer_start": []}},
    "empty answer": {"question": "Who?", "context": FERRY, "answer": "", "answer_start": None},
}


@pytest.mark.parametrize("row", UNANSWERABLE.values(), ids=UNANSWERABLE)
def test_every_format_allows_question_without_answer(row: dict[str, Any]) -> None:
    rows = load_part([row], QuestionAnswering(), DataConfig())
    assert list(rows) == [make_row("Who?", FERRY, None)]
    assert QuestionAnswering().fit({"train": rows}).unanswerable is True


INVALID = {
    "is not at character 40 of its context, but at 47": {"answers": [{"text": "Tuesday", "answer_start": 40}]},
    "is not at character 0 of its context, nor anywhere else": {"answers": [{"text": "Friday", "answer_start": 0}]},
    "at character -7": {"answers": [{"text": "shed.", "answer_start": -7}]},
    "answer '' at 3: expected a text": {"answers": [{"text": "", "answer_start": 3}]},
    "answer 'Tuesday' at None: expected a text and a whole number": {"answers": [{"text": "Tuesday"}]},
    "no 'answers'; expected a list of text and answer_start, empty if there is no answer": {"answers": None},
    "'answers' is 'Tuesday'": {"answers": "Tuesday"},
    "2 texts in 'answers'": {"answers": {"text": ["Tuesday", "Pia"], "answer_start": [47]}},
    "is_impossible is true, but the answer is 'Tuesday'": {"answers": [TUESDAY], "is_impossible": True},
    "is_impossible is false, but there is no answer": {"answers": [], "is_impossible": False},
    "empty 'question'": {"answers": [TUESDAY], "question": " "},
    "no 'context'": {"answers": [TUESDAY], "context": None},
}


@pytest.mark.parametrize(("reason", "row"), INVALID.items(), ids=INVALID)
def test_invalid_question_is_named_with_its_reason(reason: str, row: dict[str, Any]) -> None:
    rows = [{"question": "When?", "context": FERRY, "is_impossible": None, **row}]
    with pytest.raises(UsageError) as e:
        load_part(rows, QuestionAnswering(), DataConfig())
    (line,) = e.value.faults
    assert line.startswith("1 invalid row: row 1: ") and reason in line and "\n" not in line


def test_invalid_question_leaves_the_others_of_its_article(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = {"id": "w7", "question": "When?", "answers": [{"text": "Tuesday", "answer_start": 40}]}
    right = {"id": "r8", "question": "When was it?", "answers": [TUESDAY]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [make_article(FERRY, wrong, right)]}))
    with pytest.raises(UsageError, match=r"squad.json row 1: question 'w7': answer 'Tuesday' is not at character 40"):
        load_part(str(file), QuestionAnswering(), DataConfig())
    rows = load_part(str(file), QuestionAnswering(), DataConfig(on_error="skip"))
    assert rows["question"][:] == ["When was it?"] and "question 'w7'" in capsys.readouterr().err


def test_malformed_article_is_an_invalid_row() -> None:
    for paragraphs in ("text", [FERRY], [{"context": FERRY}], [{"context": FERRY, "qas": ["When?"]}]):
        with pytest.raises(UsageError, match="row 1: a paragraph is not a mapping of 'context' and 'qas'"):
            load_part([{"paragraphs": paragraphs}], QuestionAnswering(), DataConfig())


def test_questions_yields_each_question_with_its_context() -> None:
    article = make_article(FERRY, {"question": "When?"}, {"question": "Who?"})
    expected = [{"question": "When?", "context": FERRY}, {"question": "Who?", "context": FERRY}]
    assert list(_squad.questions(article)) == expected
    assert list(_squad.questions(expected[0])) == expected[:1]


# -- windows


def encode(rows: list[dict[str, Any]], tokenizer: Any, max_length: int, stride: int = 8) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows] for name in ("question", "context", "answers")}
    return QuestionAnswering(stride=stride).encode(columns, tokenizer, max_length)


def context_offsets(features: dict[str, Any], i: int) -> tuple[np.ndarray, np.ndarray]:
    inside = features["char_starts"][i] >= 0
    return features["char_starts"][i][inside], features["char_ends"][i][inside]


@pytest.mark.parametrize("context", [LONG, CHINESE * 6], ids=["English", "Chinese"])
@pytest.mark.parametrize("which", ["tokenizer", "typed"])
def test_windows_cover_the_context_and_share_stride_tokens(which: str, context: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(which)
    features = encode([make_row("Which is green?", context, None)], tokenizer, 48)
    tokens = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    windows = [list(zip(*context_offsets(features, i), strict=True)) for i in range(len(features["row"]))]
    assert len(windows) > 3 and all(len(ids) <= 48 for ids in features["input_ids"])
    for before, after in itertools.pairwise(windows):
        assert before[-8:] == after[:8]
    assert windows[0] + [pair for part in windows[1:] for pair in part[8:]] == tokens


@pytest.mark.parametrize("which", ["tokenizer", "typed"])
@pytest.mark.parametrize(
    ("context", "answer"),
    [(LONG, "House 17"), (LONG, "street is painted"), (FERRY, "the goat shed"), (CHINESE * 6, "绿色的小船")],
)
def test_window_labels_are_the_answer_or_null(which: str, context: str, answer: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(which)
    row = make_row("Which?", context, answer)
    features, (start,) = encode([row], tokenizer, 48), row["answers"]["answer_start"]
    answered = 0
    for i in range(len(features["row"])):
        starts, ends = context_offsets(features, i)
        first, last = features["start"][i], features["end"][i]
        if starts[0] <= start and start + len(answer) <= ends[-1]:
            text = context[features["char_starts"][i][first] : features["char_ends"][i][last]]
            assert text.strip() == answer
            answered += 1
        else:
            assert first == last == features["null"][i] == 0
            assert features["input_ids"][i][0] == tokenizer.cls_token_id
    assert answered >= 1 and features["truncated"] == [False]


def test_question_longer_than_half_a_row_is_cut_and_counted(tokenizer: Any) -> None:
    rows = [make_row("Which? " * 60, FERRY, "Pia"), make_row("Which?", FERRY, "Pia")]
    features = encode(rows, tokenizer, 48)
    assert features["truncated"] == [True, False]
    for i, row in enumerate(features["row"]):
        assert len(features["input_ids"][i]) <= 48
        if row == 0:
            assert features["input_ids"][i].index(tokenizer.sep_token_id) - 1 == (48 - 3) // 2
        assert any(features["start"][j] > 0 for j, r in enumerate(features["row"]) if r == row)


@pytest.mark.parametrize("max_length", [8, 12, 64])
@pytest.mark.parametrize("stride", [0, 128])
def test_any_max_length_and_stride_gives_windows(tokenizer: Any, max_length: int, stride: int) -> None:
    features = encode([make_row("Which house is green?", LONG, "blue")], tokenizer, max_length, stride)
    assert max(map(len, features["input_ids"])) <= max_length
    assert max(ends.max() for ends in features["char_ends"]) == len(LONG)


def test_max_length_without_room_for_a_context_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=r"data.max_length: 5 leaves no room for a question and its context"):
        encode([make_row("Which?", FERRY, "Pia")], tokenizer, 5)
