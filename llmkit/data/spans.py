"""Words and tags: splitting a text into words and back, tagging schemes, and sub-word windows of long sentences."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit.errors import UsageError

Span = tuple[str, int, int]
"""`(label, first word, last word + 1)`."""
Words = Sequence[tuple[str, int]]
"""The words of a sentence as the encoder sees them, each with its index in the sentence, or MARK or UNREAD."""
Window = tuple[int, list[int], list[int]]
"""`(sentence, ids, words)`: `words` holds a word's index at its first sub-word, and a negative number elsewhere."""

OUTSIDE = ("O", "_")
TOKEN = {"text", "start", "end"}
"""Keys of Prodigy's tokens."""
MARK, UNREAD = -1, -2
"""In place of a word's index: a marker that is not part of the sentence, and a word whose tag is not predicted."""
_SPLITTER = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"), pre_tokenizers.BertPreTokenizer()]
)
_PREFIXED = re.compile(r"([BIMELSU])-(.+)", re.DOTALL)
_WIDE = r"\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"  # written without spaces
_NO_SPACE_BEFORE = re.compile(rf"[{_WIDE},.;:!?%)\]}}’”…]|'\w|n't$")
_NO_SPACE_AFTER = re.compile(rf".*[{_WIDE}(\[{{“‘]", re.DOTALL)


# -- words


