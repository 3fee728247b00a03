"""Words, tags and windows: every tagging scheme gives seqeval's spans, and every word is read once."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from llmkit.data import spans
from llmkit.models.tokenizers import load_tokenizer, train_tokenizer

TEXT = "It's 3 km from 北京大学, naïve 😀 e\u0301t हिन्दी。"
WORDS = [
    "Mia", "wrote", "(", "at", "last", ")", "a", "letter", ",", "由于", "大雾", "，", "机场", "\u200b", "関", "is", "n't",
]  # fmt: skip


def test_split_words_gives_positions_in_the_text() -> None:
    words = spans.split_words(TEXT)
    assert all(TEXT[start:end] == word for word, (start, end) in words)
    words = [word for word, _ in words]
    assert words[:3] == ["It", "'", "s"] and words[5:9] == ["from", "北", "京", "大"] and "हिन्दी" in words
    assert spans.split_words(" \n") == []


def test_join_words_writes_spaces_as_a_text_has_them() -> None:
    pieces = spans.join_words(WORDS)
    text = "".join(pieces)
    assert text == "Mia wrote (at last) a letter,由于大雾，机场\u200b関isn't"
    assert [text[start:end] for start, end in spans.word_positions(pieces)] == WORDS
    assert spans.join_words([]) == [] and spans.join_words(["a"]) == ["a"]


@pytest.mark.parametrize("scheme", ["BI", "BIES", "I", "BIE"])
def test_spans_equal_those_of_seqeval(scheme: str) -> None:
    """For well-formed and for random tags."""
    draw = random.Random(0)
    for _ in range(300):
        tags = ["O" if draw.random() < 0.3 else f"{draw.choice(scheme)}-{draw.choice('xy')}" for _ in range(8)]
        assert [(label, a, b + 1) for label, a, b in get_entities(tags)] == spans.spans(tags), tags


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
def test_to_iob2_reads_every_scheme(tags: str) -> None:
    assert spans.to_iob2(tags.split()) == ["B-P", "I-P", "O", "B-P", "B-P", "O", "B-L"]


def test_to_iob2_reads_tags_without_prefix() -> None:
    assert spans.to_iob2(["B", "M", "E", "S", "O"]) == ["B-_", "I-_", "I-_", "B-_", "O"]  # word segmentation
    assert spans.to_iob2(["NOUN", "VERB", "VERB", "_"]) == ["B-NOUN", "B-VERB", "B-VERB", "O"]
    assert spans.to_iob2(["ARG0", "O", "C-ARG1", "ARGM-TMP"]) == ["B-ARG0", "O", "B-C-ARG1", "B-ARGM-TMP"]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
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
def test_invalid_words_and_tags_are_errors(words: list, tags: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spans.read_tags(tags, spans.read_words(words))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "char"])
@pytest.mark.parametrize("max_length", [3, 5, 9, 16, 64])
def test_every_word_is_read_in_one_window(kind: str, max_length: int) -> None:
    tokenizer = train_tokenizer(kind, 330, iter([*WORDS, "a letter from 北京"] * 3), "bert")
    draw = random.Random(max_length)
    sentences = [[(w, i) for i, w in enumerate(draw.choices(WORDS, k=size))] for size in (1, 7, 60)]
    windows = spans.encode_windows(sentences, tokenizer, max_length)
    assert max(len(ids) for _, ids, _ in windows) <= max_length
    for number, sentence in enumerate(sentences):
        read = sorted(n for owner, _, words in windows if owner == number for n in words if n >= 0)
        dropped = {n for w, n in sentence if w == "\u200b" and kind == "wordpiece"}
        assert set(read) >= {n for _, n in sentence} - dropped and len(read) == len(set(read))


def test_a_word_is_read_in_the_window_with_most_context() -> None:
    """Windows of ten characters share two: each of these is read in the window where it is not at the edge."""
    characters = "一二三四五六七八九十百千万亿兆京"
    tokenizer = train_tokenizer("char", 100, iter([characters]), "bert")
    first, second = spans.encode_windows([[(c, i) for i, c in enumerate(characters)]], tokenizer, 12)
    assert first[2] == [-1, *range(9), -1, -1] and second[2] == [-1, -1, *range(9, 16), -1]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_words_are_encoded_as_in_running_text(name: str) -> None:
    """Byte-level BPE needs the space before a word; between Chinese words there is none."""
    tokenizer = load_tokenizer(name)
    words = ["Mia", "wrote", "a", "letter", ",", "然后", "睡", "了", "。"]
    ((_, ids, read),) = spans.encode_windows([[(w, i) for i, w in enumerate(words)]], tokenizer, 64)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Mia wrote a letter,然后睡了。"
    firsts = [tokenizer.decode([i]) for i, n in zip(ids, read, strict=True) if n >= 0]
    assert len(firsts) == len(words) and firsts[1].startswith(" ") and firsts[2] == " a" and firsts[4] == ","


def test_find_predicate_takes_an_index_or_words_that_occur_once() -> None:
    sentence = spans.locate_words("妹妹在学校学画画，也学跳舞。")
    text, positions = sentence["text"], sentence["positions"]
    assert spans.find_predicate("跳舞", text, positions) == (11, 13)
    assert spans.find_predicate(5, text, positions) == (5, 6)
    for predicate, message in [
        ("学", "occurs 3 times; .* 3, 5, 10"),
        ("走", "not a word of"),
        (99, "0 to 13"),
        (True, "neither"),
        (None, "neither"),
    ]:
        with pytest.raises(ValueError, match=message):
            spans.find_predicate(predicate, text, positions)
    with pytest.raises(ValueError, match="2 words, not one"):
        spans.predicate_index("gave up", ["He", "gave", "up"])


# -- spans in characters

ANNOTATED = "Mia lives in  New York. 小猫住北京"
IOB2 = ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "O", "O", "O", "B-LOC", "I-LOC"]
PLACES = [(0, 3, "PER"), (14, 22, "LOC"), (27, 29, "LOC")]


def label_studio(*results: list, **fields: bool) -> list[dict]:
    return [{"id": i, "result": result, **fields} for i, result in enumerate(results)]


def values(*places: tuple[int, int, str]) -> list[dict]:
    """Label Studio's results, with others that hold no spans."""
    found = [{"start": a, "end": b, "text": ANNOTATED[a:b], "labels": [label]} for a, b, label in places]
    others = [{"type": "relation"}, {"type": "choices", "value": {"start": 0, "end": 3, "choices": ["x"]}}]
    return [*({"type": "labels", "value": value} for value in found), *others]


