"""`llmkit generate`: continue one prompt, the prompts of a file, or a conversation."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit.cli.io import as_json, is_file, open_output, read_texts
from llmkit.cli.options import ENCODING_HELP, positive_int
from llmkit.errors import PromptTooLong, UsageError, as_usage_error, raise_faults
from llmkit.log import log, plural, quiet_libraries

if TYPE_CHECKING:
    from llmkit.predictor import Predictor
    from llmkit.task import Json

OPTIONS: dict[str, tuple[type, str]] = {
    "max_new_tokens": (int, "Number of new tokens at most"),
    "max_length": (int, "Maximum number of tokens, including the prompt"),
    "min_new_tokens": (int, "Number of new tokens at least"),
    "temperature": (float, "Sample, with logits divided by this; 0 always takes the likeliest token"),
    "top_k": (int, "Sample from this many likeliest tokens"),
    "top_p": (float, "Sample from the likeliest tokens whose probabilities sum to this"),
    "min_p": (float, "Sample from tokens with at least this share of the highest probability"),
    "typical_p": (float, "Sample from locally typical tokens whose probabilities sum to this"),
    "repetition_penalty": (float, "Divide the logits of tokens seen before by this; 1 has no effect"),
    "no_repeat_ngram_size": (int, "Never repeat a sequence of this many tokens"),
    "num_beams": (int, "Beam search with this many beams"),
    "length_penalty": (float, "In beam search: above 0 favors long texts, below 0 short ones"),
    "num_return_sequences": (int, "Number of texts per prompt"),
    "seed": (int, "Random seed of sampling"),
}
"""Fields of GenerationConfig that are options here, and the seed. In Python, `generate` takes all of its fields."""
PROMPTS = ("prompt", "text", "question")
"""Columns of a file that may hold its prompts."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="Run folder, other model folder, .gguf file, hub id, or bundled model tiny-gpt2")
    parser.add_argument("prompt", nargs="?", help="Text to continue; - reads it from stdin")
    parser.add_argument("--file", help="File of prompts: one per line (.txt), or rows with a column prompt or text")
    parser.add_argument("--encoding", default="utf-8", help=ENCODING_HELP)
    parser.add_argument("--out", metavar="FILE", help="With --file: write .jsonl here; continues an interrupted call")
    parser.add_argument("-i", "--interactive", action="store_true", help="Hold a conversation")
    for name, (kind, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind is int else "X", help=text)
    parser.add_argument("--stop", action="append", default=[], help="End before this text; may be repeated")
    parser.add_argument("--no-chat", action="store_true", help="Continue the prompt as it is, without a chat template")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="Prompts per batch (default: 16)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", default="auto", choices=dtypes, help="Data type of the weights (default: auto)")
    parser.add_argument("--json", action="store_true", help="Print JSON, one object per text, with the prompt in it")


def run(args: Namespace) -> None:
    if [bool(args.file), args.prompt is not None, args.interactive].count(True) != 1:
        raise UsageError('llmkit generate: give one of "prompt", --file FILE, -i')
    if args.out and not args.file:
        raise UsageError("llmkit generate: --out needs --file; a single text is printed to stdout")
    if args.file and args.file != "-" and not is_file(args.file):
        raise UsageError(f"--file {args.file}: no such file")
    quiet_libraries()
    from llmkit import generation, predictor

    prompts = read_texts(args.file, PROMPTS, args.encoding) if args.file else []  # before the model is loaded
    model = predictor.load(args.model, dtype=args.dtype)
    model.require_generation()
    options = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None} | {"stop": args.stop}
    options |= {"chat": False} if args.no_chat else {}
    chat = generation.is_chat(model.tokenizer, options.get("chat"))
    if args.interactive:
        _converse(model, chat, options)
    elif args.file:
        _answer_file(model, prompts, args, options)
    else:
        prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
        pieces = generation.stream(model.model, model.tokenizer, [prompt], **options)
        _print_text(pieces, prompt, "" if chat else prompt, args)


