"""Generation: transformers' own tokens, made whole text. Rows padded and ended, characters never torn, stop strings cut,
limits kept, chat templates used, and nothing said by the way.

`lively` is a random GPT-2 whose next token hangs on all that went before, so that a wrong mask or position shows.
`scripted` gives GPT-2s that say a given text, whatever the method: what must come out is known to the letter.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

import llmkit
from llmkit.errors import RecipeError
from llmkit.generation import generate, stream
from llmkit.models.tokenizers import train
from llmkit.predictor import Predictor
from llmkit.tasks import CausalLM

PROMPTS = ["Once upon a time", "The", "从前，有一只", "The quick brown fox jumps over the lazy dog"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SINGLE = {"OMP_NUM_THREADS": "1"}
TORN = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost models this small more than they give, the more so where other tests run beside."""
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
    return train("bpe", 257, iter(TEXTS), "gpt2")


def scripted(tokenizer: Any, ids: list[int]) -> GPT2LMHeadModel:
    """A GPT-2 that answers position i with ids[i + 1] and ends with EOS; attention and embeddings are switched off."""
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
    """A batch padded on the left, by hand: what transformers' own padding would give."""
    rows = [tokenizer(t)["input_ids"] for t in texts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
    }


def own(model: Any, tokenizer: Any, *prompts: str, **options: Any) -> list[str]:
    """What `model.generate` itself says, prompt and continuation, but for a character that the end tears."""
    out = model.generate(**encoded(tokenizer, *prompts), pad_token_id=0, **options)
    return [tokenizer.decode(row, skip_special_tokens=True).rstrip(TORN) for row in out]


# --- the tokens are model.generate's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_what_model_generate_gives(lively: Any, tokenizer: Any, prompt: str) -> None:
    assert (
        generate(lively, tokenizer, prompt, max_new_tokens=30)
        == own(lively, tokenizer, prompt, max_new_tokens=30, do_sample=False)[0]
    )


def test_the_lively_model_answers_each_prompt_differently(lively: Any, tokenizer: Any) -> None:
    """Else the comparisons of this file would hold for a broken generation too."""
    answers = generate(lively, tokenizer, PROMPTS, max_new_tokens=30, return_full_text=False)
    assert len({a[-8:] for a in answers}) == len(PROMPTS) and min(len(set(a)) for a in answers) > 8


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"temperature": 1.3, "top_k": 40, "top_p": 0.95},
        {"do_sample": True}, {"do_sample": True, "repetition_penalty": 1.5},
    ],
)  # fmt: skip
def test_sampled_text_is_what_model_generate_gives_under_the_same_seed(
    lively: Any, tokenizer: Any, options: dict
) -> None:
    said = generate(lively, tokenizer, "Once upon", max_new_tokens=20, seed=3, **options)
    torch.manual_seed(3)
    assert said == own(lively, tokenizer, "Once upon", max_new_tokens=20, **{**options, "do_sample": True})[0]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS[:3]])
def test_beams_are_those_of_model_generate(lively: Any, tokenizer: Any, prompts: list[str], copies: int) -> None:
    options = {"max_new_tokens": 15, "num_beams": 3, "num_return_sequences": copies}
    said = generate(lively, tokenizer, prompts, **options)
    flat = [t for group in said for t in group] if copies > 1 else said
    assert flat == own(lively, tokenizer, *prompts, do_sample=False, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 8}, {"bad_words_ids": [[5], [70]]},
        {"return_dict_in_generate": True}, {"return_dict_in_generate": True, "num_beams": 2},
    ],
)  # fmt: skip
def test_any_generation_option_of_transformers_works(lively: Any, tokenizer: Any, option: dict[str, Any]) -> None:
    expected = own(
        lively,
        tokenizer,
        "Once upon",
        max_new_tokens=12,
        do_sample=False,
        **{**option, "return_dict_in_generate": False},
    )
    assert generate(lively, tokenizer, "Once upon", max_new_tokens=12, **option) == expected[0]


