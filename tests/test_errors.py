"""Errors: several faults in one exception, exceptions of libraries as one line, suggestions."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmkit.errors import Stopped, UsageError, as_usage_error, raise_faults, suggest


def test_usage_error_holds_a_line_for_each_fault() -> None:
    error = UsageError("first", "second")
    assert error.faults == ["first", "second"] and str(error) == "first\nsecond"
    assert isinstance(error, ValueError)


def test_faults_are_raised_once_each_in_order() -> None:
    raise_faults([])
    with pytest.raises(UsageError) as caught:
        raise_faults(["b", "a", "b"])
    assert caught.value.faults == ["b", "a"]


def test_stopped_knows_its_signal_and_step() -> None:
    error = Stopped(15, 7)
    assert (error.signal_number, error.step) == (15, 7)


# -- exceptions of libraries


def message(context: str, error: Exception, *kinds: type[Exception]) -> str:
    """The message of `error` as a UsageError."""
    with pytest.raises(UsageError) as caught, as_usage_error(context, *kinds):
        raise error
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("wrong shape"), "file.yaml: cannot be read (wrong shape)"),
        (ValueError("wrong\n   shape"), "file.yaml: cannot be read (wrong shape)"),
        (ValueError(), "file.yaml: cannot be read (ValueError)"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
            "cannot be read ('utf-8' codec can't decode byte 0xff",
        ),
    ],
)
def test_exception_becomes_one_line_after_its_context(error: Exception, expected: str) -> None:
    assert expected in message("file.yaml: cannot be read", error, ValueError)


def test_reason_of_an_os_error_leaves_out_the_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, as_usage_error("a: cannot be read", OSError):
        (tmp_path / "absent").read_text()
    assert str(caught.value) == "a: cannot be read (no such file or directory)"


def test_long_reason_is_shortened() -> None:
    assert len(message("a", ValueError("x" * 1000), ValueError)) < 320


def test_usage_error_in_the_block_keeps_its_faults() -> None:
    with pytest.raises(UsageError) as caught, as_usage_error("context", ValueError):
        raise UsageError("first", "second")
    assert caught.value.faults == ["first", "second"]


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError), as_usage_error("context", ValueError):
        raise KeyError("a")
    with pytest.raises(ValueError, match=r"^as it is$"), as_usage_error("context"):
        raise ValueError("as it is")


# -- suggestions


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        ("trian", ["train", "predict"], "did you mean 'train'?"),
        ("learning_rat", ["learning_rate", "learning_rates", "seed"], "did you mean 'learning_rate' or 'learning_rates'?"),
        ("xyz", ["b", "a"], "choose from: a, b"),
        ("xyz", [f"{i:02}" for i in range(20)], "choose from: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11, … (20 in all)"),
    ],
)  # fmt: skip
def test_suggestion_names_similar_choices_or_lists_them(word: str, choices: list[str], expected: str) -> None:
    assert suggest(word, choices) == expected
