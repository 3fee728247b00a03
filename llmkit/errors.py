"""What a user did wrong, said in one line a fault: the value, the alternatives, the fix."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class RecipeError(ValueError):
    """Wrong usage or input. `faults` holds one line for each; the command line prints them and exits with 2."""

    def __init__(self, *faults: str):
        self.faults = list(faults)
        super().__init__("\n".join(faults))


class RunFailed(RuntimeError):
    """A run that was rightly asked for and went wrong (a loss that is no number, say); exit status 1."""


def raise_faults(faults: list[str]) -> None:
    """Raise one `RecipeError` with every fault collected so far, or do nothing."""
    if faults:
        raise RecipeError(*dict.fromkeys(faults))


@contextlib.contextmanager
def refusing(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Within, what a library refuses by one of `kinds` becomes one line: `what` it is about, and its own words."""
    try:
        yield
    except RecipeError:
        raise
    except kinds as e:
        said = e.strerror.lower() if isinstance(e, OSError) and e.strerror else " ".join(str(e).split())[:300]
        raise RecipeError(f"{what} ({said or type(e).__name__})") from None


def suggest(word: str, choices: Iterable[str], limit: int = 12) -> str:
    """`did you mean 'x'?`, or the choices themselves when nothing is near."""
    choices = sorted({*map(str, choices)})
    near = difflib.get_close_matches(str(word), choices, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    shown = ", ".join(choices[:limit])
    return f"choose from: {shown}" + (f", … ({len(choices)} in all)" if len(choices) > limit else "")


class Stopped(Exception):
    """The run was stopped by a signal, after a checkpoint of its last step."""

    def __init__(self, number: int, step: int):
        self.number, self.step = number, step
