"""What a number must be held against: models that need no training to speak of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


def majority_accuracy(train: Any, evaluation: Any) -> float:
    """Accuracy of always saying the commonest training label."""
    values, counts = np.unique(np.asarray(train[:]), return_counts=True)
    return float((np.asarray(evaluation[:]) == values[counts.argmax()]).mean())


def commonest_labels(known: np.ndarray) -> np.ndarray:
    """0 or 1 for each label: the commonest, as many as give the best micro-F1 on training rows (rows, labels)."""
    counts = known.sum(0)
    order = np.argsort(-counts, kind="stable")
    f1 = 2 * counts[order].cumsum() / (len(known) * np.arange(1, len(order) + 1) + counts.sum())
    chosen = np.zeros(len(order))
    chosen[order[: f1.argmax() + 1]] = 1
    return chosen


def _texts(rows: Any) -> list[str]:
    pairs = rows["text_pair"][:] if "text_pair" in rows.column_names else None
    return [f"{a}\n{b}" for a, b in zip(rows["text"][:], pairs, strict=True)] if pairs else rows["text"][:]


def tfidf_answers(train: Any, evaluation: Any, known: Any) -> np.ndarray:
    """What a linear model over TF-IDF of words (1 and 2) and characters (1 to 4) answers (scikit-learn): logistic
    regression for labels `known` of the training rows, one for each column of several; ridge regression for numbers."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline, make_union

    texts = _texts(train)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    known = np.asarray(known)
    model = Ridge() if known.dtype.kind == "f" else LogisticRegression(C=10, max_iter=1000)
    worded = any(map(words.build_tokenizer(), texts))  # emoji are no words
    features = make_union(words, characters) if worded else characters
    model = make_pipeline(features, OneVsRestClassifier(model) if known.ndim == 2 else model)
    return model.fit(texts, known).predict(_texts(evaluation))


def dictionary_tagger(
    train: Iterable[tuple[Sequence[Any], Sequence[str]]],
) -> Callable[[Sequence[Any]], list[str]]:
    """A tagger that says of each word (or other clue) its commonest tag in training, and O of one that was not there.
    train: clues and tags of each sentence."""
    seen: dict[Any, Counter] = {}
    for clues, tags in train:
        for clue, tag in zip(clues, tags, strict=True):
            seen.setdefault(clue, Counter())[tag] += 1
    known = {clue: counts.most_common(1)[0][0] for clue, counts in seen.items()}
    return lambda clues: [known.get(clue, "O") for clue in clues]


def _tokens(features: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All token ids of the features, whether each is trained on (`learn`, where there is one), and whether each begins
    a document."""
    ids, learn, first = [], [], []
    for row in features:
        ids.append(np.asarray(row["input_ids"], dtype=np.int64))
        learn.append(np.asarray(row.get("learn", np.ones(len(ids[-1]))), dtype=bool))
        begins = np.zeros(len(ids[-1]), dtype=bool)
        begins[np.cumsum([0, *row.get("segments", [])[:-1]])] = True
        first.append(begins)
    return np.concatenate(ids), np.concatenate(learn), np.concatenate(first)


def ngram_losses(train: Any, evaluation: Any) -> tuple[float, float]:
    """Nats per token that is trained on, by add-one frequencies; and per predicted token, by a bigram model with
    Witten-Bell smoothing (Witten and Bell 1991)."""
    from scipy.sparse import coo_array

    (ids, learn, first), (held, asked, held_first) = _tokens(train), _tokens(evaluation)
    size = int(max(ids.max(), held.max())) + 1
    unigram = (np.bincount(ids[learn], minlength=size) + 1.0) / (learn.sum() + size)
    learned, wanted = learn[1:] & ~first[1:], asked[1:] & ~held_first[1:]
    pairs = ids[:-1][learned], ids[1:][learned]
    counts = coo_array((np.ones(len(pairs[0])), pairs), (size, size)).tocsr()
    followers, seen = np.diff(counts.indptr), counts.sum(axis=1)  # distinct tokens after each, and all of them
    before, after = held[:-1][wanted], held[1:][wanted]
    share = seen[before] + followers[before]
    known = (counts[before, after] + followers[before] * unigram[after]) / np.maximum(share, 1)
    bigram = np.where(share > 0, known, unigram[after])
    return float(-np.log(unigram[held[asked]]).mean()), float(-np.log(bigram).mean())


def likest_sentence(question: str, context: str) -> str:
    """The sentence of `context` that shares most words (in Chinese, characters) with `question`; the first of them."""
    from llmkit.evaluation.squad import tokens

    asked = set(tokens(question))
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", context) if s.strip()]
    return max(sentences, key=lambda s: len(asked & set(tokens(s))))
