"""Class weights, thresholds and scores of one label per row, several labels, and numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from scipy import stats
from sklearn.utils.class_weight import compute_class_weight

from llmkit.metrics.classification import calibration_error
from llmkit.tasks._labels import MultiLabel, Regression, SingleLabel


def test_balanced_weights_equal_scikit_learn() -> None:
    values = ["a"] * 5 + ["b"] * 2 + ["c"]
    weights = SingleLabel(class_weights="balanced").fit(values).class_weights
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=values)
    assert list(weights.values()) == pytest.approx(expected)


def test_balanced_weights_of_several_labels_equal_rows_without_over_rows_with_the_label() -> None:
    weights = MultiLabel(class_weights="balanced").fit([["a", "b"] if i else ["a"] for i in range(4)]).class_weights
    assert weights == {"a": 0.25, "b": pytest.approx(1 / 3)}


def test_class_weights_may_be_keyed_by_number() -> None:
    assert SingleLabel(class_weights={0: 2}).fit(["0", "1"]).class_weights == {"0": 2}


@pytest.mark.parametrize(
    "threshold, expected",
    [
        (None, ["no", "no", "yes", "yes"]),
        (0.8, ["no", "no", "no", "yes"]),
        (0.1, ["no", "yes", "yes", "yes"]),
        ({"no": 0.5}, ["no", "no", "yes", "yes"]),
        ({"no": 0.3}, ["no", "no", "no", "yes"]),
    ],
)
def test_below_the_threshold_the_other_of_two_labels_is_predicted(threshold: Any, expected: list[str]) -> None:
    logits = np.log([[0.95, 0.05], [0.6, 0.4], [0.4, 0.6], [0.15, 0.85]])
    answers = SingleLabel(threshold=threshold).fit(["no", "yes"]).answers(logits)
    assert [answer["label"] for answer in answers] == expected


@pytest.mark.parametrize(
    "threshold, expected",
    [(None, [["x"], []]), (0.2, [["x", "y"], ["y"]]), ({"y": 0.25}, [["x"], ["y"]]), (0.95, [[], []])],
)
def test_each_of_several_labels_has_its_threshold(threshold: Any, expected: list) -> None:
    probs = np.array([[0.9, 0.22], [0.1, 0.3]])
    answers = MultiLabel(threshold=threshold).fit([["x", "y"]]).answers(np.log(probs / (1 - probs)))
    assert [answer["labels"] for answer in answers] == expected


def report_of(kind: SingleLabel, targets: np.ndarray, predictions: np.ndarray) -> dict[str, list[float]]:
    names = {"target_names": kind.labels, "output_dict": True, "zero_division": 0}
    report = reference.classification_report(targets, predictions, **names)
    return {name: list(report[name].values()) for name in kind.labels}


def test_scores_of_one_label_equal_scikit_learn() -> None:
    random, kind = np.random.default_rng(1), SingleLabel(("a", "b", "c"))
    targets, logits = random.integers(0, 3, 60), random.normal(size=(60, 3))
    probs = torch.tensor(logits).softmax(-1).numpy()
    predictions = probs.argmax(-1)
    assert kind.score(targets, logits) == pytest.approx({
        "accuracy": reference.accuracy_score(targets, predictions),
        "f1_macro": reference.f1_score(targets, predictions, average="macro"),
        "ece": calibration_error(probs.max(-1), predictions == targets),
        "loss": reference.log_loss(targets, probs),
    })  # fmt: skip
    report = kind.details(targets, logits)["report"]
    for name, expected in report_of(kind, targets, predictions).items():
        assert list(report[name].values()) == pytest.approx(expected)


def test_scores_of_several_labels_equal_scikit_learn() -> None:
    random, kind = np.random.default_rng(1), MultiLabel(("a", "b", "c"))
    targets, logits = random.integers(0, 2, (60, 3)), random.normal(size=(60, 3))
    probs = torch.tensor(logits).sigmoid().numpy()
    predictions = (probs >= 0.5).astype(int)
    assert kind.score(targets, logits) == pytest.approx({
        "f1_micro": reference.f1_score(targets, predictions, average="micro"),
        "f1_macro": reference.f1_score(targets, predictions, average="macro"),
        "subset_accuracy": reference.accuracy_score(targets, predictions),
        "ece": calibration_error(np.maximum(probs, 1 - probs).ravel(), (predictions == targets).ravel()),
        "loss": np.mean([reference.log_loss(targets[:, i], probs[:, i]) for i in range(3)]),
    })  # fmt: skip
    report = kind.details(targets, logits)["report"]
    for name, expected in report_of(kind, targets, predictions).items():
        assert list(report[name].values()) == pytest.approx(expected)


def test_scores_of_numbers_equal_scipy() -> None:
    random = np.random.default_rng(1)
    targets, logits = random.normal(size=60).round(1), random.normal(size=(60, 1))
    assert Regression().score(targets, logits) == pytest.approx({
        "spearman": stats.spearmanr(targets, logits[:, 0])[0],
        "pearson": stats.pearsonr(targets, logits[:, 0])[0],
        "mse": reference.mean_squared_error(targets, logits[:, 0]),
    })  # fmt: skip
    assert Regression().score(targets, np.ones((60, 1)))["spearman"] == 0


def test_confusion_matrix_counts_every_row() -> None:
    kind, logits = SingleLabel(("negative", "positive")), np.array([[2.0, 0], [2, 0], [0, 2], [0, 2], [0, 2]])
    details = kind.details(np.array([0, 1, 1, 1, 0]), logits)
    assert details["confusion"] == {
        "negative": {"negative": 1, "positive": 1},
        "positive": {"negative": 1, "positive": 2},
    }
    json.dumps(details)
