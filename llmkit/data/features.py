"""From rows to features: encoded in chunks, checked, packed, stored in small integer types, and cached."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit.data import cache, packing
from llmkit.errors import UsageError
from llmkit.log import log, plural
from llmkit.task import Columns, Task

Parts = dict[str, Dataset]
CHUNK = 1000
"""Rows that a task encodes at a time."""
MANY_UNKNOWN = 0.05
"""Share of unknown tokens above which a warning is logged."""


def prepare_features(task: Task, rows: Parts, tokenizer: Tokenizer, max_length: int, packed: bool) -> Parts:
    """Return the features of each part, from the cache if rows, tokenizer, task, code and arguments are unchanged.

    Logs their size, and warns of rows that were truncated or dropped and of unknown tokens.
    """
    features = {}
    known = (_tokenizer_digest(tokenizer), repr(task), cache.code_digest(type(task)), max_length, packed)
    for part, dataset in rows.items():
        build = functools.partial(_build, task, dataset, tokenizer, max_length, packed, part)
        key = cache.digest(cache.rows_digest(dataset), *known)
        features[part], notes, cached = cache.load_or_build("features", key, build)
        _log_summary(part, features[part], notes, cached, len(dataset), max_length)
    return features


def encode(task: Task, rows: Dataset, tokenizer: Tokenizer, max_length: int) -> tuple[Dataset, cache.Notes]:
    """Return features of every row, each with the index of its `row`, and how many rows were truncated or dropped.

    Raises UsageError, naming the task and the column, if `task.encode` returns columns of the wrong shape.
    """
    tables, truncated = [], 0
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        columns = task.encode(chunk, tokenizer, max_length)
        truncated += sum(columns.pop("truncated", []))
        table = _checked_table(task.name, columns, min(CHUNK, len(rows) - start), max_length)
        row = table.column_names.index("row")
        tables.append(_compact(table.set_column(row, "row", pc.add(table["row"], start))))
    table = pa.concat_tables(tables, promote_options="permissive")
    return Dataset(table), {"truncated": truncated, "dropped": len(rows) - len(table["row"].unique())}


def _checked_table(task: str, columns: Columns, num_rows: int, max_length: int) -> pa.Table:
    """The columns that a task's `encode` returned, as a table. Raises UsageError, see `Task.encode`."""

    def fault(column: str, what: str) -> UsageError:
        return UsageError(f"task {task}: encode returned {column!r} {what}")

    if missing := [name for name in ("input_ids", "row") if name not in columns]:
        raise UsageError(f"task {task}: encode returned no {missing[0]!r}; it must return 'input_ids' and 'row'")
    sizes = {name: len(values) for name, values in columns.items()}
    if odd := [name for name, size in sizes.items() if size != sizes["input_ids"]]:
        raise fault(odd[0], f"with {sizes[odd[0]]} values, and 'input_ids' with {sizes['input_ids']}")
    for name, values in columns.items():
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as e:
            raise fault(name, f"with values of several types ({str(e).splitlines()[0]})") from None
    if not sizes["row"]:
        return pa.table({**columns, "row": pa.array([], pa.int64())})
    ids, row = columns["input_ids"], columns["row"]
    if not (pa.types.is_list(ids.type) and pa.types.is_integer(ids.type.value_type)):
        raise fault("input_ids", "that is not a flat list of ids per row; for several sequences in it return 'lengths'")
    if not pa.types.is_integer(row.type) or pc.min(row).as_py() < 0 or pc.max(row).as_py() >= num_rows:
        raise fault("row", f"that is not an index of its rows, 0 to {num_rows - 1}")
    each = pc.list_value_length(ids)
    if "lengths" in columns:
        sums = [sum(n) if isinstance(n, list) else None for n in columns["lengths"].to_pylist()]
        if sums != each.to_pylist():
            raise fault("lengths", "that are not lists which sum to the number of ids of their row")
        each = pc.list_flatten(columns["lengths"])
    if len(each) and (longest := pc.max(each).as_py()) > max_length:
        raise fault("input_ids", f"with {longest} ids in a sequence, more than max_length {max_length}")
    return pa.table(columns)


def _build(
    task: Task, rows: Dataset, tokenizer: Tokenizer, max_length: int, packed: bool, part: str
) -> tuple[Dataset, cache.Notes]:
    features, notes = encode(task, rows, tokenizer, max_length)
    if not len(features):
        no_row = f"none of {plural(len(rows), 'row')} has tokens to train on {within(max_length)}"
        raise UsageError(f"data.{part}: {no_row}")
    ids = features.data.column("input_ids")
    flat = pc.list_flatten(ids)
    notes |= {"tokens": len(flat), "longest": pc.max(pc.list_value_length(ids)).as_py(), "unknown": 0}
    if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):  # GPT-2's unknown token is its EOS
        notes["unknown"] = pc.sum(pc.equal(flat, tokenizer.unk_token_id)).as_py()
    return (packing.pack(features, max_length) if packed else features), notes


def within(max_length: int) -> str:
    """The limit in a message, with its option."""
    return f"within {max_length} tokens (--data.max_length)"


def _compact(table: pa.Table) -> pa.Table:
    """Cast integer columns to the smallest type that holds them."""
    for i, name in enumerate(table.column_names):
        column = table[name]
        is_list = pa.types.is_list(column.type)
        numbers = pc.list_flatten(column) if is_list else column
        if not pa.types.is_int64(numbers.type) or not len(column):
            continue
        low, high = (extent or 0 for extent in pc.min_max(numbers).as_py().values())
        types: Sequence[str] = ("int32",)
        if is_list:
            types = ("uint16", "uint32") if name == "input_ids" else ("int8", "int32")
        small = next((t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max), "int64")
        dtype = pa.type_for_alias(small)
        table = table.set_column(i, name, column.cast(pa.list_(dtype) if is_list else dtype))
    return table


def _tokenizer_digest(tokenizer: Tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:  # an earlier call may have left truncation and padding on
        content |= {"truncation": None, "padding": None}
    return cache.digest(content, tokenizer.special_tokens_map, tokenizer.chat_template)


def log_cut(part: str, notes: cache.Notes, num_rows: int, max_length: int) -> None:
    """Warn of the rows that `encode` truncated or dropped."""
    if cut := notes["truncated"]:
        log(f"{part}: {cut:,} of {plural(num_rows, 'row')} cut to {max_length} tokens (--data.max_length)", "warning")
    if gone := notes["dropped"]:
        log(
            f"{part}: {gone:,} of {plural(num_rows, 'row')} dropped: no tokens to train on {within(max_length)}",
            "warning",
        )


def _log_summary(
    part: str, features: Dataset, notes: dict[str, Any], cached: bool, num_rows: int, max_length: int
) -> None:
    longest = max(max_length, notes["longest"])  # a row of several sequences may be longer
    shape = f"{part}: {notes['tokens']:,} tokens in {plural(len(features), 'row')} of at most {longest}"
    if "segments" in features.column_names:
        shape += f", packed ({notes['tokens'] / max(1, len(features) * max_length):.0%} full)"
    log(shape + (" (cached)" if cached else ""), "data")
    log_cut(part, notes, num_rows, max_length)
    if notes["unknown"] > MANY_UNKNOWN * notes["tokens"]:
        share = f"{part}: {notes['unknown'] / notes['tokens']:.0%} of the tokens are unknown to the tokenizer"
        fix = "; use a model that reads this text, or add its characters with --model.new_characters true"
        log(share + (fix if part == "train" else ""), "warning")
