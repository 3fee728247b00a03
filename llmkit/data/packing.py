"""Several documents in one row of features: every token kept, no document cut that fits, each kept apart when read.

Best-fit decreasing: documents, longest first, each into the fullest row that still takes it. Cutting one long stream
instead would leave no padding, but would split nearly every short document and hide its beginning from its end.
"""

import bisect

import datasets
import numpy as np
import pyarrow as pa


def chunks(ids: list[int], length: int) -> list[list[int]]:
    """A long document in pieces of at most `length`. Each begins with the last token of the one before it, so that a
    causal model still predicts every token once."""
    if len(ids) <= length:
        return [ids]
    return [ids[i : i + length] for i in range(0, len(ids) - 1, length - 1)]


def fit_rows(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Which documents share a row: lists of indices whose lengths sum to at most `capacity`."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free space, row), sorted
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        at = bisect.bisect_left(open_rows, (length, -1))
        if at == len(open_rows):
            free, row = capacity, len(rows)
            rows.append([])
        else:
            free, row = open_rows.pop(at)
        rows[row].append(i)
        if free - length > 1:
            bisect.insort(open_rows, (free - length, row))
    return rows


def pack(features: datasets.Dataset, capacity: int) -> datasets.Dataset:
    """`features` with documents sharing rows: token columns joined, `segments` the length of each document in a row,
    `row` the raw row of the first."""
    table = features.data.table.combine_chunks()
    lengths = np.diff(table["input_ids"].combine_chunks().offsets.to_numpy())
    rows = fit_rows(lengths, capacity)
    order, counts = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    table, packed = table.take(pa.array(order)), {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy()[counts] - column.offsets[0].as_py()
            packed[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column.flatten())
        else:
            packed[name] = column.take(pa.array(counts[:-1]))
    segments = pa.array(lengths[order], pa.int32())
    packed["segments"] = pa.ListArray.from_arrays(pa.array(counts, pa.int32()), segments)
    return datasets.Dataset(pa.table(packed))
