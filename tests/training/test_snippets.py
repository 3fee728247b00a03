"""The code in a model card: it runs with transformers alone, and prints what the card says, for every task."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PAIRS, QUESTIONS, REVIEWS, TEXTS
from test_contract import models, recipe_for  # noqa: F401

from llmkit import run
from llmkit.tasks import CausalLM, MaskedLM, SentenceEmbedding, Seq2Seq, TextClassification, known_tasks
from llmkit.training.snippets import SNIPPETS, snippet

WITHOUT_LLMKIT = """
import contextlib, io, json, sys
sys.modules["llmkit"] = None
results = {}
for name, code in json.load(sys.stdin).items():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {})
    results[name] = printed.getvalue().strip()
print(json.dumps(results))
"""
FOLDER = Path("runs/model")
CHAT = [{"role": "user", "content": "谁？"}, {"role": "assistant", "content": "a fox"}]


@pytest.fixture(scope="module")
def cards(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # noqa: F811
    """The model card of a short run of every task, by the task's name."""
    folder = tmp_path_factory.mktemp("cards")
    recipes = [recipe_for(task, models, folder / task.name, max_steps=1) for task in known_tasks()]
    return {recipe.task.name: (run(recipe).output / "README.md").read_text(encoding="utf-8") for recipe in recipes}


@pytest.fixture(scope="module")
def printed(cards: dict[str, str]) -> dict[str, str]:
    """What the snippet of every card prints in a process without llmkit."""
    code = {name: re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1] for name, card in cards.items()}
    command = [sys.executable, "-c", WITHOUT_LLMKIT]
    done = subprocess.run(command, input=json.dumps(code), capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [task.name for task in known_tasks()])
def test_snippet_runs_without_llmkit_and_prints_what_the_card_says(
    name: str, cards: dict[str, str], printed: dict[str, str]
) -> None:
    output = re.search(r"Output when this card was written:\n\n```\n(.*?)\n```", cards[name], re.DOTALL)[1]
    assert printed[name] == output


def test_every_auto_class_of_a_task_has_a_snippet() -> None:
    assert {task.auto_class for task in known_tasks()} == set(SNIPPETS)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (MaskedLM(), {"body": "a fox"}),
        (TextClassification(), {"body": "a fox"}),
        (Seq2Seq(), {"body": "a fox"}),
        (SentenceEmbedding(), QUESTIONS[0]),
        (CausalLM(), {"body": "a fox"}),
        (CausalLM(), {"text": None, "messages": None}),
    ],
)
def test_row_with_other_columns_has_no_snippet(task: Any, row: dict[str, Any]) -> None:
    assert snippet(task, FOLDER, row) == ""


def test_task_with_another_auto_class_has_no_snippet() -> None:
    class Spoken(MaskedLM):
        auto_class = "AutoModelForCTC"

    assert snippet(Spoken(), FOLDER, {"text": TEXTS[0]}) == ""


# -- rows of a task that come in several forms


@pytest.mark.parametrize(
    ("task", "row", "parts"),
    [
        (CausalLM(), {"text": TEXTS[0]}, ["'Once upon a time'", "generator("]),
        (CausalLM(chat=True), {"messages": CHAT}, ["chat(messages", "'谁？'"]),
        (CausalLM(), {**PAIRS[0], "prompt": CHAT[:1]}, ["chat(messages", "'谁？'"]),
        (TextClassification(), REVIEWS[0], ["classify('a fine film', truncation=True)"]),
        (
            TextClassification(pairs=True), {"text": "a", "text_pair": "b", "label": "same"},
            ["classify({'text': 'a', 'text_pair': 'b'}, truncation=True)"],
        ),
        (
            TextClassification(threshold={"good": 0.3}), REVIEWS[0],
            ["# metrics and llmkit's answers use the thresholds good 0.3, which no pipeline knows"],
        ),
        (SentenceEmbedding(), {"anchor": "a", "positive": "b"}, ["['a', 'b']", ".mean(0)"]),
        (SentenceEmbedding(pooling="cls"), {"anchor": "a", "positive": "b"}, ["[0][0] for text in texts"]),
        (SentenceEmbedding(graded=True), {"text": "a", "text_pair": "b", "score": 1.0}, ["['a', 'b']"]),
        (Seq2Seq(prefix="translate: "), {"source": "a fox", "target": "狐狸"}, ["['translate: a fox']"]),
    ],
)  # fmt: skip
def test_snippet_asks_about_a_training_row(task: Any, row: dict[str, Any], parts: list[str]) -> None:
    code = snippet(task, FOLDER, row)
    compile(code, "snippet", "exec")
    assert [part for part in parts if part not in code] == [] and repr(str(FOLDER)) in code


def test_snippet_of_a_conversation_does_not_hold_the_answer() -> None:
    turns = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "user", "content": "And then?"}]
    code = snippet(CausalLM(chat=True), FOLDER, {"messages": turns})
    assert "Be brief." in code and "谁？" in code and "a fox" not in code and "And then?" not in code
