"""Rows of preference pairs, read alike by preference optimisation and reward models, and their baselines."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from llmkit.tasks import Preference, RewardModel
from llmkit.tasks._pairs import Pairs, split_pairs

PROMPT = [{"role": "user", "content": "how was it?"}]
ROW = {"prompt": PROMPT, "chosen": "a fine film", "rejected": "dull"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "how was it?", "chosen": "a fine film", "rejected": "dull"},
        {"prompt": PROMPT, "chosen": [{"role": "assistant", "content": "a fine film"}], "rejected": "dull"},
        {"prompt": [{"from": "human", "value": "how was it?"}], "chosen": {"from": "gpt", "value": "a fine film"},
         "rejected": {"from": "gpt", "value": "dull"}},
        {"prompt": None, "chosen": [*PROMPT, {"role": "assistant", "content": "a fine film"}],
         "rejected": [*PROMPT, {"role": "assistant", "content": "dull"}]},
        {"prompt": "how was it?", "chosen": [*PROMPT, {"role": "assistant", "content": "a fine film"}],
         "rejected": [*PROMPT, {"role": "assistant", "content": "dull"}]},
    ],
    ids=["text", "messages", "ShareGPT", "conversations", "conversations and prompt"],
)  # fmt: skip
@pytest.mark.parametrize("task", [Preference(), RewardModel()], ids=lambda t: t.name)
def test_every_format_gives_the_same_row(task: Pairs, row: dict[str, Any]) -> None:
    assert task.read_row(row) == ROW


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "no 'prompt'"),
        ({"prompt": [{"role": "bot", "content": "hello"}]}, "role 'bot'"),
        ({"prompt": [*PROMPT, {"role": "assistant", "content": "well"}]}, "ends with a turn of the assistant"),
        ({"chosen": " "}, "no 'chosen'"),
        ({"chosen": {"role": "assistant", "content": " "}}, "an empty turn of the assistant in 'chosen'"),
        ({"rejected": [{"role": "user", "content": "dull"}]}, "'rejected' ends with a turn of the user, not of the as"),
        ({"rejected": "a fine film"}, "'chosen' and 'rejected' are the same"),
        ({"chosen": [*PROMPT, {"role": "assistant", "content": "a fine film"}]}, "differ before their last turn"),
        ({"chosen": 7}, "'chosen' is not a list of turns"),
    ],
)
def test_invalid_row_is_refused_with_its_reason(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preference().read_row({**ROW, **change})


def test_chosen_sequences_come_before_rejected_ones() -> None:
    features = [{"input_ids": [1, 2, 3], "lengths": [1, 2]}, {"input_ids": [4, 5, 6], "lengths": [2, 1]}]
    assert [sequence["input_ids"] for sequence in split_pairs(features)] == [[1], [4, 5], [2, 3], [6]]


def test_baselines_are_a_coin_the_longer_answer_and_similarity() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "tell of the fox"}], "chosen": "a fox", "rejected": "a crow, that is"},
        {"prompt": [{"role": "user", "content": "tell of the crow"}], "chosen": "the crow", "rejected": "fox"},
        {"prompt": [{"role": "user", "content": "tell of the cat"}], "chosen": "dog", "rejected": "cat"},
    ]
    parts = {"train": Dataset.from_list(rows), "evaluation": Dataset.from_list(rows)}
    features = Dataset.from_dict({"row": [0, 1, 2]})
    baselines = Preference().baselines(features, features, parts, references=True)
    assert {name: b["value"] for name, b in baselines.items()} == pytest.approx(
        {"coin": 0.5, "longer answer": 0.5, "TF-IDF similarity to the prompt": 2 / 3}
    )
    assert {name for name, b in baselines.items() if b["kind"] == "floor"} == {"coin"}
    assert set(Preference().baselines(features, features, parts, references=False)) == {"coin", "longer answer"}
    fitting = Preference().baselines(features, features.select([0]), parts, references=False)
    assert fitting["longer answer"]["value"] == float(len(rows[0]["chosen"]) > len(rows[0]["rejected"]))