def test_prompt_lookup_decoding_gives_the_text_of_plain_decoding(letters: Any) -> None:
    """It finds the prompt's own words ahead, and several tokens come at a time."""
    text = "one fox two fox one fox two fox one fox two fox"
    model = scripted(letters, letters(text)["input_ids"])
    assert generate(model, letters, text[:20], prompt_lookup_num_tokens=4) == text


# --- the articles' calls ---------------------------------------------------------------------------------------------

ARTICLES = ["Once upon a time", "The quick brown fox jumps over the lazy dog"]


@pytest.mark.parametrize("prompt", ARTICLES)
def test_the_articles_call_in_python_gives_prompt_and_continuation_of_50_tokens(tiny_gpt2: Path, prompt: str) -> None:
    model = llmkit.load(str(tiny_gpt2))
    text = model.generate(prompt, max_length=50, num_return_sequences=1)
    assert text.startswith(prompt) and len(text) > len(prompt)
    assert text == own(model.model, model.tokenizer, prompt, max_length=50, do_sample=False)[0]


@pytest.mark.parametrize("prompt", ARTICLES)
def test_the_articles_call_as_a_command_prints_the_same_text(
    tiny_gpt2: Path, prompt: str, capsys: pytest.CaptureFixture
) -> None:
    from llmkit.cli import command, guard

    words = ["generate", str(tiny_gpt2), prompt, "--max-length", "50", "--num-return-sequences", "1"]
    assert guard(lambda: command(words)) == 0
    said = capsys.readouterr()
    assert said.out == llmkit.load(str(tiny_gpt2)).generate(prompt, max_length=50, num_return_sequences=1) + "\n"
    assert len(said.err.splitlines()) == 1 and "token" in said.err


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 20}, {"max_new_tokens": 20, "num_beams": 2}, {"max_length": 40}, {"max_new_tokens": 60}],
)
def test_prompts_of_different_lengths_say_together_what_each_says_alone(
    lively: Any, tokenizer: Any, options: dict[str, Any]
) -> None:
    alone = [generate(lively, tokenizer, p, **options) for p in PROMPTS]
    assert generate(lively, tokenizer, PROMPTS, **options) == alone


def test_the_order_of_prompts_does_not_matter(lively: Any, tokenizer: Any) -> None:
    forth = generate(lively, tokenizer, PROMPTS, max_new_tokens=12)
    assert generate(lively, tokenizer, PROMPTS[::-1], max_new_tokens=12) == forth[::-1]


def test_rows_are_padded_on_the_left_and_the_padding_is_masked(lively: Any, tokenizer: Any) -> None:
    seen: list[dict] = []
    hook = lively.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    try:
        generate(lively, tokenizer, PROMPTS, max_new_tokens=1)
    finally:
        hook.remove()
    wanted = encoded(tokenizer, *PROMPTS)
    pads = wanted["attention_mask"] == 0
    assert seen[0]["input_ids"][~pads].tolist() == wanted["input_ids"][~pads].tolist()
    assert seen[0]["attention_mask"].bool().tolist() == (~pads).tolist()
    assert [p[0] for p in seen[0]["position_ids"].where(~pads, 99).sort(-1).values.tolist()] == [0] * len(PROMPTS)


@pytest.mark.parametrize("prompts", [[], [""], ["", "Once"]])
def test_no_prompt_and_an_empty_one_are_answered_too(lively: Any, tokenizer: Any, prompts: list[str]) -> None:
    answers = generate(lively, tokenizer, prompts, max_new_tokens=6)
    assert len(answers) == len(prompts) and all(answers)


def test_an_empty_prompt_goes_on_from_the_start_token(lively: Any, tokenizer: Any) -> None:
    out = lively.generate(
        torch.tensor([[0]]), attention_mask=torch.ones(1, 1), max_new_tokens=9, do_sample=False, pad_token_id=0
    )
    assert generate(lively, tokenizer, "", max_new_tokens=9) == tokenizer.decode(
        out[0], skip_special_tokens=True
    ).rstrip(TORN)


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_several_sequences_of_one_prompt_are_a_list_of_texts(lively: Any, tokenizer: Any, prompt: str) -> None:
    texts = generate(lively, tokenizer, prompt, num_return_sequences=3, seed=0, max_new_tokens=10)
    assert len(texts) == 3 and all(t.startswith(prompt) for t in texts)
    assert len(set(texts)) == 3  # they are sampled


