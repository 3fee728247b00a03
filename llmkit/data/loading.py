"""Reads the rows of each part of a recipe: sources, valid rows, splits and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import Dataset

from llmkit.data import sources
from llmkit.data.rows import RowReader
from llmkit.data.splits import row_hashes, split_off, weigh
from llmkit.data.stream import sample
from llmkit.errors import UsageError, raise_faults
from llmkit.log import log, plural
from llmkit.recipe import DataConfig
from llmkit.task import Task

DEFAULT_FRACTION = 0.1
CHOICES = {"document": ("file", "line", "paragraph"), "on_error": ("raise", "skip", "report")}
Read = list[tuple[sources.Source, Dataset, int]]
"""Each source of a part, its valid rows, and the number of invalid rows that were skipped."""


@dataclass(frozen=True)
class Loaded:
    """A task's rows by part (train, validation, and test if there is one), and where they came from."""

    rows: dict[str, Dataset]
    sources: list[dict[str, Any]]
    """part, name, sha256, rows and skipped rows of each source"""


def check(config: DataConfig, task: Task) -> list[str]:
    """Return faults of the data part that show before anything is read."""
    faults = []
    if config.train is None:
        faults.append("data.train: not given; set --data FILE (or demo, fables, reviews)")
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            faults.append(f"data.{name}: {getattr(config, name)!r} is not one of {', '.join(choices)}")
    if config.max_length is not None and config.max_length < 2:
        faults.append(f"data.max_length: {config.max_length} is too short to train on; at least 2")
    if config.streaming and isinstance(_given_part(config, "validation"), (int, float, type(None))):
        fix = "set --data.validation to a source of its own; a fraction would read everything first"
        faults.append(f"data.streaming: {fix}")
    if config.streaming and type(task).precompute is not Task.precompute:
        faults.append(f"data.streaming: {task.name} needs a pass of the untrained model over all rows; leave it out")
    if config.packing and not task.language_modeling:
        faults.append(f"data.packing: rows of {task.name} are not packed; leave it out")
    return faults


def load_rows(config: DataConfig, task: Task) -> Loaded:
    """Read the rows of all parts, split off validation, and warn of rows that are in several parts.

    Raises UsageError with every fault of the sources.
    """
    given = {"train": config.train, **{part: _given_part(config, part) for part in ("validation", "test")}}
    if config.streaming:
        return _load_streamed(given, config, task)
    fraction = DEFAULT_FRACTION if given["validation"] is None else given["validation"]
    if isinstance(fraction, (int, float)) and not isinstance(fraction, bool):
        del given["validation"]
    else:
        fraction = None
    faults: list[str] = []
    read = {p: _read(spec, p, task, config, faults) for p, spec in given.items() if spec is not None}
    raise_faults(faults)
    rows = _assemble(read, fraction, task, config)
    origins = [
        {"part": part, "name": source.name, "sha256": source.sha256, "rows": len(valid), "left_out": skipped}
        for part, found in read.items()
        for source, valid, skipped in found
    ]
    for part, dataset in rows.items():
        names = ", ".join(dict.fromkeys(s["name"] for s in origins if s["part"] == part))
        log(f"{part}: {plural(len(dataset), 'row')} from {names or f'{fraction:g} of train'}", "data")
    _warn_of_leaks(rows)
    return Loaded(rows, origins)


def load_part(spec: object, task: Task, config: DataConfig, part: str = "test") -> Dataset:
    """Return the task's rows of one part. Raises UsageError."""
    faults: list[str] = []
    read = _read(spec, part, task, config, faults)
    raise_faults(faults)
    return datasets.concatenate_datasets([rows for _, rows, _ in read])


def _given_part(config: DataConfig, part: str) -> sources.Spec:
    """The source given for `part`, or else the training source if it has such a part of its own."""
    given = getattr(config, part)
    return config.train if given is None and sources.has_part(config.train, part, config) else given


def _load_streamed(given: Mapping[str, Any], config: DataConfig, task: Task) -> Loaded:
    rows = {"train": sample(task, config)}
    first = plural(len(rows["train"]), "row")
    rows |= {p: load_part(spec, task, config, p) for p, spec in given.items() if p != "train" and spec is not None}
    log(f"train: streamed from {config.train}; labels and tokenizer come from the first {first}", "data")
    unread = {"sha256": None, "left_out": 0}
    return Loaded(rows, [{"part": p, "name": str(given[p]), "rows": len(r), **unread} for p, r in rows.items()])


def _read(spec: object, part: str, task: Task, config: DataConfig, faults: list[str]) -> Read:
    read: Read = []
    reader = RowReader(task, config, part)
    try:
        for source in sources.find(spec, part, config):
            try:
                read.append((source, *reader.read_dataset(source)))
            except UsageError as e:
                faults.extend(e.faults)
    except UsageError as e:
        faults.extend(e.faults)
    reader.log_unread()
    return read


def _assemble(read: Mapping[str, Read], fraction: float | None, task: Task, config: DataConfig) -> dict[str, Dataset]:
    parts = {part: [rows for _, rows, _ in found] for part, found in read.items()}
    if fraction is not None:  # before weighting: copies of a row must not end up in two parts
        parts["train"], held = split_off(parts["train"], fraction, config.seed, task)
        parts["validation"] = [held]
    weights = [source.weight for source, _, _ in read["train"]]
    parts["train"] = [weigh(rows, weight, config.seed) for rows, weight in zip(parts["train"], weights, strict=True)]
    ordered = [part for part in ("train", "validation", "test") if part in parts]
    return {part: datasets.concatenate_datasets(parts[part]).flatten_indices() for part in ordered}


def _warn_of_leaks(rows: Mapping[str, Dataset]) -> None:
    seen = set(row_hashes(rows["train"]))
    for part, dataset in list(rows.items())[1:]:
        if shared := sum(h in seen for h in row_hashes(dataset)):
            log(f"{plural(shared, 'row')} of {part} also in train: its metrics will be too high", "warning")
