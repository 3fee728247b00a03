"""Logging to stderr: tags, rank 0, delayed config lines, counts of truncated inputs, numbers and plurals."""

from __future__ import annotations

import io
import sys
import threading
from collections import Counter

import pytest

from llmkit.log import format_number, hold_config_lines, log, log_all_truncated, log_truncated, plural, sum_truncated


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_log_goes_to_stderr_after_a_tag_of_fixed_width(capsys: pytest.CaptureFixture) -> None:
    log("no tag")
    log("three rows", "data")
    log("too high", "warning")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no tag\ndata     three rows\nwarning  too high\n")


@pytest.mark.parametrize(("rank", "logged"), [(None, True), ("0", True), ("1", False)])
def test_only_rank_0_logs(
    rank: str | None, logged: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    log("a line", "data")
    assert (capsys.readouterr().err == "data     a line\n") == logged


def test_tags_are_colored_on_a_terminal_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    log("three rows", "data")
    assert sys.stderr.getvalue() == "\033[34mdata\033[0m     three rows\n"
    monkeypatch.setenv("NO_COLOR", "1")
    log("three rows", "data")
    assert sys.stderr.getvalue().endswith("\ndata     three rows\n")


# -- delayed lines


def test_held_config_lines_are_logged_when_the_block_ends(capsys: pytest.CaptureFixture) -> None:
    with hold_config_lines():
        log("a", "config")
        log("b", "data")
        with hold_config_lines():
            log("c", "config")
        assert capsys.readouterr().err == "data     b\n"
    assert capsys.readouterr().err == "config   a\nconfig   c\n"


def test_threads_hold_lines_and_count_inputs_of_their_own(capsys: pytest.CaptureFixture) -> None:
    """Blocks of two threads end in the order in which they began, not the other way round."""
    inside, ended, counts = threading.Event(), threading.Event(), Counter[tuple[str, int]]()

    def other() -> None:
        with hold_config_lines(), sum_truncated(counts):
            inside.set()
            assert ended.wait(10)
            log("theirs", "config")
            log_truncated(2, "input", 8)

    thread = threading.Thread(target=other)
    with hold_config_lines(), sum_truncated(Counter()):
        thread.start()
        assert inside.wait(10)
    log("ours", "config")
    log_truncated(1, "input", 8)
    ended.set()
    thread.join()
    log_truncated(1, "text", 8)
    expected = [
        "config   ours",
        "warning  1 input cut to 8 tokens",
        "config   theirs",
        "warning  1 text cut to 8 tokens",
    ]
    assert capsys.readouterr().err.splitlines() == expected and counts == {("input", 8): 2}


def test_held_config_lines_are_dropped_if_the_block_raises(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyError), hold_config_lines():
        log("a", "config")
        raise KeyError
    log("b", "config")
    assert capsys.readouterr().err == "config   b\n"


# -- truncated inputs


def test_truncated_inputs_are_a_warning(capsys: pytest.CaptureFixture) -> None:
    log_truncated(2, "input", 64)
    log_truncated(0, "input", 64)
    assert capsys.readouterr().err == "warning  2 inputs cut to 64 tokens\n"


def test_truncated_inputs_of_several_batches_are_one_warning_for_each_kind(capsys: pytest.CaptureFixture) -> None:
    counts: Counter[tuple[str, int]] = Counter()
    for _ in range(3):
        with sum_truncated(counts):
            log_truncated(2, "input", 64)
            log_truncated(1, "text", 16)
            log_truncated(0, "query", 16)
    assert capsys.readouterr().err == ""
    log_all_truncated(counts)
    assert capsys.readouterr().err == "warning  6 inputs cut to 64 tokens\nwarning  3 texts cut to 16 tokens\n"


def test_warnings_are_logged_again_after_a_block_that_raises(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyError), sum_truncated(Counter()):
        raise KeyError
    log_truncated(1, "input", 64)
    assert capsys.readouterr().err == "warning  1 input cut to 64 tokens\n"


# -- numbers and words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5000"), (0.0, "0.0000"), (12.34567, "12.3457"), (-0.25, "-0.2500"), (0.00005, "0.0001"),
        (0.00002345, "2.3e-05"), (-0.00002, "-2.0e-05"), (1e-7, "0.0000"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_have_four_decimals_or_two_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "row", "1 row"), (0, "row", "0 rows"), (2000, "row", "2,000 rows"), (2, "query", "2 queries"),
        (2, "key", "2 keys"), (2, "class", "2 classes"), (1, "query", "1 query"),
    ],
)  # fmt: skip
def test_nouns_are_plural_except_for_one(number: int, noun: str, text: str) -> None:
    assert plural(number, noun) == text
