"""Logging to stderr, rank 0 only. The answer of a command goes to stdout, not through this module."""

import contextlib
import importlib
import logging
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar

COLORS = {"config": "36", "warning": "33", "data": "34", "result": "32"}
_held: ContextVar[list[str] | None] = ContextVar("held", default=None)
_truncated: ContextVar[Counter[tuple[str, int]] | None] = ContextVar("truncated", default=None)


def is_main_process() -> bool:
    """Whether this is rank 0. Launchers set RANK before any library is imported."""
    return int(os.environ.get("RANK", "0")) == 0


def log(text: str, tag: str = "") -> None:
    """Print `text` to stderr on rank 0, after `tag` (config, data, warning or result), colored on a terminal."""
    if tag == "config" and (held := _held.get()) is not None:
        held.append(text)
        return
    if not is_main_process():
        return
    if tag:
        colored = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        head = f"\033[{COLORS[tag]}m{tag}\033[0m" if colored else tag
        text = f"{head:<{17 if colored else 8}} {text}"
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def hold_config_lines() -> Iterator[None]:
    """Delay lines tagged `config` until the block ends; drop them if it raises."""
    lines: list[str] = []
    token = _held.set(lines)
    try:
        yield
    finally:
        _held.reset(token)
    for text in lines:
        log(text, "config")


def log_truncated(count: int, noun: str, max_length: int) -> None:
    """Warn of inputs that were cut to `max_length` tokens."""
    if (counts := _truncated.get()) is not None:
        counts[noun, max_length] += count
    elif count:
        log(f"{plural(count, noun)} cut to {max_length} tokens", "warning")


@contextlib.contextmanager
def sum_truncated(counts: Counter[tuple[str, int]]) -> Iterator[None]:
    """Add what `log_truncated` is told in the block to `counts`, for one warning instead of one per batch."""
    token = _truncated.set(counts)
    try:
        yield
    finally:
        _truncated.reset(token)


def log_all_truncated(counts: Counter[tuple[str, int]]) -> None:
    """Warn of the inputs counted by `sum_truncated`."""
    for (noun, max_length), count in counts.items():
        log_truncated(count, noun, max_length)


@contextlib.contextmanager
def quiet_thread(library: str) -> Iterator[None]:
    """Keep the library's own log handlers from printing what this thread logs within the block; its level stays."""
    thread, handlers = threading.get_ident(), [*logging.getLogger(library).handlers]

    def is_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    for handler in handlers:
        handler.addFilter(is_other_thread)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_other_thread)


def quiet_libraries() -> None:
    """Turn off the progress bars and notices of the Hugging Face libraries. For the command line only."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|datasets|peft)\b.*")
    if os.environ.get("LLMKIT_DEBUG") == "1":
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, which the next lines do
    datasets, transformers = importlib.import_module("datasets"), importlib.import_module("transformers")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def format_number(value: float) -> str:
    """Four decimals, or two significant digits where four decimals would show zero (rounding noise excepted)."""
    return f"{value:.1e}" if 1e-6 < abs(value) < 5e-5 else f"{value:.4f}"


def plural(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeo":
        noun = f"{noun[:-1]}ie"
    elif noun.endswith("s"):
        noun += "e"
    return f"{number:,} {noun}s"
