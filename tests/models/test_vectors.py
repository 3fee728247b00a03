"""Word vectors from a file: written to the rows of their words, with the share of words logged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS

from llmkit import ModelConfig, UsageError
from llmkit.models.load import check, load_model
from llmkit.models.tokenizers import train_tokenizer
from llmkit.models.vectors import width
from llmkit.tasks import CausalLM

GLOVE = "the 1 2 3\nfox -0.5 0.25 1e-3\n. . . 7 7 7\n狐 4 5 6\nCrow 9 9 9\ncrow 8 8 8\nunheard 1 1 1\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("word", 300, iter(TEXTS))


def load(tokenizer: Any, file: Path, **config: Any) -> Any:
    fields = {"embedding_size": 3, "hidden_size": 8, **config}
    model = ModelConfig(name="lstm", from_scratch=True, config=fields, vectors=str(file))
    assert check(model, CausalLM()) == []
    torch.manual_seed(0)
    return load_model(model, CausalLM(), tokenizer)


def write(folder: Path, content: str | bytes, name: str = "vectors.txt") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("form", ["glove", "word2vec", "compressed"])
def test_vectors_are_written_to_the_rows_of_their_words(
    form: str, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = {"glove": GLOVE, "word2vec": f"7 3\n{GLOVE}", "compressed": gzip.compress(GLOVE.encode())}[form]
    file = write(tmp_path, content, "vectors.txt.gz" if form == "compressed" else "vectors.txt")
    table = load(tokenizer, file).get_input_embeddings().weight
    ids = tokenizer.get_vocab()
    # "The" is not in the file, but "the" is; "crow" is in the file as spelled
    expected = {"the": [1, 2, 3], "The": [1, 2, 3], "fox": [-0.5, 0.25, 1e-3], "狐": [4, 5, 6], "crow": [8, 8, 8]}
    for word, numbers in expected.items():
        assert torch.allclose(table[ids[word]], torch.tensor(numbers, dtype=torch.float32)), word
    words = len(tokenizer) - 2  # without the special tokens
    share = f"{len(expected)} of the tokenizer's {words} words ({len(expected) / words:.0%})"
    assert share in capsys.readouterr().err


def test_other_rows_are_unchanged(tokenizer: Any, tmp_path: Path) -> None:
    file = write(tmp_path, GLOVE)
    table = load(tokenizer, file).get_input_embeddings().weight
    plain = ModelConfig(name="lstm", from_scratch=True, config={"embedding_size": 3, "hidden_size": 8})
    torch.manual_seed(0)
    before = load_model(plain, CausalLM(), tokenizer).get_input_embeddings().weight
    changed = {i for i in range(len(tokenizer)) if not torch.equal(table[i], before[i])}
    assert {tokenizer.convert_ids_to_tokens(i) for i in changed} == {"the", "The", "fox", "狐", "crow"}


def test_tied_output_weights_are_the_vectors_too(tokenizer: Any, tmp_path: Path) -> None:
    model = load(tokenizer, write(tmp_path, GLOVE), hidden_size=3, tie_word_embeddings=True)
    assert model.lm_head.weight[tokenizer.get_vocab()["the"]].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "content, needles",
    [
        (b"", ("is empty",)),
        (b"3 2\nfox\xff\xfe\x80 junk", ("is not text",)),
        (b"the cat sat\n", ("line 1",)),
        (b"the 1 2 3\nfox 1 x 3\n", ("line 2", "3 numbers")),
        (b"the 1 2 3\nfox 1\n", ("line 2", "3 numbers")),
        (b"unheard 1 2 3\n", ("none of",)),
        (b"the 1 2\n", ("2 numbers", "3", "--model.config.embedding_size 2")),
        (None, ("no such file",)),
    ],
)
def test_invalid_file_is_named(content: bytes | None, needles: tuple[str, ...], tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    if content is not None:
        file.write_bytes(content)
    fields = {"embedding_size": 3, "hidden_size": 8}
    model = ModelConfig(name="lstm", from_scratch=True, config=fields, vectors=str(file))
    faults = check(model, CausalLM())
    if not faults:
        with pytest.raises(UsageError) as error:
            load_model(model, CausalLM(), tokenizer)
        faults = error.value.faults
    (fault,) = faults
    assert [n for n in ("model.vectors", str(file), *needles) if n not in fault] == [] and "\n" not in fault


def test_vectors_for_a_pretrained_model_are_an_error(tiny_gpt2: Path, tmp_path: Path) -> None:
    (fault,) = check(ModelConfig(name=str(tiny_gpt2), vectors=str(write(tmp_path, GLOVE))), CausalLM())
    assert "model.vectors" in fault and "--model.from_scratch" in fault


def test_vectors_fit_any_new_model(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path, GLOVE)
    config = {"n_embd": 3, "n_head": 1, "n_layer": 1}
    model_config = ModelConfig(name="gpt2", from_scratch=True, config=config, vectors=str(file))
    assert check(model_config, CausalLM()) == [] and width(str(file)) == 3
    model = load_model(model_config, CausalLM(), tokenizer)
    assert model.get_input_embeddings().weight[tokenizer.get_vocab()["the"]].tolist() == [1, 2, 3]
