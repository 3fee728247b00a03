"""How much generated texts share with references: BLEU and chrF (sacrebleu), ROUGE (rouge_score), exact match and F1.

Each example is kept as counts, whose sum or mean gives the metric of the corpus, so that a bootstrap sample costs an
addition and no second tokenization.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
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
WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\W\\d_\u3040-\u30ff\u3400-\u9fff]+")
"""A kana or Han character, or a run of other letters."""
SCRIPTS = {"kana": ("\u3040", "\u30ff"), "Han": ("\u3400", "\u9fff"), "Latin": ("A", "\u024f")}
RARE = 0.05
"""Share of words up to which a script does not decide the tokenizer."""


def _family(metric: str) -> tuple[str, ...]:
    return next((family for family in (TRANSLATION, SUMMARY, ANSWER) if metric in family), ())


def metric_names(metric: str) -> tuple[str, ...]:
    """Return `metric`, followed by the metrics that are computed with it."""
    return tuple(sorted(_family(metric), key=lambda name: name != metric))


def script_shares(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of words in each of SCRIPTS, and of `other`; a kana or Han character counts as a word."""
    counts = Counter(
        next((script for script, (low, high) in SCRIPTS.items() if low <= word[0] <= high), "other")
        for text in texts
        for word in WORD.findall(text)
    )
    return {script: counts[script] / max(1, counts.total()) for script in (*SCRIPTS, "other")}


def default_tokenizer(shares: Mapping[str, float], metric: str) -> str:
    """Return the name of the tokenizer for `metric` on texts with these `script_shares`.

    `char` or `zh` if more than a few words are kana or Han characters, however many others there are: the others would
    drop them (ROUGE) or take a sentence for a word (BLEU). Otherwise `13a`, and for ROUGE `rouge`, or `intl` if more than
    a few words are not Latin.
    """
    if shares["kana"] > RARE or shares["Han"] > RARE:
        return "char" if shares["kana"] > RARE else "zh"
    return "13a" if metric in TRANSLATION else "intl" if shares["other"] > RARE else ROUGE_TOKENIZER


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
