"""Exact match and F1 of answers, as SQuAD's official scripts compute them.

evaluate-v2.0.py (Rajpurkar et al. 2018), and with it evaluate-v1.1.py (2016): they differ only for answers that consist
of articles and punctuation alone. Chinese and Japanese text, which the scripts treat as one long word, is compared
character by character, as in MLQA's script (Lewis et al. 2020).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

CJK = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
"""Characters that each count as one word: ideographs and kana."""


def words(text: str) -> list[str]:
    """Split an answer into lower-case words, without articles and punctuation.

    Removes ASCII punctuation, and all Unicode punctuation if the text holds a CJK character.
    """
    text, cjk = text.lower(), CJK.search(text)
    kept = (c for c in text if c not in string.punctuation and not (cjk and unicodedata.category(c).startswith("P")))
    return CJK.sub(r" \1 ", re.sub(r"\b(a|an|the)\b", " ", "".join(kept))).split()


def exact_match(prediction: str, references: str | Sequence[str]) -> float:
    """Return 1 if the words of the prediction equal those of any reference, else 0.

    Without references the correct prediction is the empty one.
    """
    return float(words(prediction) in _reference_words(references))


def f1(prediction: str, references: str | Sequence[str]) -> float:
    """Return the harmonic mean of word precision and recall, 0 to 1, for the best reference."""
    return max(_f1(words(prediction), reference) for reference in _reference_words(references))


def _reference_words(references: str | Sequence[str]) -> list[list[str]]:
    references = [references] if isinstance(references, str) else references
    return [split for text in references if (split := words(text))] or [[]]


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))
