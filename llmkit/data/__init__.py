"""The one way of the data: sources → clean → split → encode → pack → collate, for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.console import plural, say
from llmkit.errors import RecipeError, raise_faults

if TYPE_CHECKING:
    from datasets import Dataset

    from llmkit.data.sources import Source
    from llmkit.recipe import DataConfig
    from llmkit.task import Task

DEFAULT_FRACTION = 0.1


@dataclass(frozen=True)
class Loaded:
    """A task's rows by part (train, validation, test where there is one), and where they came from."""

    rows: dict[str, Dataset]
    sources: list[dict[str, Any]]


def check(config: DataConfig, task: Task) -> list[str]:
    """Faults of the data part that show before anything is read."""
    faults = []
    if config.train is None:
        faults.append("data.train: not given; give --data FILE (or demo, fables, reviews)")
    for name, choices in {"document": ("file", "line", "paragraph"), "on_error": ("raise", "skip", "report")}.items():
        if getattr(config, name) not in choices:
            faults.append(f"data.{name}: {getattr(config, name)!r} is none of {', '.join(choices)}")
    if config.max_length is not None and config.max_length < 2:
        faults.append(f"data.max_length: {config.max_length} leaves nothing to learn from; at least 2")
    if config.streaming and isinstance(_own_part(config, "validation"), (int, float, type(None))):
        fix = "give --data.validation a source of its own; a fraction would read everything first"
        faults.append(f"data.streaming: {fix}")
    if config.streaming and task.annotations:
        faults.append(f"data.streaming: {task.name} first asks the untrained model about every row; leave it out")
    if config.packing and not task.packs:
        faults.append(f"data.packing: rows of {task.name} are not packed; leave it out")
    return faults


def load_rows(config: DataConfig, task: Task) -> Loaded:
    """Read, clean and split. Raises RecipeError with every fault that the sources show."""
    given = {"train": config.train, **{part: _own_part(config, part) for part in ("validation", "test")}}
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
    sources = [
        {"part": part, "name": source.name, "sha256": source.sha256, "rows": len(good), "left_out": bad}
        for part, found in read.items()
        for source, good, bad in found
    ]
    for part, dataset in rows.items():
        names = ", ".join(dict.fromkeys(s["name"] for s in sources if s["part"] == part))
        say(f"{part}: {plural(len(dataset), 'row')} from {names or f'split off train ({fraction:g})'}", "data")
    _warn_of_leaks(rows)
    return Loaded(rows, sources)


def _own_part(config: DataConfig, part: str) -> Any:
    """What is given for `part`; where nothing is, the training source, if it has such a part of its own."""
    from llmkit.data.sources import has_part

    given = getattr(config, part)
    return config.train if given is None and has_part(config.train, part) else given


def _load_streamed(given: dict[str, Any], config: DataConfig, task: Task) -> Loaded:
    from llmkit.data.streaming import sample

    rows = {"train": sample(task, config)}
    first = plural(len(rows["train"]), "row")
    rows |= {p: load_part(spec, task, config, p) for p, spec in given.items() if p != "train" and spec is not None}
    say(f"train: streamed from {config.train}; the first {first} teach labels and tokenizer", "data")
    unread = {"sha256": None, "left_out": 0}
    return Loaded(rows, [{"part": p, "name": str(given[p]), "rows": len(r), **unread} for p, r in rows.items()])


def load_part(spec: Any, task: Task, config: DataConfig, part: str = "test") -> Dataset:
    """The task's rows of one part alone. Raises RecipeError."""
    import datasets

    faults: list[str] = []
    found = _read(spec, part, task, config, faults)
    raise_faults(faults)
    return datasets.concatenate_datasets([rows for _, rows, _ in found])


def _read(spec: Any, part: str, task: Task, config: DataConfig, faults: list[str]) -> list[tuple[Source, Dataset, int]]:
    """Each source of a part, its usable rows, and how many bad ones were left out."""
    from llmkit.data import cleaning, sources

    found = []
    try:
        for source in sources.find(spec, part, config.document, config.names):
            try:
                found.append((source, *cleaning.clean(source, task, config, part)))
            except RecipeError as e:
                faults.extend(e.faults)
    except RecipeError as e:
        faults.extend(e.faults)
    return found


def _assemble(read: dict[str, list], fraction: float | None, task: Task, config: DataConfig) -> dict[str, Dataset]:
    import datasets

    from llmkit.data.splits import split_off, weigh

    parts = {part: [rows for _, rows, _ in found] for part, found in read.items()}
    if fraction is not None:  # before weighing: no copy of a row may land on both sides
        parts["train"], held = split_off(parts["train"], fraction, config.seed, task)
        parts["validation"] = [held]
    weights = [source.weight for source, _, _ in read["train"]]
    parts["train"] = [weigh(rows, weight, config.seed) for rows, weight in zip(parts["train"], weights, strict=True)]
    ordered = [part for part in ("train", "validation", "test") if part in parts]
    return {part: datasets.concatenate_datasets(parts[part]).flatten_indices() for part in ordered}


def _warn_of_leaks(rows: dict[str, Dataset]) -> None:
    from llmkit.data.splits import row_hashes

    seen = set(row_hashes(rows["train"]))
    for part, dataset in list(rows.items())[1:]:
        if shared := sum(h in seen for h in row_hashes(dataset)):
            say(f"{plural(shared, 'row')} of {part} also stand in train: its figures will flatter", "warning")
