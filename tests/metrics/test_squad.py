"""Exact match and F1 equal SQuAD's official scripts, and compare Chinese by character."""

from __future__ import annotations

import pytest

from llmkit.metrics import squad

OFFICIAL = [  # what evaluate-v2.0.py, and with a reference evaluate-v1.1.py, returns for a prediction and its references
    ("Denver Broncos", ["Denver Broncos"], 1, 1.0),
    ("the Denver Broncos", ["Denver Broncos"], 1, 1.0),
    ("Broncos", ["Denver Broncos", "The Broncos"], 1, 1.0),
    ("Denver Broncos!", ["denver  broncos"], 1, 1.0),
    ("in 1990", ["1990"], 0, 0.6666666666666666),
    ("1990s", ["1990"], 0, 0),
    ("cat cat dog", ["cat dog dog"], 0, 0.6666666666666666),
    ("an apple a day", ["apple day"], 1, 1.0),
    ("", ["Denver"], 0, 0),
    ("Denver", [], 0, 0),
    ("", [], 1, 1),
    ("state-of-the-art", ["state of the art"], 0, 0),
    ("it's", ["its"], 1, 1.0),
    ("U.S.A.", ["USA"], 1, 1.0),
    ("“quoted”", ["quoted"], 0, 0),
    ("$5 million", ["5 million"], 1, 1.0),
    ("The", ["Denver"], 0, 0),
    ("New York City, New York", ["New York", "New York City"], 0, 0.7499999999999999),
    ("theory", ["the ory"], 0, 0),
    ("one two three four", ["three", "two three", "four five six"], 0, 0.6666666666666666),
]


@pytest.mark.parametrize(("prediction", "references", "exact", "f1"), OFFICIAL)
def test_metrics_equal_official_script(prediction: str, references: list[str], exact: int, f1: float) -> None:
    assert squad.exact_match(prediction, references) == exact
    assert squad.f1(prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("绿色", "绿色", 1, 1.0),
        ("绿色的小船", "绿色", 0, 2 * 2 / (5 + 2)),
        ("“绿色”。", "绿色", 1, 1.0),  # full-width punctuation is removed from a Chinese text
        ("一只受伤的白鹭", "白鹭", 0, 2 * 2 / (7 + 2)),
        ("iPhone 手机", "iphone手机", 1, 1.0),
        ("2019年", "2019", 0, 2 / 3),
        ("白鹭", "鹭白", 0, 1.0),  # F1 ignores order, as with words
        ("ひらがな", "かな", 0, 2 * 1 / (4 + 2)),
        ("北京", "Beijing", 0, 0.0),
    ],
)
def test_chinese_and_japanese_are_compared_by_character(prediction: str, reference: str, exact: int, f1: float) -> None:
    assert squad.exact_match(prediction, reference) == exact
    assert squad.f1(prediction, reference) == pytest.approx(f1)
