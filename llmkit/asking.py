"""What `llmkit generate`, `predict`, `evaluate` and `search` do: a saved model asked from the command line.

stdout is the answer, stderr is the talk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from llmkit import console
from llmkit.console import figure, plural, say
from llmkit.errors import RecipeError, raise_faults, refusing
from llmkit.task import Task

WIDEST = 12  # columns of a table on the screen
OPTIONS: dict[str, type] = {
    **dict.fromkeys(("max_new_tokens", "max_length", "top_k", "num_beams", "num_return_sequences", "seed"), int),
    **dict.fromkeys(("min_new_tokens", "no_repeat_ngram_size"), int),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty"), float),
}
"""of generation, as they are typed: `--max-new-tokens 5`; Python takes every field of GenerationConfig"""


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def generate(args: Namespace) -> None:
    """`llmkit generate`: one prompt streamed, a file in batches, or a conversation."""
    if [bool(args.file), args.prompt is not None, args.interactive].count(True) != 1:
        raise RecipeError('llmkit generate: give one of "prompt", --file FILE, -i')
    if args.out and not args.file:
        raise RecipeError("llmkit generate: --out goes with --file; a single answer is on stdout")
    if args.file and args.file != "-" and not Path(args.file).is_file():
        raise RecipeError(f"--file {args.file}: no such file")
    console.hush()
    prompts = read_texts([args.file], ("prompt", "text", "question")) if args.file else []  # before the model is loaded
    from llmkit.predictor import load

    model = load(args.model, dtype=args.dtype)
    model._require_generation()
    options = {k: v for k in OPTIONS if (v := getattr(args, k)) is not None} | {"stop": args.stop}
    options |= {"chat": False} if args.no_chat else {}
    if args.interactive:
        _converse(model, options)
    elif args.file:
        _batch(model, prompts, args, options)
    else:
        _one(model, sys.stdin.read() if args.prompt == "-" else args.prompt, args, options)


def _one(model: Any, prompt: str, args: Namespace, options: dict[str, Any]) -> None:
    from llmkit.generation import is_chat, stream

    started, copies, count = time.time(), args.num_return_sequences or 1, 0
    texts = ["" if is_chat(model.tokenizer, options.get("chat")) else prompt] * copies
    live = copies == 1 and not args.json
    for row, piece in stream(model.model, model.tokenizer, [prompt], **options):
        texts[row] += piece
        if live:
            print(piece if count else texts[0], end="", flush=True)
        count += 1
    if live:
        print("" if count else texts[0])
    else:
        print("\n".join(as_json({"prompt": prompt, "text": t}) for t in texts) if args.json else "\n\n".join(texts))
    seconds = time.time() - started
    say(f"{plural(count, 'token')} in {seconds:.1f} s ({count / max(seconds, 1e-9):.0f}/s)")


def _batch(model: Any, prompts: list[str], args: Namespace, options: dict[str, Any]) -> None:
    answered, started = _answered(args.out) if args.out else [], time.time()
    done = len(answered)
    if answered != prompts[:done]:
        has = f"its {plural(done, 'answer')} are not those of the first prompts of {args.file}"
        raise RecipeError(f"--out {args.out}: {has}; choose another --out")
    if done:
        say(f"{args.out}: {plural(done, 'answer')} there already, going on after them")
    with _opened(args.out, "a") as out:
        for i in range(done, len(prompts), args.batch_size):
            batch = prompts[i : i + args.batch_size]
            for prompt, text in zip(batch, model.generate(batch, **options), strict=True):
                out.write(as_json({"prompt": prompt, "text": text}) + "\n")
            out.flush()
    where = f", {args.out}" if args.out else ""
    say(f"{plural(len(prompts) - done, 'prompt')} in {time.time() - started:.1f} s{where}")


@contextlib.contextmanager
def _opened(path: str | None, mode: str) -> Iterator[TextIO]:
    """stdout, or the file, with the folders that lead to it."""
    if path is None:
        yield sys.stdout
        return
    with refusing(f"--out {path}: cannot be written", OSError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = Path(path).open(mode, encoding="utf-8")
    with file:
        yield file


def _answered(path: str) -> list[Any]:
    """The prompts of whole answers in the file; a line that a stop tore is cut off first."""
    file = Path(path)
    content = file.read_bytes() if file.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    with refusing(f"--out {path}: holds other things than answers; choose another", ValueError, KeyError, TypeError):
        found = [json.loads(line)["prompt"] for line in whole.splitlines()]
    if whole != content:
        file.write_bytes(whole)
    return found


def _converse(model: Any, options: dict[str, Any]) -> None:
    from llmkit.generation import is_chat

    chat = is_chat(model.tokenizer, options.get("chat"))
    what = "a conversation" if chat else "this model has no chat template: each line is continued"
    say(f"{what}; an empty line or Ctrl-D ends it")
    messages: list[dict[str, str]] = []
    with contextlib.suppress(EOFError):
        while (line := input("> " if sys.stdin.isatty() else "")).strip():
            messages.append({"role": "user", "content": line})
            answer = ""
            for piece in model.stream(messages if chat else line, **options):
                print(piece, end="", flush=True)
                answer += piece
            print()
            messages.append({"role": "assistant", "content": answer})


def read_texts(words: list[str], columns: Sequence[str]) -> list[str]:
    """Texts as typed, of stdin (-), or of one file: its lines (.txt) or the first of `columns` that its rows have."""
    values = _of_column(read_rows(words), columns)
    if missing := [where for where, value in values if not isinstance(value, str)]:
        raise RecipeError(f"{missing[0]}: no text in {' or '.join(columns)} ({plural(len(missing), 'such row')})")
    return [value for _, value in values]


def read_rows(words: list[str], names: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """`(where, what)` of texts as typed, of stdin's lines (-), or of a file's rows. Raises RecipeError for a row
    without columns."""
    from llmkit.data import sources

    # os.path: a text that is longer than any name can be is no file, and no error
    is_file = os.path.isfile(words[0]) or Path(words[0]).suffix in sources.READERS  # noqa: PTH113
    if len(words) > 1 or not is_file:
        if words == ["-"]:
            lines = sys.stdin.read().splitlines()
            words = [line for line in lines if line.strip()]
            if len(words) < len(lines):
                say(f"{plural(len(lines) - len(words), 'empty line')} of the input left out", "warning")
        return [(f"input {i}", text) for i, text in enumerate(words, 1)]
    return sources.read(sources.find(words[0], "test", "line", names))


def _of_column(rows: list[tuple[str, Any]], columns: Sequence[str]) -> list[tuple[str, Any]]:
    """`(where, value)` of the first of `columns` that a file's rows have; what was typed stays as it is."""
    if not rows or isinstance(rows[0][1], str):
        return rows
    where, there = rows[0]
    known = [*columns, "text"] if [*there] == ["text"] else columns  # a .txt file has that column alone
    name = next((c for c in known if c in there), None)
    if name is None:
        asked = " or ".join(map(repr, columns))
        raise RecipeError(f"{where}: no column {asked}; its columns are {', '.join(there)}")
    return [(where, row.get(name)) for where, row in rows]


