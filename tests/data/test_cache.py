"""The cache of prepared data: where it is, what its keys depend on, and that only complete entries are read."""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset, concatenate_datasets
from huggingface_hub import constants

from llmkit.data import cache
from llmkit.data.features import prepare_features
from llmkit.models.tokenizers import load_tokenizer
from llmkit.tasks import CausalLM, TextClassification

ROWS = Dataset.from_list([{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(10)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "env, expected",
    [
        ({"LLMKIT_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/llmkit"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/llmkit"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/llmkit"),
    ],
)
def test_cache_root_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
) -> None:
    with monkeypatch.context() as patch:
        for name in ("LLMKIT_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            patch.delenv(name, raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        importlib.reload(constants)  # reads the environment when it is imported
        root = str(cache.cache_root())
    importlib.reload(constants)
    assert root == expected


# -- entries


def test_entry_is_built_once(folder: Path) -> None:
    calls = []

    def build() -> tuple[Dataset, cache.Notes]:
        calls.append(1)
        return ROWS, {"tokens": 7}

    first, again = (cache.load_or_build("kind", "key", build) for _ in range(2))
    assert (first[1:], again[1:]) == (({"tokens": 7}, False), ({"tokens": 7}, True)) and calls == [1]
    assert first[0].to_list() == again[0].to_list() == ROWS.to_list()
    assert [p.name for p in folder.iterdir()] == ["kind-key"]


def test_entry_without_notes_is_incomplete_and_built_again(folder: Path) -> None:
    for _ in range(2):
        dataset, _, cached = cache.load_or_build("kind", "key", lambda: (ROWS, {}))
        assert dataset.to_list() == ROWS.to_list() and not cached
        (folder / "kind-key" / "notes.json").unlink()


def test_failed_build_leaves_no_entry(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.load_or_build_folder("kind", "key", lambda new: {"tokens": 1 // 0})
    assert list(folder.iterdir()) == []


# -- keys


def test_digest_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert cache.digest({"a": 1, "b": [2]}) == cache.digest({"b": [2], "a": 1}) != cache.digest({"a": 1, "b": [3]})


def test_digest_depends_on_the_versions_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    version, before = importlib.metadata.version, cache.digest("a")
    for changed in ("llmkit", "tokenizers", "transformers", "datasets"):
        monkeypatch.setattr("importlib.metadata.version", lambda p, c=changed: "0" if p == c else version(p))
        assert cache.digest("a") != before


def test_rows_digest_depends_on_content_and_not_on_chunks() -> None:
    parts = concatenate_datasets([ROWS.select(range(3)), ROWS.select(range(3, 10))])
    assert cache.rows_digest(parts) == cache.rows_digest(ROWS)
    assert cache.rows_digest(ROWS.select(range(9))) != cache.rows_digest(ROWS)
    assert cache.rows_digest(ROWS.select(range(10)[::-1])) != cache.rows_digest(ROWS)
    assert cache.rows_digest(ROWS.rename_column("label", "mood")) != cache.rows_digest(ROWS)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of llmkit's code, which the cache takes for llmkit."""
    copy = tmp_path / "llmkit"
    shutil.copytree(cache.PACKAGE, copy, ignore=shutil.ignore_patterns("bundled", "__pycache__"))
    monkeypatch.setattr(cache, "PACKAGE", copy)
    return copy


@pytest.mark.parametrize(
    "file", ["task.py", "collate.py", "data/features.py", "data/conll.py", "models/tokenizers.py", "tasks/masked_lm.py"]
)
def test_code_digest_depends_on_llmkits_own_code(package: Path, file: str) -> None:
    before = cache.code_digest(CausalLM)
    assert cache.code_digest(CausalLM) == before
    with (package / file).open("a", encoding="utf-8") as code:
        code.write("# changed\n")
    assert cache.code_digest(CausalLM) != before


@pytest.mark.parametrize("folder", [".", "data", "models", "tasks"])
def test_code_digest_depends_on_added_files(package: Path, folder: str) -> None:
    before = cache.code_digest(CausalLM)
    (package / folder / "added.py").write_text("VALUE = 1\n")
    assert cache.code_digest(CausalLM) != before


def test_code_digest_does_not_depend_on_code_that_makes_no_features(package: Path) -> None:
    before = cache.code_digest(CausalLM)
    for folder in ("training", "metrics", "cli"):
        (package / folder / "added.py").write_text("VALUE = 1\n")
    assert cache.code_digest(CausalLM) == before


def test_code_digest_depends_on_the_class() -> None:
    assert cache.code_digest(CausalLM) != cache.code_digest(TextClassification)


BASE = """
from llmkit.tasks import CausalLM

class Base(CausalLM):
    def encode(self, rows, tokenizer, max_length):
        return {{"input_ids": [[{number}]] * len(rows["text"]), "row": list(range(len(rows["text"])))}}
"""
TASK = "from base_of_changing_task import Base\n\nclass Mine(Base):\n    number = {number}\n"


def import_task(folder: Path, base: int, task: int, monkeypatch: pytest.MonkeyPatch) -> type[CausalLM]:
    folder.mkdir()
    (folder / "base_of_changing_task.py").write_text(BASE.format(number=base))
    (folder / "changing_task.py").write_text(TASK.format(number=task))
    monkeypatch.syspath_prepend(folder)
    for name in ("changing_task", "base_of_changing_task"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("changing_task").Mine


def test_changed_outside_task_or_base_class_makes_new_features(
    folder: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, ids = [], []
    for i, (base, task) in enumerate([(5, 1), (5, 1), (6, 1), (5, 2)]):
        cls = import_task(tmp_path / str(i), base, task, monkeypatch)
        digests.append(cache.code_digest(cls))
        features = prepare_features(cls(), {"train": ROWS}, load_tokenizer(str(tiny_bert)), 8, False)
        ids.append(features["train"][0]["input_ids"])
    same, again, other_base, other_task = digests
    assert same == again and len({same, other_base, other_task}) == 3
    assert ids == [[5], [5], [6], [5]] and len(list(folder.iterdir())) == 3


def test_code_digest_depends_on_a_helper_module_of_an_outside_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for number in (1, 2):
        (tmp_path / f"helper_{number}").mkdir()
        (tmp_path / f"helper_{number}" / "helper_of_task.py").write_text(f"WIDTH = {number}\n")
        source = "import helper_of_task\nfrom llmkit.tasks import CausalLM\n\nclass Mine(CausalLM):\n    pass\n"
        (tmp_path / f"helper_{number}" / "helped_task.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / f"helper_{number}")
        for name in ("helper_of_task", "helped_task"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        digests += [cache.code_digest(importlib.import_module("helped_task").Mine) for _ in range(2)]
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_code_digest_of_an_interactively_defined_task() -> None:
    @dataclass(frozen=True)
    class Mine(CausalLM):
        pass

    Mine.__module__ = "__interactive__"
    assert cache.code_digest(Mine) == cache.code_digest(Mine)
