"""`llmkit check-task`: try a task of your own end to end in a temporary folder, and print a line for each stage."""

import os
import tempfile
from argparse import ArgumentParser, Namespace

from llmkit.cli.options import add_table_options, parse_columns
from llmkit.errors import UsageError
from llmkit.log import log, quiet_libraries
from llmkit.recipe import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.tasks import find_task


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("task", help="Import path of its class, such as my_module:MyTask, or a task's name")
    parser.add_argument("--data", required=True, help="Four rows or more: a file, folder, hub id, or bundled data")
    parser.add_argument("--model", help="Model to train (default: tiny-gpt2 or tiny-bert, by the task)")
    add_table_options(parser)


def run(args: Namespace) -> int:
    quiet_libraries()
    from llmkit.cli.trial import STAGES, Trial, describe_failure
    from llmkit.task import misspelled_members

    task = find_task(args.task)()
    for line in misspelled_members(type(task)):
        log(line, "warning")
    table = {"columns": parse_columns(args.column), "names": (args.names,) if args.names else ()}
    data = DataConfig(train=args.data, validation=0.25, packing=False, encoding=args.encoding, **table)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Recipe(task, ModelConfig(name=args.model), data, run=RunConfig(output=folder)))
        for stage in STAGES:
            try:
                print(f"{stage:<10}{getattr(trial, stage)()}", flush=True)
            except Exception as e:
                if os.environ.get("LLMKIT_DEBUG") == "1":
                    raise
                raise UsageError(*(f"{stage} failed: {fault}" for fault in describe_failure(e, task))) from None
    return 0
