"""How well texts are found: rankings measured against what is relevant, and what needs no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

TOP = 10
METRICS = (f"ndcg@{TOP}", f"recall@{TOP}", "mrr")
WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
Place = tuple[int, int]


def words(text: str) -> list[str]:
    """A text's words in lower case; a Chinese character is one. Never empty."""
    return WORD.findall(text.lower()) or [text]


def judged(rows: Any) -> tuple[dict[str, Place], dict[str, Place], list[dict[int, float]]]:
    """Of rows (anchor, positive[, negative]): `(each distinct anchor, each distinct text that is searched, which of
    these answer each anchor)`. A text comes with its row and its place in the row where it first stands."""
    anchors: dict[str, Place] = {}
    documents: dict[str, Place] = {}
    answers: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        anchors.setdefault(row["anchor"], (i, 0))
        answers.setdefault(row["anchor"], []).append(row["positive"])
        for place, column in enumerate(("positive", "negative"), 1):
            if row.get(column):
                documents.setdefault(row[column], (i, place))
    number = {text: n for n, text in enumerate(documents)}
    return anchors, documents, [{number[text]: 1.0 for text in answers[anchor]} for anchor in anchors]


def products(queries: np.ndarray, documents: np.ndarray, block: int = 512) -> Iterator[np.ndarray]:
    """For each query, its dot product with every document: (documents,)."""
    for start in range(0, len(queries), block):
        yield from queries[start : start + block] @ documents.T


def rank(scores: Iterable[np.ndarray], relevant: Sequence[Mapping[int, float]]) -> np.ndarray:
    """`[nDCG@10, recall@10, reciprocal rank]` of each query: (queries, 3).

    scores: every document's, for each query; relevant: `{document: gain}` for each. Of equal scores the relevant come
    last, so that a model that cannot tell documents apart finds none. Gains count as they are, as in trec_eval.
    """
    discounts = 1 / np.log2(np.arange(TOP) + 2)
    found = []
    for row, gains_of in zip(scores, relevant, strict=True):
        gains = np.zeros(len(row))
        gains[list(gains_of)] = list(gains_of.values())
        ranked = gains[np.lexsort((gains, -row))]
        best = np.sort(gains)[::-1][:TOP]
        dcg, ideal = ranked[:TOP] @ discounts[: len(best)], best @ discounts[: len(best)]
        hits = ranked > 0
        found.append([dcg / ideal, hits[:TOP].sum() / hits.sum(), 1 / (1 + hits.argmax())])
    return np.array(found)


def score(examples: np.ndarray) -> dict[str, float]:
    """METRICS of what `rank` gives."""
    return dict(zip(METRICS, examples.mean(0).tolist(), strict=True))


def chance_and_bm25(rows: Any) -> tuple[float, float]:
    """nDCG@10 on rows (anchor, positive[, negative]): on average over all orders, and of BM25."""
    anchors, documents, relevant = judged(rows)
    discounts = 1 / np.log2(np.arange(min(TOP, len(documents))) + 2)
    chance = [len(r) / len(documents) * discounts.sum() / discounts[: len(r)].sum() for r in relevant]
    found = rank(BM25(list(documents)).scores(list(anchors)), relevant)
    return float(np.mean(chance)), score(found)[METRICS[0]]


def correlation(examples: np.ndarray) -> dict[str, float]:
    """`spearman` and `pearson` of `[score, cosine]` rows; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    ranks = np.column_stack([rankdata(column) for column in examples.T])
    return {name: _pearson(*columns.T) for name, columns in (("spearman", ranks), ("pearson", examples))}


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0


class BM25:
    """Okapi BM25 as Lucene has it (Robertson and Zaragoza 2009), over `words`."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75):
        from sklearn.feature_extraction.text import CountVectorizer

        self.counter = CountVectorizer(analyzer=words)
        counts = self.counter.fit_transform(documents).tocoo()
        frequency = np.bincount(counts.col, minlength=counts.shape[1])
        idf = np.log(1 + (counts.shape[0] - frequency + 0.5) / (frequency + 0.5))
        length = np.bincount(counts.row, counts.data, minlength=counts.shape[0])
        room = k1 * (1 - b + b * length / length.mean())
        counts.data = idf[counts.col] * counts.data * (k1 + 1) / (counts.data + room[counts.row])
        self.weights = counts.T.tocsr()

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """For each query, every document's score: (documents,)."""
        asked = self.counter.transform(queries)
        return ((asked[i] @ self.weights).toarray()[0] for i in range(len(queries)))


def tfidf_cosines(train: Iterable[str], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Of each pair of texts, the cosine of their TF-IDF vectors over `words`, whose weights the texts of `train` give."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(train)
    return np.asarray(weigh.transform(first).multiply(weigh.transform(second)).sum(1)).ravel()


def tfidf_spearman(train: Iterable[str], rows: Any) -> float:
    """Spearman of the scores in rows (text, text_pair, score) with `tfidf_cosines`."""
    cosines = tfidf_cosines(train, rows["text"][:], rows["text_pair"][:])
    return correlation(np.column_stack([rows["score"][:], cosines]))["spearman"]