def test_several_sequences_of_several_prompts_are_a_list_of_texts_for_each(lively: Any, tokenizer: Any) -> None:
    groups = generate(lively, tokenizer, PROMPTS, num_return_sequences=2, seed=0, max_new_tokens=10)
    assert [len(g) for g in groups] == [2] * len(PROMPTS)
    assert all(t.startswith(p) for p, g in zip(PROMPTS, groups, strict=True) for t in g)


@pytest.mark.parametrize(("prompt", "kind"), [("Once", str), (["Once"], list)])
def test_one_prompt_gives_a_text_and_a_list_a_list(lively: Any, tokenizer: Any, prompt: Any, kind: type) -> None:
    assert type(generate(lively, tokenizer, prompt, max_new_tokens=3, num_return_sequences=1)) is kind


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_continuation_alone_is_given_on_request(lively: Any, tokenizer: Any, prompt: str) -> None:
    whole = generate(lively, tokenizer, prompt, max_new_tokens=10)
    assert prompt + generate(lively, tokenizer, prompt, max_new_tokens=10, return_full_text=False) == whole


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.9, "seed": 5},
        {"num_beams": 2},
        {"stop": ["e", "狸"]},
        {"num_return_sequences": 2, "seed": 1},
    ],
)
def test_the_pieces_of_a_stream_join_to_what_generate_gives(
    lively: Any, tokenizer: Any, options: dict[str, Any]
) -> None:
    rows = [""] * len(PROMPTS) * options.get("num_return_sequences", 1)
    for row, piece in stream(lively, tokenizer, PROMPTS, max_new_tokens=20, **options):
        assert piece
        rows[row] += piece
    whole = generate(lively, tokenizer, PROMPTS, max_new_tokens=20, return_full_text=False, **options)
    assert rows == (list(itertools.chain(*whole)) if "num_return_sequences" in options else whole)


def test_a_stream_gives_its_pieces_token_by_token(letters: Any) -> None:
    text = "a fox, 一只狐狸。"
    pieces = [p for _, p in stream(scripted(letters, letters(text)["input_ids"]), letters, ["a"])]
    assert pieces == list(text[1:])


@pytest.mark.parametrize(
    "text", ["从前，有一只狐狸住在山脚下。", "狐狸🦊吃葡萄🍇。", "naïve café – 山里的老虎", "👩‍👩‍👧 e\u0301 ✓"]
)
@pytest.mark.parametrize("of_bytes", [True, False])
def test_no_character_is_torn_in_a_stream(letters: Any, tokenizer: Any, text: str, of_bytes: bool) -> None:
    it = letters if of_bytes else tokenizer
    ids = it("山" + text)["input_ids"]
    pieces = [p for _, p in stream(scripted(it, ids), it, ["山"], max_new_tokens=100)]
    assert [p for p in pieces if TORN in p] == []
    assert "".join(pieces) == text


def test_a_continuation_keeps_the_space_that_stands_between_it_and_the_prompt() -> None:
    """In a vocabulary of words, the space is the decoder's: it writes none before a text's first word."""
    words = train("wordpiece", 400, iter(["the fox met the crow"] * 3), "gpt2")
    model = scripted(words, words("the fox met the crow")["input_ids"])
    assert generate(model, words, "the fox") == "the fox met the crow"


@pytest.mark.parametrize("length", range(1, 10))
def test_a_character_that_the_last_token_tears_is_left_out(letters: Any, length: int) -> None:
    text = "狐狸🦊"
    model = scripted(letters, letters("一" + text)["input_ids"])
    assert generate(model, letters, "一", max_new_tokens=length, return_full_text=False) == text.encode()[
        :length
    ].decode(errors="ignore")


