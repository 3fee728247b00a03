"""Rows of preference pairs, read alike by preference optimisation and reward models, and their baselines."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from llmkit import DataConfig
from llmkit.data.loading import load_part
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


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("prompt", "before", "joined"),
    [
        ("how?", [user("how?")], [user("how?")]),
        ("how?", [], [user("how?")]),
        ("how?", [reply("well"), user("and?")], [user("how?"), reply("well"), user("and?")]),
        ([user("how?"), reply("well")], [user("and?")], [user("how?"), reply("well"), user("and?")]),
        ([user("how?"), reply("well"), user("and?")], [user("and?")], [user("how?"), reply("well"), user("and?")]),
        ([SYSTEM], [user("how?")], [SYSTEM, user("how?")]),
        ([SYSTEM, user("how?")], [user("how?")], [SYSTEM, user("how?")]),
        ("how?", [SYSTEM, user("how?")], [SYSTEM, user("how?")]),
        ("how?", [SYSTEM], [SYSTEM, user("how?")]),
        (None, [user("how?")], [user("how?")]),
        ("", [user("how?"), user("?")], [user("how?"), user("?")]),
        ([user("how?"), user("?")], [user("how?"), user("?")], [user("how?"), user("?")]),
    ],
)
def test_prompt_is_put_before_answers_with_turns_unless_they_begin_with_it(
    prompt: Any, before: list, joined: list
) -> None:
    row = {"prompt": prompt, "chosen": [*before, reply("yes")], "rejected": [*before, reply("no")]}
    assert Preference().read_row(row) == {"prompt": joined, "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize(
    ("prompt", "before", "message"),
    [
        ("how?", [user("what?")], "'prompt' is not the beginning of the conversation in 'chosen'"),
        ([SYSTEM, user("how?")], [{"role": "system", "content": "Be long."}, user("how?")], "'prompt' is not the"),
        (3, [user("what?")], "'prompt' is not a list of turns"),
        ([user("how?"), reply("well")], [], "'prompt' ends with a turn of the assistant"),
        (
            [{**reply("well"), "weight": 0}],
            [user("how?")],
            "'prompt' has a turn of weight 0, which only causal-lm obeys",
        ),
        ([{**user("how?"), "images": ["a.png"]}], [], "holds images"),
    ],
)
def test_prompt_that_contradicts_the_answers_is_refused(prompt: Any, before: list, message: str) -> None:
    row = {"prompt": prompt, "chosen": [*before, reply("yes")], "rejected": [*before, reply("no")]}
    with pytest.raises(ValueError, match=message):
        Preference().read_row(row)


HH = "\n\nHuman: how was it?\n\nAssistant: Well.\n\nIt was long.\n\nHuman: and the end?\n\nAssistant:"


@pytest.mark.parametrize("task", [Preference(), RewardModel()], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{HH} warm", "rejected": f"{HH} loud"},
        {"prompt": HH, "chosen": "warm", "rejected": "loud"},
        {"prompt": "how was it?", "chosen": f"{HH} warm", "rejected": f"{HH} loud"},
    ],
    ids=["whole texts", "prompt and answers", "both"],
)
def test_whole_texts_of_hh_rlhf_are_read_as_turns(task: Pairs, row: dict[str, Any]) -> None:
    prompt = [user("how was it?"), reply("Well.\n\nIt was long."), user("and the end?")]
    (kept,) = load_part([row], task, DataConfig()).to_list()
    assert kept == {"prompt": prompt, "chosen": "warm", "rejected": "loud"}


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        (f"{HH} warm", f"{HH}", "'rejected' ends with a turn of the user"),
        (f"{HH} warm", "\n\nHuman: who?\n\nAssistant: I", "differ before their last turn"),
        (f"{HH} warm", f"{HH} warm", "are the same"),
    ],
)
def test_invalid_texts_of_hh_rlhf_are_refused(chosen: str, rejected: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preference().read_row({"chosen": chosen, "rejected": rejected})


def test_text_that_only_mentions_a_speaker_is_an_answer() -> None:
    row = {"prompt": "who?", "chosen": "Human: me", "rejected": "me\n\nHuman: you\n\nAssistant: no"}
    assert Preference().read_row(row) == {**row, "prompt": [user("who?")]}
