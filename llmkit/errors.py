"""Exceptions of llmkit, and helpers that turn a library's exception into a one-line message.

UsageError (ValueError)     wrong usage or input; exit status 2
PromptTooLong (UsageError)  one prompt of several that cannot be answered
RunFailed (RuntimeError)    a valid run that failed, such as a NaN loss; exit status 1
Stopped (Exception)         a run stopped by a signal after saving; exit status 128 + signal
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UsageError(ValueError):
    """Wrong usage or input. `faults` holds one line per fault; the command line prints each and exits with status 2."""

    def __init__(self, *faults: str):
        self.faults = list(faults)
        super().__init__("\n".join(faults))


class PromptTooLong(UsageError):
    """A prompt leaves no room for an answer: that at `index` of the prompts, for a `reason`."""

    def __init__(self, index: int, several: bool, reason: str):
        self.index, self.reason = index, reason
        super().__init__(f"{f'prompt {index + 1}' if several else 'the prompt'} {reason}")


class RunFailed(RuntimeError):
    """A valid run that failed (for example with a NaN loss); exit status 1."""


class Stopped(Exception):
    """The run was stopped by a signal, after saving a checkpoint of its last step."""

    def __init__(self, signal_number: int, step: int):
        self.signal_number, self.step = signal_number, step


def raise_faults(faults: list[str]) -> None:
    """Raise one `UsageError` with all faults collected so far; do nothing if there are none."""
    if faults:
        raise UsageError(*dict.fromkeys(faults))


@contextlib.contextmanager
def as_usage_error(context: str, *exceptions: type[Exception]) -> Iterator[None]:
    """Re-raise `exceptions` from the block as a one-line `UsageError`: `context`, then the exception's own message."""
    try:
        yield
    except UsageError:
        raise
    except exceptions as e:
        reason = e.strerror.lower() if isinstance(e, OSError) and e.strerror else " ".join(str(e).split())[:300]
        raise UsageError(f"{context} ({reason or type(e).__name__})") from None


def suggest(word: str, choices: Iterable[str], limit: int = 12) -> str:
    """Return `did you mean 'x'?`, or the list of choices when none is similar to `word`."""
    choices = sorted({*map(str, choices)})
    similar = difflib.get_close_matches(str(word), choices, n=2, cutoff=0.6)
    if similar:
        return "did you mean " + " or ".join(repr(s) for s in similar) + "?"
    listed = ", ".join(choices[:limit])
    return f"choose from: {listed}" + (f", … ({len(choices)} in all)" if len(choices) > limit else "")
