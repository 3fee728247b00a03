"""Conversations: the training mask under different kinds of chat templates, and prompts with answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit import UsageError
from llmkit.data import chat

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = (  # like Qwen3: only the last turn has room for thoughts
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ENDING = (  # like Phi-3: the last turn has another end token than the others
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{{ '<return>' if loop.last else '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system here') }}{% endif %}" + CHATML
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "狐狸住在哪里？"},
    {"role": "assistant", "content": "山脚下。"},
    {"role": "user", "content": "And the crow?"},
    {"role": "assistant", "content": "\nBy the river."},
]


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (chat.PLAIN_TEMPLATE, [" 山脚下。<|endoftext|>", " \nBy the river.<|endoftext|>"]),
        (CHATML, ["山脚下。<|im_end|>\n", "\nBy the river.<|im_end|>\n"]),
        (THINKING, ["山脚下。<|im_end|>\n", "<think>\n\n</think>\n\nBy the river.<|im_end|>\n"]),
        (ENDING, ["山脚下。<", "\nBy the river.<return>"]),  # "<" is the first token of both ends
    ],
    ids=["plain", "chatml", "thinking", "ending"],
)
def test_mask_covers_only_assistant_turns(tokenizer: Tokenizer, template: str, expected: list[str]) -> None:
    tokenizer.chat_template = template
    ids, mask = chat.encode_with_mask(TURNS, tokenizer)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    spans, before = [], 0
    for token, trained in zip(ids, mask, strict=True):
        if trained:
            spans = [*spans[: len(spans) - before], [*(spans[-1] if before else []), token]]
        before = trained
    assert [tokenizer.decode(span) for span in spans] == expected


def test_mask_covers_assistant_turn_that_comes_first(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = CHATML
    ids, mask = chat.encode_with_mask(TURNS[2:], tokenizer)
    trained = tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on])
    assert trained == "山脚下。<|im_end|>\n\nBy the river.<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_SYSTEM, "rejects turns of system, user, assistant, user, assistant, beginning 'Be brief.' (No system"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "omits the assistant's content"),
    ],
)
def test_template_that_cannot_render_the_turns_is_refused(tokenizer: Tokenizer, template: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UsageError) as error:
        chat.encode_with_mask(TURNS, tokenizer)
    assert message in str(error.value)


def test_token_across_the_boundary_belongs_to_the_answer(tokenizer: Tokenizer) -> None:
    """The generation prompt ends with a space, which the tokenizer joins to the first word of the answer."""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    turns = [{"role": "user", "content": "who?"}, chat.assistant_turn("the fox")]
    ids, mask = chat.encode_with_mask(turns, tokenizer)
    prompt = chat.encode(turns[:1], tokenizer, generation_prompt=True)
    assert ids[: len(prompt)] != prompt  # " the" is a token, and so is " "
    assert tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on]) == " the fox"
    prompt, (answer,) = chat.encode_answers(turns[:1], ["the fox"], tokenizer)
    assert prompt + answer == ids and tokenizer.decode(answer) == " the fox"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "'messages' is not a list of turns"),
        ([], "'messages' is not a list of turns"),
        (["hello"], "a turn is str, not a mapping"),
        ([{"role": "bot", "content": "hello"}], "role 'bot'"),
        ([{"role": ["user"], "content": "hello"}], r"role \['user'\]"),
        ([{"role": "user"}], "content 'None'"),
    ],
)
def test_invalid_turns_are_refused(messages: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.read_turns(messages)
