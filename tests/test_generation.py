"""Generation: the tokens of `model.generate`, as text. Padding, ends, stop strings, limits, chat templates, no output.

`lively` is a random GPT-2 whose next token depends on all tokens before it, so that a wrong mask or position shows.
`scripted` makes GPT-2s that generate a given text, so that the expected output is known exactly.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import llmkit
from llmkit.cli.main import command, guard
from llmkit.errors import PromptTooLong, UsageError
from llmkit.generation import generate, stream
from llmkit.models.tokenizers import train_tokenizer
from llmkit.predictor import Predictor
from llmkit.tasks import CausalLM

PROMPTS = ["Once upon a time", "The", "从前，有一只", "The quick brown fox jumps over the lazy dog"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SINGLE = {"OMP_NUM_THREADS": "1"}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What incomplete bytes decode to."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models are slower with more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture(scope="module")
def lively(tokenizer: Any) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def chatty(tokenizer: Any) -> Any:
    """The tokenizer with a chat template."""
    with_template = copy.deepcopy(tokenizer)
    with_template.chat_template = TEMPLATE
    return with_template


@pytest.fixture(scope="module")
def letters() -> Any:
    """A tokenizer of single bytes: every Chinese character is three tokens."""
    return train_tokenizer("bpe", 257, iter(TEXTS), "gpt2")


def scripted(tokenizer: Any, ids: list[int]) -> GPT2LMHeadModel:
    """A GPT-2 that predicts ids[i + 1] at position i, and EOS after the last; it ignores its input."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=256, n_layer=1, n_head=1, n_inner=8, tie_word_embeddings=False,
        bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1)
        model.transformer.wpe.weight.copy_(torch.eye(128, 256))
        for place in range(128):
            model.lm_head.weight[ids[place + 1] if place + 1 < len(ids) else end, place] = 100
    return model


def encoded(tokenizer: Any, *texts: str) -> Any:
    """A batch padded on the left."""
    rows = [tokenizer(t)["input_ids"] for t in texts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
    }


def own(model: Any, tokenizer: Any, *prompts: str, **options: Any) -> list[str]:
    """Prompt and continuation as `model.generate` returns them, without an incomplete character at the end."""
    out = model.generate(**encoded(tokenizer, *prompts), pad_token_id=0, **options)
    return [tokenizer.decode(row, skip_special_tokens=True).rstrip(REPLACEMENT) for row in out]


# -- the same tokens as model.generate


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_model_generate(lively: Any, tokenizer: Any, prompt: str) -> None:
    (expected,) = own(lively, tokenizer, prompt, max_new_tokens=30, do_sample=False)
    assert generate(lively, tokenizer, prompt, max_new_tokens=30) == expected


def test_lively_model_continues_each_prompt_differently(lively: Any, tokenizer: Any) -> None:
    """Otherwise the comparisons of this file would also pass for broken generation."""
    answers = generate(lively, tokenizer, PROMPTS, max_new_tokens=30, return_full_text=False)
    assert len({a[-8:] for a in answers}) == len(PROMPTS) and min(len(set(a)) for a in answers) > 8


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"temperature": 1.3, "top_k": 40, "top_p": 0.95},
        {"do_sample": True}, {"do_sample": True, "repetition_penalty": 1.5},
    ],
)  # fmt: skip
def test_sampled_text_equals_model_generate_with_the_same_seed(lively: Any, tokenizer: Any, options: dict) -> None:
    text = generate(lively, tokenizer, "Once upon", max_new_tokens=20, seed=3, **options)
    torch.manual_seed(3)
    assert text == own(lively, tokenizer, "Once upon", max_new_tokens=20, **{**options, "do_sample": True})[0]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS[:3]])
def test_beams_equal_model_generate(lively: Any, tokenizer: Any, prompts: list[str], copies: int) -> None:
    options = {"max_new_tokens": 15, "num_beams": 3, "num_return_sequences": copies}
    texts = generate(lively, tokenizer, prompts, **options)
    flat = [t for group in texts for t in group] if copies > 1 else texts
    assert flat == own(lively, tokenizer, *prompts, do_sample=False, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 8}, {"bad_words_ids": [[5], [70]]},
        {"return_dict_in_generate": True}, {"return_dict_in_generate": True, "num_beams": 2},
    ],
)  # fmt: skip
def test_options_of_transformers_are_passed_on(lively: Any, tokenizer: Any, option: dict[str, Any]) -> None:
    plain = {**option, "return_dict_in_generate": False}
    (expected,) = own(lively, tokenizer, "Once upon", max_new_tokens=12, do_sample=False, **plain)
    assert generate(lively, tokenizer, "Once upon", max_new_tokens=12, **option) == expected