@pytest.mark.parametrize(
    ("sentence", "annotation"),
    [
        (ANNOTATED, [list(place) for place in PLACES]),
        (ANNOTATED, [*reversed(PLACES)]),
        (ANNOTATED, [{"start": a, "end": b, "label": label, "id": 7} for a, b, label in PLACES]),
        (ANNOTATED, [{"start_offset": a, "end_offset": b, "label": label} for a, b, label in PLACES]),
        (ANNOTATED, [(0, 4, "PER"), (12, 22, "LOC"), (27, 29, "LOC")]),  # with the spaces around
        ({"text": ANNOTATED, "id": 1}, label_studio(values(*PLACES), was_cancelled=False)),
        ({"text": ANNOTATED}, label_studio(values(*PLACES), values(*PLACES))),
        (ANNOTATED, [part["value"] for part in values(*PLACES)[:3]]),  # Label Studio's JSON_MIN
    ],
    ids=["doccano", "tuples", "Prodigy", "doccano with relations", "spaces", "Label Studio", "two agree", "JSON_MIN"],
)
def test_spans_in_characters_become_tags(sentence: object, annotation: list) -> None:
    words, tags = spans.read_sentence(sentence, annotation)
    assert words == [word for word, _ in spans.split_words(ANNOTATED)] and tags == IOB2


def test_the_tokens_of_prodigy_are_the_words() -> None:
    tokens = [
        {"text": "Mia", "start": 0, "end": 3, "id": 0, "ws": False},
        {"text": "'s", "start": 3, "end": 5, "id": 1, "ws": True},
        {"text": "re-run", "start": 7, "end": 13, "id": 2, "ws": False},
    ]
    span = {"start": 3, "end": 13, "token_start": 1, "token_end": 2, "label": "X"}
    assert spans.read_sentence(tokens, [span]) == (["Mia", "'s", "re-run"], ["O", "B-X", "I-X"])
    assert spans.locate_words(tokens)["text"] == "Mia's  re-run"


@pytest.mark.parametrize("sentence", [ANNOTATED, {"text": ANNOTATED}])
def test_a_text_in_which_nothing_was_found_has_no_spans(sentence: object) -> None:
    annotation = [] if isinstance(sentence, str) else label_studio([])
    assert set(spans.read_sentence(sentence, annotation)[1]) == {"O"}


def test_tags_of_words_are_read_as_before() -> None:
    assert spans.read_sentence(["a", "b"], ["I-X", "O"]) == (["a", "b"], ["B-X", "O"])
    assert spans.read_sentence("a, b", ["O", "O", "B-X"])[1] == ["O", "O", "B-X"]


@pytest.mark.parametrize(
    ("sentence", "annotation", "message"),
    [
        (ANNOTATED, [[0, 2, "PER"]], "span 'PER' from 0 to 2 is not made of whole words: 'Mi' in 'Mia lives in'"),
        (ANNOTATED, [[0, 99, "PER"]], "from 0 to 99 is not made of whole words"),
        (ANNOTATED, [[-3, 2, "PER"]], "from -3 to 2 is not made of whole words"),
        (ANNOTATED, [[3, 4, "PER"]], "from 3 to 4 is not made of whole words"),
        (ANNOTATED, [[3, 0, "PER"]], "from 3 to 0 is not made of whole words"),
        (ANNOTATED, [[0, 3, "PER"], [0, 9, "X"]], "span 'X' from 0 to 9 overlaps another one"),
        ("😀 Mia ran", [{"start": 3, "end": 6, "labels": ["PER"], "text": "Mia"}], "is 'ia' in the text, but 'Mia' in"),
        (ANNOTATED, [[0, 3]], r"\[0, 3\] is not a span of start, end and one label"),
        (ANNOTATED, [{"start": 0, "end": 3, "labels": ["A", "B"]}], "is not a span of start, end and one label"),
        (ANNOTATED, [[0, 3, ""]], "is not a span"),
        (ANNOTATED, "PER", "tags are str, not a list"),
        (["Mia", "ran"], [[0, 3, "PER"]], r"tag 0 is \[0, 3, 'PER'\], not a name"),
        ({"text": ANNOTATED}, [], "not annotated"),
        ({"body": ANNOTATED}, label_studio(values()), "no words"),
        ({"text": ANNOTATED}, label_studio(values(), was_cancelled=True), "skipped by the annotator"),
        ({"text": ANNOTATED}, label_studio(values(*PLACES), values()), "2 annotations that differ; keep one"),
        ([{"text": "Mia"}], [[0, 3, "PER"]], "word 0 is {'text': 'Mia'}, not text"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(sentence: object, annotation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spans.read_sentence(sentence, annotation)
