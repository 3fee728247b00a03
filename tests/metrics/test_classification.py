"""Classification metrics equal scikit-learn's, and calibration follows its definition."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from llmkit.metrics.classification import Classification, calibration_error, cross_entropy, f1_scores, fit_temperature


def test_classification_equals_scikit_learn_at_once_and_in_batches() -> None:
    random = np.random.default_rng(0)
    true, predicted = random.integers(0, 5, 60), random.integers(1, 6, 60)
    expected = {
        "accuracy": reference.accuracy_score(true, predicted),
        "f1_macro": reference.f1_score(true, predicted, average="macro"),
    }
    metric = Classification(keep_in_memory=True)
    assert metric.compute(predictions=predicted, references=true) == pytest.approx(expected)
    for start in range(0, 60, 20):
        metric.add_batch(predictions=predicted[start : start + 20], references=true[start : start + 20])
    assert metric.compute() == pytest.approx(expected)


def test_f1_scores_leave_out_labels_that_do_not_occur() -> None:
    scores = f1_scores(np.array([2, 0, 0]), np.array([2, 1, 0]), np.array([4, 0, 0]))
    assert scores == {"f1_micro": pytest.approx(4 / 7), "f1_macro": pytest.approx((2 / 3 + 0) / 2)}
    assert f1_scores(*np.zeros((3, 2), dtype=int)) == {"f1_micro": 0.0, "f1_macro": 0.0}


def test_cross_entropy_equals_scikit_learn_for_one_label_and_for_several() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(60, 3))
    single, several = random.integers(0, 3, 60), random.integers(0, 2, (60, 3))
    assert cross_entropy(logits, single) == pytest.approx(reference.log_loss(single, torch.tensor(logits).softmax(-1)))
    probs = torch.tensor(logits).sigmoid()
    expected = np.mean([reference.log_loss(several[:, i], probs[:, i]) for i in range(3)])
    assert cross_entropy(logits, several) == pytest.approx(expected)


def test_calibration_error_equals_its_definition() -> None:
    random = np.random.default_rng(0)
    confidence, correct = random.uniform(0.2, 1.0, 500), random.random(500) < 0.7
    expected = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_fit_temperature_finds_the_lowest_loss() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(4000, 2)) * 2
    true = (random.random(4000) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(int)
    temperature = fit_temperature(lambda t: cross_entropy(3 * logits / t, true))
    assert temperature == pytest.approx(3, rel=0.1)
    losses = [cross_entropy(3 * logits / t, true) for t in (temperature * 0.95, temperature, temperature * 1.05)]
    assert losses[1] == min(losses)
