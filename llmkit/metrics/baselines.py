"""Baselines: what is achieved without a neural network."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from llmkit.metrics import squad

Keys = Sequence[Hashable]


def majority_accuracy(train: ArrayLike, evaluation: ArrayLike) -> float:
    """Return the accuracy of always predicting the most common training label."""
    labels, counts = np.unique(train, return_counts=True)
    return float((np.asarray(evaluation) == labels[counts.argmax()]).mean())


def commonest_labels(train: np.ndarray) -> np.ndarray:
    """Return the constant multi-label prediction with the best micro-F1 on training labels (rows, labels) of 0 and 1.

    These are the most common labels, and as many as score best: (labels,) of 0 and 1.
    """
    counts = train.sum(0)
    order = np.argsort(-counts, kind="stable")
    f1 = 2 * counts[order].cumsum() / (len(train) * np.arange(1, len(order) + 1) + counts.sum())
    return np.isin(np.arange(len(order)), order[: f1.argmax() + 1]).astype(float)


def tfidf_predictions(train: Dataset, evaluation: Dataset, labels: ArrayLike) -> np.ndarray:
    """Return predictions of a linear model over TF-IDF of words (1 and 2) and characters (1 to 4), from scikit-learn.

    Rows hold `text`, and maybe `text_pair`. `labels` are those of the training rows: (rows,), or (rows, labels) of 0
    and 1, which are predicted one by one. Integers are classes (logistic regression), floats a ridge regression.
    """
    texts, labels = _texts(train), np.asarray(labels)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    has_words = any(map(words.build_tokenizer(), texts))  # emoji are not words
    model = Ridge() if labels.dtype.kind == "f" else LogisticRegression(C=10, max_iter=1000)
    model = OneVsRestClassifier(model) if labels.ndim == 2 else model
    pipeline = make_pipeline(make_union(words, characters) if has_words else characters, model)
    return pipeline.fit(texts, labels).predict(_texts(evaluation))


def _texts(rows: Dataset) -> list[str]:
    columns = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
    return ["\n".join(texts) for texts in zip(*columns, strict=True)]


def dictionary_tagger(sentences: Iterable[tuple[Keys, Sequence[str]]]) -> Callable[[Keys], list[str]]:
    """Return a tagger that predicts the most common training tag of each key, and O for a key not in training.

    sentences: keys (words, for example) and tags of each training sentence.
    """
    counts: dict[Hashable, Counter[str]] = {}
    for keys, tags in sentences:
        for key, tag in zip(keys, tags, strict=True):
            counts.setdefault(key, Counter())[tag] += 1
    tag_of = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return lambda keys: [tag_of.get(key, "O") for key in keys]


def ngram_losses(train: Dataset, evaluation: Dataset) -> tuple[float, float]:
    """Return the cross-entropy in nats of a unigram model, per trained token, and of a bigram model, per predicted one.

    The unigram has add-one smoothing, the bigram Witten-Bell smoothing (Witten and Bell 1991). Takes features, with
    `loss_mask` where only some tokens are trained on.
    """
    (ids, trained, first), (test_ids, test_trained, test_first) = _tokens(train), _tokens(evaluation)
    size = int(max(ids.max(), test_ids.max())) + 1
    unigram = (np.bincount(ids[trained], minlength=size) + 1.0) / (trained.sum() + size)
    learned, predicted = trained[1:] & ~first[1:], test_trained[1:] & ~test_first[1:]
    pairs = ids[:-1][learned], ids[1:][learned]
    counts = coo_array((np.ones(len(pairs[0])), pairs), (size, size)).tocsr()
    followers, total = np.diff(counts.indptr), counts.sum(axis=1)  # distinct tokens after each token, and all of them
    before, after = test_ids[:-1][predicted], test_ids[1:][predicted]
    weight = total[before] + followers[before]
    smoothed = (counts[before, after] + followers[before] * unigram[after]) / np.maximum(weight, 1)
    bigram = np.where(weight > 0, smoothed, unigram[after])
    return float(-np.log(unigram[test_ids[test_trained]]).mean()), float(-np.log(bigram).mean())


def _tokens(features: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All token ids, whether each is trained on, and whether each is the first of a document: three (tokens,)."""
    ids, trained, first = [], [], []
    for row in features:
        length = len(row["input_ids"])
        ids.append(np.asarray(row["input_ids"], dtype=np.int64))
        trained.append(np.asarray(row.get("loss_mask", np.ones(length)), dtype=bool))
        first.append(np.isin(np.arange(length), np.cumsum([0, *row.get("segments", [])])))
    return np.concatenate(ids), np.concatenate(trained), np.concatenate(first)


def most_similar_sentence(question: str, context: str) -> str:
    """Return the sentence of `context` that shares most words (Chinese: characters) with `question`, the first if tied."""
    words = set(squad.words(question))
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", context) if s.strip()]
    return max(sentences, key=lambda s: len(words & set(squad.words(s))))