def test_prompt_lookup_decoding_equals_plain_decoding(letters: Any) -> None:
    """Several tokens come at a time when the words of the prompt are repeated."""
    text = "one fox two fox one fox two fox one fox two fox"
    model = scripted(letters, letters(text)["input_ids"])
    assert generate(model, letters, text[:20], prompt_lookup_num_tokens=4) == text


# -- the calls of the articles

ARTICLES = ["Once upon a time", "The quick brown fox jumps over the lazy dog"]


@pytest.mark.parametrize("prompt", ARTICLES)
def test_articles_python_call_returns_prompt_and_continuation_of_50_tokens(tiny_gpt2: Path, prompt: str) -> None:
    model = llmkit.load(str(tiny_gpt2))
    text = model.generate(prompt, max_length=50, num_return_sequences=1)
    assert text.startswith(prompt) and len(text) > len(prompt)
    assert text == own(model.model, model.tokenizer, prompt, max_length=50, do_sample=False)[0]


@pytest.mark.parametrize("prompt", ARTICLES)
def test_articles_command_prints_the_same_text(tiny_gpt2: Path, prompt: str, capsys: pytest.CaptureFixture) -> None:
    words = ["generate", str(tiny_gpt2), prompt, "--max-length", "50", "--num-return-sequences", "1"]
    assert guard(lambda: command(words)) == 0
    printed = capsys.readouterr()
    assert printed.out == llmkit.load(str(tiny_gpt2)).generate(prompt, max_length=50, num_return_sequences=1) + "\n"
    assert len(printed.err.splitlines()) == 1 and "token" in printed.err


