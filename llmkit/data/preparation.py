"""Rows become features: encoded once, packed, stored compactly, kept on disk; what was cut is counted and said."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from llmkit.console import plural, say
from llmkit.data import cache, packing
from llmkit.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from llmkit.task import Task

BATCH = 1000
MANY_UNKNOWN = 0.05


def prepare(
    task: Task, rows: dict[str, Dataset], tokenizer: PreTrainedTokenizerBase, max_length: int, packed: bool
) -> dict[str, Dataset]:
    """Features of each part, from the cache where the same rows, tokenizer, task and arguments were seen before."""
    features = {}
    for part, dataset in rows.items():
        key = cache.digest(
            cache.rows_digest(dataset), _tokenizer_key(tokenizer), repr(task), code_key(task), max_length, packed
        )
        features[part], notes, reused = cache.kept(
            "features", key, lambda d=dataset, p=part: _build(task, d, tokenizer, max_length, packed, p)
        )
        _tell(part, features[part], notes, reused, len(dataset), max_length)
    return features


def encode(
    task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, dict[str, int]]:
    """Features of every row, each with the index of its `row`, and how many rows were truncated or gave none."""
    import datasets
    import pyarrow as pa

    tables, truncated, start = [], 0, 0
    seen: set[int] = set()
    for batch in rows.iter(batch_size=BATCH):
        size = len(next(iter(batch.values())))
        columns = task.encode(batch, tokenizer, max_length)
        truncated += sum(columns.pop("truncated", []))
        columns["row"] = [start + r for r in columns["row"]]
        seen.update(columns["row"])
        tables.append(_compact(pa.table(columns)))
        start += size
    table = pa.concat_tables(tables, promote_options="permissive")
    return datasets.Dataset(table), {"truncated": truncated, "dropped": len(rows) - len(seen)}


def _build(
    task: Task, rows: Dataset, tokenizer: Any, max_length: int, packed: bool, part: str
) -> tuple[Dataset, dict[str, Any]]:
    features, notes = encode(task, rows, tokenizer, max_length)
    if not len(features):
        raise RecipeError(f"data.{part}: no row is left after encoding: all {len(rows)} are too short to learn from")
    lengths = [len(ids) for batch in features.iter(batch_size=BATCH) for ids in batch["input_ids"]]
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.eos_token_id else None  # GPT-2 knows all
    notes |= {
        "tokens": sum(lengths),
        "longest": max(lengths, default=0),
        "unknown": sum(ids.count(unknown) for batch in features.iter(batch_size=BATCH) for ids in batch["input_ids"]),
    }
    return (packing.pack(features, max_length) if packed else features), notes


def _compact(table: Any) -> Any:
    """Integer columns in the smallest type that holds them: no int64 on disk."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, name in enumerate(table.column_names):
        kind = table.schema.field(name).type
        inner = kind.value_type if pa.types.is_list(kind) else kind
        if not pa.types.is_int64(inner) or not table.num_rows:
            continue
        extent = pc.min_max(pc.list_flatten(table[name]) if pa.types.is_list(kind) else table[name]).as_py()
        low, high = extent["min"] or 0, extent["max"] or 0
        if name == "input_ids":
            small = pa.uint16() if high < 2**16 else pa.uint32()
        else:
            small = pa.int32() if low >= -(2**31) and high < 2**31 else pa.int64()
            small = pa.int8() if pa.types.is_list(kind) and low >= -128 and high < 128 else small
        table = table.set_column(i, name, table[name].cast(pa.list_(small) if pa.types.is_list(kind) else small))
    return table


def _tokenizer_key(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # but for the truncation that an encoding may have left switched on
        content = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    else:
        content = sorted(tokenizer.get_vocab().items())
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
    for what, why in (
        ("truncated", f"cut to {max_length} tokens (--data.max_length)"),
        ("dropped", "dropped: nothing left to learn from"),
    ):
        if notes[what]:
            say(f"{part}: {notes[what]:,} of {plural(rows, 'row')} {why}", "warning")
    if notes["unknown"] > MANY_UNKNOWN * notes["tokens"]:
        say(
            f"{part}: {notes['unknown'] / notes['tokens']:.0%} of the tokens are unknown to the tokenizer: take a model that "
            "reads this text, or add its characters with --model.new_characters true",
            "warning",
        )
