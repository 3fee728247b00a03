"""What `llmkit generate`, `predict`, `evaluate` and `search` do: a saved model asked from the command line.

stdout is the answer, stderr is the talk.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmkit import console
from llmkit.console import plural, say
from llmkit.errors import RecipeError
from llmkit.task import Task

WIDEST = 12  # columns of a table on the screen
OPTIONS = (
    "max_new_tokens",
    "max_length",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_return_sequences",
    "num_beams",
    "seed",
)


def generate(args: Namespace) -> None:
    """`llmkit generate`: one prompt streamed, a file in batches, or a conversation."""
    chosen = [bool(args.file), args.prompt is not None, args.interactive]
    if sum(chosen) != 1:
        raise RecipeError('llmkit generate: give one of "prompt", --file FILE, -i')
    if args.out and not args.file:
        raise RecipeError("llmkit generate: --out goes with --file; a single answer is on stdout")
    console.hush()
    if args.file and args.file != "-" and not Path(args.file).is_file():
        raise RecipeError(f"--file {args.file}: no such file")
    prompts = read_texts([args.file], ("prompt", "text", "question")) if args.file else []  # before the model is loaded
    from llmkit.predictor import load

    model = load(args.model, dtype=args.dtype)
    model._require_generation()
    options = {k: v for k in OPTIONS if (v := getattr(args, k)) is not None} | {"stop": args.stop}
    if args.no_chat:
        options["chat"] = False
    if args.interactive:
        _converse(model, options)
    elif args.file:
        _batch(model, prompts, args, options)
    else:
        _one(model, sys.stdin.read() if args.prompt == "-" else args.prompt, args, options)


def _one(model: Any, prompt: str, args: Namespace, options: dict[str, Any]) -> None:
    from llmkit.generation import is_chat, stream

    started, copies, count = time.time(), args.num_return_sequences or 1, 0
    before = "" if is_chat(model.tokenizer, options.get("chat")) else prompt
    texts = [before] * copies
    live = copies == 1 and not args.json
    for row, piece in stream(model.model, model.tokenizer, [prompt], **options):
        if live:
            print(piece if count else before + piece, end="", flush=True)
        texts[row] += piece
        count += 1
    if live:
        print("" if count else before)
    elif args.json:
        print("\n".join(json.dumps({"prompt": prompt, "text": t}, ensure_ascii=False) for t in texts))
    else:
        print("\n\n".join(texts))
    seconds = time.time() - started
    say(f"{plural(count, 'token')} in {seconds:.1f} s ({count / max(seconds, 1e-9):.0f}/s)")


def _batch(model: Any, prompts: list[str], args: Namespace, options: dict[str, Any]) -> None:
    done = _lines_in(args.out) if args.out else 0
    if done > len(prompts):
        raise RecipeError(
            f"--out {args.out}: has {done} answers already, {args.file} has {len(prompts)} prompts; choose another --out"
        )
    if done:
        say(f"{args.out}: {plural(done, 'answer')} there already, going on after them")
    out = _open_out(args.out, "a")
    started = time.time()
    try:
        for i in range(done, len(prompts), args.batch_size):
            batch = prompts[i : i + args.batch_size]
            for prompt, text in zip(batch, model.generate(batch, **options), strict=True):
                out.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
            out.flush()
    finally:
        if args.out:
            out.close()
    say(
        f"{plural(len(prompts) - done, 'prompt')} in {time.time() - started:.1f} s"
        + (f", {args.out}" if args.out else "")
    )


def _open_out(path: str | None, mode: str) -> Any:
    """stdout, or the file, with the folders that lead to it."""
    if path is None:
        return sys.stdout
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path).open(mode, encoding="utf-8")
    except OSError as e:
        raise RecipeError(f"--out {path}: {(e.strerror or str(e)).lower()}") from None


def _lines_in(path: str) -> int:
    """Whole answers in the file; a line that a stop tore is cut off first."""
    file = Path(path)
    if not file.exists():
        return 0
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    return whole.count(b"\n")


def _converse(model: Any, options: dict[str, Any]) -> None:
    chat = bool(model.tokenizer.chat_template) and options.get("chat") is not False
    say(
        ("a conversation" if chat else "this model has no chat template: each line is continued")
        + "; an empty line or Ctrl-D ends it"
    )
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not line.strip():
            return
        messages.append({"role": "user", "content": line})
        answer = []
        for piece in model.stream(messages if chat else line, **options):
            print(piece, end="", flush=True)
            answer.append(piece)
        print()
        messages.append({"role": "assistant", "content": "".join(answer)})


def read_texts(words: list[str], columns: tuple[str, ...], column: str | None = None) -> list[str]:
    """Texts as typed, of stdin (-), or of one file: its lines (.txt) or the first of `columns` that its rows have."""
    name, values = read_values(words, columns, column)
    if missing := [where for where, value in values if not isinstance(value, str)]:
        raise RecipeError(f"{missing[0]}: no text in {name!r} ({plural(len(missing), 'such row')})")
    return [value for _, value in values]


def read_values(
    words: list[str], columns: tuple[str, ...], column: str | None = None
) -> tuple[str, list[tuple[str, Any]]]:
    """`(the column, [(where, value) …])` of the same; in a file a value may be of any type."""
    from llmkit.data import sources

    if not _is_file(words):
        typed = [line for line in sys.stdin.read().splitlines() if line.strip()] if words == ["-"] else words
        return "", [(f"input {i}", text) for i, text in enumerate(typed, 1)]
    path = Path(words[0])
    rows = list(sources.find(words[0], "test", document="line")[0].rows())
    whys = [
        (w, str(r) if isinstance(r, ValueError) else f"{type(r).__name__}, not a row of columns")
        for w, r in rows
        if not isinstance(r, dict)
    ]
    if bad := [f"{where}: {why}" for where, why in whys]:
        raise RecipeError(*bad[:5])
    if not rows:
        raise RecipeError(f"{path}: is empty")
    there = list(rows[0][1]) if isinstance(rows[0][1], dict) else []
    name = next((c for c in ((column,) if column else columns) if c in there), None)
    if name is None:
        raise RecipeError(
            f"{path}: no column {' or '.join(repr(c) for c in ((column,) if column else columns))}; its columns are {', '.join(there)}"
        )
    return name, [(where, row.get(name)) for where, row in rows]


def predict(args: Namespace) -> None:
    """`llmkit predict`: one answer a line, in order."""
    console.hush()
    from llmkit.models import hub
    from llmkit.predictor import load, task_of

    task = task_of(hub.find_model(args.model))
    if type(task).predict is Task.predict:
        raise RecipeError(f"a {task.name} model does not predict; ask it with llmkit generate")
    inputs = read_inputs(args.input, task, args.column)
    model = load(args.model)
    out = _open_out(args.out, "w")
    try:
        for given, answer in zip(inputs, model.predict_iter(inputs, args.batch_size), strict=True):
            asked = {task.asks[0]: given} if isinstance(given, str) else given
            as_json = args.json or args.out
            line = json.dumps({**asked, **answer}, ensure_ascii=False) if as_json else task.show(answer, given)
            out.write(line + "\n")
    finally:
        if args.out:
            out.close()
    if args.out:
        say(f"{plural(len(inputs), 'answer')} in {args.out}")


def read_inputs(words: list[str], task: Task, column: str | None = None) -> list[Any]:
    """What `task.predict` is asked, typed, piped (-) or in a file: texts, or mappings of the columns that the task asks
    for, each typed as a JSON object."""
    from llmkit.data import sources

    if len(task.asks) == 1:
        (asked,) = task.asks
        rows = [(w, {asked: v}) for w, v in read_values(words, (asked, *task.columns[asked]), column)[1]]
    elif column:
        raise RecipeError(f"--column {column}: {task.name} asks for {', '.join(task.asks)}; name the columns so")
    elif _is_file(words):
        rows = list(sources.find(words[0], "test")[0].rows())
    else:
        rows = [(where, _json_object(line)) for where, line in read_values(words, (), column)[1]]
    found, faults = [], []
    for where, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise ValueError(str(row) if isinstance(row, ValueError) else "not a JSON object")
            found += task.read_question(row)
        except ValueError as e:
            faults.append(f"{where}: {e}")
    if faults:
        example = json.dumps(dict.fromkeys(task.asks, "…"), ensure_ascii=False)
        fix = f"give a file with these columns, or type a JSON object: '{example}'"
        raise RecipeError(*faults[:5], *([fix] if len(task.asks) > 1 else []))
    return found


def _json_object(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return ValueError(f"{line[:40]!r} is no JSON object")


def _is_file(words: list[str]) -> bool:
    from llmkit.data.sources import READERS

    # os.path: a text that is longer than any name can be is no file, and no error
    return len(words) == 1 and (os.path.isfile(words[0]) or Path(words[0]).suffix in READERS)  # noqa: PTH113


def evaluate(args: Namespace) -> None:
    """`llmkit evaluate`: the metrics of a saved model on data of its task, with 95 % bootstrap intervals."""
    console.hush()
    from llmkit.evaluation.measure import measure

    columns = {}
    for pair in args.column:
        task_column, equals, yours = pair.partition("=")
        if not equals:
            raise RecipeError(f"--column {pair!r}: expected TASK=YOURS, such as text=body")
        columns[task_column] = yours
    options = {"max_length": args.max_length, "batch_size": args.batch_size, "on_error": args.on_error}
    result = measure(args.model, args.data, columns, names=(args.names,) if args.names else (), **options)
    _print_result(result, args.json)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        others = "".join(f"  {other} {found[name]:.4f}" for other, found in result.get("baselines", {}).items())
        print(f"{name} {value:.4f}  [{low:.4f}, {high:.4f}]{others}")
    for name, detail in result.get("details", {}).items():
        print()
        _show_detail(name, detail)


def _show_detail(name: str, detail: Any) -> None:
    """Mappings in a mapping as a table, if a screen is wide enough for it; anything else as JSON."""
    from rich.console import Console
    from rich.table import Table

    tabular = isinstance(detail, Mapping) and all(isinstance(row, Mapping) for row in detail.values())
    heads = list(dict.fromkeys(key for row in detail.values() for key in row)) if tabular else []
    if heads and set(heads) <= set(detail):
        heads = list(detail)  # a square, zeros left out of it
    if len(heads) > WIDEST:
        print(f"{name}: {len(detail)} × {len(heads)}, see --json")
    elif not heads:
        print(f"{name}: {json.dumps(detail, ensure_ascii=False)}")
    else:
        table = Table(name, box=None, pad_edge=False)
        for head in heads:
            table.add_column(head, justify="right")
        for key, row in detail.items():
            cells = (row.get(head, 0) for head in heads)
            table.add_row(key, *(f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells))
        Console(width=1000, markup=False, emoji=False, highlight=False).print(table)


def search(args: Namespace) -> None:
    """`llmkit search`: build an index, query it, or measure it."""
    console.hush()
    from llmkit import search as searching

    if args.verb == "build":
        searching.build(args.model, args.file, args.out, args.column, args.names, args.batch_size)
        return
    if args.verb == "evaluate":
        _print_result(searching.evaluate(searching.load(args.index), args.judgements), args.json)
        return
    questions = read_texts([args.words], ()) if args.words == "-" else [args.words]
    for question, found in zip(questions, searching.load(args.index).query(questions, args.k), strict=True):
        if args.json:
            print(json.dumps({"query": question, "found": found}, ensure_ascii=False))
        else:
            print("\n".join(f"{f['score']:.4f}\t{f['id']}\t{' '.join(f['text'].split())}" for f in found))