# -- several prompts


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 20}, {"max_new_tokens": 20, "num_beams": 2}, {"max_length": 40}, {"max_new_tokens": 60}],
)
def test_batch_of_prompts_equals_each_prompt_alone(lively: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    alone = [generate(lively, tokenizer, p, **options) for p in PROMPTS]
    assert generate(lively, tokenizer, PROMPTS, **options) == alone


@pytest.mark.parametrize(
    "option",
    [
        {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.8}, {"encoder_repetition_penalty": 1.8},
        {"encoder_no_repeat_ngram_size": 1}, {"min_length": 18}, {"bad_words_ids": [[0, 70], [5]]},
        {"sequence_bias": [[[0, 70], 9.0], [[5], 4.0]]}, {"forced_bos_token_id": 9}, {"forced_eos_token_id": 5, "max_length": 40},
        {"num_beams": 3, "max_length": 40}, {"no_repeat_ngram_size": 1, "num_beams": 2, "num_return_sequences": 2},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_padding_is_not_text_to_options_that_read_the_prompt(
    lively: Any, tokenizer: Any, option: dict[str, Any]
) -> None:
    """Prompts are padded with the EOS token here."""
    prompts, options = [PROMPTS[1], *PROMPTS, "a", "Once"], {"max_new_tokens": 20, **option}
    if "max_length" in option:
        del options["max_new_tokens"]
    alone = [generate(lively, tokenizer, prompt, **options) for prompt in prompts]
    assert generate(lively, tokenizer, prompts, **options) == alone


@pytest.mark.parametrize("option", [{"no_repeat_ngram_size": 1}, {"encoder_no_repeat_ngram_size": 1}], ids=str)
def test_end_of_text_is_no_repetition_of_padding(letters: Any, option: dict[str, Any]) -> None:
    model = scripted(letters, letters("abcdefg")["input_ids"])
    assert generate(model, letters, ["abc", "a", "abcd"], return_full_text=False, **option) == ["defg", "bcdefg", "efg"]


def test_order_of_prompts_does_not_matter(lively: Any, tokenizer: Any) -> None:
    forth = generate(lively, tokenizer, PROMPTS, max_new_tokens=12)
    assert generate(lively, tokenizer, PROMPTS[::-1], max_new_tokens=12) == forth[::-1]


def test_rows_are_padded_on_the_left_and_masked(lively: Any, tokenizer: Any) -> None:
    seen: list[dict] = []
    hook = lively.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    try:
        generate(lively, tokenizer, PROMPTS, max_new_tokens=1)
    finally:
        hook.remove()
    expected = encoded(tokenizer, *PROMPTS)
    pads = expected["attention_mask"] == 0
    assert seen[0]["input_ids"][~pads].tolist() == expected["input_ids"][~pads].tolist()
    assert seen[0]["attention_mask"].bool().tolist() == (~pads).tolist()
    assert [p[0] for p in seen[0]["position_ids"].where(~pads, 99).sort(-1).values.tolist()] == [0] * len(PROMPTS)


@pytest.mark.parametrize("prompts", [[], [""], ["", "Once"]])
def test_empty_batch_and_empty_prompt_are_accepted(lively: Any, tokenizer: Any, prompts: list[str]) -> None:
    answers = generate(lively, tokenizer, prompts, max_new_tokens=6)
    assert len(answers) == len(prompts) and all(answers)


def test_empty_prompt_continues_from_the_start_token(lively: Any, tokenizer: Any) -> None:
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    out = lively.generate(torch.tensor([[0]]), attention_mask=torch.ones(1, 1), **options)
    expected = tokenizer.decode(out[0], skip_special_tokens=True).rstrip(REPLACEMENT)
    assert generate(lively, tokenizer, "", max_new_tokens=9) == expected


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_several_sequences_of_one_prompt_are_a_list(lively: Any, tokenizer: Any, prompt: str) -> None:
    texts = generate(lively, tokenizer, prompt, num_return_sequences=3, seed=0, max_new_tokens=10)
    assert len(texts) == 3 and all(t.startswith(prompt) for t in texts)
    assert len(set(texts)) == 3  # they are sampled


def test_several_sequences_of_several_prompts_are_lists(lively: Any, tokenizer: Any) -> None:
    groups = generate(lively, tokenizer, PROMPTS, num_return_sequences=2, seed=0, max_new_tokens=10)
    assert [len(g) for g in groups] == [2] * len(PROMPTS)
    assert all(t.startswith(p) for p, g in zip(PROMPTS, groups, strict=True) for t in g)


@pytest.mark.parametrize(("prompt", "kind"), [("Once", str), (["Once"], list)])
def test_one_prompt_returns_a_text_and_a_list_a_list(lively: Any, tokenizer: Any, prompt: Any, kind: type) -> None:
    assert type(generate(lively, tokenizer, prompt, max_new_tokens=3, num_return_sequences=1)) is kind


@pytest.mark.parametrize("prompt", PROMPTS)
def test_return_full_text_false_returns_the_continuation(lively: Any, tokenizer: Any, prompt: str) -> None:
    whole = generate(lively, tokenizer, prompt, max_new_tokens=10)
    assert prompt + generate(lively, tokenizer, prompt, max_new_tokens=10, return_full_text=False) == whole


@pytest.mark.parametrize(
    "prompts",
    [tuple(PROMPTS), iter(PROMPTS), np.array(PROMPTS), pd.Series(PROMPTS, index=[7, 3, 5, 1]), datasets.Dataset.from_dict({"text": PROMPTS})["text"]],
    ids=lambda prompts: type(prompts).__name__,
)  # fmt: skip
def test_prompts_may_come_in_any_collection(lively: Any, tokenizer: Any, prompts: Any) -> None:
    expected = generate(lively, tokenizer, PROMPTS, max_new_tokens=5, stop=["e"])
    assert generate(lively, tokenizer, prompts, max_new_tokens=5, stop=iter(["e"])) == expected


def test_prompt_that_is_too_long_is_named(lively: Any, tokenizer: Any) -> None:
    with pytest.raises(PromptTooLong, match=r"prompt 2 has 100 tokens, the model takes 64 with the answer; shorten it"):
        generate(lively, tokenizer, ["Once", tokenizer.eos_token * 100, "The"])
    with pytest.raises(PromptTooLong, match=r"prompt 3 has \d+ tokens, and max_length: 2 leaves no room"):
        generate(lively, tokenizer, ["a", "b", PROMPTS[3]], max_length=2)


# -- random numbers of its own


def test_seeded_texts_in_threads_equal_those_of_each_alone(lively: Any, tokenizer: Any) -> None:
    calls = [(prompt, seed) for prompt in PROMPTS for seed in range(4)]

    def text(call: tuple[str, int]) -> str:
        return generate(lively, tokenizer, call[0], seed=call[1], temperature=0.9, max_new_tokens=20)

    alone = [text(call) for call in calls]
    assert len({*alone}) == len(calls)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(text, calls)) == alone


@pytest.mark.parametrize(
    "options", [{"temperature": 0.9}, {"do_sample": True, "num_beams": 2}], ids=["sampled", "beams"]
)
def test_seeded_stream_and_its_consumer_do_not_share_random_numbers(
    lively: Any, tokenizer: Any, options: dict[str, Any]
) -> None:
    expected = generate(lively, tokenizer, "Once", seed=1, max_new_tokens=20, return_full_text=False, **options)
    torch.manual_seed(0)
    numbers = torch.rand(30)
    torch.manual_seed(0)
    drawn, text = [], ""
    for _, piece in stream(lively, tokenizer, ["Once"], seed=1, max_new_tokens=20, **options):
        drawn.append(torch.rand(1))
        text += piece
    assert text == expected and torch.equal(torch.cat(drawn), numbers[: len(drawn)])


def test_seeded_prompt_lookup_uses_no_global_random_numbers(letters: Any) -> None:
    text = "one fox two fox one fox two fox one fox two fox"
    model, options = scripted(letters, letters(text)["input_ids"]), {"prompt_lookup_num_tokens": 4, "temperature": 0.9}
    before = torch.get_rng_state()
    assert generate(model, letters, text[:20], seed=1, **options) == text
    assert torch.equal(torch.get_rng_state(), before)


def test_open_stream_leaves_the_log_level_and_other_threads_alone(lively: Any, tokenizer: Any) -> None:
    logger, output = logging.getLogger("transformers"), io.StringIO()
    handler, level = logging.StreamHandler(output), logger.level
    logger.addHandler(handler)
    pieces = stream(lively, tokenizer, ["Once"], max_new_tokens=30)
    try:
        next(pieces)
        logger.error("from the host")
        during = logger.level, output.getvalue()
        list(pieces)
    finally:
        logger.removeHandler(handler)
    assert during == (level, "from the host\n") and handler.filters == []


# -- streams


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.9, "seed": 5}, {"num_beams": 2}, {"stop": ["e", "狸"]},
    {"num_return_sequences": 2, "seed": 1},
])  # fmt: skip
def test_pieces_of_a_stream_join_to_the_text_of_generate(lively: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    rows = [""] * len(PROMPTS) * options.get("num_return_sequences", 1)
    for row, piece in stream(lively, tokenizer, PROMPTS, max_new_tokens=20, **options):
        assert piece
        rows[row] += piece
    whole = generate(lively, tokenizer, PROMPTS, max_new_tokens=20, return_full_text=False, **options)
    assert rows == (list(itertools.chain(*whole)) if "num_return_sequences" in options else whole)


def test_stream_yields_a_piece_per_token(letters: Any) -> None:
    text = "a fox, 一只狐狸。"
    pieces = [p for _, p in stream(scripted(letters, letters(text)["input_ids"]), letters, ["a"])]
    assert pieces == list(text[1:])


@pytest.mark.parametrize(
    "text", ["从前，有一只狐狸住在山脚下。", "狐狸🦊吃葡萄🍇。", "naïve café – 山里的老虎", "👩‍👩‍👧 e\u0301 ✓"]
)
@pytest.mark.parametrize("of_bytes", [True, False])
def test_pieces_of_a_stream_hold_whole_characters(letters: Any, tokenizer: Any, text: str, of_bytes: bool) -> None:
    it = letters if of_bytes else tokenizer
    ids = it("山" + text)["input_ids"]
    pieces = [p for _, p in stream(scripted(it, ids), it, ["山"], max_new_tokens=100)]
    assert [p for p in pieces if REPLACEMENT in p] == []
    assert "".join(pieces) == text


def test_continuation_keeps_the_space_after_the_prompt() -> None:
    """A word-piece decoder adds the space between words, and none before the first word of a text."""
    words = train_tokenizer("wordpiece", 400, iter(["the fox met the crow"] * 3), "gpt2")
    model = scripted(words, words("the fox met the crow")["input_ids"])
    assert generate(model, words, "the fox") == "the fox met the crow"


@pytest.mark.parametrize("length", range(1, 10))
def test_incomplete_last_character_is_left_out(letters: Any, length: int) -> None:
    text = "狐狸🦊"
    model = scripted(letters, letters("一" + text)["input_ids"])
    expected = text.encode()[:length].decode(errors="ignore")
    assert generate(model, letters, "一", max_new_tokens=length, return_full_text=False) == expected


@pytest.mark.parametrize("prompt", [REPLACEMENT, "一" + REPLACEMENT, "a fox " + REPLACEMENT * 2])
@pytest.mark.parametrize("answer", ["狐狸", " and", "\n" + REPLACEMENT + "a"])
def test_prompt_that_ends_in_a_replacement_character_is_not_repeated(letters: Any, prompt: str, answer: str) -> None:
    model = scripted(letters, letters(prompt + answer)["input_ids"])
    assert generate(model, letters, prompt, return_full_text=False) == answer
    assert "".join(piece for _, piece in stream(model, letters, [prompt])) == answer


@pytest.mark.parametrize("ending", ["at the limit", "at EOS"])
@pytest.mark.parametrize("whole", ["里", " "])
def test_whole_character_in_an_incomplete_last_token_is_kept(letters: Any, whole: str, ending: str) -> None:
    """Real vocabularies hold tokens such as ` \\xe6`: a space, and the first byte of some character."""
    it = with_token(letters, whole.encode() + "的".encode()[:1])
    ids = [*it("a")["input_ids"], len(it) - 1]
    assert it.decode(ids) == "a" + whole + REPLACEMENT
    options = {"max_new_tokens": 1} if ending == "at the limit" else {}
    assert generate(scripted(it, ids), it, "a", **options) == "a" + whole


def with_token(letters: Any, new: bytes) -> Any:
    """The byte tokenizer with one more token, merged byte by byte as in training."""
    state = json.loads(letters.backend_tokenizer.to_str())
    shown = as_shown(new)
    for end in range(2, len(shown) + 1):
        state["model"]["vocab"]["".join(shown[:end])] = len(state["model"]["vocab"])
        state["model"]["merges"].append(["".join(shown[: end - 1]), shown[end - 1]])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), letters.eos_token)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **names)


