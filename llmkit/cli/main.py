"""The `llmkit` command: finds a verb, runs it, and turns what it raises into messages and an exit status."""

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from llmkit.cli import train
from llmkit.cli.options import build_recipe, renamed_options
from llmkit.cli.recipes import recipe_names
from llmkit.errors import RunFailed, Stopped, UsageError, suggest
from llmkit.log import log
from llmkit.recipe import Recipe

VERBS = {
    "train": "Train a recipe: a recipe's name, a .py or .yaml file, or a task's name",
    "generate": "Continue a prompt or the prompts of a file, or hold a conversation",
    "predict": "Predict with a trained model (labels, tags, answers, translations, vectors), one line per input",
    "evaluate": "Compute the task's metrics on new data, with 95 % bootstrap intervals",
    "search": "Build, query and evaluate an index of texts by their embeddings",
    "preview": "Print training rows token by token, with what is trained on",
    "check-task": "Try a task of your own end to end on a few rows",
    "init": "Copy a recipe of llmkit to a file of your own",
    "doctor": "Print versions, device, precision, threads and whether the hub can be reached",
}
"""Each verb, in the module of its name, with a description."""


def console_main() -> None:
    """Run the `llmkit` script."""
    sys.exit(guard(lambda: command(sys.argv[1:])))


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """Apply the command line to `recipe` and train it. A recipe file ends with this call."""
    words, program = sys.argv[1:] if argv is None else argv, f"accelerate launch {Path(sys.argv[0]).name}"
    sys.exit(guard(lambda: train.train(*build_recipe(recipe, words), program)))


def guard(work: Callable[[], int | None]) -> int:
    """Run `work` and return the exit status, after a message for what it raises.

    2 for wrong usage or input (one line per fault), 1 for a failed run, 130 or 143 for a signal.
    """
    try:
        status = work() or 0
        sys.stdout.flush()  # here, where a closed pipe can be told from a failure
        return status
    except BrokenPipeError:  # as in `llmkit … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        log("llmkit: stopped")
        return 130
    except Stopped as e:
        program = Path(sys.argv[0])
        start = ["accelerate", "launch", str(program)] if program.suffix == ".py" else [program.name]
        again = shlex.join([*start, *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
        log(f"llmkit: stopped at step {e.step}, checkpoint saved. Resume with: {again}")
        return 128 + e.signal_number
    except Exception as e:
        if os.environ.get("LLMKIT_DEBUG") == "1":
            raise
        if isinstance(e, UsageError):
            for fault in e.faults:
                log(f"llmkit: {fault}")
            return 2
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        reason = reason if isinstance(e, RunFailed) else f"{type(e).__name__}: {reason}"
        print(f"llmkit: the run failed: {reason} (LLMKIT_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 1
    finally:
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def command(argv: Sequence[str]) -> int:
    """Run one verb and return its exit status."""
    verb, *words = argv or ["help"]
    if verb in ("-h", "--help", "help"):
        print("llmkit: from raw text to a trained, evaluated, usable model\n\nusage: llmkit VERB …\n")
        print("\n".join(f"  {name:<{max(map(len, VERBS))}}  {text}" for name, text in VERBS.items()))
        print(f"\n`llmkit VERB --help` lists a verb's options. Recipes: {', '.join(recipe_names())}")
        return 0
    if verb in ("-V", "--version"):
        print(f"llmkit {importlib.metadata.version('llmkit')}")
        return 0
    if verb not in VERBS:
        raise UsageError(f"{verb!r}: no such verb; {suggest(verb, VERBS)}")
    module = importlib.import_module(f"llmkit.cli.{verb.replace('-', '_')}")
    parser = _Parser(f"llmkit {verb}", description=VERBS[verb], add_help=verb != "train")  # a recipe has its own --help
    module.add_arguments(parser)
    if words[:1] in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    parse = parser.parse_known_args if verb == "search" else parser.parse_known_intermixed_args  # not for subparsers
    args, rest = parse(words)
    if "words" in args:
        args.words = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with contextlib.nullcontext() if "words" in args else renamed_options():
        return module.run(args) or 0


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, raising UsageError with a suggestion."""

    def __init__(self, prog: str, description: str | None = None, add_help: bool = True):
        super().__init__(prog=prog, description=description, add_help=add_help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if "unrecognized arguments:" in message:
            word = message.split(": ", 1)[1].split()[0]
            flags = [option for action in self._actions for option in action.option_strings]
            is_flag = word.startswith("-")
            fix = suggest(word, flags, limit=30) if is_flag else "put a text of several words in quotes"
            message = f"{word!r}: {'no such option' if is_flag else 'unexpected argument'}; {fix}"
        raise UsageError(f"{self.prog}: {message}")
