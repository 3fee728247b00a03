"""Word vectors of GloVe or word2vec, in their text format, as a model's first embeddings."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llmkit.console import say
from llmkit.data.sources import open_text
from llmkit.errors import RecipeError


def width(file: str) -> int:
    """How many numbers each vector of the file has. Raises RecipeError where it is no file of word vectors."""
    for _, numbers in _read(file):
        return len(numbers)
    raise RecipeError(f"model.vectors: {file} is empty")


def fill(embeddings: Any, tokenizer: PreTrainedTokenizerBase, file: str) -> None:
    """Write the file's vectors into those rows of `embeddings` (entries, width) whose word it has, as spelled or else
    in small letters, and say how many. The other rows stay. Raises RecipeError where it has none."""
    special = set(tokenizer.all_special_ids)
    words = {i: w for i in range(len(tokenizer)) if i not in special and (w := tokenizer.decode([i]).strip())}
    known = dict(_read(file, {*words.values(), *(w.lower() for w in words.values())}))
    rows = {i: numbers for i, w in words.items() if (numbers := known.get(w) or known.get(w.lower()))}
    if not rows:
        raise RecipeError(f"model.vectors: {file} has none of the tokenizer's {len(words):,} words")
    with torch.no_grad():
        embeddings[list(rows)] = torch.tensor(list(rows.values())).to(embeddings)
    share = f"{len(rows):,} of the tokenizer's {len(words):,} words ({len(rows) / len(words):.0%})"
    say(f"vectors: {Path(file).name} has {share}; the others begin at random", "decided")


def _read(file: str, wanted: Container[str] | None = None) -> Iterator[tuple[str, list[float]]]:
    """Each word that is wanted, and its numbers. A first line of two whole numbers is word2vec's count and width; a
    word may hold spaces (some of GloVe's 840B do)."""
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
                    if wanted is None or word in wanted:
                        yield word, [float(n) for n in parts[-size:]]
                except ValueError:
                    expected = "a word and its numbers" if size < 2 else f"a word and {size} numbers"
                    raise RecipeError(f"model.vectors: {file} line {number} is not {expected}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"model.vectors: {file} is no text; of word2vec's formats the text one is read") from None
    except OSError as e:
        raise RecipeError(f"model.vectors: {file}: {(e.strerror or str(e)).lower()}") from None
