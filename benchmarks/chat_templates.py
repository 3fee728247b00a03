"""For how many of trl's stock chat templates llmkit finds the assistant's tokens, without `{% generation %}` markers.

    pip install trl && python benchmarks/chat_templates.py

A template passes if the tokens that are trained on form one run per assistant turn, each run holds all of that turn's
text, and no run holds text of another turn.
"""

from __future__ import annotations

import itertools
from importlib.resources import files

from llmkit import UsageError
from llmkit.data.chat import encode_with_mask
from llmkit.models.tokenizers import load_tokenizer

TURNS = [
    {"role": "user", "content": "Which bird fishes?"},
    {"role": "assistant", "content": "The heron fishes."},
    {"role": "user", "content": "谁睡在面粉里？"},
    {"role": "assistant", "content": "小猫睡在面粉里。"},
]


def verdict(template: str) -> str:
    """Return "" if the mask is right, or what is wrong with it."""
    tokenizer = load_tokenizer("tiny-gpt2")
    tokenizer.chat_template = template
    try:
        ids, mask = encode_with_mask(TURNS, tokenizer)
    except UsageError as e:
        return str(e)
    groups = itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    runs = [tokenizer.decode([token for token, _ in group]) for is_trained, group in groups if is_trained]
    answers = [turn["content"] for turn in TURNS if turn["role"] == "assistant"]
    if len(runs) != len(answers):
        return f"{len(runs)} runs for {len(answers)} answers"
    for run, answer in zip(runs, answers, strict=True):
        others = [turn["content"] for turn in TURNS if turn["content"] != answer and turn["content"] in run]
        if answer not in run or others:
            return f"{run!r} for {answer!r}"
    return ""


def main() -> None:
    stock = [t for t in files("trl").joinpath("chat_templates").iterdir() if t.name.endswith(".jinja")]
    stock = sorted((t for t in stock if "_training" not in t.name), key=lambda t: t.name)
    faults = {t.name: verdict(t.read_text(encoding="utf-8")) for t in stock}
    for name, fault in faults.items():
        print(f"{name:<40} {fault or 'right'}")
    print(f"{sum(not fault for fault in faults.values())} of {len(faults)} templates right")


if __name__ == "__main__":
    main()