def predict(args: Namespace) -> None:
    """`llmkit predict`: one answer a line, in order."""
    console.hush()
    from llmkit.models import hub
    from llmkit.predictor import load, task_of

    task = task_of(hub.find_model(args.model))
    if type(task).predict is Task.predict:
        raise RecipeError(f"a {task.name} model does not predict; ask it with llmkit generate")
    inputs = read_inputs(args.input, task, args.column, args.names)
    model = load(args.model)
    with _opened(args.out, "w") as out:
        for given, answer in zip(inputs, model.predict_iter(inputs, args.batch_size), strict=True):
            asked = {task.asks[0]: given} if isinstance(given, str) else given
            out.write((as_json({**asked, **answer}) if args.json or args.out else task.show(answer, given)) + "\n")
    if args.out:
        say(f"{plural(len(inputs), 'answer')} in {args.out}")


def read_inputs(words: list[str], task: Task, columns: Sequence[str] = (), names: str | None = None) -> list[Any]:
    """What `task.predict` is asked, typed, piped (-) or in a file: texts, or mappings of the columns that the task asks
    for, each typed as a JSON object. `columns`: TASK=YOURS, or YOURS alone where it asks for one; `names`: those of a
    table without a header line."""
    rows = read_rows(words, (names,) if names else ())
    named = dict(pair.split("=", 1) if "=" in pair else (task.asks[0], pair) for pair in columns)
    if strange := [*(c for c in named if c not in task.asks), *(c for c in columns if "=" not in c and task.asks[1:])]:
        wanted = " ".join(f"--column {c}=YOURS" for c in task.asks)
        raise RecipeError(f"--column {strange[0]}: {task.name} asks for {', '.join(task.asks)}; give {wanted}")
    if len(task.asks) == 1:
        (asks,) = task.asks
        rows = [(where, {asks: v}) for where, v in _of_column(rows, (*named.values(),) or (asks, *task.columns[asks]))]
    elif named and rows and isinstance(rows[0][1], Mapping):
        if missing := [name for name in named.values() if name not in rows[0][1]]:
            raise RecipeError(f"{rows[0][0]}: no column {missing[0]!r}; its columns are {', '.join(rows[0][1])}")
        rows = [(where, {**row, **{task: row.get(name) for task, name in named.items()}}) for where, row in rows]
    found, faults = [], []
    for where, row in rows:
        try:
            row = _typed(row) if isinstance(row, str) else row
            found += task.read_question(row)
        except ValueError as e:
            faults.append(f"{where}: {e}")
    if faults and len(task.asks) > 1:
        example = as_json(dict.fromkeys(task.asks, "…"))
        faults[5:] = [f"give a file with these columns, or type a JSON object: '{example}'"]
    raise_faults(faults[: 6 if len(task.asks) > 1 else 5])
    return found


