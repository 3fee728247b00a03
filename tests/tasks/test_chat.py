"""Chat tuning: what is learned of a conversation, under templates of different kinds, and what it is held against."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import EXACT

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, run
from llmkit.data import conversations
from llmkit.tasks import CausalLM

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
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
    ],
    ids=["plain", "chatml"],
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
