"""Rows become features: encoded once, packed, stored compactly, kept on disk; what was cut is counted and said."""

import functools
import inspect
import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from llmkit.console import plural, say
from llmkit.data import cache, packing
from llmkit.errors import RecipeError
from llmkit.task import Task

Parts = dict[str, Dataset]
Noted = cache.Noted
BATCH = 1000
MANY_UNKNOWN = 0.05


def prepare(task: Task, rows: Parts, tokenizer: PreTrainedTokenizerBase, max_length: int, packed: bool) -> Parts:
    """Features of each part, from the cache where the same rows, tokenizer, task and arguments were seen before."""
    features = {}
    for part, dataset in rows.items():
        known = (_tokenizer_key(tokenizer), repr(task), code_key(task), max_length, packed)
        build = functools.partial(_build, task, dataset, tokenizer, max_length, packed, part)
        features[part], notes, reused = cache.kept("features", cache.digest(cache.rows_digest(dataset), *known), build)
        _tell(part, features[part], notes, reused, len(dataset), max_length)
    return features


def encode(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Noted:
    """Features of every row, each with the index of its `row`, and how many rows were truncated or gave none."""
    tables, truncated = [], 0
    for start in range(0, len(rows), BATCH):
        columns = task.encode(rows[start : start + BATCH], tokenizer, max_length)
        truncated += sum(columns.pop("truncated", []))
        columns["row"] = [start + row for row in columns["row"]]
        tables.append(_compact(pa.table(columns)))
    table = pa.concat_tables(tables, promote_options="permissive")
    return Dataset(table), {"truncated": truncated, "dropped": len(rows) - len(table["row"].unique())}


def _build(task: Task, rows: Dataset, tokenizer: Any, max_length: int, packed: bool, part: str) -> Noted:
    features, notes = encode(task, rows, tokenizer, max_length)
    if not len(features):
        raise RecipeError(
            f"data.{part}: none of {plural(len(rows), 'row')} has anything to learn from {within(max_length)}"
        )
    ids = features.data.column("input_ids")
    flat = pc.list_flatten(ids)
    notes |= {"tokens": len(flat), "longest": pc.max(pc.list_value_length(ids)).as_py(), "unknown": 0}
    if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):  # GPT-2 knows all
        notes["unknown"] = pc.sum(pc.equal(flat, tokenizer.unk_token_id)).as_py()
    return (packing.pack(features, max_length) if packed else features), notes


def within(max_length: int) -> str:
    return f"within {max_length} tokens (--data.max_length)"


def _compact(table: Any) -> Any:
    """Integer columns in the smallest type that holds them: no int64 on disk."""
    for i, name in enumerate(table.column_names):
        column = table[name]
        is_list = pa.types.is_list(column.type)
        numbers = pc.list_flatten(column) if is_list else column
        if not pa.types.is_int64(numbers.type) or not len(column):
            continue
        low, high = (extent or 0 for extent in pc.min_max(numbers).as_py().values())
        types = ("uint16", "uint32") if name == "input_ids" else ("int8", "int32") if is_list else ("int32",)
        small = next((t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max), "int64")
        small = pa.type_for_alias(small)
        table = table.set_column(i, name, column.cast(pa.list_(small) if is_list else small))
    return table


def _tokenizer_key(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:  # an encoding may have left them switched on
        content |= {"truncation": None, "padding": None}
    return cache.digest(content, tokenizer.special_tokens_map, tokenizer.chat_template)


def code_key(task: Task) -> str:
    """The source of the task: a changed `encode` never meets features of the old one."""
    try:
        return inspect.getsource(sys.modules[type(task).__module__])
    except (OSError, TypeError, KeyError):
        return type(task).__qualname__


def _tell(part: str, features: Dataset, notes: dict[str, Any], reused: bool, rows: int, max_length: int) -> None:
    longest = max(max_length, notes["longest"])  # of a row of several texts, each as long as may be
    shape = f"{part}: {notes['tokens']:,} tokens in {plural(len(features), 'row')} of at most {longest}"
    if "segments" in features.column_names:
        shape += f", packed {notes['tokens'] / max(1, len(features) * max_length):.0%} full"
    say(shape + (" (prepared before)" if reused else ""), "data")
    if cut := notes["truncated"]:
        say(f"{part}: {cut:,} of {plural(rows, 'row')} cut to {max_length} tokens (--data.max_length)", "warning")
    if gone := notes["dropped"]:
        say(f"{part}: {gone:,} of {plural(rows, 'row')} dropped: nothing to learn from {within(max_length)}", "warning")
    if notes["unknown"] > MANY_UNKNOWN * notes["tokens"]:
        share = f"{part}: {notes['unknown'] / notes['tokens']:.0%} of the tokens are unknown to the tokenizer"
        fix = ": take a model that reads this text, or add its characters with --model.new_characters true"
        say(share + (fix if part == "train" else ""), "warning")
