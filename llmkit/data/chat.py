"""Conversations: turns read from the usual formats, rendered with a chat template, and split by role."""

import itertools
import operator
from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit.errors import UsageError, as_usage_error
from llmkit.task import Json, Row, read_text

Turn = Json
"""`role` (system, user or assistant) and `content`; as read also `weight`, 0 for an answer that is not trained on."""
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['role'].capitalize() + ': ' + m['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Chat template for a tokenizer that has none; saved with it."""
UNSUPPORTED = {
    "tool_calls", "function_call", "tool_call_id", "tools", "functions", "reasoning_content", "reasoning", "thinking",
    "thought", "image", "images", "audio", "audios", "video", "videos", "files", "refusal",
}  # fmt: skip
"""Keys of a turn that change what the conversation says, and that are not read: a turn that has one is invalid."""
MARK = "\ufdd0"
"""Stands for a turn's content while its position is looked up: a Unicode noncharacter, which text does not contain."""


def read_turns(messages: object, column: str = "messages") -> list[Turn]:
    """Return the turns in a list of role and content (in ShareGPT: from and value). Raises ValueError."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{column!r} is not a list of turns")
    turns = []
    for turn in messages:
        if not isinstance(turn, Mapping):
            raise ValueError(f"a turn is {type(turn).__name__}, not a mapping of role and content")
        role = turn["role"] if "role" in turn else turn.get("from")
        content = turn["content"] if "content" in turn else turn.get("value")
        if unsupported := not UNSUPPORTED.isdisjoint(turn) and [key for key in UNSUPPORTED & {*turn} if turn[key]]:
            raise ValueError(f"a turn holds {', '.join(sorted(unsupported))}, which llmkit does not read yet")
        if (known := ROLES.get(str(role))) is None or not isinstance(content, str):
            raise ValueError(f"a turn with role {role!r} (known: {', '.join(ROLES)}) and content {str(content)[:20]!r}")
        if known == "assistant" and not content.strip():
            raise ValueError(f"an empty turn of the assistant in {column!r}")
        weight = _read_weight(turn, known) if len(turn) > 2 else {}
        turns.append({"role": known, "content": content, **weight})
    return turns


def _read_weight(turn: Row, role: str) -> dict[str, int]:
    """Return `{"weight": 0}` for a turn of the assistant with `weight: 0` or `train: false`. Raises ValueError."""
    key = "weight" if "weight" in turn else "train"
    if (weight := turn.get(key)) is None:
        return {}
    if weight not in (0, 1) or (weight and role != "assistant"):
        fault = "only turns of the assistant are trained on" if weight == 1 else "expected 0 or 1"
        raise ValueError(f"{key} {weight!r} of a turn of the {role}: {fault}")
    return {} if weight or role != "assistant" else {"weight": 0}


def assistant_turn(content: str) -> Turn:
    """Return a turn of the assistant."""
    return {"role": "assistant", "content": content}


def with_system(turns: list[Turn], row: Row) -> list[Turn]:
    """Put the `system` column of a row, if it has one, before turns without a system turn. Raises ValueError."""
    if turns[0]["role"] == "system" or row.get("system") in (None, ""):
        return turns
    return [{"role": "system", "content": read_text(row, "system")}, *turns]


def read_history(history: object) -> list[Turn]:
    """Return the turns in a `history` column: pairs of question and answer. Raises ValueError."""
    turns = []
    if not isinstance(history, (list, tuple, type(None))):
        raise ValueError(f"'history' is {type(history).__name__}, not a list of questions and answers")
    for pair in history or ():
        if not isinstance(pair, (list, tuple)) or [type(text) for text in pair] != [str, str] or not pair[1].strip():
            raise ValueError(f"'history' holds {str(pair)[:40]!r}, not a question and its answer")
        turns += [{"role": "user", "content": pair[0]}, assistant_turn(pair[1])]
    return turns


def render(turns: Sequence[Turn], tokenizer: Tokenizer, generation_prompt: bool = False) -> str:
    """Render turns with the tokenizer's chat template. Raises UsageError if the template rejects them."""
    roles, first = ", ".join(turn["role"] for turn in turns), turns[0]["content"].strip(MARK)[:40]
    with as_usage_error(f"conversations: chat template rejects turns of {roles}, beginning {first!r}", TemplateError):
        return str(tokenizer.apply_chat_template(list(turns), add_generation_prompt=generation_prompt, tokenize=False))


def encode(turns: Sequence[Turn], tokenizer: Tokenizer, generation_prompt: bool = False) -> list[int]:
    """Return the token ids of rendered turns."""
    text = render(turns, tokenizer, generation_prompt)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def common_prefix(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    """Return the length of the common prefix of two sequences of ids or characters."""
    return sum(itertools.takewhile(bool, map(operator.eq, a, b)))


def turn_weights(turns: Sequence[Turn], weights: Sequence[int] = ()) -> Sequence[int]:
    """Return 1 for each turn that is trained on: `weights`, or by default the turns of the assistant."""
    return weights or [int(turn["role"] == "assistant") for turn in turns]


def encode_with_mask(
    turns: Sequence[Turn], tokenizer: Tokenizer, weights: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Return the ids of a conversation, and 1 for each token of the turns that are trained on, their end included.

    A token that spans a boundary belongs to the turn in which it ends. Raises UsageError if the template rejects the
    turns or omits the assistant's content.
    """
    text = render(turns, tokenizer)
    mask = np.zeros(len(text) + 1, dtype=np.int64)  # by the end offset of a token
    for i in np.flatnonzero(turn_weights(turns, weights)).tolist():
        start, end = _locate_turn(turns, i, text, tokenizer)
        mask[start + 1 : end + 1] = 1
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["input_ids"]), mask[[end for _, end in encoded["offset_mapping"]]].tolist()


def _locate_turn(turns: Sequence[Turn], i: int, text: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the start and end of turn `i` in the rendered `text`, from after its generation prompt to its end token.

    A template may render the last turn differently (with its thoughts, for example), so rendering the turns up to `i`
    is not enough. The turn ends with what follows its content both here and where it is the last turn.
    """
    marked = {**turns[i], "content": MARK}
    before, mark, after = render([*turns[:i], marked, *turns[i + 1 :]], tokenizer).partition(MARK)
    if not mark or not text.endswith(after):
        raise UsageError("conversations: the chat template omits the assistant's content; use another template")
    after_as_last = render([*turns[:i], marked], tokenizer).partition(MARK)[2]
    prompt = render(turns[:i], tokenizer, generation_prompt=True) if i else before
    start = len(prompt) if text.startswith(prompt) else common_prefix(before, text)
    return start, len(text) - len(after) + common_prefix(after_as_last, after)


def encode_answers(turns: list[Turn], answers: list[str], tokenizer: Tokenizer) -> tuple[list[int], list[list[int]]]:
    """Return the ids of a prompt, and of each answer to it, its end token included.

    A token that spans the boundary belongs to the answer.
    """
    prompt = encode(turns, tokenizer, generation_prompt=True)
    conversations = [encode([*turns, assistant_turn(answer)], tokenizer) for answer in answers]
    boundary = min(common_prefix(prompt, ids) for ids in conversations)
    return prompt[:boundary], [ids[boundary:] for ids in conversations]