def _print_text(pieces: Iterator[tuple[int, str]], prompt: str, start: str, args: Namespace) -> None:
    """Print `start` and what follows: as it comes for one text, at the end for several and as JSON."""
    started, count = time.time(), 0
    texts = [start] * (args.num_return_sequences or 1)
    streaming = len(texts) == 1 and not args.json
    for row, piece in pieces:
        texts[row] += piece
        if streaming:
            print(piece if count else texts[0], end="", flush=True)
        count += 1
    if streaming:
        print("" if count else texts[0])
    elif args.json:
        print("\n".join(as_json({"prompt": prompt, "text": text}) for text in texts))
    else:
        print("\n\n".join(texts))
    seconds = time.time() - started
    log(f"{plural(count, 'token')} in {seconds:.1f} s ({count / max(seconds, 1e-9):.0f}/s)")


def _answer_file(
    model: Predictor, prompts: Sequence[tuple[str, str]], args: Namespace, options: Mapping[str, object]
) -> None:
    """Write the text of each prompt as JSON, in order, after those that a stopped call has written.

    A prompt that is too long has an `error` in place of its text. Raises UsageError with these at the end.
    """
    (answered, faults), started = _read_answers(args.out) if args.out else ([], []), time.time()
    done = len(answered)
    if answered != [prompt for _, prompt in prompts[:done]]:
        fault = f"its {plural(done, 'answer')} are not those of the first prompts of {args.file}"
        raise UsageError(f"--out {args.out}: {fault}; choose another --out")
    if done:
        log(f"{args.out}: already holds {plural(done, 'answer')}; continuing after them")
    with open_output(args.out, "a") as out:
        for i in range(done, len(prompts), args.batch_size):
            batch = prompts[i : i + args.batch_size]
            for answer in _answers(model, batch, options):
                out.write(as_json(answer) + "\n")
                faults += [answer["error"]] if "error" in answer else []
            out.flush()
    where = f", written to {args.out}" if args.out else ""
    log(f"{plural(len(prompts) - done, 'prompt')} in {time.time() - started:.1f} s{where}")
    raise_faults(faults)


def _answers(model: Predictor, batch: Sequence[tuple[str, str]], options: Mapping[str, object]) -> list[Json]:
    """Return `{"prompt", "text"}` of each `(where, prompt)`; a prompt that is too long is left out of the batch."""
    answers: list[Json] = [{"prompt": prompt, "text": None} for _, prompt in batch]
    left = [*range(len(batch))]
    while left:
        try:
            for i, text in zip(left, model.generate([batch[i][1] for i in left], **options), strict=True):
                answers[i]["text"] = text
            break
        except PromptTooLong as e:
            i = left.pop(e.index)
            answers[i]["error"] = f"{batch[i][0]}: the prompt {e.reason}"
    return answers


def _read_answers(path: str) -> tuple[list[str], list[str]]:
    """Return the prompts and the errors that the file holds; an incomplete last line is removed first."""
    file = Path(path)
    content = file.read_bytes() if file.exists() else b""
    complete = content[: content.rfind(b"\n") + 1]
    fault = f"--out {path}: does not hold answers of llmkit generate; choose another file"
    with as_usage_error(fault, ValueError, KeyError, TypeError):
        rows = [json.loads(line) for line in complete.splitlines()]
        prompts, errors = [row["prompt"] for row in rows], [row["error"] for row in rows if "error" in row]
    if complete != content:
        file.write_bytes(complete)
    return prompts, errors


def _converse(model: Predictor, chat: bool, options: Mapping[str, object]) -> None:
    """Answer each line of stdin; with a chat template, all earlier turns are part of the prompt."""
    kind = "a conversation" if chat else "this model has no chat template: each line is continued"
    log(f"{kind}; an empty line or Ctrl-D ends it")
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
