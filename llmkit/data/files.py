"""Files of data: how they are named, compressed and encoded."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmkit.data import encodings
from llmkit.errors import UsageError
from llmkit.recipe import DataConfig

DEFAULTS = DataConfig()
RawRow = tuple[str, Any]
"""`(where, row)`: an error names `where`, such as `my.jsonl line 12`; a row that cannot be parsed is a ValueError."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""File name extensions of compressed files, and the name of the compression."""


@dataclass(frozen=True)
class File:
    """A file, the part that it is read for, and the name of one of its lists (.json)."""

    path: Path
    part: str
    config: DataConfig = DEFAULTS
    list_name: str = ""

    @property
    def suffix(self) -> str:
        return suffix_of(self.path)

    def lines(self, newline: str = "") -> Iterator[str]:
        """Yield the lines of a text file with their ends. Raises UsageError if it cannot be read."""
        return lines_of(self.path, self.config.encoding, newline)


def suffix_of(path: Path) -> str:
    """Return `.jsonl` for a.jsonl, b.jsonl.gz and c.JSONL.zst; empty if there is none."""
    return next((s for s in map(str.lower, reversed(path.suffixes)) if s not in COMPRESSED), "")


def state_of(path: Path) -> tuple[Path, int, int]:
    """Return what changes with a file, as the key of what is remembered of it."""
    stat = path.stat()
    return path.resolve(), stat.st_size, stat.st_mtime_ns


def open_text(path: Path, encoding: str = "utf-8-sig", newline: str = "") -> io.TextIOWrapper:
    """Open a text file, optionally compressed (.gz, .zst)."""
    file = pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower()))
    return io.TextIOWrapper(file, encoding, newline=newline)


def lines_of(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    """Yield the lines of a text file, without its byte-order mark. Raises UsageError if it cannot be read."""
    try:
        with open_text(path, encoding, newline) as file:
            first = next(file, "")
            if "\0" in first and encodings.by_zeros(first.encode()):
                raise UnicodeError
            yield first.removeprefix("\ufeff")
            yield from file
    except UnicodeError:
        content = pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower())).read()
        raise UsageError(f"{path}: {encodings.fault(content, encoding)}") from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e})") from None
