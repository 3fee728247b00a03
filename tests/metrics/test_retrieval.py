"""Correlations and nDCG equal those of SciPy and scikit-learn; BM25 and chance equal their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import ndcg_score

from llmkit.metrics import retrieval


def test_correlation_equals_scipy() -> None:
    random = np.random.default_rng(0)
    stats = np.column_stack([random.integers(0, 6, 50), random.normal(size=50)])
    result = retrieval.correlation(stats)
    assert result["spearman"] == pytest.approx(spearmanr(*stats.T).statistic, abs=1e-12)
    assert result["pearson"] == pytest.approx(pearsonr(*stats.T).statistic, abs=1e-12)
    assert retrieval.correlation(np.ones((3, 2))) == {"spearman": 0.0, "pearson": 0.0}


def test_rank_equals_scikit_learn_ndcg_and_counted_recall_and_rank() -> None:
    random = np.random.default_rng(0)
    scores, gains = random.normal(size=(20, 40)), random.integers(0, 4, (20, 40)) * (random.random((20, 40)) < 0.2)
    gains[:, 0] = 1
    relevant = [{i: float(g) for i, g in enumerate(row) if g} for row in gains]
    stats = retrieval.rank(scores, relevant)
    for row, gain, (ndcg, recall, reciprocal) in zip(scores, gains, stats, strict=True):
        assert ndcg == pytest.approx(ndcg_score([gain], [row], k=10), abs=1e-12)
        order = np.argsort(-row)
        assert recall == (gain[order[:10]] > 0).sum() / (gain > 0).sum()
        assert reciprocal == 1 / next(place for place, i in enumerate(order, 1) if gain[i])
    assert list(retrieval.scores(stats)) == ["ndcg@10", "recall@10", "mrr"]


def test_rank_puts_relevant_document_last_among_equal_scores() -> None:
    assert retrieval.rank([np.zeros(30)], [{0: 1.0}]).tolist() == [[0.0, 0.0, 1 / 30]]


def test_bm25_equals_its_formula() -> None:
    documents = ["the fox and the crow", "a lion", "山里的老虎", "the crow, the crow"]
    query = "the crow 老虎"
    lists = [retrieval.words(d) for d in documents]
    mean = sum(map(len, lists)) / 4

    def score(words: list[str]) -> float:
        total = 0.0
        for term in retrieval.words(query):
            n = sum(term in other for other in lists)
            f = words.count(term)
            idf = math.log(1 + (4 - n + 0.5) / (n + 0.5))
            total += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(words) / mean))
        return total

    (scores,) = retrieval.BM25(documents).scores([query])
    assert scores.tolist() == pytest.approx([score(words) for words in lists])
    assert scores.argmax() == 2  # it has two Chinese words of the query


def test_judged_lists_each_anchor_once_with_all_its_positives() -> None:
    rows = [
        {"anchor": "a", "positive": "x", "negative": None},
        {"anchor": "a", "positive": "y", "negative": "z"},
        {"anchor": "b", "positive": "x", "negative": "y"},
    ]
    anchors, documents, relevant = retrieval.judged(rows)
    assert (anchors, documents) == ({"a": (0, 0), "b": (2, 0)}, {"x": (0, 1), "y": (1, 1), "z": (1, 2)})
    assert relevant == [{0: 1.0, 1: 1.0}, {0: 1.0}]


def test_chance_is_mean_over_all_rankings() -> None:
    rows = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(25)]
    chance, _ = retrieval.chance_and_bm25(rows)
    random = np.random.default_rng(0)
    samples = [retrieval.rank([random.random(25)], [{3: 1.0}])[0, 0] for _ in range(4000)]
    assert chance == pytest.approx(np.mean(samples), abs=0.02)


def test_document_without_a_score_is_not_found() -> None:
    scores = [np.array([0.5, -np.inf, -0.2])] * 3
    stats = retrieval.rank(scores, [{0: 1.0, 1: 1.0}, {1: 1.0}, {2: 1.0}])
    expected = [[1 / (1 + 1 / np.log2(3)), 0.5, 1], [0, 0, 0], [1 / np.log2(3), 1, 0.5]]
    assert stats == pytest.approx(np.array(expected))
