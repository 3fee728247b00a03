"""Semantic search over a kept index: a folder with one vector for each text, all of them compared, exactly. Where a
matrix product is too slow, examples/vector_store.py hands it over.

    index.json       the model, a digest of its weights, where the texts came from
    vectors.npy      float32, of length one: (texts, width); read as a memory map
    texts.jsonl      {"id", "text"}, in the order of the vectors
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmkit import predictor
from llmkit.console import plural, say
from llmkit.data import sources
from llmkit.data.annotation import weights_digest
from llmkit.errors import RecipeError, refusing
from llmkit.evaluation import metrics, retrieval
from llmkit.models import hub, loading
from llmkit.task import Task

TEXT = ("text", "content", "body", "passage", "positive", "document")  # the column that is searched, by its usual names


@dataclass(frozen=True)
class Index:
    """An index that was opened: its texts and vectors, and the model that asks it."""

    model: predictor.Predictor
    ids: list[str]
    texts: list[str]
    vectors: np.ndarray

    def query(self, questions: Sequence[str], k: int = 10) -> list[list[dict[str, Any]]]:
        """The `k` nearest texts of each question, nearest first: {"id", "text", "score"}, the score a cosine."""
        asked = retrieval.products(self.model.embed(list(questions)), self.vectors)
        best = ((scores, np.argsort(-scores, kind="stable")[:k]) for scores in asked)
        return [[{"id": self.ids[i], "text": self.texts[i], "score": float(s[i])} for i in order] for s, order in best]


def build(model: str, file: str, out: str, column: str | None = None, names: str | None = None, size: int = 32) -> None:
    """Embed every text of `file` (or any data spec) and keep them in the folder `out`. Raises RecipeError."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"--out {out}: is there already, and left as it is; choose another folder")
    path = hub.find_model(model)
    task = predictor.task_of(path)
    if type(task).embed is Task.embed:
        task.embed(None, None, ())  # type: ignore[arg-type]  # says so
    texts, origins = _read_texts(file, column, names)
    encoder, started = predictor.load(model), time.time()
    limit = loading.positions(encoder.model.config, encoder.tokenizer)
    counted = encoder.tokenizer([*texts.values()], verbose=False)["input_ids"] if limit else []
    if cut := sum(len(tokens) > limit for tokens in counted):
        say(f"{cut:,} of {plural(len(texts), 'text')} cut to the {limit} tokens that the model reads", "warning")
    vectors = encoder.embed([*texts.values()], size)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors)
    lines = (json.dumps({"id": key, "text": text}, ensure_ascii=False) + "\n" for key, text in texts.items())
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    name = str(path.resolve()) if Path(model).expanduser().exists() else model
    about = {"model": name, "weights": weights_digest(encoder.model), "texts": len(texts), "sources": origins}
    (folder / "index.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{plural(len(texts), 'text')}, {vectors.shape[1]} wide, in {time.time() - started:.1f} s: {folder}", "result")


def _read_texts(file: str, column: str | None, names: str | None) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """`({id: text}, where they came from)`: a row's `id`, or its number from 1 on. Raises RecipeError."""
    texts: dict[str, str] = {}
    usual, found = (column,) if column else TEXT, sources.find(file, "train", "line", (names,) if names else ())
    for where, row in sources.read(found):
        text, key = next((row[c] for c in usual if c in row), None), str(row.get("id", len(texts) + 1))
        if not isinstance(text, str) or not text.strip():
            has = f"its columns are {', '.join(row)}; say --column NAME"
            raise RecipeError(f"{where}: no text in {' or '.join(usual)}; {has}")
        if key in texts:
            raise RecipeError(f"{where}: the id {key!r} stood before")
        texts[key] = text
    return texts, [{"name": s.name, "sha256": s.sha256} for s in found]


def load(folder: str) -> Index:
    """An index, with its model. Raises RecipeError where the model is no longer what the index was built with."""
    with refusing(f"index {folder!r}: cannot be read; build it with llmkit search build", OSError, ValueError):
        about = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (Path(folder) / "texts.jsonl").open(encoding="utf-8")]
        vectors = np.load(Path(folder) / "vectors.npy", mmap_mode="r", allow_pickle=False)
    if len(rows) != len(vectors):
        raise RecipeError(f"index {folder!r}: {len(rows)} texts, {len(vectors)} vectors; build it again")
    model = predictor.load(about["model"])
    if weights_digest(model.model) != about["weights"]:
        raise RecipeError(f"index {folder!r}: built with other weights of {about['model']}; build it again")
    return Index(model, [row["id"] for row in rows], [row["text"] for row in rows], vectors)


def evaluate(index: Index, judgements: str) -> dict[str, Any]:
    """`{"metrics", "intervals", "baselines": {"BM25": …}, "examples"}` over rows {"query", "relevant"}: a list of ids,
    or a mapping of ids to gains. Raises RecipeError for an id that the index does not have."""
    judged = _read_judgements(judgements, {key: number for number, key in enumerate(index.ids)})
    questions, relevant = (list(column) for column in zip(*judged, strict=True))
    found = retrieval.rank(retrieval.products(index.model.embed(questions), index.vectors), relevant)
    words = retrieval.rank(retrieval.BM25(index.texts).scores(questions), relevant)
    return {
        "metrics": retrieval.score(found),
        "intervals": {k: list(v) for k, v in metrics.intervals(retrieval, found).items()},
        "baselines": {"BM25": retrieval.score(words)},
        "examples": len(found),
    }


def _read_judgements(file: str, number: dict[str, int]) -> list[tuple[str, dict[int, float]]]:
    """Each question, and what answers it: `{number: gain}`. Raises RecipeError."""
    judged = []
    for where, row in sources.read(sources.find(file, "test")):
        given = row.get("relevant")
        given = dict.fromkeys(map(str, given), 1.0) if isinstance(given, list) else given
        known = isinstance(given, dict) and all(isinstance(gain, (int, float)) for gain in given.values())
        gains = {i: gain for i, gain in given.items() if gain > 0} if known else {}
        if not gains or not isinstance(row.get("query"), str):
            raise RecipeError(f'{where}: expected {{"query": "words", "relevant": ["id", …]}} or {{"id": gain}}')
        if missing := [i for i in gains if i not in number]:
            raise RecipeError(f"{where}: the index has no id {missing[0]!r}; it has {', '.join([*number][:4])} …")
        judged.append((row["query"], {number[i]: float(gain) for i, gain in gains.items()}))
    return judged