@pytest.mark.parametrize("ending", ["at the limit", "at EOS"])
@pytest.mark.parametrize("whole", ["里", " "])
def test_what_is_whole_in_a_last_token_that_tears_is_given(letters: Any, whole: str, ending: str) -> None:
    """Real vocabularies hold tokens such as ` \\xe6`: a space, and the first byte of some character."""
    it = with_token(letters, whole.encode() + "的".encode()[:1])
    ids = [*it("a")["input_ids"], len(it) - 1]
    assert it.decode(ids) == "a" + whole + TORN
    options = {"max_new_tokens": 1} if ending == "at the limit" else {}
    assert generate(scripted(it, ids), it, "a", **options) == "a" + whole


def with_token(letters: Any, new: bytes) -> Any:
    """The tokenizer of single bytes with one token more, merged byte by byte, as training would have."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(letters.backend_tokenizer.to_str())
    shown = as_shown(new)
    for end in range(2, len(shown) + 1):
        state["model"]["vocab"]["".join(shown[:end])] = len(state["model"]["vocab"])
        state["model"]["merges"].append(["".join(shown[: end - 1]), shown[end - 1]])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), letters.eos_token)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **names)


def as_shown(some: bytes) -> list[str]:
    """Bytes as GPT-2's vocabulary writes them: the printable as they are, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in some]


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_join_to_what_the_tokenizer_decodes(lively: Any, tokenizer: Any, seed: int) -> None:
    """A random model's bytes are no text: what comes out is the decoder's, but for a character that the end tears."""
    options = {"max_new_tokens": 50, "do_sample": True, "temperature": 3.0, "num_return_sequences": 8}
    rows = [""] * 8
    for row, piece in stream(lively, tokenizer, ["从前"], seed=seed, **options):
        rows[row] += piece
    torch.manual_seed(seed)
    expected = own(lively, tokenizer, "从前", **options)
    assert any(TORN in t for t in expected), "no byte was torn: the test says nothing"
    assert ["从前" + r for r in rows] == expected


def test_leaving_a_stream_stops_the_thread_and_the_model(letters: Any) -> None:
    text = "a fox met a crow by the river, and the crow held a piece of cheese, and the fox was hungry."
    model = Predictor(scripted(letters, letters(text)["input_ids"]), letters, CausalLM())
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


def test_an_error_within_the_thread_reaches_the_reader(lively: Any, tokenizer: Any) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    hook = lively.register_forward_pre_hook(broken)
    try:
        with pytest.raises(MemoryError, match="no room"):
            list(stream(lively, tokenizer, ["Once"]))
    finally:
        hook.remove()


# --- ends ------------------------------------------------------------------------------------------------------------


def test_eos_ends_a_row_and_the_others_go_on(letters: Any) -> None:
    """The scripted model ends at a position: the longer the prompt, the sooner."""
    text = "Once upon a time there was a fox"
    model = scripted(letters, [*letters(text)["input_ids"], letters.eos_token_id, *letters(" and more")["input_ids"]])
    assert generate(model, letters, ["O", "Once upon", "Once"], max_new_tokens=50) == [text] * 3


@pytest.mark.parametrize("ends", ["x", ["x", "y"]])
def test_the_checkpoints_own_end_tokens_end_a_row(letters: Any, ends: str | list[str]) -> None:
    model = scripted(letters, letters("one two y three x four")["input_ids"])
    model.generation_config.eos_token_id = letters.convert_tokens_to_ids(ends)
    assert generate(model, letters, "one") == ("one two " if "y" in ends else "one two y three ")


