"""The files of sentence-transformers are read in its old and new formats, and written so that both read them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmkit.errors import UsageError
from llmkit.models import sentence_transformers


def write_folder(folder: Path, pooling: Any, *modules: str) -> Path:
    kinds = ("Transformer", "Pooling", *modules)
    content = [{"idx": i, "path": f"{i}_{k}" if i else "", "type": f"x.models.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(content))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_read_returns_nothing_without_modules_json(tmp_path: Path) -> None:
    assert sentence_transformers.read(tmp_path) == (None, None, [])


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}, "cls"),  # since 6.0
        ({"pooling_mode": ["mean"]}, "mean"),
        ({}, None),
    ],
)
def test_read_finds_pooling_of_each_version(tmp_path: Path, config: dict, pooling: str | None) -> None:
    folder = write_folder(tmp_path, config, "Normalize")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert sentence_transformers.read(folder) == (pooling, 128, [])


@pytest.mark.parametrize(
    ("config", "modules", "unsupported"),
    [
        ({"pooling_mode_max_tokens": True}, (), ["pooling by max"]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), ["pooling by mean_sqrt_len"]),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), ["pooling by cls and mean"]),
        ({"pooling_mode_lasttoken": True}, (), ["pooling by lasttoken"]),
        ({"pooling_mode": "lasttoken"}, (), ["pooling by lasttoken"]),
        ({"pooling_mode_mean_tokens": True}, ("Dense", "Normalize"), ["Dense"]),
    ],
)
def test_read_names_unsupported_steps(tmp_path: Path, config: dict, modules: tuple, unsupported: list) -> None:
    assert sentence_transformers.read(write_folder(tmp_path, config, *modules)) == (None, None, unsupported)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x.Pooling"}]'])
def test_read_refuses_invalid_modules_json_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UsageError, match=r"modules.json") as e:
        sentence_transformers.read(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("longest", [0, -1, "many"])
def test_read_refuses_invalid_max_seq_length(tmp_path: Path, longest: Any) -> None:
    folder = write_folder(tmp_path, {})
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    with pytest.raises(UsageError, match=r"sentence_bert_config.json: max_seq_length .* is not a whole number above 0"):
        sentence_transformers.read(folder)


@pytest.mark.parametrize("pooling", sentence_transformers.POOLING)
@pytest.mark.parametrize("longest", [None, 16])
def test_read_returns_what_write_wrote(tmp_path: Path, pooling: str, longest: int | None) -> None:
    sentence_transformers.write(tmp_path, pooling, longest, 32)
    assert sentence_transformers.read(tmp_path) == (pooling, longest, [])
    config = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert config["word_embedding_dimension"] == 32
