"""`llmkit check-task`: a line per stage; a failing stage names the member at fault."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Answer, assert_one_fault, call
from conftest import PAIRS, PHRASES, QUESTIONS, REVIEWS, TAGGED, TEXTS

import llmkit
from llmkit.cli.trial import STAGES
from llmkit.errors import UsageError
from llmkit.recipe import Recipe, RunConfig
from llmkit.tasks import TASKS

__all__ = ["call"]  # a fixture
RATING = """
from dataclasses import dataclass, replace

import numpy as np
import torch

from llmkit.task import Task, model_outputs, read_text


@dataclass(frozen=True)
class TextRating(Task):
    mean: float = 0.0

    name = "text-rating"
    columns = {"text": ("review",), "score": ("stars",)}
    auto_class = "AutoModelForSequenceClassification"
    config_fields = {"num_labels": 1}
    metrics = ("mae", "mse")
    higher_is_better = False

    def read_row(self, row):
        return {"text": read_text(row, "text"), "score": float(row["score"])}

    def fit(self, rows):
        return replace(self, mean=sum(rows["train"]["score"]) / len(rows["train"])) if "train" in rows else self

    def encode(self, rows, tokenizer, max_length):
        ids = tokenizer(list(rows["text"]), truncation=True, max_length=max_length)["input_ids"]
        return {"input_ids": ids, "labels": [s - self.mean for s in rows["score"]], "row": list(range(len(ids)))}

    def loss(self, model, batch):
        outputs = model_outputs(self, model, batch)
        return ((outputs.logits[:, 0].float() - batch["labels"]) ** 2).sum(), outputs

    def weight(self, batch):
        return torch.tensor(len(batch["labels"]))

    def predict_step(self, model, batch):
        return model_outputs(self, model, batch).logits[:, 0]

    def example_stats(self, outputs, features, rows, tokenizer):
        return (outputs - np.array(features["labels"][:]))[:, None]

    def score(self, stats):
        return {"mae": float(abs(stats).mean()), "mse": float((stats**2).mean())}

    def predict(self, model, tokenizer, inputs, max_length):
        batch = tokenizer(list(inputs), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            return [{"score": self.mean + x} for x in model(**batch.to(model.device)).logits[:, 0].tolist()]
"""
FAULTS = {
    "encode": ('rows["text"]', 'rows["words"]', "preview", "TextRating.encode: KeyError: 'words'"),
    "collate": (
        "def weight",
        "def collate(*_): return {'input_ids': [1]}\n\n    def weight",
        "preview",
        "collate returned",
    ),
    "loss": (".sum(), outputs", ".mean(), outputs", "loss", "it must be a sum"),
    "weight": (
        'torch.tensor(len(batch["labels"]))',
        "torch.tensor(1)",
        "loss",
        "weight is 1 of one batch, 1 + 1 of its halves",
    ),
    "config_fields": ('"num_labels"', '"num_label"', "batch", "has no 'num_label'; did you mean 'num_labels'?"),
    "metrics": ('("mae", "mse")', '("mae", "rmse")', "evaluate", "score returns mae, mse; metrics names mae, rmse"),
    "NaN": ('"mse": float(', '"mse": float("nan") * float(', "evaluate", "score returns mse nan"),
    "fields": ("mean: float = 0.0", "mean: float = 0.0\n    pairs: tuple = ((1, 2),)", "reload", "the saved task is"),
    "predict": (".tolist()]", ".tolist()][1:]", "predict", "predict returns 3 answers for 4 inputs"),
    "error in predict": (
        "with torch.no_grad():",
        "if True:\n            1 / 0",
        "predict",
        "TextRating.predict: ZeroDi",
    ),
}
"""The member at fault: a part of RATING, what replaces it, the stage that fails, and a part of the message."""
ROWS = {
    "causal-lm": ("gpt2", [{"text": text} for text in TEXTS[:6]]),
    "masked-lm": ("bert", [{"text": text} for text in TEXTS[:6]]),
    "text-classification": ("bert", REVIEWS[::4]),
    "token-classification": ("bert", TAGGED[::3]),
    "semantic-roles": ("bert", [{**row, "predicate": 1} for row in TAGGED[::3]]),
    "question-answering": ("bert", QUESTIONS),
    "sentence-embedding": ("bert", [{"anchor": t[:9], "positive": t[9:], "text": t} for t in TEXTS[:8]]),
    "seq2seq": ("t5", [{"source": row["en"], "target": row["zh"]} for row in PHRASES[:8]]),
    "preference": ("gpt2", PAIRS[:8]),
    "reward-model": ("bert", [{**row, "response": "yes"} for row in PAIRS[:8]]),
}
"""A model and rows to train on, with the columns of `predict`, for each task."""


@pytest.fixture
def write_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """Write stars.csv and, with the source of a task, ratings.py."""
    rows = ["a fine film,5", "warm and funny,5", "good enough,4", "it has its moments,3", "rather long,2", "dull,1"]
    (tmp_path / "stars.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield (tmp_path / "ratings.py").write_text
    sys.modules.pop("ratings", None)


def stages(answer: Answer) -> tuple[str, ...]:
    return tuple(line.split()[0] for line in answer.lines)


def test_a_task_passes_all_stages(call: Callable, write_task: Callable, tiny_bert: Path) -> None:
    write_task(RATING)
    answer = call("check-task", "ratings:TextRating", "--data", "stars.csv", "--model", tiny_bert)
    assert (answer.status, stages(answer)) == (0, STAGES), answer.err
    lines = dict(line.split(maxsplit=1) for line in answer.lines)
    assert lines["batch"].startswith("input_ids (4, ") and "labels (4,)" in lines["batch"]
    assert "weight 4 of one batch, 2 + 2 of its halves" in lines["loss"]
    assert "model.safetensors" in lines["train"] and lines["reload"].startswith("TextRating(mean=")


@pytest.mark.parametrize("member", FAULTS)
def test_the_member_at_fault_is_named_in_one_line(
    call: Callable, write_task: Callable, tiny_bert: Path, member: str
) -> None:
    old, new, stage, message = FAULTS[member]
    assert old in RATING
    write_task(RATING.replace(old, new))
    answer = call("check-task", "ratings:TextRating", "--data", "stars.csv", "--model", tiny_bert)
    (line,) = (line for line in answer.err.splitlines() if line.startswith("llmkit: "))
    assert (answer.status, stages(answer)) == (2, STAGES[: STAGES.index(stage)]), answer
    assert line.startswith(f"llmkit: {stage} failed: ") and message in line


CLASS_FAULTS = [
    ('auto_class = "AutoModelForSequenceClassification"', "", "auto_class is missing"),
    ("AutoModelForSequence", "AutoModelForSecuence", "did you mean 'AutoModelForSequenceClassification'"),
    ("def score(", "def scores(", "score is missing; is scores meant?"),
    ('columns = {"text"', 'colums = {"text"', "columns is missing; is colums meant?"),
    ('{"text": ("review",), "score": ("stars",)}', '("text", "score")', "columns is a tuple; give a mapping"),
    ('("review",)', '"review"', "give the other names of a column as a tuple"),
    ("mean: float = 0.0", "mean: float", "its option mean has no default"),
    ("@dataclass(frozen=True)", "", "decorate the class with @dataclass(frozen=True)"),
    ('metrics = ("mae", "mse")', 'metrics = "mae"', "metrics is text; write ('mae',)"),
]


def test_all_faults_of_a_class_are_named_before_data_is_read(call: Callable, write_task: Callable) -> None:
    for old, new, message in CLASS_FAULTS:
        assert old in RATING
        write_task(RATING.replace(old, new))
        sys.modules.pop("ratings", None)
        answer = call("check-task", "ratings:TextRating", "--data", "stars.csv")
        assert_one_fault(answer, "task ratings:TextRating: ", message)
    write_task(RATING.replace("@dataclass(frozen=True)", "").replace("def score(", "def mean_error("))
    sys.modules.pop("ratings", None)
    answer = call("train", "ratings:TextRating", "--data", "stars.csv", "--model", "tiny-bert")
    assert (answer.status, answer.err.count("llmkit: task ratings:TextRating: ")) == (2, 2)


def test_class_faults_of_a_task_instance_are_named_too(write_task: Callable, tmp_path: Path) -> None:
    write_task(RATING.replace("def score(", "def mean_error("))
    recipe = Recipe(importlib.import_module("ratings").TextRating(), run=RunConfig(output=str(tmp_path / "run")))
    with pytest.raises(UsageError, match="task ratings:TextRating: score is missing"):
        llmkit.run(recipe)


def test_misspelt_optional_member_is_warned_of(call: Callable, write_task: Callable, tiny_bert: Path) -> None:
    write_task(RATING.replace("def weight", "def read_queston(self): ...\n\n    def weight"))
    answer = call("check-task", "ratings:TextRating", "--data", "stars.csv", "--model", tiny_bert)
    assert answer.status == 0
    assert "TextRating.read_queston is not part of the contract; did you mean read_question?" in answer.err


def test_training_and_validation_rows_of_check_task_differ(call: Callable, write_task: Callable, tiny_bert) -> None:
    write_task(RATING)
    answer = call("check-task", "ratings:TextRating", "--data", "stars.csv", "--model", tiny_bert)
    assert "validation: 2 rows" in answer.err and "also in train" not in answer.err


@pytest.mark.parametrize("task", ROWS)
def test_the_tasks_of_llmkit_pass(call: Callable, tmp_path: Path, task: str, request: pytest.FixtureRequest) -> None:
    model, rows = ROWS[task]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = request.getfixturevalue(f"tiny_{model}")
    answer = call("check-task", task, "--data", "rows.jsonl", "--model", folder)
    assert (answer.status, stages(answer)) == (0, STAGES), answer.err


def test_every_task_of_llmkit_is_tried() -> None:
    assert set(ROWS) == set(TASKS)


def test_columns_are_renamed(call: Callable, write_task: Callable, tiny_bert: Path, tmp_path: Path) -> None:
    write_task(RATING)
    text = (tmp_path / "stars.csv").read_text().replace("review,stars", "opinion,points")
    (tmp_path / "stars.csv").write_text(text)
    columns = ["--column", "text=opinion", "--column", "score=points"]
    answer = call("check-task", "ratings:TextRating", "--data", "stars.csv", "--model", tiny_bert, *columns)
    assert answer.status == 0, answer.err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["ratings:Gone", "--data", "stars.csv"], "'ratings:Gone'"),
        (["nowhere:Task", "--data", "stars.csv"], "no module 'nowhere'"),
        (["ratings:TextRating"], "--data"),
        (["ratings:TextRating", "--data", "sars.csv"], "'stars.csv'"),
        (["ratings:TextRating", "--data", "stars.csv", "--column", "text"], "TASK=YOURS"),
    ],
)
def test_wrong_usage_is_one_fault(call: Callable, write_task: Callable, words: list[str], fault: str) -> None:
    write_task(RATING)
    assert_one_fault(call("check-task", *words), fault)