@pytest.mark.parametrize(
    "place", ["a time", "w", " there was a fox. A fox", "狐狸", "一只", ["fox", "time"], ["nowhere"], "", ["time", ""]]
)
@pytest.mark.parametrize("of_bytes", [True, False])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_text_is_cut_before_its_first_stop_string(
    letters: Any, tokenizer: Any, place: str | list[str], of_bytes: bool, beams: int
) -> None:
    it = letters if of_bytes else tokenizer
    prompt, text = "Once upon a time", " a time there was a fox. A fox, 从前有一只狐狸。"
    model = scripted(it, it(prompt)["input_ids"] + it(text)["input_ids"])
    cuts = [text.find(s) for s in ([place] if isinstance(place, str) else place) if s and s in text]
    said = generate(model, it, prompt, stop=place, max_new_tokens=80, num_beams=beams, return_full_text=False)
    assert said == text[: min(cuts, default=None)]


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
def test_a_stop_string_that_comes_token_by_token_is_never_streamed(
    letters: Any, text: str, stop: list[str], expected: str
) -> None:
    model = scripted(letters, letters(">" + text)["input_ids"])
    assert "".join(p for _, p in stream(model, letters, [">"], stop=stop)) == expected


@pytest.mark.parametrize(("stop", "expected"), [(["o", "f"], "a "), (["x", "ox", "o"], "a f"), (["xy", "x"], "a fo")])
def test_of_stop_strings_within_one_token_the_first_in_the_text_cuts(
    letters: Any, stop: list[str], expected: str
) -> None:
    it = with_token(letters, b"fox")
    model = scripted(it, [*it(">a ")["input_ids"], len(it) - 1])
    assert generate(model, it, ">", stop=stop, return_full_text=False) == expected


def test_a_stop_string_ends_its_row_alone_and_is_not_looked_for_in_the_prompt(letters: Any) -> None:
    """By position, the second row hears the rest of the same text."""
    text = "one fox two fox three"
    model = scripted(letters, letters(text)["input_ids"])
    assert generate(model, letters, ["one", "one fox two"], stop="fox") == ["one ", "one fox two "]
    assert generate(model, letters, ["one", "one fox two"], stop="two") == ["one fox ", text]


def test_the_model_computes_no_further_than_the_stop_string(letters: Any) -> None:
    model, steps = scripted(letters, letters("one fox two fox three")["input_ids"]), []
    model.register_forward_pre_hook(lambda *_: steps.append(1))
    generate(model, letters, "one", stop="fox", max_new_tokens=50)
    assert len(steps) <= len(" fox") + 2  # transformers asks before it tells of a token


def test_transformers_own_name_for_stop_strings_works_or_says_the_right_one(letters: Any) -> None:
    model = scripted(letters, letters("one fox two fox three")["input_ids"])
    try:
        said = generate(model, letters, "one", stop_strings=["two"])
    except RecipeError as error:
        assert "stop" in error.faults[0].replace("stop_strings", "")
    else:
        assert said == "one fox two"  # transformers keeps it


# --- sampling --------------------------------------------------------------------------------------------------------

SWITCHES = [
    {"temperature": 1.5},
    {"top_k": 40},
    {"top_p": 0.99},
    {"min_p": 0.001},
    {"typical_p": 0.95},
    {"do_sample": True},
]


@pytest.mark.parametrize("options", SWITCHES, ids=lambda o: next(iter(o)))
def test_a_sampling_option_switches_sampling_on(lively: Any, tokenizer: Any, options: dict[str, float]) -> None:
    said = {generate(lively, tokenizer, "Once", max_new_tokens=20, seed=s, **options) for s in range(4)}
    assert len(said) > 1


