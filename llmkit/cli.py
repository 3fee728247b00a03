"""The command line: one small function a verb, each importing what it needs inside."""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmkit import __version__, asking
from llmkit.console import is_main_process, say
from llmkit.errors import RecipeError, RunFailed, Stopped, refusing, suggest
from llmkit.recipe import Recipe, RunConfig

NAMES = "the columns of a .csv, .tsv or .txt table without a header line"
VERBS = {
    "train": "train a recipe: a name, a .py, a .yaml, or a task's name",
    "generate": "continue a prompt, prompts from a file, or talk: text to stdout, figures to stderr",
    "predict": "classify, tag, or fill masks: by the model's task; one line each",
    "evaluate": "the task's metrics on new data, with 95 % bootstrap intervals",
    "search": "an index of texts by their embeddings: build, query, evaluate",
    "preview": "examples exactly as the model sees them",
    "init": "a recipe of your own to edit",
    "doctor": "versions, device, dtype and why, threads, offline or not",
}


def console_main() -> None:
    """The `llmkit` script."""
    sys.exit(guard(lambda: command(sys.argv[1:])))


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """What a recipe file ends with: read the command line over `recipe`, and train."""

    def work() -> None:
        from llmkit.parsing import build_recipe

        read = build_recipe(recipe, sys.argv[1:] if argv is None else argv)
        train(*read, f"accelerate launch {Path(sys.argv[0]).name}")

    sys.exit(guard(work))


