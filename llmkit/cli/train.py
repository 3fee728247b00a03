"""`llmkit train`: train a recipe, or print its options or its plan."""

import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Collection

from llmkit.cli.options import describe
from llmkit.cli.recipes import add_recipe, read_recipe
from llmkit.log import is_main_process, quiet_libraries
from llmkit.recipe import Recipe


def add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser, "train")


def run(args: Namespace) -> None:
    train(*read_recipe(args.words, "train"), f"llmkit train {args.words[0]}")


def train(recipe: Recipe, switches: Collection[str], program: str) -> None:
    """Train `recipe`; or print its options or its plan, if `help` or `plan` is among the switches."""
    if "help" in switches:
        print(describe(recipe, f"usage: {program} [--part.field value …]"))
        return
    quiet_libraries()
    if "plan" in switches:
        from llmkit.cli.plan import plan

        text = plan(recipe)
        if is_main_process():
            print(text)
    else:
        from llmkit import pipeline
        from llmkit.training import hardware

        if hardware.detect().device == "cpu" and platform.libc_ver()[0] == "glibc":
            hardware.keep_freed_memory()
        pipeline.run(recipe)
