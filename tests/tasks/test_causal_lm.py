"""Causal language modeling: formats of conversations, the tokens that are trained on, the n-gram baselines."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXACT, TEXTS
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.cli.preview import preview
from llmkit.collate import IGNORED
from llmkit.data import chat, packing
from llmkit.data.features import encode
from llmkit.data.loading import load_part, load_rows
from llmkit.models.tokenizers import train_tokenizer
from llmkit.tasks import CausalLM
from llmkit.tasks.causal_lm import _learned_with_question

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "狐狸住在哪里？"},
    {"role": "assistant", "content": "山脚下。"},
    {"role": "user", "content": "And the crow?"},
    {"role": "assistant", "content": "\nBy the river."},
]
TALK = [
    {"messages": [{"role": "user", "content": f"What is {i} and {i}?"}, chat.assistant_turn(f"It is {2 * i}.")]}
    for i in range(16)
]


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_check_names_label_smoothing_out_of_range(value: float) -> None:
    task = CausalLM(label_smoothing=value)
    assert task.check(Recipe(task)) == [f"task.label_smoothing: {value} is not between 0 and 1"]
    assert CausalLM(label_smoothing=1.0).check(Recipe(task)) == []


FIRST_BYTES = {"gpt2": 1, "wordpiece": 3, "bos": 0}
"""Bytes of the first token of 从前: a byte, a character, or a BOS token."""


@pytest.mark.parametrize("kind", FIRST_BYTES)
def test_bits_per_byte_leave_out_the_first_token_which_is_not_predicted(kind: str) -> None:
    tokenizer = train_tokenizer("wordpiece" if kind == "wordpiece" else "bpe", 300, iter(["从前，有狐狸"] * 9), "gpt2")
    if kind != "wordpiece":
        tokenizer = train_tokenizer("bpe", 257, iter(TEXTS), "gpt2")
    if kind == "bos":
        single = TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, 0)])
        tokenizer.backend_tokenizer.post_processor = single
    rows = Dataset.from_list([{"text": "从前"}, {"text": "从前，有狐狸"}])
    task = CausalLM()
    features = Dataset.from_dict(task.encode({"text": rows["text"][:]}, tokenizer, 64))
    outputs = np.array([[3.0, len(ids) - 1] for ids in features["input_ids"]])
    stats = task.example_stats(outputs, features, rows, tokenizer)
    predicted = 6 + 18 - 2 * FIRST_BYTES[kind]
    assert stats[:, 2].sum() == pytest.approx(predicted)
    assert task.score(stats)["bits_per_byte"] == pytest.approx(6 / math.log(2) / predicted)


def test_bits_per_byte_count_all_bytes_of_answers(tiny_gpt2: Path) -> None:
    """The first token of an answer is predicted from its prompt."""
    rows = Dataset.from_list([{"messages": TURNS}])
    stats = CausalLM().example_stats(np.array([[3.0, 4]]), rows, rows, AutoTokenizer.from_pretrained(tiny_gpt2))
    assert stats[0, 2] == len("山脚下。\nBy the river.".encode())


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"messages": TURNS[1:3], "system": "Be brief."}, "system user assistant"),
        ({"messages": TURNS, "system": "Be long."}, "system user assistant user assistant"),
        ({"prompt": "who?", "response": "I", "system": ""}, "user assistant"),
        (
            {"instruction": "who?", "output": "I", "history": [["a", "b"]], "system": "Be brief."},
            "system user assistant user assistant",
        ),
    ],
)
def test_system_and_history_become_turns(row: dict[str, Any], roles: str) -> None:
    turns = CausalLM().read_row(row)["messages"]
    assert " ".join(turn["role"] for turn in turns) == roles
    assert turns[0]["role"] != "system" or turns[0]["content"] == "Be brief."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": TURNS[:2]}, "no turn of the assistant"),
        ({"messages": TURNS[1:3], "system": 3}, "'system' is int"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "'history' holds"),
        ({"instruction": "a", "output": "b", "history": ["ab"]}, "'history' holds 'ab'"),
    ],
)
def test_invalid_conversation_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalLM().read_row(row)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 and 2?", "response": "It is 4."},
        {"instruction": "What is 2 and 2?", "input": "", "output": "It is 4."},
        {"conversations": [{"from": "human", "value": "What is 2 and 2?"}, {"from": "gpt", "value": "It is 4."}]},
    ],
    ids=["prompt and response", "Alpaca", "ShareGPT"],
)
def test_chat_formats_give_equal_features(row: dict[str, Any], causal_recipe: Any) -> None:
    recipes = [causal_recipe(train=[r] * 8, validation=[r], max_length=64) for r in (row, TALK[2])]
    first, second = (build_trainer(recipe).train_dataset[0] for recipe in recipes)
    assert first["input_ids"] == second["input_ids"] and first["loss_mask"] == second["loss_mask"]


def test_labels_of_a_batch_are_the_answers_of_the_assistant_with_eos(causal_recipe: Any) -> None:
    trainer = build_trainer(causal_recipe(train=TALK, packing=False, max_length=64))
    tokenizer = trainer.processing_class
    assert trainer.task.chat and tokenizer.chat_template
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        trained = tokenizer.decode(ids[labels != IGNORED])
        assert trained.strip().startswith("It is") and trained.endswith(tokenizer.eos_token)


def test_labels_of_a_batch_hold_one_eos_for_each_document(causal_recipe: Any) -> None:
    trainer = build_trainer(causal_recipe(packing=False, max_length=64))
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] == trainer.processing_class.eos_token_id).sum() == len(batch["labels"])
    assert sum(map(len, trainer.rows.values())) == len(TEXTS)


def test_conversations_for_a_tokenizer_without_a_template_are_refused(tiny_gpt2: Path) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        CausalLM().encode({"messages": [TURNS]}, AutoTokenizer.from_pretrained(tiny_gpt2), 64)


def test_model_that_reads_future_tokens_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    """Its loss would fall while it learns to copy."""

    def trainer(**config: Any) -> Any:
        rows = [{"text": "the fox sleeps in the sun"}] * 8
        model, output = ModelConfig(name=str(tiny_bert), config=config), RunConfig(str(tmp_path / str(len(config))))
        return build_trainer(Recipe(CausalLM(), model, DataConfig(train=rows, validation=rows), EXACT, output))

    with pytest.raises(UsageError, match="a bert model reads the tokens that it must predict"):
        trainer()
    assert trainer(is_decoder=True).model.config.is_decoder


@pytest.mark.parametrize("packed", [True, False])
def test_ngram_baselines_count_only_trained_tokens(tiny_gpt2: Path, packed: bool) -> None:
    task, tokenizer = CausalLM(chat=True), AutoTokenizer.from_pretrained(tiny_gpt2)
    task.configure(tokenizer)
    rows = Dataset.from_list([{"messages": turns} for turns in (TURNS[:3], TURNS, TURNS[3:])])
    features, _ = encode(task, rows, tokenizer, 64)
    trained = [token for row in features for token, on in zip(row["input_ids"], row["loss_mask"], strict=True) if on]
    pairs = [
        (before, token)
        for row in features
        for before, token, on in zip(row["input_ids"], row["input_ids"][1:], row["loss_mask"][1:], strict=False)
        if on
    ]
    size = max(i for row in features for i in row["input_ids"]) + 1
    counts = Counter(trained)
    unigram = {t: (counts[t] + 1) / (len(trained) + size) for t in range(size)}
    followers = {b: len({t for x, t in pairs if x == b}) for b, _ in pairs}
    total, together = Counter(b for b, _ in pairs), Counter(pairs)
    bigram = [(together[b, t] + followers[b] * unigram[t]) / (total[b] + followers[b]) for b, t in pairs]
    features = packing.pack(features, 64) if packed else features
    baselines = task.baselines(features, features, {}, False)
    assert baselines["unigram"]["value"] == pytest.approx(-sum(math.log(unigram[t]) for t in trained) / len(trained))
    assert baselines["bigram"]["value"] == pytest.approx(-sum(map(math.log, bigram)) / len(bigram))
    assert baselines["unigram"]["kind"] == "floor" and baselines["bigram"]["kind"] == "reference"


def test_card_of_a_chat_model_with_an_adapter_runs(tiny_gpt2: Path, tmp_path: Path) -> None:
    """By default the pipeline would load the tokenizer of the base model, which has no chat template."""
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "谁？"},
        chat.assistant_turn("fox"),
    ]
    recipe = Recipe(
        CausalLM(),
        ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 2}),
        DataConfig(train=[{"messages": turns}] * 8, validation=[{"messages": turns}], max_length=64),
        {**EXACT, "max_steps": 2},
        RunConfig(str(tmp_path / "chat")),
    )
    run(recipe)
    card = (tmp_path / "chat" / "README.md").read_text(encoding="utf-8")
    assert "{'role': 'system', 'content': 'Be brief.'}" in card and "'谁？'" in card
    assert "Output when this card was written" in card


# -- formats that people have


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Which?", "context": "A fox.", "response": "I", "category": "qa"}, ["Which?\n\nA fox.", "I"]),
        ({"instruction": "Which?", "context": "", "response": "I"}, ["Which?", "I"]),
        ({"id": "1", "system_prompt": "Be brief.", "question": "who?", "response": "I"}, ["Be brief.", "who?", "I"]),
        ({"id": "1", "system_prompt": "", "question": "who?", "response": "I"}, ["who?", "I"]),
        ({"prompt": "and?", "response": "I", "history": [["a", "b"]]}, ["a", "b", "and?", "I"]),
        ({"question": "who?", "context": "A fox.", "answer": "I"}, ["who?\n\nA fox.", "I"]),
    ],
    ids=["Dolly", "Dolly without context", "OpenOrca", "OpenOrca without system", "ChatGLM", "question and context"],
)
def test_columns_of_public_instruction_data_are_read(row: dict[str, Any], expected: list[str]) -> None:
    (kept,) = load_part([row], CausalLM(), DataConfig()).to_list()
    assert [turn["content"] for turn in kept["messages"]] == expected


@pytest.mark.parametrize("label", [True, False, "True", "false"])
@pytest.mark.parametrize("row", [{"prompt": "who?", "completion": "I"}, {"messages": TURNS[1:3]}])
def test_kto_rows_are_refused_by_name(row: dict[str, Any], label: Any) -> None:
    with pytest.raises(UsageError, match=r"KTO row.*jq -c 'select\(.label\) \| del\(.label\)'"):
        load_part([{**row, "label": label}], CausalLM(), DataConfig())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a", "output": "b", "input": 3}, "'input' is int, not text"),
        ({"instruction": "a", "output": "b", "history": 3}, "'history' is int, not a list"),
        ({"instruction": "a", "output": "b", "history": [["q", " "]]}, "'history' holds"),
        ({"prompt": "a", "response": "b", "system": ["c"]}, "'system' is list, not text"),
        ({"prompt": "a", "response": "b", "input": ["c"]}, "'input' is list, not text"),
        ({"messages": [TURNS[1], {**TURNS[2], "weight": 0}]}, "no turn of the assistant that is trained on"),
    ],
)
def test_optional_column_of_the_wrong_type_is_an_invalid_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalLM().read_row(row)


# -- weights of turns


SHORT = [{"role": "user", "content": "谁？"}, chat.assistant_turn("fox"), {"role": "user", "content": "and?"},
         chat.assistant_turn("crow")]  # fmt: skip


def weighted(weight: int) -> dict[str, Any]:
    return {"messages": [SHORT[0], {**SHORT[1], "weight": weight}, *SHORT[2:]]}


def test_turn_of_weight_0_is_context_and_is_not_trained_on(causal_recipe: Any) -> None:
    rows = [weighted(1), weighted(0), {"messages": SHORT}]
    recipe = causal_recipe(train=rows, validation=rows, packing=False, max_length=64)
    trainer = build_trainer(recipe)
    tokenizer, features = trainer.processing_class, [trainer.train_dataset[i] for i in range(3)]
    assert features[0]["input_ids"] == features[1]["input_ids"] == features[2]["input_ids"]
    trained = [
        tokenizer.decode([t for t, on in zip(f["input_ids"], f["loss_mask"], strict=True) if on]) for f in features
    ]
    assert trained[0] == trained[2] == " fox<|endoftext|> crow<|endoftext|>" and trained[1] == " crow<|endoftext|>"
    blocks = preview(recipe).split("\n\n")
    assert [block.count("«") for block in blocks[1:]] == [2, 1, 2]


def test_rows_without_a_weight_are_unchanged() -> None:
    task = CausalLM()
    assert task.read_row(weighted(1)) == task.read_row({"messages": SHORT}) == {"messages": SHORT}
    assert task.read_row(weighted(0)) == {"messages": SHORT, "weights": [0, 0, 0, 1]}


def test_bytes_are_those_of_the_turns_that_are_trained_on() -> None:
    rows = Dataset.from_list([{"messages": TURNS, "weights": [0, 0, 0, 0, 1]}, {"messages": TURNS, "weights": None}])
    stats = CausalLM().example_stats(np.array([[1.0, 4], [1.0, 12]]), rows, rows, None)
    last, first = len(TURNS[4]["content"].encode()), len(TURNS[2]["content"].encode())
    assert stats[:, 2].sum() == pytest.approx(2 * last + first)


# -- long conversations, and splits


@pytest.mark.parametrize("length", range(10, 70, 3))
def test_answer_whose_question_is_cut_is_not_trained_on(tiny_gpt2: Path, length: int) -> None:
    task, tokenizer = CausalLM(chat=True), AutoTokenizer.from_pretrained(tiny_gpt2)
    task.configure(tokenizer)
    turns = [
        t for i in range(4) for t in ({"role": "user", "content": f"Q{i} {i} ?"}, chat.assistant_turn(f"A{i} {i} !"))
    ]
    features, notes = encode(task, Dataset.from_list([{"messages": turns}]), tokenizer, length)
    for row in features:
        before, trained = "", ""
        for token, on in zip(row["input_ids"], row["loss_mask"], strict=True):
            trained += tokenizer.decode(token) if on and before else ""
            before += tokenizer.decode(token)
        for answer in re.findall(r"A(\d)", trained):
            assert f"User: Q{answer} {answer} ?" in before, before
    learned = sum(sum(row["loss_mask"][1:]) for row in features)
    whole = sum(chat.encode_with_mask(turns, tokenizer)[1])
    assert (notes["truncated"], notes["dropped"]) == (0 < learned < whole, learned == 0)


@pytest.mark.parametrize(("mask", "length", "learned"), [
    ([0, 0, 1, 1, 0, 0, 1, 1], 8, [0, 0, 1, 1, 0, 0, 1, 1]),  # fits
    ([0, 0, 1, 1, 0, 0, 1, 1], 4, [0, 0, 1, 1, 0, 0, 1, 0]),  # the second chunk begins with an end, the third in an answer
    ([0, 0, 1, 1, 0, 0, 1, 1], 5, [0, 0, 1, 1, 0, 0, 1, 1]),  # the second chunk begins with a question
    ([0, 0, 1, 1, 0, 0, 1, 1], 6, [0, 0, 1, 1, 0, 0, 0, 0]),  # it begins in a question
    ([0, 1, 1, 1, 1, 1, 0, 1], 3, [0, 1, 1, 0, 0, 0, 0, 1]),  # an answer of three chunks, then a question
])  # fmt: skip
def test_mask_of_a_cut_conversation(mask: list[int], length: int, learned: list[int]) -> None:
    assert _learned_with_question(mask, length) == learned


def test_texts_are_cut_without_loss(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    features, notes = encode(CausalLM(), Dataset.from_list([{"text": "the fox sleeps " * 20}]), tokenizer, 16)
    assert len(features) > 2 and notes == {"truncated": 0, "dropped": 0}


@pytest.mark.parametrize("second", [
    {"prompt": "Question 3?", "response": "another"},
    {"instruction": "Question 3?", "output": "another"},
    {"messages": [{"role": "user", "content": "Question 3?"}, chat.assistant_turn("another")]},
])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_answers_to_one_question_stay_in_one_part(second: dict[str, Any], seed: int) -> None:
    rows = [{"prompt": f"Question {i % 10}?", "response": f"answer {i}"} for i in range(40)]
    parts = load_rows(DataConfig(train=[*rows, second], validation=0.3, seed=seed), CausalLM()).rows
    questions = [{turns[0]["content"] for turns in part["messages"]} for part in parts.values()]
    assert len(questions[1]) == 3 and not questions[0] & questions[1]
    assert sum(map(len, parts.values())) == 41