def guard(work: Callable[[], int | None]) -> int:
    """Run `work`; exit status 2 for a user's mistake (a line each), 1 for a failed run, 130/143 for a signal."""
    try:
        status = work() or 0
        sys.stdout.flush()  # here, where a reader that left can be told from a fault
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to say
        return 0
    except KeyboardInterrupt:
        say("llmkit: stopped")
        return 130
    except Stopped as e:
        program = Path(sys.argv[0])
        start = ["accelerate", "launch", str(program)] if program.suffix == ".py" else [program.name]
        again = shlex.join([*start, *(a for a in sys.argv[1:] if a != "--resume"), "--resume"])
        say(f"llmkit: stopped at step {e.step}, saved; go on with: {again}")
        return 128 + e.number
    except Exception as e:
        if os.environ.get("LLMKIT_DEBUG") == "1":
            raise
        if isinstance(e, RecipeError):
            for fault in e.faults:
                say(f"llmkit: {fault}")
            return 2
        said = (str(e).strip() or type(e).__name__).splitlines()[0]
        text = said if isinstance(e, RunFailed) else f"{type(e).__name__}: {said}"
        print(f"llmkit: the run failed: {text} (LLMKIT_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 1
    finally:
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def command(argv: Sequence[str]) -> int:
    """One verb."""
    verb, *rest = argv or ["help"]
    if verb in ("-h", "--help", "help"):
        print("llmkit: from raw text to a trained, evaluated, usable model\n\nusage: llmkit VERB …\n")
        print("\n".join(f"  {name:<{max(map(len, VERBS))}}  {what}" for name, what in VERBS.items()))
        print("\n`llmkit VERB --help` says more. Recipes: " + ", ".join(recipe_names()))
        return 0
    if verb in ("-V", "--version"):
        print(f"llmkit {__version__}")
        return 0
    if verb not in VERBS:
        raise RecipeError(f"{verb!r}: no such verb; {suggest(verb, VERBS)}")
    return globals()[f"do_{verb}"](_Parser(f"llmkit {verb}", description=VERBS[verb]), rest) or 0


def recipe_folder() -> Path:
    """`llmkit/recipes` in a wheel, `recipes` beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(p.stem for p in recipe_folder().glob("*.py") if not p.stem.startswith("_"))


def find_recipe(name: str) -> tuple[Recipe | None, list[str]]:
    """`(recipe, words to lay over it)` of a recipe's name, a .py, a .yaml, or a task's name."""
    from llmkit.tasks import TASKS, find_task

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return None, ["--config", name]
    if path.suffix != ".py" and name.replace("-", "_") in recipe_names():
        path = recipe_folder() / f"{name.replace('-', '_')}.py"
    if path.suffix == ".py":
        if not path.exists():
            raise RecipeError(f"no recipe file {name!r}; llmkit's own: {', '.join(recipe_names())}")
        with refusing(f"{name}: no recipe that runs", SyntaxError, ImportError, NameError, TypeError, AttributeError):
            found = runpy.run_path(str(path), run_name="__recipe__").get("recipe")
        if not isinstance(found, Recipe):
            raise RecipeError(f"{name}: holds no `recipe = Recipe(…)`")
        return found, []
    tasks = {t.name: t for t in TASKS}
    if name in tasks or ":" in name:
        return Recipe(task=find_task(name)(), run=RunConfig(output=f"runs/{name.split(':')[-1]}")), []
    raise RecipeError(f"{name!r}: no such recipe; {suggest(name, [*recipe_names(), *tasks])}")


def read_recipe(argv: Sequence[str], verb: str) -> tuple[Recipe, dict[str, Any]]:
    """The recipe named by the first word, with the rest laid over it."""
    from llmkit.parsing import build_recipe

    if not argv or argv[0].startswith("-"):
        raise RecipeError(f"usage: {_usage(verb)}; recipes: {', '.join(recipe_names())}")
    base, words = find_recipe(argv[0])
    return build_recipe(base, [*words, *argv[1:]])


def _usage(verb: str) -> str:
    return f"llmkit {verb} RECIPE [--part.field value …]"


def do_train(p: _Parser, argv: list[str]) -> None:
    p.usage, p.epilog = _usage("train"), f"RECIPE --help lists every field; recipes: {', '.join(recipe_names())}"
    if argv[:1] in (["--help"], ["-h"]):
        p.print_help()
    else:
        train(*read_recipe(argv, "train"), f"llmkit train {argv[0]}")


def train(recipe: Recipe, other: dict[str, Any], program: str) -> None:
    """Train `recipe`, or print the help or the plan that was asked for beside it."""
    if other.get("help"):
        from llmkit.parsing import describe

        print(describe(recipe, f"usage: {program} [--part.field value …]"))
    elif other.get("plan"):
        from llmkit.reporting.plan import plan

        planned = plan(recipe)
        if is_main_process():
            print(planned)
    else:
        from llmkit.running import run

        run(recipe)


def _count(word: str) -> int:
    """A whole number from 1 on; argparse says which option was given another."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: give a whole number from 1 on")
    return int(word)


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose faults are llmkit's: one line, the fix in it."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog=prog, allow_abbrev=False, **options)

    def error(self, message: str) -> Any:
        if "unrecognized arguments:" in message:
            word = message.split(": ", 1)[1].split()[0]
            flags = [o for a in self._actions for o in a.option_strings]
            message = f"{word!r}: no such option; {suggest(word, flags, limit=30)}"
        raise RecipeError(f"{self.prog}: {message}")


def do_preview(p: _Parser, argv: list[str]) -> None:
    from llmkit.reporting.preview import preview

    p.usage, p.epilog = f"{_usage('preview')} [-n 3]", f"recipes: {', '.join(recipe_names())}"
    p.add_argument("-n", "--n", type=_count, default=3)
    args, words = p.parse_known_args(argv)
    print(preview(read_recipe(words, "preview")[0], args.n))


def do_generate(p: _Parser, argv: list[str]) -> None:
    p.add_argument("model", help="run folder, folder, .gguf file, hub id, or tiny-gpt2")
    p.add_argument("prompt", nargs="?", help="- reads stdin")
    p.add_argument("--file", help="prompts, one a line (.txt) or a row (.jsonl: prompt or text)")
    p.add_argument("--out", help="with --file: answers as .jsonl, in order; a second call goes on where it stopped")
    p.add_argument("-i", "--interactive", action="store_true", help="a conversation")
    for name, kind in asking.OPTIONS.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=kind)
    p.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    p.add_argument("--no-chat", action="store_true", help="continue the prompt as it is, without a chat template")
    p.add_argument("--batch-size", type=_count, default=16, help="with --file")
    p.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    p.add_argument("--json", action="store_true")
    asking.generate(p.parse_args(argv))


