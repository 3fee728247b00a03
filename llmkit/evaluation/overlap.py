"""How much generated texts share with what should have been said: sacrebleu's BLEU and chrF, rouge_score's ROUGE,
SQuAD's exact match and F1.

An example is kept as its counts, whose sums are the corpus figure: a bootstrap sample costs an addition, not a reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from llmkit.evaluation import squad

TRANSLATION = ("bleu", "chrf")
SUMMARY = ("rouge1", "rouge2", "rougeL")
ANSWER = ("exact_match", "f1")
BLEU_COUNTS = 10  # lengths of answer and reference; matches and totals of 1- to 4-grams
ROUGE_CUT = "rouge"
"""rouge_score's own way to cut words: stemmed, and of a–z and 0–9 alone, so that a Chinese text has none."""


def names(metric: str) -> tuple[str, ...]:
    """The metrics that are measured with `metric`."""
    return next((family for family in (TRANSLATION, SUMMARY, ANSWER) if metric in family), ())


def usual_cut(texts: Sequence[str], metric: str) -> str:
    """How words are told apart for `metric` in texts of this language: `zh` where most letters are Chinese, `char`
    where kana are among them; otherwise `13a`, and for ROUGE `rouge` or, beyond the English alphabet, `intl`."""
    letters = [c for text in texts for c in text if c.isalpha()]
    share = {
        name: sum(low <= c <= high for c in letters) / max(1, len(letters))
        for name, low, high in (("latin", "A", "z"), ("kana", "\u3041", "\u30ff"), ("han", "\u4e00", "\u9fff"))
    }
    if share["kana"] > 0.1:
        return "char"
    if share["han"] > 0.5:
        return "zh"
    return "13a" if metric in TRANSLATION else ROUGE_CUT if share["latin"] > 0.5 else "intl"


def cuts() -> list[str]:
    """Every name that `cut` may have."""
    from sacrebleu.metrics import BLEU

    return [ROUGE_CUT, *(name for name in BLEU.TOKENIZERS if name != "none")]


def count(metric: str, cut: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What `scores` adds up, of each text against its references, of which the likest counts: (examples, numbers)."""
    if metric in TRANSLATION:
        streams = list(zip_longest(*references))  # the n-th reference of each, None where a row has fewer
        tables = [m._extract_corpus_statistics(list(texts), streams) for m in (_bleu(cut), _chrf())]
        return np.hstack([np.array(table, dtype=np.float64) for table in tables])
    if metric in ANSWER:
        pairs = [(text, list(wanted)) for text, wanted in zip(texts, references, strict=True)]
        return np.array([[squad.exact_match(*pair), squad.f1(*pair)] for pair in pairs], dtype=np.float64)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(SUMMARY, use_stemmer=True, tokenizer=None if cut == ROUGE_CUT else _Cut(cut))
    found = [scorer.score_multi(list(wanted), text) for text, wanted in zip(texts, references, strict=True)]
    return np.array([[f[m].fmeasure for m in SUMMARY] for f in found], dtype=np.float64)


def scores(metric: str, counts: np.ndarray) -> dict[str, float]:
    """BLEU and chrF of the corpus (0 to 100, as sacrebleu); the mean F of ROUGE-1, -2 and -L, or mean exact match and
    F1 (0 to 1)."""
    if metric not in TRANSLATION:
        return dict(zip(names(metric), counts.mean(0).tolist(), strict=True))
    totals = counts.sum(0).astype(int).tolist()
    return {
        "bleu": _bleu()._compute_score_from_stats(totals[:BLEU_COUNTS]).score,
        "chrf": _chrf()._compute_score_from_stats(totals[BLEU_COUNTS:]).score,
    }


def _bleu(cut: str = "13a") -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=cut, force=True)


def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


class _Cut:
    """A tokenizer of sacrebleu's, as rouge_score wants one."""

    def __init__(self, name: str):
        self.cut = _bleu(name).tokenizer

    def tokenize(self, text: str) -> list[str]:
        return self.cut(text.lower()).split()
