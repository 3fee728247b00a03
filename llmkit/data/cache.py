"""What was prepared once, kept on disk under a key made of everything it depends on: reused, never wrongly."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from huggingface_hub import constants

Noted = tuple[datasets.Dataset, dict[str, Any]]
"""A dataset, and what is to be said of it."""
VERSION = 3  # raise it when the shape of what is kept changes


def cache_root() -> Path:
    """`LLMKIT_CACHE`, or llmkit's folder in the cache of the Hugging Face libraries (HF_HOME)."""
    return Path(os.environ.get("LLMKIT_CACHE") or f"{constants.HF_HOME}/llmkit").expanduser()


def digest(*parts: Any) -> str:
    """A key of anything that JSON can hold."""
    content = json.dumps([VERSION, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def rows_digest(rows: datasets.Dataset) -> str:
    """A key of the content of `rows`, whatever file or order of chunks they came in."""
    state = hashlib.sha256(repr(rows.features).encode())
    for batch in rows.with_format("arrow").iter(batch_size=4096):
        state.update(json.dumps(batch.to_pylist(), ensure_ascii=False, sort_keys=True).encode())
    return state.hexdigest()[:32]


def entry(kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any], bool]:
    """`(folder, notes, whether it was there)`. `build` fills a folder and gives its notes. One process of a machine
    builds, the others wait and read."""
    folder, reused = cache_root() / f"{kind}-{key}", True
    with PartialState().local_main_process_first():
        if not (folder / "notes.json").exists():
            reused = False
            shutil.rmtree(folder, ignore_errors=True)  # an entry without notes is a torn one
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as building:
                new = Path(building) / folder.name
                new.mkdir()
                (new / "notes.json").write_text(json.dumps(build(new), ensure_ascii=False), encoding="utf-8")
                with contextlib.suppress(OSError):  # whole or not at all; another machine may have been first
                    new.rename(folder)
    return folder, json.loads((folder / "notes.json").read_text(encoding="utf-8")), reused


def kept(kind: str, key: str, build: Callable[[], Noted]) -> tuple[datasets.Dataset, dict[str, Any], bool]:
    """An `entry` that is a dataset: `(dataset, notes, whether it was there)`."""

    def save(folder: Path) -> dict[str, Any]:
        dataset, notes = build()
        dataset.save_to_disk(str(folder))
        return notes

    folder, notes, reused = entry(kind, key, save)
    return datasets.load_from_disk(str(folder)), notes, reused