def as_shown(some: bytes) -> list[str]:
    """Bytes as in the vocabulary of GPT-2: printable ones as they are, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in some]


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_equal_what_the_tokenizer_decodes(lively: Any, tokenizer: Any, seed: int) -> None:
    """The bytes of a random model are not valid UTF-8; the output is that of the decoder, without an incomplete end."""
    options = {"max_new_tokens": 50, "do_sample": True, "temperature": 3.0, "num_return_sequences": 8}
    rows = [""] * 8
    for row, piece in stream(lively, tokenizer, ["从前"], seed=seed, **options):
        rows[row] += piece
    torch.manual_seed(seed)
    expected = own(lively, tokenizer, "从前", **options)
    assert any(REPLACEMENT in t for t in expected), "no byte was torn: the test says nothing"
    assert ["从前" + r for r in rows] == expected


def test_leaving_a_stream_stops_its_thread_and_the_model(letters: Any) -> None:
    text = "a fox met a crow by the river, and the crow held a piece of cheese, and the fox was hungry."
    model = Predictor(scripted(letters, letters(text)["input_ids"]), letters, CausalLM(), 128)
    steps, left = [], threading.Event()
    before = set(threading.enumerate())

    def slow(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 5:  # the reader leaves while the model is at its fifth token
            left.wait(60)

    hook = model.model.register_forward_pre_hook(slow)
    pieces = model.stream("a", max_new_tokens=80)
    assert next(pieces) == " "
    timer = threading.Timer(0.5, left.set)
    timer.start()
    del pieces  # what a `break` in a loop over them does
    assert {*threading.enumerate()} - before - {timer} == set()
    hook.remove()
    assert len(steps) < 20


def test_error_in_the_thread_is_raised_in_the_caller(lively: Any, tokenizer: Any) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    hook = lively.register_forward_pre_hook(broken)
    try:
        with pytest.raises(MemoryError, match="no room"):
            list(stream(lively, tokenizer, ["Once"]))
    finally:
        hook.remove()


# -- EOS and stop strings


def test_eos_ends_its_row_only(letters: Any) -> None:
    """The scripted model ends at a fixed position: sooner for a longer prompt."""
    text = "Once upon a time there was a fox"
    model = scripted(letters, [*letters(text)["input_ids"], letters.eos_token_id, *letters(" and more")["input_ids"]])
    assert generate(model, letters, ["O", "Once upon", "Once"], max_new_tokens=50) == [text] * 3


@pytest.mark.parametrize("ends", ["x", ["x", "y"]])
def test_eos_tokens_of_the_checkpoint_end_a_row(letters: Any, ends: str | list[str]) -> None:
    model = scripted(letters, letters("one two y three x four")["input_ids"])
    model.generation_config.eos_token_id = letters.convert_tokens_to_ids(ends)
    assert generate(model, letters, "one") == ("one two " if "y" in ends else "one two y three ")


@pytest.mark.parametrize(
    "place", ["a time", "w", " there was a fox. A fox", "狐狸", "一只", ["fox", "time"], ["nowhere"], "", ["time", ""]]
)
@pytest.mark.parametrize("of_bytes", [True, False])
@pytest.mark.parametrize("beams", [1, 2])
def test_text_is_cut_before_its_first_stop_string(
    letters: Any, tokenizer: Any, place: str | list[str], of_bytes: bool, beams: int
) -> None:
    it = letters if of_bytes else tokenizer
    prompt, text = "Once upon a time", " a time there was a fox. A fox, 从前有一只狐狸。"
    model = scripted(it, it(prompt)["input_ids"] + it(text)["input_ids"])
    cuts = [text.find(s) for s in ([place] if isinstance(place, str) else place) if s and s in text]
    answer = generate(model, it, prompt, stop=place, max_new_tokens=80, num_beams=beams, return_full_text=False)
    assert answer == text[: min(cuts, default=None)]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("aaab", ["aab"], "a"),  # a false start within the stop string itself
        ("abcabd", ["abd"], "abc"),
        ("xyz the en", ["the end"], "xyz the en"),  # begun and never ended: it is given after all
        ("12345", ["345", "23"], "1"),  # the first in the text, not in the list
        ("12345", ["34", "2345"], "12"),  # the first that is whole
        ("狐狸", ["狸"], "狐"),
        ("a\n\nb", ["\n\n"], "a"),
    ],
)  # fmt: skip
def test_stop_string_of_several_tokens_is_not_streamed(letters: Any, text: str, stop: list[str], expected: str) -> None:
    model = scripted(letters, letters(">" + text)["input_ids"])
    assert "".join(p for _, p in stream(model, letters, [">"], stop=stop)) == expected


@pytest.mark.parametrize(("stop", "expected"), [(["o", "f"], "a "), (["x", "ox", "o"], "a f"), (["xy", "x"], "a fo")])
def test_first_of_several_stop_strings_in_one_token_cuts(letters: Any, stop: list[str], expected: str) -> None:
    it = with_token(letters, b"fox")
    model = scripted(it, [*it(">a ")["input_ids"], len(it) - 1])
    assert generate(model, it, ">", stop=stop, return_full_text=False) == expected


def test_stop_string_ends_its_row_only_and_may_be_in_the_prompt(letters: Any) -> None:
    """The second row continues the same text from a later position."""
    text = "one fox two fox three"
    model = scripted(letters, letters(text)["input_ids"])
    assert generate(model, letters, ["one", "one fox two"], stop="fox") == ["one ", "one fox two "]
    assert generate(model, letters, ["one", "one fox two"], stop="two") == ["one fox ", text]


def test_model_stops_at_the_stop_string(letters: Any) -> None:
    model, steps = scripted(letters, letters("one fox two fox three")["input_ids"]), []
    model.register_forward_pre_hook(lambda *_: steps.append(1))
    generate(model, letters, "one", stop="fox", max_new_tokens=50)
    assert len(steps) <= len(" fox") + 2  # transformers asks before it tells of a token


def test_stop_strings_option_suggests_stop(letters: Any) -> None:
    with pytest.raises(UsageError, match=r"stop_strings: use stop \(--stop\)"):
        generate(scripted(letters, [0]), letters, "one", stop_strings=["two"])


# -- sampling

SAMPLING = [
    {"temperature": 1.5}, {"top_k": 40}, {"top_p": 0.99}, {"min_p": 0.001}, {"typical_p": 0.95}, {"do_sample": True},
]  # fmt: skip


@pytest.mark.parametrize("options", SAMPLING, ids=lambda o: next(iter(o)))
def test_sampling_option_turns_sampling_on(lively: Any, tokenizer: Any, options: dict[str, float]) -> None:
    texts = {generate(lively, tokenizer, "Once", max_new_tokens=20, seed=s, **options) for s in range(4)}
    assert len(texts) > 1


@pytest.mark.parametrize("options", [*SAMPLING[:2], {"num_return_sequences": 3}], ids=lambda o: next(iter(o)))
def test_text_depends_on_the_seed(lively: Any, tokenizer: Any, options: dict[str, float]) -> None:
    one, same, other = (generate(lively, tokenizer, PROMPTS, max_new_tokens=20, seed=s, **options) for s in (7, 7, 8))
    assert one == same != other


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"num_beams": 2, "do_sample": True}, {}])
def test_seed_leaves_the_global_random_state_unchanged(lively: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    generate(lively, tokenizer, "Once", max_new_tokens=8, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_random_state_is_used(lively: Any, tokenizer: Any) -> None:
    torch.manual_seed(4)
    first, second = (generate(lively, tokenizer, "Once", max_new_tokens=20, temperature=1.5) for _ in range(2))
    torch.manual_seed(4)
    assert first == generate(lively, tokenizer, "Once", max_new_tokens=20, temperature=1.5) != second


@pytest.mark.parametrize("more", [{}, {"top_k": 50}, {"top_p": 0.5, "seed": 3}])
def test_temperature_0_is_greedy(lively: Any, tokenizer: Any, more: dict[str, Any]) -> None:
    greedy = generate(lively, tokenizer, PROMPTS, max_new_tokens=15)
    assert generate(lively, tokenizer, PROMPTS, max_new_tokens=15, temperature=0, **more) == greedy


@pytest.fixture
def sampler(lively: Any) -> Any:
    """A checkpoint with sampling in its generation config, as many chat models have."""
    model = copy.deepcopy(lively)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.95, eos_token_id=0, bos_token_id=0
    )
    return model


def test_sampling_of_the_checkpoint_is_the_default(sampler: Any, lively: Any, tokenizer: Any) -> None:
    text = generate(sampler, tokenizer, "Once", max_new_tokens=20, seed=2)
    assert text == generate(lively, tokenizer, "Once", max_new_tokens=20, seed=2, temperature=0.6, top_k=20, top_p=0.95)
    greedy = generate(lively, tokenizer, "Once", max_new_tokens=20)
    assert generate(sampler, tokenizer, "Once", max_new_tokens=20, temperature=0) == greedy != text
    assert generate(sampler, tokenizer, "Once", max_new_tokens=20, do_sample=False) == greedy


@pytest.mark.parametrize("training", [True, False])
def test_generation_has_no_dropout_and_leaves_the_model_unchanged(lively: Any, tokenizer: Any, training: bool) -> None:
    model = copy.deepcopy(lively).train(training)  # a GPT2Config has dropout 0.1
    settings = model.generation_config.to_dict()
    expected = generate(lively, tokenizer, PROMPTS, max_new_tokens=10)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=10) == expected
    assert model.training is training and model.generation_config.to_dict() == settings


# -- limits


@pytest.mark.parametrize("prompt", PROMPTS)
def test_max_length_counts_the_prompt(lively: Any, tokenizer: Any, prompt: str) -> None:
    (expected,) = own(lively, tokenizer, prompt, max_length=33, do_sample=False)
    assert generate(lively, tokenizer, prompt, max_length=33) == expected


def test_default_limit_is_50_new_tokens(letters: Any) -> None:
    model = scripted(letters, letters("a" * 100)["input_ids"])
    assert generate(model, letters, "a") == "a" * 51


def test_max_new_tokens_of_the_checkpoint_is_the_default(letters: Any) -> None:
    model = scripted(letters, letters("a" * 100)["input_ids"])
    model.generation_config.max_new_tokens = 7
    assert (generate(model, letters, "a"), generate(model, letters, "a", max_new_tokens=3)) == ("a" * 8, "a" * 4)


@pytest.mark.parametrize("limit", ["the model's positions", "the tokenizer's model_max_length"])
def test_limit_beyond_the_models_positions_is_reduced_with_a_warning(
    letters: Any, limit: str, capsys: pytest.CaptureFixture
) -> None:
    it, room = copy.copy(letters), 128
    if limit.startswith("the tokenizer"):
        it.model_max_length = room = 40
    model = scripted(it, it("a" * 200)["input_ids"])
    assert generate(model, it, "aaaa", max_new_tokens=1000) == "a" * room
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning") and "1000" in line and str(room) in line and str(room - 4) in line


@pytest.mark.parametrize("options", [{"max_new_tokens": 60}, {"max_length": 64}])
def test_limit_that_just_fits_logs_no_warning(
    letters: Any, options: dict[str, int], capsys: pytest.CaptureFixture
) -> None:
    it = copy.copy(letters)
    it.model_max_length = 64
    assert generate(scripted(it, it("a" * 200)["input_ids"]), it, "aaaa", **options) == "a" * 64
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tokens", [128, 129, 500])
def test_prompt_that_leaves_no_room_is_an_error(letters: Any, tokens: int) -> None:
    with pytest.raises(UsageError) as error:
        generate(scripted(letters, [0]), letters, "a" * tokens)
    (line,) = error.value.faults
    assert str(tokens) in line and "128" in line and "\n" not in line


def test_prompt_that_leaves_room_for_one_token_gets_one(letters: Any) -> None:
    assert generate(scripted(letters, letters("a" * 128)["input_ids"]), letters, "a" * 127) == "a" * 128


# -- invalid options


@pytest.mark.parametrize(("option", "near"), [
    ("temprature", "temperature"), ("max_tokens", "max_new_tokens"), ("topk", "top_k"), ("beams", "num_beams"),
    ("num_return_sequence", "num_return_sequences"),
])  # fmt: skip
def test_unknown_option_suggests_a_similar_one(lively: Any, tokenizer: Any, option: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        generate(lively, tokenizer, "Once", **{option: 1})
    (line,) = error.value.faults
    assert option in line and repr(near) in line


def test_every_unknown_option_is_named_at_once(lively: Any, tokenizer: Any) -> None:
    with pytest.raises(UsageError) as error:
        generate(lively, tokenizer, "Once", temprature=1, topk=3)
    assert len(error.value.faults) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": -3}, {"max_length": 2}, {"max_length": 0}, {"temperature": -1.0},
        {"num_beams": 2, "num_return_sequences": 3}, {"temperature": 0, "num_return_sequences": 2}, {"num_beams": 0},
        {"num_return_sequences": -1}, {"repetition_penalty": -1.0}, {"do_sample": False, "num_return_sequences": 2},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_value_is_one_line_that_names_the_option(lively: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        generate(lively, tokenizer, "Once upon a time", **options)
    (line,) = error.value.faults
    assert any(name in line for name in options) and "None" not in line and "\n" not in line


# -- chat templates

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who slept?"}]


def answer_to(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The answer of `model.generate` after the template, without the prompt."""
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    ids = tokenizer.apply_chat_template(messages, **options)["input_ids"]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).rstrip(REPLACEMENT)


