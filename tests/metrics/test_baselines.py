"""Baselines: constant predictions, TF-IDF, n-grams, a dictionary, and the sentence most like a question."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import f1_score

from llmkit.metrics import baselines


def test_majority_accuracy_predicts_the_commonest_training_label() -> None:
    assert baselines.majority_accuracy([0, 1, 1, 2], [1, 1, 0, 2]) == 0.5


def test_commonest_labels_are_the_best_constant_prediction() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        train = (random.random((40, 5)) < random.random(5)).astype(int)
        constants = [np.tile(c, (40, 1)) for c in itertools.product([0, 1], repeat=5) if any(c)]
        best = max(f1_score(train, constant, average="micro", zero_division=0) for constant in constants)
        chosen = np.tile(baselines.commonest_labels(train), (40, 1))
        assert f1_score(train, chosen, average="micro", zero_division=0) == pytest.approx(best)


def test_tfidf_predictions_read_texts_without_a_word() -> None:
    rows = Dataset.from_list([{"text": "👍👍", "label": 1}, {"text": "👎", "label": 0}] * 4)
    assert baselines.tfidf_predictions(rows, rows, rows["label"][:]).tolist() == rows["label"][:]


def test_tfidf_predictions_follow_the_kind_of_labels() -> None:
    texts = ["good film", "bad film", "good", "bad"] * 4
    rows = Dataset.from_dict({"text": texts, "text_pair": texts[::-1]})
    several = np.array([["good" in t, "film" in t] for t in texts]).astype(int)
    assert baselines.tfidf_predictions(rows, rows, several).tolist() == several.tolist()
    numbers = baselines.tfidf_predictions(rows, rows, several[:, 0] / 2)
    assert numbers.dtype.kind == "f" and np.corrcoef(numbers, several[:, 0])[0, 1] > 0.9


def test_dictionary_tagger_predicts_the_commonest_tag_of_a_word() -> None:
    tag = baselines.dictionary_tagger([(["York", "York", "ran"], ["I-LOC", "O", "O"]), (["York"], ["I-LOC"])])
    assert tag(["Mia", "ran", "York"]) == ["O", "O", "I-LOC"]


def test_ngram_losses_equal_their_definition_within_documents() -> None:
    """Bigrams do not cross documents, and tokens outside the loss mask are context only."""
    train = Dataset.from_list([{"input_ids": [0, 1, 0, 2, 1], "segments": [3, 2], "loss_mask": [1, 1, 1, 0, 1]}])
    test = Dataset.from_list([{"input_ids": [0, 1, 2], "segments": [3], "loss_mask": [1, 1, 1]}])
    unigram = {0: 3 / 7, 1: 3 / 7, 2: 1 / 7}  # counts 2, 2 and 0 of four tokens, plus one each
    # bigrams: 0 1, 1 0 and 2 1; after 0 and after 1 one token was seen once
    bigram = [(1 + unigram[1]) / 2, (0 + unigram[2]) / 2]
    losses = baselines.ngram_losses(train, test)
    assert losses[0] == pytest.approx(-sum(math.log(unigram[i]) for i in (0, 1, 2)) / 3)
    assert losses[1] == pytest.approx(-sum(map(math.log, bigram)) / 2)


def test_most_similar_sentence_is_the_first_that_shares_most_words() -> None:
    context = "A fox met a crow. The crow held a piece of cheese! 狐狸住在山脚下。老虎睡了。"
    assert baselines.most_similar_sentence("Who held the cheese?", context) == "The crow held a piece of cheese!"
    assert baselines.most_similar_sentence("谁住在山脚下？", context) == "狐狸住在山脚下。"
    assert baselines.most_similar_sentence("zebra", context) == "A fox met a crow."
