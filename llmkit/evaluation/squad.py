"""How well an answer agrees with the true ones, as SQuAD's official scripts measure it.

evaluate-v2.0.py (Rajpurkar et al. 2018), and with it evaluate-v1.1.py (2016): they differ only for answers of which
nothing but articles and punctuation is there. Chinese and Japanese, which the scripts take for one long word, are
compared character by character, as in MLQA's script (Lewis et al. 2020).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

CJK = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
"""Characters that are words of their own: ideographs and kana."""


def tokens(text: str) -> list[str]:
    """The words of an answer: lower case, no punctuation (ASCII's; all of Unicode's where a character of CJK is there),
    no article."""
    text, foreign = text.lower(), CJK.search(text)
    left = (
        c for c in text if c not in string.punctuation and not (foreign and unicodedata.category(c).startswith("P"))
    )
    return CJK.sub(r" \1 ", re.sub(r"\b(a|an|the)\b", " ", "".join(left))).split()


def exact_match(prediction: str, truths: str | Sequence[str]) -> float:
    """1 where the prediction is one of `truths`, word for word, else 0. No truth: the right answer is the empty one."""
    said = tokens(prediction)
    return float(any(said == truth for truth in _truths(truths)))


def f1(prediction: str, truths: str | Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, 0 to 1, with the best of `truths`."""
    return max(_f1(tokens(prediction), truth) for truth in _truths(truths))


def _truths(truths: str | Sequence[str]) -> list[list[str]]:
    return [words for t in ([truths] if isinstance(truths, str) else truths) if (words := tokens(t))] or [[]]


def _f1(said: list[str], truth: list[str]) -> float:
    if not said or not truth:
        return float(said == truth)
    same = sum((Counter(said) & Counter(truth)).values())
    return 2 * same / (len(said) + len(truth))