@pytest.mark.parametrize("options", [*SWITCHES[:2], {"num_return_sequences": 3}], ids=lambda o: next(iter(o)))
def test_the_same_seed_gives_the_same_text_and_another_seed_another(
    lively: Any, tokenizer: Any, options: dict[str, float]
) -> None:
    one, same, other = (generate(lively, tokenizer, PROMPTS, max_new_tokens=20, seed=s, **options) for s in (7, 7, 8))
    assert one == same != other


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"num_beams": 2, "do_sample": True}, {}])
def test_a_seed_leaves_torchs_own_random_state_alone(lively: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    generate(lively, tokenizer, "Once", max_new_tokens=8, seed=5, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_torchs_own_decides(lively: Any, tokenizer: Any) -> None:
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
    """A checkpoint that asks for sampling in its generation config, as many chat models do."""
    model = copy.deepcopy(lively)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.95, eos_token_id=0, bos_token_id=0
    )
    return model


def test_a_checkpoints_own_sampling_is_kept_until_told_otherwise(sampler: Any, lively: Any, tokenizer: Any) -> None:
    said = generate(sampler, tokenizer, "Once", max_new_tokens=20, seed=2)
    assert said == generate(lively, tokenizer, "Once", max_new_tokens=20, seed=2, temperature=0.6, top_k=20, top_p=0.95)
    greedy = generate(lively, tokenizer, "Once", max_new_tokens=20)
    assert generate(sampler, tokenizer, "Once", max_new_tokens=20, temperature=0) == greedy != said
    assert generate(sampler, tokenizer, "Once", max_new_tokens=20, do_sample=False) == greedy


@pytest.mark.parametrize("training", [True, False])
def test_generation_has_no_dropout_and_leaves_the_model_as_it_was(lively: Any, tokenizer: Any, training: bool) -> None:
    model = copy.deepcopy(lively).train(training)  # a GPT2Config has dropout 0.1
    settings = model.generation_config.to_dict()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=10) == generate(
        lively, tokenizer, PROMPTS, max_new_tokens=10
    )
    assert model.training is training and model.generation_config.to_dict() == settings


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_max_length_counts_the_prompt(lively: Any, tokenizer: Any, prompt: str) -> None:
    assert (
        generate(lively, tokenizer, prompt, max_length=33)
        == own(lively, tokenizer, prompt, max_length=33, do_sample=False)[0]
    )


def test_without_a_limit_there_are_50_new_tokens(letters: Any) -> None:
    model = scripted(letters, letters("a" * 100)["input_ids"])
    assert generate(model, letters, "a") == "a" * 51


def test_a_checkpoints_own_max_new_tokens_is_kept(letters: Any) -> None:
    model = scripted(letters, letters("a" * 100)["input_ids"])
    model.generation_config.max_new_tokens = 7
    assert (generate(model, letters, "a"), generate(model, letters, "a", max_new_tokens=3)) == ("a" * 8, "a" * 4)


