"""Extractive question answering: find the answer to a question in a context, or that there is none.

A context longer than a row is split into overlapping windows, each with the question before it; the answer is the best
span of all windows. The `[CLS]` token stands for "no answer in this window" (Devlin et al. 2019).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset

from llmkit.collate import IGNORED, Batch, Feature, token_batch
from llmkit.log import log, log_truncated, plural
from llmkit.metrics import baselines, squad
from llmkit.recipe import Recipe
from llmkit.task import (
    Columns,
    Json,
    Model,
    Row,
    Rows,
    Task,
    Tokenizer,
    baseline_values,
    model_outputs,
    predict_batches,
    read_text,
)
from llmkit.tasks import _squad

UNKNOWN = "unknown"


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Answer questions with spans of a context. Metrics are those of SQuAD's official script, in percent."""

    stride: int = 128
    """Number of tokens that neighbouring windows share, at most a third of a row"""
    max_answer_tokens: int = 30
    """Maximum number of tokens in an answer"""
    n_best: int = 5
    """Number of answers to return, best first"""
    unanswerable: bool | None = None
    """Whether a question may have no answer in its context (default: whether a training row has none)"""
    null_threshold: float = 0.0
    """Margin in logits by which "no answer" must score higher than the best answer to be preferred"""
    unknown_below: float = 0.0
    """Minimum probability of an answer; a less probable one becomes "unknown", and counts as no answer"""

    name: ClassVar[str] = "question-answering"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("query",), "context": ("passage", "document"), "answers": (), "answer": ("answer_text",),
        "answer_start": ("start",), "is_impossible": (), "paragraphs": (), "qas": (),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question", "context", "answers"), ("question", "context", "answer", "answer_start"),
        ("context", "qas"), ("paragraphs",),
    )  # fmt: skip
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    config_fields: ClassVar[Row] = {"num_labels": 2}  # the logits of start and end
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    split_group: ClassVar[str | None] = "context"
    predict_columns: ClassVar[tuple[str, ...]] = ("question", "context")
    non_model_columns: ClassVar[tuple[str, ...]] = ("labels", "char_starts", "char_ends", "null")
    default_max_length: ClassVar[int] = 384

    def check(self, recipe: Recipe) -> list[str]:
        minima = {"stride": 0, "max_answer_tokens": 1, "n_best": 1}
        return [f"task.{n}: {getattr(self, n)} is less than {m}" for n, m in minima.items() if getattr(self, n) < m]

    def read_row(self, row: Row) -> list[Row | ValueError]:
        """Return `{question, context, answers: {text, answer_start}}` for each question of the row."""
        return _squad.read(row)

    def read_question(self, row: Row) -> list[Row]:
        return [values for question in _squad.questions(row) for values in Task.read_question(self, question)]

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        for part, dataset in rows.items():
            if count := sum(start < 0 for answers in dataset["answers"] for start in answers["answer_start"]):
                why = "not at the given place in the context, so no label; the text still counts as right"
                log(f"{part}: {plural(count, 'answer')} of questions with several {why}", "warning")
        if self.unanswerable is not None or "train" not in rows:
            return self
        return replace(self, unanswerable=any(not answers["text"] for answers in rows["train"]["answers"]))

    def texts(self, rows: Dataset) -> Iterator[str]:
        yield from dict.fromkeys(rows["context"])
        yield from rows["question"]

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return windows, see `_squad.encode_windows`. Of several answers the first that is at its place is the label."""
        answers = [zip(a["answer_start"], a["text"], strict=True) for a in rows["answers"]]
        first = [next((pair for pair in pairs if pair[0] >= 0), None) for pairs in answers]
        spans = [answer and (answer[0], answer[0] + len(answer[1])) for answer in first]
        return _squad.encode_windows(rows, spans, tokenizer, max_length, self.stride)

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        batch = token_batch(features, tokenizer.pad_token_id, layout, causal=False, char_starts=-1, char_ends=-1)
        batch["null"] = torch.tensor([f["null"] for f in features])
        return {**batch, "labels": torch.tensor([[f["start"], f["end"]] for f in features])}

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Any]:
        """Return the mean cross-entropy of start and end, summed over windows, and the model's outputs.

        Padding is masked, unlike in the library's own loss, where a window's loss depends on the longest in its batch.
        """

        def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(logits.float().masked_fill(padding, float("-inf")), labels, reduction="sum")

        outputs, padding = model_outputs(self, model, batch), batch["attention_mask"] == 0
        start, end = batch["labels"].unbind(1)
        return (cross_entropy(outputs.start_logits, start) + cross_entropy(outputs.end_logits, end)) / 2, outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"][:, 0] != IGNORED).sum()

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return `[null score, log-sum-exp of other spans' scores, scores, starts, ends]` of each window.

        The last three belong to its `n_best` spans, in characters of the context: (windows, 2 + 3 n_best).
        """
        outputs = model_outputs(self, model, batch)
        starts, ends = outputs.start_logits.float(), outputs.end_logits.float()  # (windows, longest)
        null = (starts + ends).gather(1, batch["null"][:, None])
        outside, longest, lowest = batch["char_starts"] < 0, self.max_answer_tokens, float("-inf")
        starts, ends = starts.masked_fill(outside, lowest), ends.masked_fill(outside, lowest)
        spans = starts[:, :, None] + F.pad(ends, (0, longest - 1), value=lowest).unfold(1, longest, 1)
        spans = F.pad(spans.flatten(1), (0, self.n_best), value=lowest)
        best = spans.topk(self.n_best)
        rest = spans.scatter(1, best.indices, lowest).logsumexp(1, keepdim=True)
        end_of_row = starts.shape[1] - 1
        first = (best.indices // longest).clamp(max=end_of_row)
        last = (first + best.indices % longest).clamp(max=end_of_row)
        chars = batch["char_starts"].gather(1, first), batch["char_ends"].gather(1, last)
        return torch.cat([null, rest, best.values, *chars], dim=1)

    def answer(self, context: str, windows: np.ndarray) -> Json:
        """Return the answer in the `predict_step` of a question's windows: (windows, 2 + 3 n_best).

        `score` is its probability among all spans of the context, `start` and `end` are its characters (None for no
        answer), `n_best` the best answers, and no answer if `unanswerable`, ranked by score.
        """
        scores: dict[_squad.Span, float] = {}
        for score, start, end in zip(*(part.ravel() for part in np.split(windows[:, 2:], 3, axis=1)), strict=True):
            text = context[int(start) : int(end)]  # some tokenizers include the space before a word
            span = int(start) + len(text) - len(text.lstrip()), int(start) + len(text.rstrip())
            if np.isfinite(score) and text.strip():
                scores[span] = max(float(score), scores.get(span, -np.inf))
        null, best = float(windows[:, 0].min()), max(scores.values(), default=-np.inf)
        may_be_none = bool(self.unanswerable) or not scores
        total = np.logaddexp.reduce([*scores.values(), *windows[:, 1], null if may_be_none else -np.inf])
        choices: list[tuple[Any, ...]] = [(context[i:j], i, j, s) for (i, j), s in scores.items()]
        choices = sorted(choices, key=lambda c: -c[-1])[: self.n_best] + [("", None, None, null)] * may_be_none
        answers = [{"answer": a, "start": i, "end": j, "score": float(np.exp(s - total))} for a, i, j, s in choices]
        chosen = answers[-1 if may_be_none and null - best > self.null_threshold else 0]
        if chosen["score"] < self.unknown_below:
            chosen = {**chosen, "answer": UNKNOWN, "start": None, "end": None}
        return {**chosen, "n_best": sorted(answers, key=lambda a: -a["score"])}

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[exact match, F1, whether it has an answer]` of each question: (questions, 3)."""
        stats = []
        for row, windows in zip(rows, _windows_by_row(outputs, features["row"][:]), strict=True):
            answer, references = self.answer(row["context"], windows), row["answers"]["text"]
            text = "" if answer["start"] is None else answer["answer"]
            stats.append([squad.exact_match(text, references), squad.f1(text, references), bool(references)])
        return np.array(stats)

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return dict(zip(("exact_match", "f1"), (100 * stats[:, :2].mean(0)).tolist(), strict=True))

    def details(self, stats: np.ndarray) -> Json:
        """Return the metrics of questions with and without an answer separately, if there are both."""
        answerable = stats[:, 2] == 1
        parts = {} if answerable.all() else {"answerable": stats[answerable], "unanswerable": stats[~answerable]}
        return {name: {"questions": len(part), **self.score(part)} for name, part in parts.items() if len(part)}

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        def f1(answer: Callable[[str, str], str]) -> float:
            values = [squad.f1(answer(r["question"], r["context"]), r["answers"]["text"]) for r in rows["evaluation"]]
            return 100 * sum(values) / len(values)

        none = {"always no answer": f1(lambda question, context: "")} if self.unanswerable else {}
        whole = {"the whole context": f1(lambda question, context: context)}
        similar = {"the sentence most like the question": f1(baselines.most_similar_sentence)}
        return baseline_values(floor={**none, **whole}, reference=similar)

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Row], max_length: int) -> list[Row]:
        """Return `{"answer", "start", "end", "score", "n_best"}` for each question, see `answer`."""
        rows: Columns = {name: [read_text(row, name) for row in inputs] for name in self.predict_columns}
        rows["answers"] = [{"text": [], "answer_start": []}] * len(inputs)
        features, outputs, truncated = predict_batches(self, model, tokenizer, rows, max_length)
        log_truncated(truncated, "question", (max_length - tokenizer.num_special_tokens_to_add(pair=True)) // 2)
        windows = _windows_by_row(np.array(outputs), [f["row"] for f in features])
        return [self.answer(context, w) for context, w in zip(rows["context"], windows, strict=True)]

    def format_prediction(self, answer: Row, given: Any) -> str:
        text = "(no answer)" if answer["answer"] == "" else answer["answer"]
        return "\t".join([" ".join(text.split()), f"{answer['score']:.4f}", " ".join(given["question"].split())])


def _windows_by_row(outputs: np.ndarray, rows: Sequence[int]) -> list[np.ndarray]:
    """Split the outputs of windows by the row that they come from."""
    return np.split(outputs, np.flatnonzero(np.diff(rows)) + 1)
