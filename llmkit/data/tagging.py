"""Words and their tags: a text split into words, words as one text, sub-words of long sentences, tags read as spans."""

import collections
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmkit.errors import RecipeError

Span = tuple[str, int, int]
"""`(label, first word, last word + 1)`."""

Words = Sequence[tuple[str, int]]
"""Of a sentence, each with its number, or MARK or UNREAD."""

OUTSIDE = ("O", "_")
MARK, UNREAD = -1, -2
"""In place of a word's number: what is no word of the sentence, and a word whose tag is not asked for."""
_SCHEMED = re.compile(r"([BIMELSU])-(.+)", re.DOTALL)
_WIDE = r"\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"  # written without spaces
_CLOSES = re.compile(rf"[{_WIDE},.;:!?%)\]}}’”…]|'\w|n't$")
_OPENS = re.compile(rf".*[{_WIDE}(\[{{“‘]", re.DOTALL)


@functools.cache
def _splitter() -> Any:
    from tokenizers import Regex, pre_tokenizers

    chinese = pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")
    return pre_tokenizers.Sequence([chinese, pre_tokenizers.BertPreTokenizer()])


def split(text: str) -> list[tuple[str, int, int]]:
    """`(word, start, end)` in characters: parted by white space and punctuation; each Chinese character is a word."""
    return [(word, start, end) for word, (start, end) in _splitter().pre_tokenize_str(text)]


def join(words: Sequence[str]) -> list[str]:
    """Words as they follow each other in a text, with the space before each where one is written: none before a comma,
    within brackets, or between Chinese words. Joined by "", they are the text."""
    spaced = [
        f" {word}" if not _CLOSES.match(word) and not _OPENS.fullmatch(before) else word
        for before, word in itertools.pairwise(words)
    ]
    return [*words[:1], *spaced]