@pytest.mark.parametrize("limit", ["the model's positions", "the tokenizer's model_max_length"])
def test_a_wish_beyond_the_models_positions_is_cut_with_a_notice(
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
def test_a_wish_that_just_fits_is_given_without_a_notice(
    letters: Any, options: dict[str, int], capsys: pytest.CaptureFixture
) -> None:
    it = copy.copy(letters)
    it.model_max_length = 64
    assert generate(scripted(it, it("a" * 200)["input_ids"]), it, "aaaa", **options) == "a" * 64
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tokens", [128, 129, 500])
def test_a_prompt_without_room_for_one_token_is_refused_in_one_line(letters: Any, tokens: int) -> None:
    with pytest.raises(RecipeError) as refused:
        generate(scripted(letters, [0]), letters, "a" * tokens)
    (line,) = refused.value.faults
    assert str(tokens) in line and "128" in line and "\n" not in line


def test_a_prompt_with_room_for_one_token_gets_it(letters: Any) -> None:
    assert generate(scripted(letters, letters("a" * 128)["input_ids"]), letters, "a" * 127) == "a" * 128


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("temprature", "temperature"),
        ("max_tokens", "max_new_tokens"),
        ("num_return_sequence", "num_return_sequences"),
        ("topk", "top_k"),
        ("beams", "num_beams"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(
    lively: Any, tokenizer: Any, option: str, near: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        generate(lively, tokenizer, "Once", **{option: 1})
    (line,) = refused.value.faults
    assert option in line and repr(near) in line


def test_every_unknown_option_is_named_at_once(lively: Any, tokenizer: Any) -> None:
    with pytest.raises(RecipeError) as refused:
        generate(lively, tokenizer, "Once", temprature=1, topk=3)
    assert len(refused.value.faults) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": -3}, {"max_length": 2}, {"max_length": 0}, {"temperature": -1.0},
        {"num_beams": 2, "num_return_sequences": 3}, {"temperature": 0, "num_return_sequences": 2}, {"num_beams": 0},
        {"num_return_sequences": -1}, {"repetition_penalty": -1.0}, {"do_sample": False, "num_return_sequences": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_in_one_line_that_names_it(
    lively: Any, tokenizer: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as refused:
        generate(lively, tokenizer, "Once upon a time", **options)
    (line,) = refused.value.faults
    assert any(name in line for name in options) and "None" not in line and "\n" not in line


# --- conversations ---------------------------------------------------------------------------------------------------

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who slept?"}]


def answer_to(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The model's own answer after the template, without what it answers to."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).rstrip(TORN)


@pytest.fixture(scope="module")
def roomy(chatty: Any) -> GPT2LMHeadModel:
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=len(chatty), n_embd=32, n_layer=2, n_head=2, initializer_range=0.4, tie_word_embeddings=False,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def test_a_text_becomes_a_users_turn_where_there_is_a_chat_template(roomy: Any, chatty: Any) -> None:
    expected = answer_to(roomy, chatty, [{"role": "user", "content": "Who slept?"}])
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10) == expected


def test_chat_false_continues_the_text_as_it_is(roomy: Any, chatty: Any, tokenizer: Any) -> None:
    plain = generate(roomy, tokenizer, "Who slept?", max_new_tokens=10)
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10, chat=False) == plain
    assert plain.startswith("Who slept?") and plain != generate(roomy, chatty, "Who slept?", max_new_tokens=10)


def test_messages_are_given_through_the_template(roomy: Any, chatty: Any) -> None:
    assert generate(roomy, chatty, ASKED, max_new_tokens=10) == answer_to(roomy, chatty, ASKED)


def test_conversations_and_texts_are_answered_together(roomy: Any, chatty: Any) -> None:
    one = [{"role": "user", "content": "Who?"}]
    said = generate(roomy, chatty, [ASKED, "Who?", one], max_new_tokens=10)
    assert said == [answer_to(roomy, chatty, ASKED), *[answer_to(roomy, chatty, one)] * 2]


def test_the_full_text_of_a_turn_is_the_question_as_typed_and_the_answer(roomy: Any, chatty: Any) -> None:
    answer = generate(roomy, chatty, "Who slept?", max_new_tokens=10)
    assert generate(roomy, chatty, "Who slept?", max_new_tokens=10, return_full_text=True) == "Who slept?" + answer


@pytest.mark.parametrize(("prompt", "chat"), [("Who?", True), (ASKED, None), (ASKED, False)])
def test_a_conversation_without_a_template_is_refused_in_one_line(
    lively: Any, tokenizer: Any, prompt: Any, chat: bool | None
) -> None:
    with pytest.raises(RecipeError) as refused:
        generate(lively, tokenizer, prompt, chat=chat)
    assert len(refused.value.faults) == 1 and "chat template" in refused.value.faults[0]


# --- silence ---------------------------------------------------------------------------------------------------------

QUIET = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 1},
    "temperature 0": {"temperature": 0},
    "beams": {"num_beams": 2, "num_return_sequences": 2},
    "max_length": {"max_length": 30},
    "stop": {"stop": ["e"]},
    "a long prompt, refused": {"prompt": "山" * 100},
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
    except llmkit.RecipeError if hasattr(llmkit, "RecipeError") else ValueError:
        pass
    for key in own:
        setattr(model.model.generation_config, key, None)
"""


@pytest.fixture(scope="module")
def heard(tiny_gpt2: Path) -> dict[str, str]:
    """What a process of its own writes on stdout and stderr at each of QUIET's calls."""
    done = subprocess.run(
        [sys.executable, "-c", LISTEN, str(tiny_gpt2)], input=json.dumps(QUIET), env={**os.environ, **SINGLE},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "", done.stderr
    parts = done.stderr.split("<<")[1:]
    return {name: said.strip() for name, said in (p.split(">>", 1) for p in parts)}


@pytest.mark.parametrize("name", QUIET)
def test_python_calls_write_no_warning_and_no_log_line(heard: dict[str, str], name: str) -> None:
    assert heard[name] == ""
