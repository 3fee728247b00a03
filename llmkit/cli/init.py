"""`llmkit init`: copy a recipe of llmkit to a file of your own."""

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from llmkit.cli.recipes import recipe_folder, recipe_names
from llmkit.errors import UsageError, as_usage_error, suggest
from llmkit.log import log


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", help=f"Recipe to copy: {', '.join(recipe_names())}")
    parser.add_argument("directory", nargs="?", default=".", help="Folder to copy it into (default: the current one)")


def run(args: Namespace) -> None:
    name = args.name.replace("-", "_").removesuffix(".py")
    if name not in recipe_names():
        raise UsageError(f"{args.name!r}: no such recipe; {suggest(name, recipe_names())}")
    target = Path(args.directory) / f"{name}.py"
    if target.exists():
        raise UsageError(f"{target}: already exists and is left as it is; choose another directory")
    with as_usage_error(f"{target}: cannot be written", OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe_folder() / f"{name}.py", target)
    print(target)
    log(f"Edit it, then run: accelerate launch {target}")