def split_words(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Split a text at white space and punctuation: `(word, (start, end))`, in characters.

    Each Chinese character is a word.
    """
    return _SPLITTER.pre_tokenize_str(text)


def join_words(words: Sequence[str]) -> list[str]:
    """Return words with the space before each where one is written; joined by "", they are the text.

    There is no space before a comma, inside brackets, or between Chinese words.
    """
    spaced = [
        f" {word}" if not _NO_SPACE_BEFORE.match(word) and not _NO_SPACE_AFTER.fullmatch(before) else word
        for before, word in itertools.pairwise(words)
    ]
    return [*words[:1], *spaced]


def word_positions(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Return `(start, end)` of each word from `join_words` in the joined text, in characters."""
    ends = itertools.accumulate(map(len, pieces))
    return [(end - len(piece.removeprefix(" ")), end) for piece, end in zip(pieces, ends, strict=True)]


def locate_words(sentence: object) -> dict[str, Any]:
    """Return `{text, tokens, positions}` of a text or a list of words. Raises ValueError for anything else.

    Also of Label Studio's `data`, which holds the text, and of Prodigy's tokens, `{"text", "start", "end"}`.
    """
    if isinstance(sentence, Mapping):
        sentence = sentence.get("text")
    if isinstance(sentence, list) and sentence and all(isinstance(t, Mapping) and t.keys() >= TOKEN for t in sentence):
        text = ""
        for token in sentence:
            text = text.ljust(token["start"]) + token["text"]
        words, positions = zip(*((token["text"], (token["start"], token["end"])) for token in sentence), strict=True)
        return {"text": text, "tokens": [*words], "positions": [*positions]}
    if isinstance(sentence, str):
        words = split_words(sentence)
        return {"text": sentence, "tokens": [word for word, _ in words], "positions": [at for _, at in words]}
    tokens = read_words(sentence)
    pieces = join_words(tokens)
    return {"text": "".join(pieces), "tokens": tokens, "positions": word_positions(pieces)}


def find_predicate(predicate: object, text: str, positions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return `(first word, last word + 1)` of a predicate: the index of a word (from 0), or words that occur once.

    `positions` are those of the words in `text`. Raises ValueError.
    """
    if isinstance(predicate, int) and not isinstance(predicate, bool):
        if not 0 <= predicate < len(positions):
            raise ValueError(f"predicate {predicate} is not the index of a word, 0 to {len(positions) - 1}")
        return predicate, predicate + 1
    if not isinstance(predicate, str) or not predicate:
        raise ValueError(f"predicate {predicate!r} is neither a word nor the index of a word")
    starts, ends = ({position[side]: i for i, position in enumerate(positions)} for side in (0, 1))
    matches = [m.span() for m in re.finditer(re.escape(predicate), text) if m.start() in starts and m.end() in ends]
    if not matches:
        raise ValueError(f"predicate {predicate!r} is not a word of {text[:60]!r}")
    if len(matches) > 1:
        indices = ", ".join(str(starts[start]) for start, _ in matches)
        raise ValueError(f"predicate {predicate!r} occurs {len(matches)} times; use the index of its word: {indices}")
    return starts[matches[0][0]], ends[matches[0][1]] + 1


def predicate_index(predicate: object, words: Sequence[str]) -> int:
    """Return the index of a predicate of one word, see `find_predicate`. Raises ValueError."""
    sentence = locate_words(words)
    first, end = find_predicate(predicate, sentence["text"], sentence["positions"])
    if end != first + 1:
        raise ValueError(f"predicate {predicate!r} is {end - first} words, not one")
    return first


# -- tags


def parse_tag(tag: str) -> tuple[str, str | None]:
    """Return `(prefix, label)`: ("B", "PER") for B-PER, ("", None) for O, ("S", "NOUN") for a tag without prefix."""
    if tag in OUTSIDE:
        return "", None
    match = _PREFIXED.fullmatch(tag)
    return (match[1], match[2]) if match else ("S", tag)


def spans(tags: Iterable[str]) -> list[Span]:
    """Return the spans in a sentence's tags of any scheme: IOB1, IOB2, IOE, BIOES, BMES, BILOU.

    The rules are those of conlleval (Tjong Kim Sang and Buchholz 2000) and seqeval: a span begins at B, S or U, where
    the label changes, and after O, E, L, S or U.
    """
    out: list[Span] = []
    start, inside, ended = 0, None, True
    for i, tag in enumerate([*tags, "O"]):
        prefix, label = parse_tag(tag)
        begins = label is not None and (prefix in "BSU" or label != inside or ended)
        if inside is not None and (label is None or begins):
            out.append((inside, start, i))
        if begins:
            start = i
        inside, ended = label, prefix in "ELSU"
    return out


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Return the same spans in IOB2. A row of bare letters (B, M, E, S: word segmentation) has spans labeled `_`."""
    if all(tag == "O" or (len(tag) == 1 and tag in "BIMELSU") for tag in tags):
        tags = [tag if tag == "O" else f"{tag}-_" for tag in tags]
    out = ["O"] * len(tags)
    for label, start, end in spans(tags):
        out[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return out


def read_words(value: object) -> list[str]:
    """Return the words in a raw row: a list of words, or a text, which is split. Raises ValueError."""
    return _strings([word for word, _ in split_words(value)] if isinstance(value, str) else value, "word", "text")


def is_words(sentence: object) -> bool:
    """Whether a sentence is a list of words, and not a text or a list of tokens with their positions."""
    return isinstance(sentence, (list, tuple)) and any(isinstance(word, str) for word in sentence)


def read_tags(value: object, words: Sequence[str]) -> list[str]:
    """Return the tag of each word in IOB2. Raises ValueError."""
    tags = _strings(value, "tag", "a name such as B-PER or O")
    if len(tags) != len(words):
        raise ValueError(f"{len(tags)} tags for {len(words)} words")
    return to_iob2(tags)


def read_sentence(sentence: object, annotation: object) -> tuple[list[str], list[str]]:
    """Return the words of a sentence, and the tag of each in IOB2. Raises ValueError.

    `annotation` holds the tags, or else spans in characters of the text as doccano, spaCy, Prodigy and Label Studio
    export them: `[start, end, label]`, `{"start", "end", "label"}`, or `[{"result": [{"value": {…}}]}]`.
    """
    is_spans = isinstance(annotation, list) and all(isinstance(span, (Mapping, list, tuple)) for span in annotation)
    if is_words(sentence) or not is_spans:
        words = read_words(sentence)
        return words, read_tags(annotation, words)
    if isinstance(sentence, Mapping) and not annotation:  # an unlabeled task of Label Studio
        raise ValueError("not annotated")
    located = locate_words(sentence)
    text, words, positions = located["text"], read_words(located["tokens"]), located["positions"]
    starts, ends = ({position[side]: i for i, position in enumerate(positions)} for side in (0, 1))
    tags = ["O"] * len(words)
    for start, end, label, quoted in _read_offsets(annotation):
        name, piece = (
            f"span {label!r} from {start} to {end}",
            text[start:end].strip() if 0 <= start < end <= len(text) else "",
        )
        if isinstance(quoted, str) and "".join(quoted.replace("\\n", "").split()) != "".join(piece.split()):
            raise ValueError(f"{name} is {piece[:40]!r} in the text, but {quoted[:40]!r} in the annotation")
        first = starts.get(text.find(piece, start)) if piece else None
        last = ends.get(text.find(piece, start) + len(piece))
        if first is None or last is None:
            around = text[max(start - 10, 0) : max(end, 0) + 10]
            raise ValueError(f"{name} is not made of whole words: {piece[:40]!r} in {around!r}")
        if {*tags[first : last + 1]} != {"O"}:
            raise ValueError(f"{name} overlaps another one")
        tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
    return words, tags


def _read_offsets(annotation: list[Any]) -> list[tuple[int, int, str, str | None]]:
    """Return `(start, end, label, text)` of each span; the text only if the annotation has it. Raises ValueError."""
    if annotation and all(isinstance(entry, Mapping) and "result" in entry for entry in annotation):  # Label Studio
        given = [entry.get("result") or [] for entry in annotation if not entry.get("was_cancelled")]
        values = [[part["value"] for part in result if "labels" in part.get("value", ())] for result in given]
        if not values or any(value != values[0] for value in values):
            raise ValueError(
                f"{len(values)} annotations that differ; keep one" if values else "skipped by the annotator"
            )
        annotation = values[0]
    offsets = []
    for entry in annotation:
        values = entry if isinstance(entry, Mapping) else dict(zip(("start", "end", "label"), entry, strict=False))
        start, end = (values.get(side, values.get(f"{side}_offset")) for side in ("start", "end"))
        labels = values.get("labels", values.get("label"))
        label = labels[0] if isinstance(labels, list) and len(labels) == 1 else labels
        if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
            raise ValueError(f"{str(entry)[:60]} is not a span of start, end and one label")
        offsets.append((start, end, label, values.get("text")))
    return offsets


def _strings(value: object, noun: str, expected: str) -> list[str]:
    if not value or not isinstance(value, (list, tuple)):
        raise ValueError(f"{noun}s are {type(value).__name__}, not a list" if value else f"no {noun}s")
    for i, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{noun} {i} is {text!r}, not {expected}")
    return list(value)


# -- sub-words


def encode_windows(sentences: Sequence[Words], tokenizer: Tokenizer, max_length: int) -> list[Window]:
    """Encode sentences as windows of at most `max_length` tokens; the windows of a sentence overlap by a quarter.

    Each word is read in one window, the one that shows most of its context; a word that the tokenizer drops (a lone
    control character) is read in none. Raises UsageError if `max_length` leaves no room for a word.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 1:
        fix = f"use at least {max_length - room + 1}"
        raise UsageError(f"data.max_length: {max_length} tokens leave no room for a word; {fix}")
    spaced = _needs_spaces(tokenizer)
    encoded = tokenizer(
        [pretokenized(sentence, spaced) for sentence in sentences], is_split_into_words=True, truncation=True,
        max_length=max_length, stride=room // 4, return_overflowing_tokens=True, return_attention_mask=False,
    )  # fmt: skip
    owners = encoded["overflow_to_sample_mapping"]
    best: dict[tuple[int, int], tuple[int, int, int]] = {}  # (sentence, word): (distance to the edge, window, position)
    for window, sentence in enumerate(owners):
        words = encoded.word_ids(window)
        inner = [i for i, word in enumerate(words) if word is not None]
        for i in inner:
            if i == inner[0] or words[i - 1] != words[i]:
                distance = min(i - inner[0], inner[-1] - i)
                if distance > best.get((sentence, words[i]), (-1, 0, 0))[0]:
                    best[sentence, words[i]] = distance, window, i
    read = [[-1] * len(ids) for ids in encoded["input_ids"]]
    for (sentence, word), (_, window, position) in best.items():
        read[window][position] = sentences[sentence][word][1]
    return list(zip(owners, encoded["input_ids"], read, strict=True))


def pretokenized(sentence: Words, spaced: bool) -> list[str]:
    """Return the words to pass to the tokenizer, with the spaces between them if `spaced`; markers have none."""
    words = [word for word, index in sentence if index != MARK]
    pieces = iter(join_words(words) if spaced else words)
    return [mark if index == MARK else next(pieces) for mark, index in sentence]


def _needs_spaces(tokenizer: Tokenizer) -> bool:
    """Whether words must include the space before them to be encoded as in running text, found by trying.

    Byte-level BPE needs it; WordPiece ignores it; some SentencePiece models add it themselves.
    """
    text, words = tokenizer("a b", add_special_tokens=False), [["a", " b"]]
    return text["input_ids"] == tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"][0]
