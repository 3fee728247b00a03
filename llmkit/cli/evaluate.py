"""`llmkit evaluate`: the task's metrics on new data, with 95 % bootstrap intervals."""

from argparse import ArgumentParser, Namespace

from llmkit.cli.io import print_metrics
from llmkit.cli.options import add_table_options, parse_columns, positive_int
from llmkit.log import quiet_libraries


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="Run folder, other model folder, hub id, or bundled model such as tiny-bert")
    parser.add_argument("--data", required=True, help="File, folder, hub id, or bundled data such as reviews[test]")
    add_table_options(parser)
    parser.add_argument("--max-length", type=int, help="Tokens per row (default: as many as in training)")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="Rows per batch (default: 16)")
    parser.add_argument(
        "--on-error", default="raise", choices=("raise", "skip", "report"), help="What to do with an invalid row"
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object")


def run(args: Namespace) -> None:
    quiet_libraries()
    from llmkit import pipeline

    names = (args.names,) if args.names else ()
    options = {"max_length": args.max_length, "batch_size": args.batch_size, "on_error": args.on_error}
    options["encoding"] = args.encoding
    result = pipeline.evaluate(args.model, args.data, parse_columns(args.column), names=names, **options)
    print_metrics(result, args.json)
