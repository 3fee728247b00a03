"""The cache of prepared data: folders on disk, each under a key of everything that its content depends on."""

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from huggingface_hub import constants

Notes = dict[str, Any]
"""What is logged about an entry, as JSON: counts of tokens, truncated rows, ..."""
PACKAGE = Path(__file__).parent.parent
VERSIONED = ("llmkit", "tokenizers", "transformers", "datasets")


def cache_root() -> Path:
    """Return `LLMKIT_CACHE`, or `llmkit` in the cache folder of the Hugging Face libraries (HF_HOME)."""
    return Path(os.environ.get("LLMKIT_CACHE") or f"{constants.HF_HOME}/llmkit").expanduser()


def digest(*parts: object) -> str:
    """Return a key of anything that JSON can hold, together with the versions of llmkit and the libraries below it."""
    versions = [importlib.metadata.version(package) for package in VERSIONED]
    content = json.dumps([versions, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def rows_digest(rows: datasets.Dataset) -> str:
    """Return a key of the content of `rows`, whatever file or order of chunks they came in."""
    state = hashlib.sha256(repr(rows.features).encode())
    for batch in rows.with_format("arrow").iter(batch_size=4096):
        state.update(json.dumps(batch.to_pylist(), ensure_ascii=False, sort_keys=True).encode())
    return state.hexdigest()[:32]


def code_digest(cls: type) -> str:
    """Return a key of the code that makes features: llmkit's own, the files of `cls` and its base classes, and the modules
    that were loaded from the same folders."""
    files = {*PACKAGE.glob("*.py"), *(f for room in ("data", "models", "tasks") for f in (PACKAGE / room).glob("*.py"))}
    modules = {c.__module__ for c in cls.__mro__ if c.__module__.partition(".")[0] not in ("llmkit", "builtins", "abc")}
    origins = {name: Path(file) for name, m in [*sys.modules.items()] if (file := getattr(m, "__file__", None))}
    folders = {origins[name].parent for name in modules & origins.keys()}
    beside = {name for name, path in origins.items() if folders & {*path.parents} and "site-packages" not in path.parts}
    modules |= {name for name in beside if name.partition(".")[0] not in ("llmkit", "__main__")}
    content = [path.read_text(encoding="utf-8") for path in sorted(files)]
    for name in sorted(modules):
        with contextlib.suppress(OSError, TypeError, KeyError):  # defined in an interactive session
            content.append(inspect.getsource(sys.modules[name]))
    return digest(cls.__qualname__, hashlib.sha256("\0".join(content).encode()).hexdigest())


def load_or_build_folder(kind: str, key: str, build: Callable[[Path], Notes]) -> tuple[Path, Notes, bool]:
    """Return `(folder, notes, whether it was cached)`; `build` fills a new folder and returns its notes.

    One process per machine builds; the others wait and read.
    """
    folder, cached = cache_root() / f"{kind}-{key}", True
    with PartialState().local_main_process_first():
        if not (folder / "notes.json").exists():
            cached = False
            shutil.rmtree(folder, ignore_errors=True)  # an entry without notes is incomplete
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as building:
                new = Path(building) / folder.name
                new.mkdir()
                (new / "notes.json").write_text(json.dumps(build(new), ensure_ascii=False), encoding="utf-8")
                with contextlib.suppress(OSError):  # another machine with the same cache may have been first
                    new.rename(folder)
    return folder, json.loads((folder / "notes.json").read_text(encoding="utf-8")), cached


def load_or_build(
    kind: str, key: str, build: Callable[[], tuple[datasets.Dataset, Notes]]
) -> tuple[datasets.Dataset, Notes, bool]:
    """Return `(dataset, notes, whether it was cached)`, see `load_or_build_folder`."""

    def save(folder: Path) -> Notes:
        dataset, notes = build()
        dataset.save_to_disk(str(folder))
        return notes

    folder, notes, cached = load_or_build_folder(kind, key, save)
    return datasets.load_from_disk(str(folder)), notes, cached
