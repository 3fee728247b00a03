"""Word vectors of GloVe or word2vec, in their text formats, as the first embeddings of a new model."""

from collections.abc import Container, Iterator
from pathlib import Path

import torch

from llmkit.data.files import open_text
from llmkit.errors import UsageError
from llmkit.log import log
from llmkit.task import Tokenizer


def width(file: str) -> int:
    """Return the number of dimensions of the vectors in a file. Raises UsageError if it holds none."""
    for _, vector in _read(file):
        return len(vector)
    raise UsageError(f"model.vectors: {file} is empty")


def fill_embeddings(embeddings: torch.Tensor, tokenizer: Tokenizer, file: str) -> None:
    """Write the vectors of a file into `embeddings` (entries, width), for tokens that are one of its words.

    A word is looked up as spelled, then in lower case. Other rows stay as they are. Raises UsageError if the file has
    no word of the tokenizer.
    """
    special = set(tokenizer.all_special_ids)
    words = {i: w for i in range(len(tokenizer)) if i not in special and (w := tokenizer.decode([i]).strip())}
    known = dict(_read(file, {*words.values(), *(w.lower() for w in words.values())}))
    rows = {i: vector for i, w in words.items() if (vector := known.get(w) or known.get(w.lower()))}
    if not rows:
        raise UsageError(f"model.vectors: {file} has none of the tokenizer's {len(words):,} words")
    with torch.no_grad():
        embeddings[list(rows)] = torch.tensor(list(rows.values())).to(embeddings)
    share = f"{len(rows):,} of the tokenizer's {len(words):,} words ({len(rows) / len(words):.0%})"
    log(f"vectors: {Path(file).name} has {share}; the others start at random", "config")


def _read(file: str, words: Container[str] | None = None) -> Iterator[tuple[str, list[float]]]:
    """Yield the words of a file with their vectors; only those in `words`, if given.

    A first line of two whole numbers is word2vec's count and width. A word may hold spaces, as in GloVe 840B.
    """
    size = 0
    try:
        with open_text(Path(file)) as lines:
            for number, line in enumerate(lines, 1):
                parts = line.split()
                if number == 1 and len(parts) == 2 and all(p.isdigit() for p in parts):
                    size = int(parts[1])
                    continue
                size = size or len(parts) - 1
                word = " ".join(parts[:-size])
                try:
                    if not word or size < 2:
                        raise ValueError
                    if words is None or word in words:
                        yield word, [float(n) for n in parts[-size:]]
                except ValueError:
                    expected = "a word and its numbers" if size < 2 else f"a word and {size} numbers"
                    raise UsageError(f"model.vectors: {file} line {number} is not {expected}") from None
    except UnicodeDecodeError:
        raise UsageError(f"model.vectors: {file} is not text; convert word2vec's binary format to text") from None
    except OSError as e:
        raise UsageError(f"model.vectors: {file}: {(e.strerror or str(e)).lower()}") from None
