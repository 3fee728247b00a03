"""Semantic search in a folder that holds one vector per text; a query is compared with all of them, exactly.

    index.json       the model, a digest of its weights, the sources of the texts
    vectors.npy      unit vectors in float32: (texts, width); read as a memory map
    texts.jsonl      {"id", "text"}, in the order of the vectors

Where a matrix product is too slow, examples/vector_store.py moves the vectors to a vector store.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmkit import hub, predictor
from llmkit.data import sources
from llmkit.errors import UsageError, as_usage_error
from llmkit.log import log, plural
from llmkit.metrics import retrieval
from llmkit.metrics.bootstrap import intervals
from llmkit.recipe import DataConfig
from llmkit.task import Json
from llmkit.training.precompute import weights_digest

TEXT_COLUMNS = ("text", "content", "body", "passage", "positive", "document")
"""Usual names of the column that is searched."""


@dataclass(frozen=True)
class Index:
    """An open index: its texts and vectors, and the model that embeds queries."""

    model: predictor.Predictor
    ids: list[str]
    texts: list[str]
    vectors: np.ndarray

    def scores(self, questions: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield, for each question, its cosine with every text: (texts,). That of an empty text is -inf."""
        empty = [not text.strip() for text in self.texts]
        for cosines in retrieval.products(self.model.embed(questions), self.vectors):
            yield np.where(empty, -np.inf, cosines)

    def query(self, questions: str | Iterable[str], k: int = 10) -> list[Any]:
        """Return the `k` nearest texts of each question, nearest first: {"id", "text", "score"}; the score is a cosine.

        One question gives one such list.
        """
        if isinstance(questions, str):
            return self.query([questions], k)[0]
        results = []
        for scores in self.scores(questions):
            best = [i for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > -np.inf]
            results.append([{"id": self.ids[i], "text": self.texts[i], "score": float(scores[i])} for i in best])
        return results


def build(
    model: str, file: str, out: str, column: str | None = None, names: str | None = None, batch_size: int = 32,
    encoding: str = "utf-8",
) -> None:  # fmt: skip
    """Embed every text of `file` (or any data source) into the new folder `out`. Raises UsageError.

    An empty text keeps its id, so that judgements may name it, and is never found.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {out}: already exists and is left unchanged; choose another folder")
    path = hub.find_model(model)
    predictor.require_embeddings(predictor.task_of(path))
    config = DataConfig(document="line", names=(names,) if names else (), encoding=encoding)
    texts, origins = _read_texts(file, column, config)
    encoder, started = predictor.load(model), time.time()
    vectors = encoder.embed([text if text.strip() else "." for text in texts.values()], batch_size)
    vectors[[not text.strip() for text in texts.values()]] = 0
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors)
    lines = (json.dumps({"id": key, "text": text}, ensure_ascii=False) + "\n" for key, text in texts.items())
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    name = str(path.resolve()) if Path(model).expanduser().exists() else model
    about = {"model": name, "weights": weights_digest(encoder.model), "texts": len(texts), "sources": origins}
    (folder / "index.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    seconds = f"{time.time() - started:.1f} s"
    log(f"{folder}: {plural(len(texts), 'text')}, {vectors.shape[1]} dimensions, in {seconds}", "result")


def _read_texts(file: str, column: str | None, config: DataConfig) -> tuple[dict[str, str], list[Json]]:
    """`({id: text}, sources)`; the id is a row's `id` column, or its number from 1. Raises UsageError."""
    texts: dict[str, str] = {}
    columns = (column,) if column else TEXT_COLUMNS
    found = sources.find(file, "train", config)
    for where, row in sources.read(found):
        text = next(("" if row[c] is None else row[c] for c in columns if c in row), None)
        key = str(row.get("id", len(texts) + 1))
        if not isinstance(text, str):
            present = f"its columns are {', '.join(row)}; set --column NAME"
            raise UsageError(f"{where}: no text in {' or '.join(columns)}; {present}")
        if key in texts:
            raise UsageError(f"{where}: the id {key!r} was used before")
        texts[key] = text
    if empty := [key for key, text in texts.items() if not text.strip()]:
        if len(empty) == len(texts):
            raise UsageError(f"{file}: every text is empty")
        shown = ", ".join(empty[:5]) + (" …" if len(empty) > 5 else "")
        log(f"{plural(len(empty), 'empty text')}, never found by a query: {shown}", "warning")
    return texts, [{"name": s.name, "sha256": s.sha256} for s in found]


def load(folder: str) -> Index:
    """Open an index and its model. Raises UsageError if the model has other weights than those it was built with."""
    with as_usage_error(f"index {folder!r}: cannot be read; build it with llmkit search build", OSError, ValueError):
        about = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (Path(folder) / "texts.jsonl").open(encoding="utf-8")]
        vectors = np.load(Path(folder) / "vectors.npy", mmap_mode="r", allow_pickle=False)
    if len(rows) != len(vectors):
        raise UsageError(f"index {folder!r}: {len(rows)} texts, {len(vectors)} vectors; build it again")
    model = predictor.load(about["model"])
    if weights_digest(model.model) != about["weights"]:
        raise UsageError(f"index {folder!r}: built with other weights of {about['model']}; build it again")
    return Index(model, [row["id"] for row in rows], [row["text"] for row in rows], vectors)


def evaluate(index: Index, judgements: str, encoding: str = "utf-8") -> Json:
    """Return `{"metrics", "intervals", "baselines": {"BM25": ...}, "examples"}` over rows {"query", "relevant"}.

    `relevant` is a list of ids, or a mapping of ids to gains. An empty text counts as relevant that was not found. Raises
    UsageError for an id that the index does not have.
    """
    judged = _read_judgements(judgements, {key: number for number, key in enumerate(index.ids)}, encoding)
    questions, relevant = (list(column) for column in zip(*judged, strict=True))
    if empty := sum(not index.texts[i].strip() for gains in relevant for i in gains):
        log(f"{plural(empty, 'judgement')} of empty texts, which count as not found", "warning")
    stats = retrieval.rank(index.scores(questions), relevant)
    bm25 = retrieval.rank(retrieval.BM25(index.texts).scores(questions), relevant)
    return {
        "metrics": retrieval.scores(stats),
        "intervals": {k: list(v) for k, v in intervals(retrieval.scores, stats).items()},
        "baselines": {"BM25": retrieval.scores(bm25)},
        "examples": len(stats),
    }


def _read_judgements(file: str, numbers: dict[str, int], encoding: str) -> list[tuple[str, dict[int, float]]]:
    """Each query with its relevant texts, `{number: gain}`. Raises UsageError."""
    judged = []
    for where, row in sources.read(sources.find(file, "test", DataConfig(document="line", encoding=encoding))):
        relevant = row.get("relevant")
        if isinstance(relevant, list):
            relevant = dict.fromkeys(map(str, relevant), 1.0)
        valid = isinstance(relevant, dict) and all(isinstance(gain, (int, float)) for gain in relevant.values())
        gains = {i: gain for i, gain in relevant.items() if gain > 0} if valid else {}
        if not gains or not isinstance(row.get("query"), str):
            raise UsageError(f'{where}: expected {{"query": "words", "relevant": ["id", …]}} or {{"id": gain}}')
        if missing := [i for i in gains if i not in numbers]:
            raise UsageError(f"{where}: the index has no id {missing[0]!r}; it has {', '.join([*numbers][:4])} …")
        judged.append((row["query"], {numbers[i]: float(gain) for i, gain in gains.items()}))
    return judged
