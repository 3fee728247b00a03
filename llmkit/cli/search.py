"""`llmkit search`: build an index of texts by their embeddings, query it, evaluate it."""

from argparse import ArgumentParser, Namespace

from llmkit.cli.io import as_json, print_metrics, read_texts
from llmkit.cli.options import ENCODING_HELP, NAMES_HELP, positive_int
from llmkit.log import quiet_libraries


def add_arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|query|evaluate")
    build = verbs.add_parser("build", help="Embed every text of a file and save the vectors")
    build.add_argument("model", help="Run folder of embed_sentences, sentence-transformers folder, or hub id")
    build.add_argument("file", help="Texts: .txt (a text per line), .jsonl, .csv …, a folder or bundled data")
    build.add_argument("--out", required=True, metavar="INDEX", help="New folder for the index")
    build.add_argument("--column", help="Column that holds the text (default: its usual names)")
    build.add_argument("--names", metavar="A,B", help=NAMES_HELP)
    build.add_argument("--batch-size", type=positive_int, default=32, help="Texts per batch (default: 32)")
    query = verbs.add_parser("query", help="Print the nearest texts, nearest first")
    query.add_argument("index", help="Folder of an index")
    query.add_argument("question", metavar="words", help="What to search for; - reads stdin, a query per line")
    query.add_argument("-k", type=positive_int, default=10, help="Number of texts (default: 10)")
    evaluate = verbs.add_parser("evaluate", help="Print nDCG@10, recall@10 and MRR, with those of BM25")
    evaluate.add_argument("index", help="Folder of an index")
    evaluate.add_argument("judgements", help='File of rows {"query": "words", "relevant": ["id", …]} or {"id": gain}')
    for reading in (build, evaluate):
        reading.add_argument("--encoding", default="utf-8", help=ENCODING_HELP)
    for printing in (query, evaluate):
        printing.add_argument("--json", action="store_true", help="Print JSON")


def run(args: Namespace) -> None:
    quiet_libraries()
    from llmkit import search

    if args.verb == "build":
        search.build(args.model, args.file, args.out, args.column, args.names, args.batch_size, args.encoding)
    elif args.verb == "evaluate":
        print_metrics(search.evaluate(search.load(args.index), args.judgements, args.encoding), args.json)
    else:
        queries = [text for _, text in read_texts("-")] if args.question == "-" else [args.question]
        for query, results in zip(queries, search.load(args.index).query(queries, args.k), strict=True):
            if args.json:
                print(as_json({"query": query, "found": results}))
            else:
                print("\n".join(f"{r['score']:.4f}\t{r['id']}\t{' '.join(r['text'].split())}" for r in results))
