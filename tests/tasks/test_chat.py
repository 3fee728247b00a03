"""Chat tuning: what is learned of a conversation, under templates of different kinds, and what it is held against."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import EXACT

from llmkit import DataConfig, ModelConfig, Recipe, RecipeError, RunConfig, build_trainer, run
from llmkit.data import conversations
from llmkit.tasks import CausalLM

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = (  # as Qwen3's: the last turn has a place for thoughts, and loses it when another follows
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ENDING = (  # as Phi-3's: what ends the last turn is not what ends the others
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{{ '<return>' if loop.last else '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
STERN = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system here') }}{% endif %}" + CHATML
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "狐狸住在哪里？"},
    {"role": "assistant", "content": "山脚下。"},
    {"role": "user", "content": "And the crow?"},
    {"role": "assistant", "content": "\nBy the river."},
]


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (conversations.PLAIN_TEMPLATE, [" 山脚下。<|endoftext|>", " \nBy the river.<|endoftext|>"]),
        (CHATML, ["山脚下。<|im_end|>\n", "\nBy the river.<|im_end|>\n"]),
        (THINKING, ["山脚下。<|im_end|>\n", "<think>\n\n</think>\n\nBy the river.<|im_end|>\n"]),
        (ENDING, ["山脚下。<", "\nBy the river.<return>"]),  # "<" is a token of both ends
    ],
    ids=["plain", "chatml", "thinking", "ending"],
)
def test_only_what_the_assistant_says_is_learned(tokenizer: Any, template: str, said: list[str]) -> None:
    tokenizer.chat_template = template
    ids, learn = conversations.encode_learning(TALK, tokenizer)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TALK, tokenize=False)
    spans, before = [], 0
    for token, learned in zip(ids, learn, strict=True):
        if learned:
            spans = [*spans[: len(spans) - before], [*(spans[-1] if before else []), token]]
        before = learned
    assert [tokenizer.decode(span) for span in spans] == said


def test_an_assistant_that_speaks_first_is_learned_from(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    ids, learn = conversations.encode_learning(TALK[2:], tokenizer)
    said = tokenizer.decode([i for i, learned in zip(ids, learn, strict=True) if learned])
    assert said == "山脚下。<|im_end|>\n\nBy the river.<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (STERN, "template refuses turns of system, user, assistant, user, assistant, beginning 'Be brief.' (No system"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "does not show what the assistant says"),
    ],
)
def test_a_template_that_does_not_take_a_conversation_is_said(tokenizer: Any, template: str, why: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(RecipeError) as refused:
        conversations.encode_learning(TALK, tokenizer)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"messages": TALK[1:3], "system": "Be brief."}, "system user assistant"),
        ({"messages": TALK, "system": "Be long."}, "system user assistant user assistant"),
        ({"prompt": "who?", "response": "I", "system": ""}, "user assistant"),
        (
            {"instruction": "who?", "output": "I", "history": [["a", "b"]], "system": "Be brief."},
            "system user assistant user assistant",
        ),
    ],
)
def test_system_and_history_are_turns_of_their_own(row: dict, roles: str) -> None:
    turns = CausalLM().read_row(row)["messages"]
    assert " ".join(turn["role"] for turn in turns) == roles
    assert turns[0]["role"] != "system" or turns[0]["content"] == "Be brief."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": TALK[:2]}, "no turn of the assistant"),
        ({"messages": TALK[1:3], "system": 3}, "'system' is int"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "'history' holds"),
        ({"instruction": "a", "output": "b", "history": ["ab"]}, "'history' holds 'ab'"),
    ],
)
def test_a_conversation_without_what_is_to_be_learned_is_a_bad_row(row: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CausalLM().read_row(row)


def test_a_model_that_reads_what_it_must_predict_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    """Its loss would fall, and it would have learned to copy."""

    def trainer(**config: Any) -> Any:
        rows = [{"text": "the fox sleeps in the sun"}] * 8
        model = ModelConfig(name=str(tiny_bert), config=config)
        out = RunConfig(str(tmp_path / str(len(config))))
        return build_trainer(Recipe(CausalLM(), model, DataConfig(train=rows, validation=rows), EXACT, out))

    with pytest.raises(RecipeError, match="a bert reads the tokens that it must predict"):
        trainer()
    assert trainer(is_decoder=True).model.config.is_decoder


def test_a_token_across_the_border_is_the_answer_s(tokenizer: Any) -> None:
    """A template whose question ends in a space, which the answer's first token takes in."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    turns = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the fox"}]
    ids, learn = conversations.encode_learning(turns, tokenizer)
    asked = conversations.encode(turns[:1], tokenizer, ask=True)
    assert ids[: len(asked)] != asked  # " the" is one token, " " another
    assert tokenizer.decode([i for i, learned in zip(ids, learn, strict=True) if learned]) == " the fox"
    prompt, (answer,) = conversations.encode_answers(turns[:1], ["the fox"], tokenizer)
    assert prompt + answer == ids and tokenizer.decode(answer) == " the fox"


@pytest.mark.parametrize("packing", [True, False])
def test_a_unigram_is_of_the_trained_tokens_alone(tokenizer: Any, packing: bool) -> None:
    from llmkit.data import packing as packer
    from llmkit.data import preparation

    talks = [TALK[:3], TALK, [TALK[3], TALK[4]]]
    task = CausalLM(chat=True)
    task.ready_tokenizer(tokenizer)
    from datasets import Dataset

    features, _ = preparation.encode(task, Dataset.from_list([{"messages": t} for t in talks]), tokenizer, 64)
    learned = [
        token for row in features for token, learns in zip(row["input_ids"], row["learn"], strict=True) if learns
    ]
    pairs = [
        (before, token)
        for row in features
        for before, token, learns in zip(row["input_ids"], row["input_ids"][1:], row["learn"][1:], strict=False)
        if learns
    ]
    size = max(i for row in features for i in row["input_ids"]) + 1
    counts = Counter(learned)
    unigram = {t: (counts[t] + 1) / (len(learned) + size) for t in range(size)}
    followers = {b: len({t for x, t in pairs if x == b}) for b, _ in pairs}
    seen, together = Counter(b for b, _ in pairs), Counter(pairs)
    bigram = [(together[b, t] + followers[b] * unigram[t]) / (seen[b] + followers[b]) for b, t in pairs]
    features = packer.pack(features, 64) if packing else features
    found = task.baselines(features, features, {}, False)
    assert found["unigram"]["value"] == pytest.approx(-sum(math.log(unigram[t]) for t in learned) / len(learned))
    assert found["bigram"]["value"] == pytest.approx(-sum(map(math.log, bigram)) / len(bigram))
    assert found["unigram"]["kind"] == "floor" and found["bigram"]["kind"] == "reference"


def test_the_card_of_a_chat_with_an_adapter_runs(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The pipeline would take the base's tokenizer, which has no chat template."""
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "谁？"}, conversations.said("fox")]
    recipe = Recipe(
        CausalLM(),
        ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 2}),
        DataConfig(train=[{"messages": talk}] * 8, validation=[{"messages": talk}], max_length=64),
        {**EXACT, "max_steps": 2},
        RunConfig(str(tmp_path / "chat")),
    )
    run(recipe)
    card = (tmp_path / "chat" / "README.md").read_text(encoding="utf-8")
    assert "{'role': 'system', 'content': 'Be brief.'}" in card and "'谁？'" in card
    assert "It printed, when this card was written" in card
