"""Conversations: turns read from the usual formats, put into a tokenizer's chat template, and taken apart by what the
assistant says."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from jinja2 import TemplateError

from llmkit.errors import RecipeError, refusing

Turn = Mapping[str, str]
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['role'].capitalize() + ': ' + m['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For a tokenizer without a chat template: saved with it, so that every later user of the folder sees the same."""
MARK = "\ufdd0"  # in place of a turn's words; no text may hold this code point


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


def with_system(turns: list[dict[str, str]], system: Any) -> list[dict[str, str]]:
    """The turns, after what a column of its own tells the assistant to be. Raises ValueError where that is no text."""
    if system in (None, "") or turns[0]["role"] == "system":
        return turns
    if not isinstance(system, str):
        raise ValueError(f"'system' is {type(system).__name__}, not text")
    return [{"role": "system", "content": system}, *turns]


def read_history(history: Any) -> list[dict[str, str]]:
    """The turns before an instruction: pairs of question and answer. Raises ValueError."""
    turns = []
    for pair in history or ():
        if not isinstance(pair, (list, tuple)) or [type(text) for text in pair] != [str, str]:
            raise ValueError(f"'history' holds {str(pair)[:40]!r}, not a question and its answer")
        turns += [{"role": "user", "content": pair[0]}, said(pair[1])]
    return turns


def render(turns: Sequence[Turn], tokenizer: Any, ask: bool = False) -> str:
    """Turns in the tokenizer's chat template; `ask` adds what the assistant's next turn begins with. Raises RecipeError
    for turns that the template refuses."""
    roles, first = ", ".join(turn["role"] for turn in turns), turns[0]["content"].strip(MARK)[:40]
    with refusing(f"conversations: the chat template refuses turns of {roles}, beginning {first!r}", TemplateError):
        return str(tokenizer.apply_chat_template(list(turns), add_generation_prompt=ask, tokenize=False))


def encode(turns: Sequence[Turn], tokenizer: Any, ask: bool = False) -> list[int]:
    """Ids of what `render` gives."""
    return list(tokenizer(render(turns, tokenizer, ask), add_special_tokens=False, verbose=False)["input_ids"])


def shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many ids, or characters, two begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def encode_learning(turns: Sequence[Turn], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and 1 for every token that the assistant says, its end included; a token that lies across
    a border is of the turn in which it ends."""
    whole = render(turns, tokenizer)
    learn = np.zeros(len(whole) + 1, dtype=np.int64)  # by the end of each character
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            start, end = _stands(turns, i, whole, tokenizer)
            learn[start + 1 : end + 1] = 1
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["input_ids"]), learn[[end for _, end in encoded["offset_mapping"]]].tolist()


def _stands(turns: Sequence[Turn], i: int, whole: str, tokenizer: Any) -> tuple[int, int]:
    """Where in the rendered conversation the turn `i` stands, from what asks for it to its end. A template may show a
    turn otherwise when another follows (without its thoughts, say), so the turn's words are looked for in the whole;
    what ends them is what follows them here and when the turn is the last."""
    marked = {**turns[i], "content": MARK}
    before, found, after = render([*turns[:i], marked, *turns[i + 1 :]], tokenizer).partition(MARK)
    if not found or not whole.endswith(after):
        raise RecipeError("conversations: the chat template does not show what the assistant says; give another one")
    own = render([*turns[:i], marked], tokenizer).partition(MARK)[2]
    asked = render(turns[:i], tokenizer, ask=True) if i else before
    start = len(asked) if whole.startswith(asked) else shared(before, whole)
    return start, len(whole) - len(after) + shared(own, after)


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
