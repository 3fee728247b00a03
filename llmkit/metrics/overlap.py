"""How much generated texts share with references: BLEU and chrF (sacrebleu), ROUGE (rouge_score), exact match and F1.

Each example is kept as counts, whose sum or mean gives the metric of the corpus, so that a bootstrap sample costs an
addition and no second tokenization.
"""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from llmkit.metrics import squad

TRANSLATION = ("bleu", "chrf")
SUMMARY = ("rouge1", "rouge2", "rougeL")
ANSWER = ("exact_match", "f1")
BLEU_COUNTS = 10
"""Numbers that BLEU needs of an example: length of prediction and reference; matches and totals of 1- to 4-grams."""
ROUGE_TOKENIZER = "rouge"
"""rouge_score's own tokenizer: stemmed words of a-z and 0-9 only, so that a Chinese text has none."""


def _family(metric: str) -> tuple[str, ...]:
    return next((family for family in (TRANSLATION, SUMMARY, ANSWER) if metric in family), ())


def metric_names(metric: str) -> tuple[str, ...]:
    """Return `metric`, followed by the metrics that are computed with it."""
    return tuple(sorted(_family(metric), key=lambda name: name != metric))


def default_tokenizer(texts: Sequence[str], metric: str) -> str:
    """Return the name of the tokenizer for `metric` in the language of `texts`.

    `zh` if most letters are Chinese, `char` if there are kana among them; otherwise `13a`, and for ROUGE `rouge`, or
    `intl` if most letters are not Latin.
    """
    letters = [c for text in texts for c in text if c.isalpha()]
    ranges = ("A", "z"), ("\u3041", "\u30ff"), ("\u4e00", "\u9fff")
    latin, kana, han = (sum(low <= c <= high for c in letters) / max(1, len(letters)) for low, high in ranges)
    if kana > 0.1 or han > 0.5:
        return "char" if kana > 0.1 else "zh"
    return "13a" if metric in TRANSLATION else ROUGE_TOKENIZER if latin > 0.5 else "intl"


def tokenizers() -> list[str]:
    """Return the names that `tokenizer` may have."""
    return [ROUGE_TOKENIZER, *(name for name in BLEU.TOKENIZERS if name != "none")]


def count(metric: str, tokenizer: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return what `scores` needs of each text: (texts, numbers). Of several references the closest one counts."""
    if metric in TRANSLATION:
        streams = list(zip_longest(*references))  # the n-th reference of each text, None where it has fewer
        scorers = BLEU(tokenize=tokenizer, force=True), CHRF()
        tables = [scorer._extract_corpus_statistics(list(texts), streams) for scorer in scorers]
        return np.hstack([np.array(table, dtype=np.float64) for table in tables])
    pairs = [(text, list(refs)) for text, refs in zip(texts, references, strict=True)]
    if metric in ANSWER:
        return np.array([[squad.exact_match(*pair), squad.f1(*pair)] for pair in pairs], dtype=np.float64)
    own = None if tokenizer == ROUGE_TOKENIZER else _LowerCase(tokenizer)
    scorer = RougeScorer(SUMMARY, use_stemmer=True, tokenizer=own)
    results = [scorer.score_multi(refs, text) for text, refs in pairs]
    return np.array([[result[name].fmeasure for name in SUMMARY] for result in results], dtype=np.float64)


def scores(metric: str, counts: np.ndarray) -> dict[str, float]:
    """Return `metric`, and the metrics computed with it, from the `count` of any sample of texts.

    BLEU and chrF are those of the corpus (0 to 100); ROUGE-1, -2 and -L (F-measure), exact match and F1 are means (0 to 1).
    """
    if metric not in TRANSLATION:
        return dict(zip(_family(metric), counts.mean(0).tolist(), strict=True))
    totals = counts.sum(0).astype(int).tolist()
    return {
        "bleu": BLEU(force=True)._compute_score_from_stats(totals[:BLEU_COUNTS]).score,
        "chrf": CHRF()._compute_score_from_stats(totals[BLEU_COUNTS:]).score,
    }


class _LowerCase:
    """A tokenizer of sacrebleu with the interface of rouge_score's."""

    def __init__(self, name: str):
        self.split = BLEU(tokenize=name, force=True).tokenizer

    def tokenize(self, text: str) -> list[str]:
        return self.split(text.lower()).split()
