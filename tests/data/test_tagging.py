"""Words, tags and windows: every scheme gives seqeval's spans, every word is read once."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from llmkit.data import tagging
from llmkit.models import tokenizers

TEXT = "It's 3 km from 北京大学, naïve 😀 e\u0301t हिन्दी。"
WORDS = [
    "Mia",
    "wrote",
    "(",
    "at",
    "last",
    ")",
    "a",
    "letter",
    ",",
    "由于",
    "大雾",
    "，",
    "机场",
    "\u200b",
    "関",
    "is",
    "n't",
]


def test_a_text_is_split_at_its_own_characters() -> None:
    found = tagging.split(TEXT)
    assert all(TEXT[start:end] == word for word, start, end in found)
    words = [word for word, _, _ in found]
    assert words[:3] == ["It", "'", "s"] and words[5:9] == ["from", "北", "京", "大"] and "हिन्दी" in words
    assert tagging.split(" \n") == []


def test_words_are_put_together_as_they_are_written() -> None:
    pieces = tagging.join(WORDS)
    text = "".join(pieces)
    assert text == "Mia wrote (at last) a letter,由于大雾，机场\u200b関isn't"
    assert [text[start:end] for start, end in tagging.places(pieces)] == WORDS
    assert tagging.join([]) == [] and tagging.join(["a"]) == ["a"]


@pytest.mark.parametrize("scheme", ["BI", "BIES", "I", "BIE"])
def test_spans_are_seqevals(scheme: str) -> None:
    """Of well-formed and of random tags alike."""
    draw = random.Random(0)
    for _ in range(300):
        tags = ["O" if draw.random() < 0.3 else f"{draw.choice(scheme)}-{draw.choice('xy')}" for _ in range(8)]
        assert [(kind, a, b + 1) for kind, a, b in get_entities(tags)] == tagging.spans(tags), tags


@pytest.mark.parametrize(
    "tags",
    [
        "B-P I-P O B-P B-P O B-L",  # IOB2
        "I-P I-P O I-P B-P O I-L",  # IOB1
        "B-P E-P O S-P S-P O S-L",  # BIOES, BMES
        "B-P L-P O U-P U-P O U-L",  # BILOU
        "I-P E-P O E-P I-P O I-L",  # IOE1
    ],
)
def test_every_scheme_becomes_iob2(tags: str) -> None:
    assert tagging.iob2(tags.split()) == ["B-P", "I-P", "O", "B-P", "B-P", "O", "B-L"]


def test_bare_tags() -> None:
    assert tagging.iob2(["B", "M", "E", "S", "O"]) == ["B-_", "I-_", "I-_", "B-_", "O"]  # word segmentation
    assert tagging.iob2(["NOUN", "VERB", "VERB", "_"]) == ["B-NOUN", "B-VERB", "B-VERB", "O"]
    assert tagging.iob2(["ARG0", "O", "C-ARG1", "ARGM-TMP"]) == ["B-ARG0", "O", "B-C-ARG1", "B-ARGM-TMP"]


@pytest.mark.parametrize(
    ("words", "tags", "why"),
    [
        (["a"], None, "no tags"),
        (["a"], "O", "tags are str"),
        (["a", "b"], ["O"], "1 tags for 2 words"),
        (["a"], [3], "tag 0 is 3, not a name"),
        ([], [], "no words"),
        (["a", " "], ["O", "O"], "word 1 is ' '"),
        (["a", None], ["O", "O"], "word 1 is None"),
    ],
)
def test_a_bad_row_says_why(words: list, tags: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tagging.read_tags(tags, tagging.read_words(words))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "char"])
@pytest.mark.parametrize("max_length", [3, 5, 9, 16, 64])
def test_every_word_is_read_once_wherever_windows_end(kind: str, max_length: int) -> None:
    tokenizer = tokenizers.train(kind, 330, iter([*WORDS, "a letter from 北京"] * 3), "bert")
    draw = random.Random(max_length)
    sentences = [[(w, i) for i, w in enumerate(draw.choices(WORDS, k=size))] for size in (1, 7, 60)]
    found = tagging.windows(sentences, tokenizer, max_length)
    assert max(len(ids) for _, ids, _ in found) <= max_length
    for number, sentence in enumerate(sentences):
        read = sorted(n for of, _, reads in found if of == number for n in reads if n >= 0)
        passed_over = {n for w, n in sentence if w == "\u200b" and kind == "wordpiece"}
        assert set(read) >= {n for _, n in sentence} - passed_over and len(read) == len(set(read))


def test_a_word_is_read_where_it_has_most_around_it() -> None:
    """Windows of ten, two shared: each of the two is read in the window that it is not at the edge of."""
    characters = "一二三四五六七八九十百千万亿兆京"
    tokenizer = tokenizers.train("char", 100, iter([characters]), "bert")
    first, second = tagging.windows([[(c, i) for i, c in enumerate(characters)]], tokenizer, 12)
    assert first[2] == [-1, *range(9), -1, -1] and second[2] == [-1, -1, *range(9, 16), -1]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_split_words_are_encoded_as_in_a_running_text(name: str) -> None:
    """Byte-level BPE wants the space before a word; between Chinese words there is none."""
    tokenizer = tokenizers.load(name)
    words = ["Mia", "wrote", "a", "letter", ",", "然后", "睡", "了", "。"]
    ((_, ids, reads),) = tagging.windows([[(w, i) for i, w in enumerate(words)]], tokenizer, 64)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Mia wrote a letter,然后睡了。"
    firsts = [tokenizer.decode([i]) for i, n in zip(ids, reads, strict=True) if n >= 0]
    assert len(firsts) == len(words) and firsts[1].startswith(" ") and firsts[2] == " a" and firsts[4] == ","


def test_a_predicate_is_found_by_its_number_or_its_words() -> None:
    found = tagging.situate("妹妹在学校学画画，也学跳舞。")
    assert tagging.locate("跳舞", found["text"], found["places"]) == (11, 13)
    assert tagging.locate(5, found["text"], found["places"]) == (5, 6)
    for wanted, why in [
        ("学", "stands 3 times: .*one of 3, 5, 10"),
        ("走", "no word of"),
        (99, "0 to 13"),
        (True, "neither"),
        (None, "neither"),
    ]:
        with pytest.raises(ValueError, match=why):
            tagging.locate(wanted, found["text"], found["places"])
    with pytest.raises(ValueError, match="2 words, not one"):
        tagging.number_of("gave up", ["He", "gave", "up"])
