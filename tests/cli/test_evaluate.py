"""`llmkit evaluate`: the metrics of the predictions, with intervals."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import FILMS, LABELS, assert_one_fault, call, classifier
from sklearn.metrics import f1_score

import llmkit
from llmkit.cli.main import command, guard

__all__ = ["call", "classifier"]  # fixtures
LABELLED = [{"text": t, "label": LABELS[i % 2]} for i, t in enumerate(FILMS * 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LABELLED as test.jsonl, and as test.csv under other names."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in LABELLED))
    lines = ["body,verdict", *(f'"{r["text"]}",{r["label"]}' for r in LABELLED)]
    (folder / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluated(classifier: Path, data: Path) -> dict[str, Any]:
    """`llmkit evaluate --json` of the classifier."""
    words = ["evaluate", str(classifier), "--data", str(data / "test.jsonl"), "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert guard(lambda: command(words)) == 0
    (line,) = out.getvalue().splitlines()
    return json.loads(line)


def test_metrics_are_those_of_the_predictions(classifier: Path, evaluated: dict[str, Any]) -> None:
    predicted = [a["label"] for a in llmkit.load(str(classifier)).predict([r["text"] for r in LABELLED])]
    labels = [r["label"] for r in LABELLED]
    assert (evaluated["task"], evaluated["examples"]) == ("text-classification", len(LABELLED))
    accuracy = sum(p == label for p, label in zip(predicted, labels, strict=True)) / len(labels)
    assert evaluated["metrics"]["accuracy"] == pytest.approx(accuracy)
    assert evaluated["metrics"]["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert 0 < evaluated["metrics"]["accuracy"] < 1


def test_each_metric_has_an_interval_around_it(evaluated: dict[str, Any]) -> None:
    assert set(evaluated["intervals"]) == set(evaluated["metrics"])
    for name, (low, high) in evaluated["intervals"].items():
        assert low <= evaluated["metrics"][name] <= high and low < high


def test_text_output_is_independent_of_batch_size_and_format(
    call: Callable, classifier: Path, data: Path, evaluated: dict[str, Any]
) -> None:
    columns = ["--column", "text=body", "--column", "label=verdict"]
    answer = call("evaluate", classifier, "--data", data / "test.csv", *columns, "--batch-size", 7)
    spread = evaluated["intervals"]
    expected = [f"{n} {v:.4f}  [{spread[n][0]:.4f}, {spread[n][1]:.4f}]" for n, v in evaluated["metrics"].items()]
    assert (answer.status, answer.lines[: len(expected)]) == (0, expected), answer.err
    assert "report" in answer.out and "confusion" in answer.out


def test_loss_of_a_language_model_is_in_nats_per_token(call: Callable, tiny_gpt2: Path, tmp_path: Path) -> None:
    texts = ["Once upon a time a fox met a crow.", "从前，有一只狐狸。"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (result,) = call("evaluate", tiny_gpt2, "--data", "test.jsonl", "--json").json
    model = llmkit.load(str(tiny_gpt2))
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*model.tokenizer(text)["input_ids"], model.tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logits.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert result["metrics"]["loss"] == pytest.approx(total / count, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (["--data", "missing.csv"], ["missing.csv"]),
        (["--data", "foreign.jsonl"], ["awful"]),
        (["--data", "test.csv", "--column", "body"], ["--column", "TASK=YOURS"]),
        (["--data", "words.csv"], ["set --column text=NAME, or --names A,B"]),
        (["--data", "torn.jsonl"], ["torn.jsonl line 2", "skip them with --on-error skip"]),
        ([], ["--data"]),
    ],
)
def test_wrong_usage_is_one_fault(
    call: Callable, classifier: Path, tmp_path: Path, words: list[str], faults: list[str]
) -> None:
    (tmp_path / "foreign.jsonl").write_text('{"text": "a", "label": "awful"}\n{"text": "b", "label": "good"}\n')
    (tmp_path / "test.csv").write_text("body,label\na,good\nb,bad\n")
    (tmp_path / "words.csv").write_text("words,label\na,good\nb,bad\n")
    (tmp_path / "torn.jsonl").write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": \n')
    assert_one_fault(call("evaluate", classifier, *words), *faults)


def test_data_in_another_encoding_is_read_as_the_message_says(call: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_bytes("text\tlabel\nun café\tgood\ndéçu\tbad\n".encode("cp1252"))
    words = ["evaluate", classifier, "--data", "test.tsv", "--json"]
    assert_one_fault(call(*words), "test.tsv: byte 17 is not UTF-8", "; --encoding cp1252 reads it as")
    (result,) = call(*words, "--encoding", "cp1252").json
    assert result["examples"] == 2
