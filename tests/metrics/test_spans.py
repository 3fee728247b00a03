"""Span scores equal seqeval's, by label and over all labels."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics import classification_report

from llmkit.metrics.spans import span_counts, span_scores


def test_span_scores_equal_seqeval() -> None:
    draw = random.Random(0)
    true, predicted = (
        [
            ["O" if draw.random() < 0.4 else f"{draw.choice('BI')}-{draw.choice('xyz')}" for _ in range(9)]
            for _ in range(40)
        ]
        for _ in range(2)
    )
    counts = sum(span_counts(a, b, ["x", "y"]) for a, b in zip(true, predicted, strict=True))
    report = classification_report(true, predicted, output_dict=True)
    names = {"x": counts[0], "y": counts[1], "z": counts[2], "micro avg": counts.sum(0)}  # z is not among the labels
    for name, row in names.items():
        assert list(span_scores(row).values()) == pytest.approx(
            [report[name][k] for k in ("f1-score", "precision", "recall")]
        )
        assert row[2] == report[name]["support"]


def test_span_scores_are_0_without_spans() -> None:
    assert span_scores(span_counts(["O"], ["O"], ()).sum(0)) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
