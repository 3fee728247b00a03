"""The talk of a run: stderr, rank 0 alone. What a command answers goes to stdout, and not through here."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

ACCENTS = {"decided": "36", "warning": "33", "data": "34", "result": "32"}


def is_main_process() -> bool:
    """True on the one process that speaks (launchers set RANK before any library is imported)."""
    return int(os.environ.get("RANK", "0")) == 0


_held: list[str] | None = None


@contextlib.contextmanager
def decisions_held() -> Iterator[None]:
    """Keep what is decided until every check within has passed; a fault drops it unsaid."""
    global _held
    outer, _held = _held, []
    try:
        yield
        said = _held
    finally:
        _held = outer
    for text in said:
        say(text, "decided")


def say(text: str, kind: str = "") -> None:
    """Print `text` on stderr, after its kind in colour when a terminal reads it."""
    if kind == "decided" and _held is not None:
        _held.append(text)
        return
    if not is_main_process():
        return
    if kind:
        colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        head = f"\033[{ACCENTS[kind]}m{kind}\033[0m" if colour else kind
        text = f"{head:<{17 if colour else 8}} {text}"
    print(text, file=sys.stderr, flush=True)


def hush() -> None:
    """Keep the libraries' own bars and notices off the screen: what matters of them, llmkit says in a line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|datasets|peft)\b.*")
    if os.environ.get("LLMKIT_DEBUG") == "1":
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, which the next lines do
    import datasets
    import transformers

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers' notices and bars kept off the screen for a while: of a call whose every argument is made here."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def figure(value: float) -> str:
    """Four decimals; of what they cannot show, two digits, unless it is rounding."""
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