@pytest.fixture(scope="module")
def roomy(chatty: Any) -> GPT2LMHeadModel:
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=len(chatty), n_embd=32, n_layer=2, n_head=2, initializer_range=0.4, tie_word_embeddings=False,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def test_text_becomes_a_user_turn_with_a_chat_template(roomy: Any, chatty: Any) -> None:
    expected = answer_to(roomy, chatty, [{"role": "user", "content": "Who slept?"}])
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10) == expected


def test_chat_false_continues_the_text(roomy: Any, chatty: Any, tokenizer: Any) -> None:
    plain = generate(roomy, tokenizer, "Who slept?", max_new_tokens=10)
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10, chat=False) == plain
    assert plain.startswith("Who slept?") and plain != generate(roomy, chatty, "Who slept?", max_new_tokens=10)


def test_messages_go_through_the_template(roomy: Any, chatty: Any) -> None:
    assert generate(roomy, chatty, MESSAGES, max_new_tokens=10) == answer_to(roomy, chatty, MESSAGES)


def test_messages_and_texts_can_be_mixed(roomy: Any, chatty: Any) -> None:
    one = [{"role": "user", "content": "Who?"}]
    answers = generate(roomy, chatty, [MESSAGES, "Who?", one], max_new_tokens=10)
    assert answers == [answer_to(roomy, chatty, MESSAGES), *[answer_to(roomy, chatty, one)] * 2]


