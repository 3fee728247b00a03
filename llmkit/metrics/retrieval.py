"""Ranking metrics, correlations, and lexical baselines (BM25, TF-IDF) for embeddings and search."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from datasets import Dataset
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from llmkit.task import Row

TOP = 10
"""Number of results that nDCG and recall look at."""
METRICS = (f"ndcg@{TOP}", f"recall@{TOP}", "mrr")
WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
Position = tuple[int, int]
"""Where a text occurs first: the index of its row, and its index in that row."""


def words(text: str) -> list[str]:
    """Return the lower-case words of a text; a Chinese character is a word. Never empty."""
    return WORD.findall(text.lower()) or [text]


def judged(rows: Iterable[Row]) -> tuple[dict[str, Position], dict[str, Position], list[dict[int, float]]]:
    """Return the distinct anchors, the distinct documents (positives and negatives), and the relevance judgements.

    rows: (anchor, positive[, negative]). Texts come with their position; a judgement maps, for each anchor, the index
    of each relevant document to its gain of 1.
    """
    anchors: dict[str, Position] = {}
    documents: dict[str, Position] = {}
    positives: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        anchors.setdefault(row["anchor"], (i, 0))
        positives.setdefault(row["anchor"], []).append(row["positive"])
        for place, column in enumerate(("positive", "negative"), 1):
            if row.get(column):
                documents.setdefault(row[column], (i, place))
    index = {text: i for i, text in enumerate(documents)}
    return anchors, documents, [{index[text]: 1.0 for text in positives[anchor]} for anchor in anchors]


def products(queries: np.ndarray, documents: np.ndarray, block: int = 512) -> Iterator[np.ndarray]:
    """Yield, for each query, its dot product with every document: (documents,)."""
    for start in range(0, len(queries), block):
        yield from queries[start : start + block] @ documents.T


def rank(document_scores: Iterable[np.ndarray], relevant: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Return `[nDCG@10, recall@10, reciprocal rank]` of each query: (queries, 3).

    document_scores: for each query, the score of every document; relevant: for each query, `{document: gain}`. Among
    equal scores relevant documents come last, so that a model that scores all documents alike gets no credit. A document
    with the score -inf is not found. Gains are linear, as in trec_eval.
    """
    discounts = 1 / np.log2(np.arange(TOP) + 2)
    stats = []
    for row, gain_of in zip(document_scores, relevant, strict=True):
        gains = np.zeros(len(row))
        gains[list(gain_of)] = list(gain_of.values())
        ranked = np.where(np.isfinite(row), gains, 0)[np.lexsort((gains, -row))]
        best = np.sort(gains)[::-1][:TOP]
        dcg, ideal = ranked[:TOP] @ discounts[: len(best)], best @ discounts[: len(best)]
        hits = ranked > 0
        stats.append([dcg / ideal, hits[:TOP].sum() / (gains > 0).sum(), hits.any() / (1 + hits.argmax())])
    return np.array(stats)


def scores(stats: np.ndarray) -> dict[str, float]:
    """Return the mean of each column of `rank` under its name in METRICS."""
    return dict(zip(METRICS, stats.mean(0).tolist(), strict=True))


def chance_and_bm25(rows: Iterable[Row]) -> tuple[float, float]:
    """Return nDCG@10 on rows (anchor, positive[, negative]): the mean over all rankings, and that of BM25."""
    anchors, documents, relevant = judged(rows)
    discounts = 1 / np.log2(np.arange(min(TOP, len(documents))) + 2)
    chance = [len(r) / len(documents) * discounts.sum() / discounts[: len(r)].sum() for r in relevant]
    bm25 = rank(BM25(list(documents)).scores(list(anchors)), relevant)
    return float(np.mean(chance)), scores(bm25)[METRICS[0]]


def correlation(stats: np.ndarray) -> dict[str, float]:
    """Return `spearman` and `pearson` of the two columns of `stats` (rows, 2); 0 if a column is constant."""
    return {"spearman": _pearson(*rankdata(stats, axis=0).T), "pearson": _pearson(*stats.T)}


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


class BM25:
    """Okapi BM25 over `words`, in Lucene's variant (Robertson and Zaragoza 2009)."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75):
        self.vectorizer = CountVectorizer(analyzer=words)
        counts = self.vectorizer.fit_transform(documents).tocoo()
        frequency = np.bincount(counts.col, minlength=counts.shape[1])
        idf = np.log(1 + (counts.shape[0] - frequency + 0.5) / (frequency + 0.5))
        length = np.bincount(counts.row, counts.data, minlength=counts.shape[0])
        saturation = k1 * (1 - b + b * length / length.mean())
        counts.data = idf[counts.col] * counts.data * (k1 + 1) / (counts.data + saturation[counts.row])
        self.weights = counts.T.tocsr()

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield, for each query, the score of every document: (documents,)."""
        return ((query @ self.weights).toarray()[0] for query in self.vectorizer.transform(queries))


def tfidf_cosines(train: Iterable[str], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Return the cosine of the TF-IDF vectors of each pair of texts: (pairs,). The texts in `train` give the weights."""
    tfidf = TfidfVectorizer(analyzer=words, sublinear_tf=True).fit(train)
    return np.asarray(tfidf.transform(first).multiply(tfidf.transform(second)).sum(1)).ravel()


def tfidf_spearman(train: Iterable[str], rows: Dataset) -> float:
    """Return the Spearman correlation of `tfidf_cosines` with the scores of rows (text, text_pair, score)."""
    cosines = tfidf_cosines(train, rows["text"][:], rows["text_pair"][:])
    return correlation(np.column_stack([rows["score"][:], cosines]))["spearman"]
