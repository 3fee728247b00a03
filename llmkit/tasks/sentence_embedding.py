"""Sentence embeddings: a vector for a text, near those of texts that mean the same or answer it.

The columns decide what is learned. Of (anchor, positive[, negative]), to find each anchor's own positive among all that
its batch holds (InfoNCE, van den Oord et al. 2018; "multiple negatives ranking"); of (text, text_pair, score), a cosine
that is the score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError, raise_faults
from llmkit.task import Batch, Dataset, F, Task, is_number, np, read_text, torch, valued

PAIRS, GRADED = ("anchor", "positive", "negative"), ("text", "text_pair")


@dataclass(frozen=True)
class SentenceEmbedding(Task):
    """The last layer, pooled, at length one. A text is no negative of an anchor it answers elsewhere in the batch."""

    pooling: str | None = None
    """mean over a text's tokens, or cls: its first (left out: as the model's folder says, else mean)"""
    scale: float = 20.0
    """what cosines are multiplied by before the softmax: 1 / temperature"""
    symmetric: bool = False
    """whether each positive must also find its anchor"""
    highest: float | None = None
    """the score of texts that mean the same (left out: the highest of the training rows, at least 1)"""
    longest: int | None = None
    """tokens of a text that are read (left out: as the model's folder says, else what the model takes)"""
    graded: bool = False
    """whether the training rows are scored pairs (learned from them)"""

    name: ClassVar[str] = "sentence-embedding"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "anchor": ("query", "question"),
        "positive": ("passage", "answer"),
        "negative": (),
        "text": ("sentence1", "sentence", "content", "body"),
        "text_pair": ("sentence2",),
        "score": ("similarity", "similarity_score"),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (PAIRS[:2], (*GRADED, "score"))
    auto_class: ClassVar[str] = "AutoModel"
    unused: ClassVar[tuple[str, ...]] = ("pooler",)
    aside: ClassVar[tuple[str, ...]] = ("labels", "texts", "no_negative")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("spearman", "pearson") if self.graded else ("ndcg@10", "recall@10", "mrr")

    @property
    def row_alone(self) -> bool:
        return self.graded

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if any(row.get(c) is not None for c in PAIRS):
            negative = read_text(row, "negative") if row.get("negative") not in (None, "") else None
            return {c: read_text(row, c) for c in PAIRS[:2]} | {"negative": negative}
        texts = {c: read_text(row, c) for c in GRADED}
        if not is_number(str(row.get("score"))):
            raise ValueError(f"score {row.get('score')!r} is no number")
        return {**texts, "score": float(row["score"])}

    def check_rows(self, rows: Dataset, part: str) -> list[str]:
        from llmkit.console import plural

        kinds = {True: "scored pairs", False: "(anchor, positive) rows"}
        graded = "score" in rows.column_names
        if None in rows["score" if graded else "anchor"][:]:
            return [f"data.{part}: {' beside '.join(kinds.values())}; give rows of one kind"]
        held = part in ("validation", "test")  # a saved model is measured by what rows it is given
        if held and graded != self.graded:
            return [f"data.{part}: {kinds[graded]}, where training is on {kinds[self.graded]}; give rows of one kind"]
        if graded and len(set(rows["score"])) == 1:
            return [
                f"data.{part}: every score is {rows[0]['score']:g}: nothing to rank; give more rows, or data.validation"
            ]
        beyond = (
            [score for score in rows["score"] if abs(score) > self.highest]
            if part == "train" and graded and self.highest
            else []
        )
        if beyond:
            most = f"the {self.highest:g} of texts that mean the same (--task.highest)"
            return [f"data.{part}: {plural(len(beyond), 'score')} beyond {most}, such as {beyond[0]:g}"]
        return []

    def fit(self, rows: Dataset) -> Self:
        from llmkit.console import say
        from llmkit.models import pooling

        faults = []
        if self.pooling not in (None, *pooling.KNOWN):
            faults.append(f"task.pooling: {self.pooling!r} is none of {', '.join(pooling.KNOWN)}")
        for knob in ("scale", "highest", "longest"):
            if (value := getattr(self, knob)) is not None and not value > 0:
                faults.append(f"task.{knob}: {value:g} is not above 0")
        raise_faults(faults)
        if "score" not in rows.column_names:
            return self.replace(graded=False, highest=None)
        if self.highest is not None:
            return self.replace(graded=True)
        highest = max(1.0, *filter(None, rows["score"]))
        say(f"texts with a score of {highest:g}, the highest in training, mean the same (--task.highest)", "decided")
        return self.replace(graded=True, highest=highest)

    def with_checkpoint(self, folder: Path) -> Self:
        from llmkit.models import pooling

        found, longest, more = pooling.read(folder)
        if more and self.pooling is None:
            fix = "say --task.pooling mean to do without"
            raise RecipeError(f"model {str(folder)!r}: {', '.join(more)} in its modules.json is not read here; {fix}")
        return self.replace(pooling=self.pooling or found, longest=self.longest or longest)

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row[c] for row in rows for c in (*PAIRS, *GRADED) if row.get(c))

    def ready_tokenizer(self, tokenizer: Any) -> None:
        tokenizer.model_max_length = min(self.longest or tokenizer.model_max_length, tokenizer.model_max_length)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """A row's texts one behind the other; `lengths` tell them apart."""
        graded = "score" in rows
        given = [rows[c] for c in (GRADED if graded else PAIRS) if c in rows]
        texts = [[text for text in row if text is not None] for row in zip(*given, strict=True)]
        plain = [text for row in texts for text in row]
        encoded = tokenizer(plain, truncation=True, max_length=max_length, return_attention_mask=False)
        pieces = iter(zip(encoded["input_ids"], (bool(e.overflowing) for e in encoded.encodings), strict=True))
        columns: dict[str, list[Any]] = {"input_ids": [], "lengths": [], "truncated": [], "row": [*range(len(texts))]}
        for row in texts:
            ids, cut = zip(*(next(pieces) for _ in row), strict=True)
            columns["input_ids"].append([i for text in ids for i in text])
            columns["lengths"].append([len(text) for text in ids])
            columns["truncated"].append(any(cut))
        return columns | ({"score": list(rows["score"])} if graded else {})

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        """Each text is a row of `input_ids`, a feature's behind those of the one before; `texts` (features,) counts
        them. `labels` (features,): the score, or which of the texts is the positive; `no_negative` (features, texts):
        those outside the softmax, since they are anchors, or say the same as the anchor or one of its positives."""
        from llmkit.data import collation

        texts = [t.tolist() for f in features for t in np.split(f["input_ids"], np.cumsum(f["lengths"])[:-1])]
        batch = collation.tokens([{"input_ids": t} for t in texts], tokenizer.pad_token_id, "padded", causal=False)
        batch["texts"] = torch.tensor([len(f["lengths"]) for f in features])
        if "score" in features[0]:
            return {**batch, "labels": torch.tensor([f["score"] / (self.highest or 1.0) for f in features])}
        first = batch["texts"].cumsum(0) - batch["texts"]
        seen: dict[tuple, int] = {}
        says = torch.tensor([seen.setdefault(tuple(text), len(seen)) for text in texts])
        anchors, positives = says[first][:, None], says[first + 1][:, None]
        answers = (anchors == anchors.T).float() @ (positives == says).float()  # of a text, to how many such anchors
        outside = (answers > 0) | (anchors == says)
        outside[:, first] = True
        outside[torch.arange(len(first)), first + 1] = False
        return {**batch, "labels": first + 1, "no_negative": outside}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        vectors, outputs = self._vectors(model, batch)
        labels = batch["labels"]
        if self.graded:
            return ((vectors[0::2] * vectors[1::2]).sum(-1) - labels).square().sum(), outputs
        with torch.autocast(vectors.device.type, enabled=False):  # bf16 would leave a cosine two digits, and times 20
            logits = self.scale * vectors[labels - 1] @ vectors.T
        logits = logits.masked_fill(batch["no_negative"], float("-inf"))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        if self.symmetric:
            own = torch.arange(len(labels), device=labels.device)
            loss = (loss + F.cross_entropy(logits[:, labels].T, own, reduction="sum")) / 2
        return loss, outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return torch.tensor(len(batch["labels"]))

    def _vectors(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        """fp32 vectors of length one, (texts, width), and the model's outputs."""
        outputs = self.forward(model, batch)
        states, mask = outputs.last_hidden_state.float(), batch["attention_mask"][..., None]
        pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        return F.normalize(pooled, dim=-1), outputs

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """The vectors of a row's texts: (rows, most texts of a row, width)."""
        from torch.nn.utils.rnn import pad_sequence

        vectors = self._vectors(model, batch)[0].split(batch["texts"].tolist())
        return pad_sequence(vectors, batch_first=True, padding_value=-100.0)

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[score, cosine]` of each scored pair; or `[nDCG@10, recall@10, reciprocal rank]` of each distinct anchor,
        for which all positives and negatives of the part are searched."""
        from llmkit.evaluation import retrieval

        if "score" in rows.column_names:
            return np.column_stack([rows["score"][:], (outputs[:, 0] * outputs[:, 1]).sum(-1)])
        anchors, documents, relevant = retrieval.judged(rows)
        queries, searched = (outputs[tuple(zip(*found.values(), strict=True))] for found in (anchors, documents))
        return retrieval.rank(retrieval.products(queries, searched), relevant)

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation import retrieval

        return retrieval.correlation(examples) if examples.shape[1] == 2 else retrieval.score(examples)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation import retrieval

        if self.graded:
            value = retrieval.tfidf_spearman(self.texts(rows["train"]), rows["evaluation"])
            return valued(floor={"chance": 0.0}, reference={"words in common (TF-IDF cosine)": value})
        chance, bm25 = retrieval.chance_and_bm25(rows["evaluation"])
        return valued(floor={"chance": chance}, reference={"BM25": bm25})

    def embed(self, model: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
        from llmkit.models.loading import positions

        limit = positions(model.config, tokenizer)
        batch = tokenizer(list(texts), truncation=True, max_length=limit, padding=True, return_tensors="pt")
        with torch.no_grad():
            return self._vectors(model, {**batch.to(model.device)})[0].cpu().numpy()

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"embedding"}` of each text, to seven decimals."""
        return [{"embedding": v} for v in self.embed(model, tokenizer, inputs).astype(float).round(7).tolist()]

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        return json.dumps(answer["embedding"])

    def finish(self, folder: Path) -> None:
        from llmkit.models import loading, pooling

        pooling.write(folder, self.pooling or "mean", self.longest, loading.read_config(str(folder)).hidden_size)

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        texts = [row[c][:200] for c in (GRADED if self.graded else PAIRS[:2])]
        pooled = "[0]" if self.pooling == "cls" else ".mean(0)"
        return (
            "import torch\nfrom transformers import pipeline\n\n"
            f"embed = pipeline('feature-extraction', {folder!r}, tokenizer={folder!r}, truncation=True)\n"
            f"texts = {texts!r}\n"
            f"first, second = (embed(text, return_tensors=True)[0]{pooled} for text in texts)\n"
            f"# the same: sentence_transformers.SentenceTransformer({folder!r}).encode(texts)\n"
            "print(f'cosine {torch.cosine_similarity(first, second, dim=0):.4f}')"
        )