def test_full_text_with_a_template_is_the_prompt_and_the_answer(roomy: Any, chatty: Any) -> None:
    answer = generate(roomy, chatty, "Who slept?", max_new_tokens=10)
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10, return_full_text=True) == "Who slept?" + answer


@pytest.mark.parametrize(("prompt", "chat"), [("Who?", True), (MESSAGES, None), (MESSAGES, False)])
def test_messages_without_a_template_are_an_error(lively: Any, tokenizer: Any, prompt: Any, chat: bool | None) -> None:
    with pytest.raises(UsageError) as error:
        generate(lively, tokenizer, prompt, chat=chat)
    assert len(error.value.faults) == 1 and "chat template" in error.value.faults[0]


# -- no output

QUIET = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 1},
    "temperature 0": {"temperature": 0},
    "beams": {"num_beams": 2, "num_return_sequences": 2},
    "max_length": {"max_length": 30},
    "stop": {"stop": ["e"]},
    "a prompt that is too long": {"prompt": "山" * 100},
    "an empty prompt": {"prompt": ""},
    "a batch": {"prompt": ["Once", "The quick brown fox"]},
    "a checkpoint that samples, greedy": {
        "temperature": 0,
        "own": {"do_sample": True, "temperature": 0.6, "top_k": 20},
    },
    "a checkpoint with a max_length": {"own": {"max_length": 20}},
}
LISTEN = """
import json, sys, llmkit
model = llmkit.load(sys.argv[1])
for name, options in json.load(sys.stdin).items():
    print(f"<<{name}>>", file=sys.stderr, flush=True)
    own = options.pop("own", {})
    for key, value in own.items():
        setattr(model.model.generation_config, key, value)
    try:
        model.generate(options.pop("prompt", "Once upon a time"), **options)
    except llmkit.UsageError if hasattr(llmkit, "UsageError") else ValueError:
        pass
    for key in own:
        setattr(model.model.generation_config, key, None)
"""


@pytest.fixture(scope="module")
def output(tiny_gpt2: Path) -> dict[str, str]:
    """What a separate process writes to stdout and stderr for each call in QUIET."""
    done = subprocess.run(
        [sys.executable, "-c", LISTEN, str(tiny_gpt2)], input=json.dumps(QUIET), env={**os.environ, **SINGLE},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "", done.stderr
    parts = done.stderr.split("<<")[1:]
    return {name: text.strip() for name, text in (p.split(">>", 1) for p in parts)}


@pytest.mark.parametrize("name", QUIET)
def test_python_calls_write_nothing(output: dict[str, str], name: str) -> None:
    assert output[name] == ""