def places(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each word of `join` stands in the text, in characters."""
    ends = itertools.accumulate(map(len, pieces))
    return [(end - len(piece.removeprefix(" ")), end) for piece, end in zip(pieces, ends, strict=True)]


def situate(sentence: Any) -> dict[str, Any]:
    """`{text, tokens, places}` of a text, or of a list of words. Raises ValueError."""
    if isinstance(sentence, str):
        found = split(sentence)
        return {"text": sentence, "tokens": [w for w, _, _ in found], "places": [(a, b) for _, a, b in found]}
    words = read_words(sentence)
    pieces = join(words)
    return {"text": "".join(pieces), "tokens": words, "places": places(pieces)}


def locate(wanted: Any, text: str, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """`(first word, last word + 1)` of a word's number (from 0), or of words that stand once. Raises ValueError."""
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if not 0 <= wanted < len(places):
            raise ValueError(f"predicate {wanted} is no word's number: 0 to {len(places) - 1}")
        return wanted, wanted + 1
    if not isinstance(wanted, str) or not wanted:
        raise ValueError(f"predicate {wanted!r} is neither a word nor its number")
    starts, ends = ({place[side]: i for i, place in enumerate(places)} for side in (0, 1))
    stands = [m.start() for m in re.finditer(re.escape(wanted), text) if m.start() in starts and m.end() in ends]
    if not stands:
        raise ValueError(f"predicate {wanted!r} is no word of {text[:60]!r}")
    if len(stands) > 1:
        numbers = ", ".join(str(starts[start]) for start in stands)
        raise ValueError(f"predicate {wanted!r} stands {len(stands)} times: give its word's number, one of {numbers}")
    return starts[stands[0]], ends[stands[0] + len(wanted)] + 1


def number_of(wanted: Any, words: Sequence[str]) -> int:
    """A word's number from what `locate` takes. Raises ValueError."""
    found = situate(words)
    first, last = locate(wanted, found["text"], found["places"])
    if last != first + 1:
        raise ValueError(f"predicate {wanted!r} is {last - first} words, not one")
    return first


def parse(tag: str) -> tuple[str, str | None]:
    """`(prefix, label)`: ("B", "PER") of B-PER, ("", None) of O. A tag without prefix is a whole: ("S", "NOUN")."""
    if tag in OUTSIDE:
        return "", None
    schemed = _SCHEMED.fullmatch(tag)
    return (schemed[1], schemed[2]) if schemed else ("S", tag)


def spans(tags: Iterable[str]) -> list[Span]:
    """The spans of a sentence's tags, whatever their scheme (IOB1, IOB2, IOE, BIOES, BMES, BILOU): what conlleval
    (Tjong Kim Sang and Buchholz 2000) reads in them, and seqeval. A span begins at B, S or U, where the label changes,
    and after O, E, L, S or U."""
    found: list[Span] = []
    start, inside, ended = 0, None, True
    for i, tag in enumerate([*tags, "O"]):
        prefix, label = parse(tag)
        begins = label is not None and (prefix in "BSU" or label != inside or ended)
        if inside is not None and (label is None or begins):
            found.append((inside, start, i))
        if begins:
            start = i
        inside, ended = label, prefix in "ELSU"
    return found


def iob2(tags: Sequence[str]) -> list[str]:
    """The same spans in IOB2. A row of bare letters (B, M, E, S: word segmentation) has spans of the label `_`."""
    if all(tag == "O" or (len(tag) == 1 and tag in "BIMELSU") for tag in tags):
        tags = [tag if tag == "O" else f"{tag}-_" for tag in tags]
    named = ["O"] * len(tags)
    for label, start, end in spans(tags):
        named[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return named


def read_words(value: Any) -> list[str]:
    """Words of a raw row: a list of them, or a text that is split here. Raises ValueError."""
    return _texts([word for word, _, _ in split(value)] if isinstance(value, str) else value, "word", "a text")


def read_tags(value: Any, words: Sequence[str]) -> list[str]:
    """A tag of each word, in IOB2. Raises ValueError."""
    tags = _texts(value, "tag", "a name such as B-PER or O")
    if len(tags) != len(words):
        raise ValueError(f"{len(tags)} tags for {len(words)} words")
    return iob2(tags)


def _texts(value: Any, kind: str, form: str) -> list[str]:
    if not value or not isinstance(value, (list, tuple)):
        raise ValueError(f"{kind}s are {type(value).__name__}, not a list of them" if value else f"no {kind}s")
    for i, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{kind} {i} is {text!r}, not {form}")
    return list(value)


def prefers_spaces(tokenizer: Any) -> bool:
    """Whether split words must bring the space before them to be encoded as in a running text: byte-level BPE wants it,
    WordPiece does not mind, some sentencepieces add it themselves. Found by trying."""
    running, given = tokenizer("a b", add_special_tokens=False), [["a", " b"]]
    return running["input_ids"] == tokenizer(given, is_split_into_words=True, add_special_tokens=False)["input_ids"][0]


def windows(sentences: Sequence[Words], tokenizer: Any, max_length: int) -> list[tuple[int, list[int], list[int]]]:
    """`(sentence, ids, reads)` of each window: a sentence of more than `max_length` sub-words is several, of which
    neighbours share a quarter. sentences: words with their numbers (or MARK, UNREAD). `reads` has a word's number at
    its first sub-word, and less than 0 elsewhere. Each word is read once, in the window where it stands farthest from
    the edges; a word that the tokenizer passes over (a lone control character) is read nowhere."""
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 1:
        fix = f"give at least {max_length - room + 1}"
        raise RecipeError(f"data.max_length: {max_length} tokens leave no room for a word; {fix}")
    spaced = prefers_spaces(tokenizer)
    encoded = tokenizer(
        [pieces(sentence, spaced) for sentence in sentences],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        stride=room // 4,
        return_overflowing_tokens=True,
        return_attention_mask=False,
    )
    owner = encoded["overflow_to_sample_mapping"]
    found = collections.defaultdict(list)  # of each (sentence, piece), where it begins: (distance, -window, place)
    for window, sentence in enumerate(owner):
        numbers = encoded.word_ids(window)
        inner = [i for i, n in enumerate(numbers) if n is not None]
        for i in inner:
            if i == inner[0] or numbers[i - 1] != numbers[i]:
                found[sentence, numbers[i]].append((min(i - inner[0], inner[-1] - i), -window, i))
    reads = [[-1] * len(ids) for ids in encoded["input_ids"]]
    for (sentence, piece), begins in found.items():
        _, window, place = max(begins)
        reads[-window][place] = sentences[sentence][piece][1]
    return list(zip(owner, encoded["input_ids"], reads, strict=True))


def pieces(sentence: Words, spaced: bool) -> list[str]:
    """Words as the tokenizer is given them; a mark has no space before it."""
    words = [word for word, number in sentence if number != MARK]
    given = iter(join(words) if spaced else words)
    return [next(given) if number != MARK else mark for mark, number in sentence]
