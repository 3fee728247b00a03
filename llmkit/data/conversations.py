"""Conversations: turns read from the usual formats, put into a tokenizer's chat template, and taken apart by what the
assistant says."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

Turn = Mapping[str, str]
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['role'].capitalize() + ': ' + m['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For a tokenizer without a chat template: saved with it, so that every later user of the folder sees the same."""


def read_turns(messages: Any, column: str = "messages") -> list[dict[str, str]]:
    """Turns as role and content (ShareGPT: from and value). Raises ValueError where `messages` is no list of them."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{column!r} is not a list of turns")
    turns = []
    for turn in messages:
        if not isinstance(turn, Mapping):
            raise ValueError(f"a turn is {type(turn).__name__}, not role and content")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"a turn with role {role!r} (known: {', '.join(ROLES)}) and content {str(content)[:20]!r}")
        turns.append({"role": ROLES[role], "content": content})
    return turns


def said(content: str) -> dict[str, str]:
    """The assistant's turn."""
    return {"role": "assistant", "content": content}


def encode(turns: Sequence[Turn], tokenizer: Any, ask: bool = False) -> list[int]:
    """Ids of turns in the tokenizer's chat template; `ask` adds what the assistant's next turn begins with."""
    return list(tokenizer.apply_chat_template(list(turns), add_generation_prompt=ask, return_dict=True)["input_ids"])


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two rows begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def encode_learning(turns: Sequence[Turn], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and 1 for every token that the assistant says, its end included. What a turn adds is what
    the template of the conversation up to it adds; a token that lies across the border is the turn's."""
    whole, learn = encode(turns, tokenizer), []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = shared(encode(turns[:i], tokenizer, ask=True), whole)
            after = shared(encode(turns[: i + 1], tokenizer), whole)
            learn += [0] * (before - len(learn)) + [1] * (after - before)
    return whole, learn + [0] * (len(whole) - len(learn))


def encode_answers(turns: Sequence[Turn], answers: Sequence[str], tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """Ids of a prompt, and of each answer to it, its end included. A token across the border is the answer's."""
    prompt = encode(turns, tokenizer, ask=True)
    whole = [encode([*turns, said(answer)], tokenizer) for answer in answers]
    border = min(shared(prompt, ids) for ids in whole)
    return prompt[:border], [ids[border:] for ids in whole]


def snippet(folder: str, turns: Sequence[Turn]) -> str:
    """Code that asks the saved folder with transformers alone. The tokenizer is named: an adapter's folder would be
    given its base's, which has no such template."""
    asked = [{"role": t["role"], "content": t["content"][:200]} for t in turns]
    return (
        "from transformers import pipeline\n\n"
        f"chat = pipeline('text-generation', {folder!r}, tokenizer={folder!r})\n"
        f"messages = {asked!r}\n"
        "print(chat(messages, max_new_tokens=20, do_sample=False)[0]['generated_text'][-1]['content'])"
    )
