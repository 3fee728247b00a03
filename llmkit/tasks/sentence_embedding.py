"""Sentence embeddings: texts with the same meaning, or a question and its answer, get similar vectors.

The columns decide the loss. Rows of (anchor, positive[, negative]) use InfoNCE over all positives and negatives of the
batch (van den Oord et al. 2018; "multiple negatives ranking" in sentence-transformers); rows of (text, text_pair, score)
use the squared error between cosine and score.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig

from llmkit.collate import IGNORED, Batch, Feature, default_collate
from llmkit.errors import UsageError, raise_faults
from llmkit.log import log, log_truncated, plural
from llmkit.metrics import retrieval
from llmkit.models import sentence_transformers
from llmkit.recipe import Recipe
from llmkit.task import Columns, Model, Row, Rows, Task, Tokenizer, baseline_values, is_number, model_outputs, read_text

PAIR, GRADED = ("anchor", "positive", "negative"), ("text", "text_pair")
KINDS = ("(anchor, positive) rows", "scored pairs")


@dataclass(frozen=True)
class SentenceEmbedding(Task):
    """Embed a text as its normalized, pooled last layer. Texts that answer an anchor are not among its negatives."""

    pooling: str | None = None
    """Pooling of token vectors: mean, or cls for the first token (default: as in the model's folder, else mean)"""
    scale: float = 20.0
    """Factor of cosines before the softmax: 1 / temperature"""
    symmetric: bool = False
    """Also rank the anchors of the batch for each positive"""
    highest: float | None = None
    """Score of texts with the same meaning (default: the highest of the training rows, at least 1)"""
    longest: int | None = None
    """Maximum number of tokens in a text (default: as in the model's folder, else the model's limit)"""
    graded: bool = False
    """Whether the training rows are scored pairs (set by the training rows)"""

    name: ClassVar[str] = "sentence-embedding"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "anchor": ("query", "question"), "positive": ("passage", "answer"), "negative": (),
        "text": ("sentence1", "sentence", "content", "body"), "text_pair": ("sentence2",),
        "score": ("similarity", "similarity_score"),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (PAIR[:2], (*GRADED, "score"))
    auto_class: ClassVar[str] = "AutoModel"
    non_model_columns: ClassVar[tuple[str, ...]] = ("labels", "num_texts", "excluded")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("spearman", "pearson") if self.graded else retrieval.METRICS

    def check(self, recipe: Recipe) -> list[str]:
        known, values = sentence_transformers.POOLING, {n: getattr(self, n) for n in ("scale", "highest", "longest")}
        unknown = [f"task.pooling: {self.pooling!r} is not one of {', '.join(known)}"]
        small = [f"task.{n}: {v:g} is not above 0" for n, v in values.items() if v is not None and not v > 0]
        return unknown * (self.pooling not in (None, *known)) + small

    def read_row(self, row: Row) -> Row:
        if any(row.get(c) is not None for c in PAIR):
            negative = read_text(row, "negative") if row.get("negative") not in (None, "") else None
            return {c: read_text(row, c) for c in PAIR[:2]} | {"negative": negative}
        texts = {c: read_text(row, c) for c in GRADED}
        if not is_number(str(row.get("score"))):
            raise ValueError(f"score {row.get('score')!r} is not a number")
        return {**texts, "score": float(row["score"])}

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        """Learn the kind of rows and the highest score. A fitted model can be evaluated on rows of either kind."""
        task, train = self, rows.get("train")
        if train is not None:
            graded = "score" in train.column_names
            highest = (self.highest or max([1.0, *filter(None, train["score"])])) if graded else None
            task = replace(self, graded=graded, highest=highest)
            if graded and self.highest is None:
                log(f"texts with the highest training score, {highest:g}, mean the same (--task.highest)", "config")
        raise_faults([f"data.{part}: {fault}" for part in rows for fault in task._faults(rows, part)])
        return task

    def _faults(self, rows: Mapping[str, Dataset], part: str) -> Iterator[str]:
        graded = "score" in rows[part].column_names
        values = rows[part]["score" if graded else "anchor"][:]
        if None in values:
            yield f"{KINDS[True]} and {KINDS[False]} are mixed; use rows of one kind"
        elif "train" in rows and graded != self.graded:
            yield f"{KINDS[graded]}, but the training rows are {KINDS[self.graded]}; use rows of one kind"
        elif graded and len(set(values)) == 1:
            yield f"every score is {values[0]:g}, so there is nothing to rank; add rows, or set --data.validation"
        elif graded and part == "train" and (high := [v for v in values if abs(v) > self.highest]):
            limit = f"{self.highest:g}, the score of texts with the same meaning (--task.highest)"
            yield f"{plural(len(high), 'score')} beyond {limit}, such as {high[0]:g}"

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row[c] for row in rows for c in (*PAIR, *GRADED) if row.get(c))

    def with_checkpoint(self, folder: Path, config: PretrainedConfig | None) -> Self:
        pooling, longest, unsupported = sentence_transformers.read(folder)
        if unsupported and self.pooling is None:
            fix = "ignore it with --task.pooling mean"
            raise UsageError(f"model {str(folder)!r}: {', '.join(unsupported)} in modules.json is not supported; {fix}")
        return replace(self, pooling=self.pooling or pooling, longest=self.longest or longest)

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        tokenizer.model_max_length = min(self.longest or tokenizer.model_max_length, tokenizer.model_max_length)

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        columns = [rows[c] for c in (*PAIR, *GRADED) if c in rows]
        texts = [[text for text in row if text is not None] for row in zip(*columns, strict=True)]
        flat = [text for row in texts for text in row]
        encodings = iter(tokenizer(flat, truncation=True, max_length=max_length).encodings)
        encoded = [[next(encodings) for _ in row] for row in texts]
        features: Columns = {
            "input_ids": [[i for text in row for i in text.ids] for row in encoded],
            "lengths": [[len(text) for text in row] for row in encoded],
            "truncated": [any(text.overflowing for text in row) for row in encoded],
            "row": list(range(len(encoded))),
        }
        return features | ({"labels": [s / (self.highest or 1.0) for s in rows["score"]]} if "score" in rows else {})

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        """Return a batch with each text as a row of `input_ids`, and `num_texts` (features,), the texts of each feature.

        `labels` (features,): the score, or the row of the positive. `excluded` (features, all texts): the texts that are
        not in an anchor's softmax, because they are anchors, equal to this one, or equal to one of its positives.
        """
        batch = default_collate(features, tokenizer.pad_token_id, layout, causal=False)
        batch["num_texts"] = torch.tensor([len(f["lengths"]) for f in features])
        if "labels" in batch:
            return batch
        first = batch["num_texts"].cumsum(0) - batch["num_texts"]
        texts = batch["input_ids"].unique(dim=0, return_inverse=True)[1]  # equal texts get the same number
        anchors, positives = texts[first][:, None], texts[first + 1][:, None]
        answers = (anchors == anchors.T).float() @ (positives == texts).float()  # rows where a text answers the anchor
        excluded = (answers > 0) | (anchors == texts)
        excluded[:, first] = True
        excluded[torch.arange(len(first)), first + 1] = False
        return {**batch, "labels": first + 1, "excluded": excluded}

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Any]:
        vectors, outputs = self._vectors(model, batch)
        labels = batch["labels"]
        if self.graded:
            return ((vectors[0::2] * vectors[1::2]).sum(-1) - labels).square().sum(), outputs
        with torch.autocast(vectors.device.type, enabled=False):  # bf16 keeps two digits of a cosine, too few times 20
            logits = self.scale * vectors[labels - 1] @ vectors.T
        logits = logits.masked_fill(batch["excluded"], float("-inf"))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        if self.symmetric:
            own = torch.arange(len(labels), device=labels.device)
            loss = (loss + F.cross_entropy(logits[:, labels].T, own, reduction="sum")) / 2
        return loss, outputs

    def _vectors(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Any]:
        """Return normalized vectors in fp32, (texts, width), and the model's outputs."""
        outputs = model_outputs(self, model, batch)
        states, mask = outputs.last_hidden_state.float(), batch["attention_mask"][..., None]
        pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        return F.normalize(pooled, dim=-1), outputs

    def finish(self, model: Model, folder: Path | None, stats: Callable[[], np.ndarray]) -> None:
        """Write the files that sentence-transformers reads."""
        if folder is not None:
            sentence_transformers.write(folder, self.pooling or "mean", self.longest, model.config.hidden_size)

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the vectors of each row's texts: (rows, most texts in a row, width)."""
        vectors = self._vectors(model, batch)[0].split(batch["num_texts"].tolist())
        return pad_sequence(vectors, batch_first=True, padding_value=IGNORED)

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[score, cosine]` of each scored pair, or `retrieval.rank` of each distinct anchor.

        An anchor is compared with all positives and negatives of the part.
        """
        if "score" in rows.column_names:
            return np.column_stack([rows["score"][:], (outputs[:, 0] * outputs[:, 1]).sum(-1)])
        anchors, documents, relevant = retrieval.judged(rows)
        queries, texts = (outputs[tuple(zip(*positions.values(), strict=True))] for positions in (anchors, documents))
        return retrieval.rank(retrieval.products(queries, texts), relevant)

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return retrieval.correlation(stats) if stats.shape[1] == 2 else retrieval.scores(stats)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        if self.graded:
            tfidf = retrieval.tfidf_spearman(self.texts(rows["train"]), rows["evaluation"])
            return baseline_values(floor={"chance": 0.0}, reference={"words in common (TF-IDF cosine)": tfidf})
        chance, bm25 = retrieval.chance_and_bm25(rows["evaluation"])
        return baseline_values(floor={"chance": chance}, reference={"BM25": bm25})

    def embed(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> np.ndarray:
        """Return normalized float32 vectors in order: (texts, width). Texts longer than `max_length` tokens are cut."""
        batch = tokenizer(list(texts), truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        log_truncated(sum(bool(encoding.overflowing) for encoding in batch.encodings or ()), "text", max_length)
        with torch.no_grad():
            return self._vectors(model, {**batch.to(model.device)})[0].cpu().numpy()

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[str], max_length: int) -> list[Row]:
        """Return `{"embedding"}` for each text, rounded to seven decimals."""
        vectors = self.embed(model, tokenizer, inputs, max_length).astype(float).round(7)
        return [{"embedding": vector} for vector in vectors.tolist()]

    def format_prediction(self, answer: Row, given: object) -> str:
        return str(answer["embedding"])
