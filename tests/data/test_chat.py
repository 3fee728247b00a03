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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": "", "tool_calls": [{"name": "f"}]}, "holds tool_calls, which llmkit does not read yet"),
        ({"content": None, "function_call": {"name": "f"}}, "holds function_call"),
        ({"reasoning_content": "hm", "images": ["a.png"]}, "holds images, reasoning_content"),
        ({"thinking": "hm"}, "holds thinking"),
        ({"content": ""}, "an empty turn of the assistant in 'messages'"),
        ({"content": " \n"}, "an empty turn of the assistant"),
        ({"weight": 0.5}, "weight 0.5 of a turn of the assistant: expected 0 or 1"),
        ({"weight": "0"}, "weight '0' of a turn"),
        ({"train": 2}, "train 2 of a turn"),
        ({"role": "user", "weight": 1}, "weight 1 of a turn of the user: only turns of the assistant are trained on"),
    ],
)
def test_turn_whose_content_would_be_lost_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.read_turns([TURNS[1], {**TURNS[2], **change}])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"weight": 0}, 0),
        ({"train": False}, 0),
        ({"weight": 1}, None),
        ({"train": True}, None),
        ({"weight": None}, None),
    ],
)
def test_weight_of_a_turn_is_read(keys: dict, expected: int | None) -> None:
    turns = chat.read_turns([{**TURNS[1], "weight": 0}, {**TURNS[2], **keys, "tool_calls": []}])
    assert turns[0] == TURNS[1] and turns[1] == TURNS[2] | ({} if expected is None else {"weight": expected})


def test_mask_leaves_out_turns_of_weight_0(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = CHATML
    ids, mask = chat.encode_with_mask(TURNS, tokenizer)
    weighted_ids, weighted = chat.encode_with_mask(TURNS, tokenizer, weights=[0, 0, 0, 0, 1])
    assert weighted_ids == ids and sum(weighted) < sum(mask)
    assert tokenizer.decode([i for i, on in zip(ids, weighted, strict=True) if on]) == "\nBy the river.<|im_end|>\n"