def _typed(words: str) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(words), Mapping):
            return found
    raise ValueError("not a JSON object")


def evaluate(args: Namespace) -> None:
    """`llmkit evaluate`: the metrics of a saved model on data of its task, with 95 % bootstrap intervals."""
    console.hush()
    from llmkit.evaluation.measure import measure

    if wrong := [pair for pair in args.column if "=" not in pair]:
        raise RecipeError(f"--column {wrong[0]!r}: expected TASK=YOURS, such as text=body")
    columns = dict(pair.split("=", 1) for pair in args.column)
    options = {"max_length": args.max_length, "batch_size": args.batch_size, "on_error": args.on_error}
    try:
        result = measure(args.model, args.data, columns, names=(args.names,) if args.names else (), **options)
    except RecipeError as e:  # a recipe's flags, as they are called here
        faults = [re.sub(r"--data\.columns\.(\w+) ", r"--column \1=", fault) for fault in e.faults]
        options = {"--data.names": "--names", "--data.on_error": "--on-error", "--data.max_length": "--max-length"}
        raise RecipeError(*(re.sub(r"--data\.\w+", lambda m: options.get(m[0], m[0]), f) for f in faults)) from None
    _print_result(result, args.json)


def _print_result(result: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        print(as_json(result))
        return
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        others = "".join(f"  {other} {figure(found[name])}" for other, found in result.get("baselines", {}).items())
        print(f"{name} {figure(value)}  [{figure(low)}, {figure(high)}]{others}")
    for name, detail in result.get("details", {}).items():
        print(f"\n{_table(name, detail)}")


def _table(name: str, detail: Any) -> str:
    """Mappings in a mapping as a table, if a screen is wide enough for it; anything else as JSON."""
    import pandas as pd

    tabular = isinstance(detail, Mapping) and all(isinstance(row, Mapping) for row in detail.values())
    heads = list(dict.fromkeys(key for row in detail.values() for key in row)) if tabular else []
    if not heads:
        return f"{name}: {as_json(detail)}"
    if set(heads) <= set(detail):
        heads = list(detail)  # a square, zeros left out of it
    if len(heads) > WIDEST:
        return f"{name}: {len(detail)} × {len(heads)}, see --json"
    cells = [[row.get(head, 0) for head in heads] for row in detail.values()]
    table = pd.DataFrame(cells, list(detail), heads, dtype=object).rename_axis(name, axis="columns")
    with pd.option_context("display.unicode.east_asian_width", True):
        return table.to_string(float_format="{:.4f}".format)


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
            print(as_json({"query": question, "found": found}))
        else:
            print("\n".join(f"{f['score']:.4f}\t{f['id']}\t{' '.join(f['text'].split())}" for f in found))
