"""Logging to stderr, rank 0 only. The answer of a command goes to stdout, not through this module."""

import contextlib
import importlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

COLORS = {"config": "36", "warning": "33", "data": "34", "result": "32"}
_held: list[str] | None = None
_truncated: Counter[tuple[str, int]] | None = None


def is_main_process() -> bool:
    """Whether this is rank 0. Launchers set RANK before any library is imported."""
    return int(os.environ.get("RANK", "0")) == 0


def log(text: str, tag: str = "") -> None:
    """Print `text` to stderr on rank 0, after `tag` (config, data, warning or result), colored on a terminal."""
    if tag == "config" and _held is not None:
        _held.append(text)
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
    global _held
    outer, _held = _held, []
    try:
        yield
        lines = _held
    finally:
        _held = outer
    for text in lines:
        log(text, "config")


def log_truncated(count: int, noun: str, max_length: int) -> None:
    """Warn of inputs that were cut to `max_length` tokens."""
    if _truncated is not None:
        _truncated[noun, max_length] += count
    elif count:
        log(f"{plural(count, noun)} cut to {max_length} tokens", "warning")


@contextlib.contextmanager
def sum_truncated(counts: Counter[tuple[str, int]]) -> Iterator[None]:
    """Add what `log_truncated` is told in the block to `counts`, for one warning instead of one per batch."""
    global _truncated
    outer, _truncated = _truncated, counts
    try:
        yield
    finally:
        _truncated = outer


def log_all_truncated(counts: Counter[tuple[str, int]]) -> None:
    """Warn of the inputs counted by `sum_truncated`."""
    for (noun, max_length), count in counts.items():
        log_truncated(count, noun, max_length)


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