def do_predict(p: _Parser, argv: list[str]) -> None:
    p.add_argument("model", help="run folder, folder, hub id, or tiny-bert")
    p.add_argument("input", nargs="+", help="texts, or one file (.txt: a line each; .jsonl, .csv …), or - for stdin")
    p.add_argument("--out", help="write .jsonl here")
    p.add_argument("--batch-size", type=_count, default=32)
    p.add_argument("--column", action="append", default=[], metavar="[TASK=]YOURS", help="of a file; repeatable")
    p.add_argument("--names", metavar="A,B", help=NAMES)
    p.add_argument("--json", action="store_true")
    asking.predict(p.parse_args(argv))


def do_evaluate(p: _Parser, argv: list[str]) -> None:
    p.add_argument("model")
    p.add_argument("--data", required=True, help="file, folder, hub id, or bundled name such as reviews[test]")
    p.add_argument("--column", action="append", default=[], metavar="TASK=YOURS", help="text=body, say; repeatable")
    p.add_argument("--names", metavar="A,B", help=NAMES)
    p.add_argument("--max-length", type=int)
    p.add_argument("--batch-size", type=_count, default=16)
    p.add_argument("--on-error", default="raise", choices=("raise", "skip", "report"))
    p.add_argument("--json", action="store_true")
    asking.evaluate(p.parse_args(argv))


def do_search(p: _Parser, argv: list[str]) -> None:
    verbs = p.add_subparsers(dest="verb", required=True, metavar="build|query|evaluate")
    b = verbs.add_parser("build", help="embed every text of a file, and keep the vectors")
    b.add_argument("model", help="run folder of embed_sentences, sentence-transformers folder, or hub id")
    b.add_argument("file", help="texts: .txt (a line each), .jsonl, .csv …, a folder or a bundled name")
    b.add_argument("--out", required=True, metavar="INDEX", help="a new folder")
    b.add_argument("--column", help="that holds the text (left out: the usual names)")
    b.add_argument("--names", metavar="A,B", help=NAMES)
    b.add_argument("--batch-size", type=_count, default=32)
    q = verbs.add_parser("query", help="the nearest texts, nearest first")
    q.add_argument("index")
    q.add_argument("words", help="- reads stdin: a question a line")
    q.add_argument("-k", type=_count, default=10)
    e = verbs.add_parser("evaluate", help="nDCG@10, recall@10 and MRR, beside BM25's")
    e.add_argument("index")
    e.add_argument("judgements", help='rows of {"query": "words", "relevant": ["id", …]}, or {"id": gain}')
    for parser in (q, e):
        parser.add_argument("--json", action="store_true")
    asking.search(p.parse_args(argv))


def do_init(p: _Parser, argv: list[str]) -> None:
    p.add_argument("name", help=", ".join(recipe_names()))
    p.add_argument("directory", nargs="?", default=".")
    args = p.parse_args(argv)
    name = args.name.replace("-", "_").removesuffix(".py")
    if name not in recipe_names():
        raise RecipeError(f"{args.name!r}: no such recipe; {suggest(name, recipe_names())}")
    target = Path(args.directory) / f"{name}.py"
    if target.exists():
        raise RecipeError(f"{target} is there already; it is left as it is")
    with refusing(f"{target}: cannot be written", OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe_folder() / f"{name}.py", target)
    print(target)
    say(f"edit it, then: accelerate launch {target}")


def do_doctor(p: _Parser, argv: list[str]) -> None:
    p.parse_args(argv)
    from llmkit.reporting.doctor import examine

    print(examine())
