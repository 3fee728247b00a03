"""Extractive question answering: where in a context the answer to a question stands, if it stands there.

A context longer than a row is read in overlapping windows, each with the question before it; the answer is the best of
all windows. `[CLS]` stands for "not in this window" (Devlin et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError
from llmkit.task import Batch, Dataset, F, Task, np, read_text, torch, valued

UNKNOWN = "unknown"


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """A question and its context. Scores are those of SQuAD's official script, in percent."""

    stride: int = 128
    """tokens that neighbouring windows share; at most a third of a row"""
    max_answer_tokens: int = 30
    """the longest answer"""
    n_best: int = 5
    """how many answers are given, the best first"""
    unanswerable: bool | None = None
    """whether a question may have no answer in its context (left out: whether one of the training rows has none)"""
    null_threshold: float = 0.0
    """by how much the score (a logit) of no answer must exceed the best answer's to be preferred"""
    unknown_below: float = 0.0
    """an answer less probable than this is given as "unknown", and counts as none"""

    name: ClassVar[str] = "question-answering"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("query",),
        "context": ("passage", "document"),
        "answers": (),
        "answer": ("answer_text",),
        "answer_start": ("start",),
        "is_impossible": (),
        "paragraphs": (),
        "qas": (),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question", "context", "answers"),
        ("question", "context", "answer", "answer_start"),
        ("context", "qas"),
        ("paragraphs",),
    )
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "f1")
    primary: ClassVar[str] = "f1"
    document: ClassVar[str | None] = "context"
    asks: ClassVar[tuple[str, ...]] = ("question", "context")
    aside: ClassVar[tuple[str, ...]] = ("labels", "char_starts", "char_ends", "null")
    default_max_length: ClassVar[int] = 384

    def __post_init__(self) -> None:
        for knob, least in {"stride": 0, "max_answer_tokens": 1, "n_best": 1}.items():
            if getattr(self, knob) < least:
                raise RecipeError(f"task.{knob}: {getattr(self, knob)}; at least {least}")

    def read_row(self, row: Mapping[str, Any]) -> list[dict[str, Any] | ValueError]:
        """`{question, context, answers: {text, answer_start}}` of each question in it."""
        from llmkit.data import squad

        return squad.read(row)

    def read_question(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        from llmkit.data import squad

        return [asked for question in squad.flat(row) for asked in Task.read_question(self, question)]

    def fit(self, rows: Dataset) -> Self:
        if self.unanswerable is not None:
            return self
        return self.replace(unanswerable=any(not answers["text"] for answers in rows["answers"]))

    def texts(self, rows: Dataset) -> Iterator[str]:
        yield from dict.fromkeys(rows["context"])
        yield from rows["question"]

    def model_kwargs(self) -> dict[str, Any]:
        return {"num_labels": 2}  # the logits of start and end

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        """Windows, see `data.windows`; of several true answers the first is learned."""
        from llmkit.data.windows import windows

        first = [next(zip(a["answer_start"], a["text"], strict=True), None) for a in rows["answers"]]
        spans = [answer and (answer[0], answer[0] + len(answer[1])) for answer in first]
        return windows(rows["question"], rows["context"], spans, tokenizer, max_length, self.stride)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        places = {"char_starts": -1, "char_ends": -1}
        batch = collation.tokens(features, tokenizer.pad_token_id, layout, causal=False, **places)
        batch["null"] = torch.tensor([f["null"] for f in features])
        return {**batch, "labels": torch.tensor([[f["start"], f["end"]] for f in features])}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The mean of start's and end's cross entropy, summed over windows. Padding is no choice: the library's own
        loss lets it be one, and what a row costs then depends on the longest of its batch."""
        outputs, *logits = self._logits(model, batch)
        padding = batch["attention_mask"] == 0
        start, end = (
            F.cross_entropy(scores.masked_fill(padding, float("-inf")), wanted, reduction="sum")
            for scores, wanted in zip(logits, batch["labels"].unbind(1), strict=True)
        )
        return (start + end) / 2, outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"][:, 0] != -100).sum()

    def _logits(self, model: Any, batch: Batch) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """The model's outputs, and in fp32 its logits of start and end: (windows, longest)."""
        outputs = self.forward(model, batch)
        return outputs, outputs.start_logits.float(), outputs.end_logits.float()

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of each window `[score of none, log of all other spans' exp(score), scores, starts, ends]`, the last three of
        its `n_best` spans, in characters of the context: (windows, 2 + 3 n_best)."""
        _, starts, ends = self._logits(model, batch)
        null = (starts + ends).gather(1, batch["null"][:, None])
        outside, longest, nothing = batch["char_starts"] < 0, self.max_answer_tokens, float("-inf")
        starts, ends = starts.masked_fill(outside, nothing), ends.masked_fill(outside, nothing)
        spans = starts[:, :, None] + F.pad(ends, (0, longest - 1), value=nothing).unfold(1, longest, 1)
        spans = F.pad(spans.flatten(1), (0, self.n_best), value=nothing)
        best = spans.topk(self.n_best)
        rest = spans.scatter(1, best.indices, nothing).logsumexp(1, keepdim=True)
        last = starts.shape[1] - 1
        first = (best.indices // longest).clamp(max=last)
        final = (first + best.indices % longest).clamp(max=last)
        places = [batch["char_starts"].gather(1, first), batch["char_ends"].gather(1, final)]
        return torch.cat([null, rest, best.values, *places], dim=1)

    def answer(self, context: str, windows: np.ndarray) -> dict[str, Any]:
        """The answer that the `predict_step` of a question's windows gives. `score` is a probability among all spans of
        the context, `start` and `end` are characters (None for no answer), `n_best` the best spans, and no answer where
        that is allowed, ranked."""
        found: dict[tuple[int, int], float] = {}
        for score, start, end in zip(*(part.ravel() for part in np.split(windows[:, 2:], 3, axis=1)), strict=True):
            text = context[int(start) : int(end)]  # some tokenizers count the space before a word to it
            span = int(start) + len(text) - len(text.lstrip()), int(start) + len(text.rstrip())
            if np.isfinite(score) and text.strip():
                found[span] = max(float(score), found.get(span, -np.inf))
        null = float(windows[:, 0].min())
        best = max(found.values(), default=-np.inf)
        may_be_none = bool(self.unanswerable) or not found
        total = np.logaddexp.reduce([*found.values(), *windows[:, 1], null if may_be_none else -np.inf])
        choices = [(s, {"answer": context[i:j], "start": i, "end": j}) for (i, j), s in found.items()]
        choices = sorted(choices, key=lambda c: -c[0])[: self.n_best]
        choices += [(null, {"answer": "", "start": None, "end": None})] * may_be_none
        given: list[dict[str, Any]] = [{**a, "score": float(np.exp(s - total))} for s, a in choices]
        first = given[-1 if may_be_none and null - best > self.null_threshold else 0]
        if first["score"] < self.unknown_below:
            first = {**first, "answer": UNKNOWN, "start": None, "end": None}
        return {**first, "n_best": sorted(given, key=lambda a: -a["score"])}

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[exact match, F1, whether it has an answer]` of each question."""
        from llmkit.evaluation import squad

        examples = []
        for question, windows in zip(rows, _by_row(outputs, features["row"][:]), strict=True):
            answer, truths = self.answer(question["context"], windows), question["answers"]["text"]
            said = "" if answer["start"] is None else answer["answer"]
            examples.append([squad.exact_match(said, truths), squad.f1(said, truths), bool(truths)])
        return np.array(examples)

    def score(self, examples: np.ndarray) -> dict[str, float]:
        return dict(zip(self.metrics, (100 * examples[:, :2].mean(0)).tolist(), strict=True))

    def details(self, examples: np.ndarray) -> dict[str, Any]:
        """Questions with and without an answer apart."""
        has = examples[:, 2] == 1
        parts = {} if has.all() else {"answerable": examples[has], "unanswerable": examples[~has]}
        return {name: {"questions": len(part), **self.score(part)} for name, part in parts.items() if len(part)}

    def say_labels(self, labels: torch.Tensor, ids: Sequence[int], tokenizer: Any) -> str:
        start, end = labels.tolist()
        if start < 0:
            return "nothing: no window holds the whole answer"
        return f"{tokenizer.decode(ids[start : end + 1]).strip()!r} (tokens {start} to {end})"

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation import baselines, squad

        def f1(answer: Callable[[str, str], str]) -> float:
            found = [squad.f1(answer(r["question"], r["context"]), r["answers"]["text"]) for r in rows["evaluation"]]
            return 100 * sum(found) / len(found)

        none = {"always no answer": f1(lambda question, context: "")} if self.unanswerable else {}
        whole = {"the whole context": f1(lambda question, context: context)}
        likest = {"the sentence most like the question": f1(baselines.likest_sentence)}
        return valued(floor={**none, **whole}, reference=likest)

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"answer", "start", "end", "score", "n_best"}` of each question, see `answer`."""
        from llmkit.console import plural, say
        from llmkit.models.loading import positions

        rows: dict[str, list[Any]] = {name: [read_text(given, name) for given in inputs] for name in self.asks}
        rows["answers"] = [{"text": [], "answer_start": []}] * len(inputs)
        length = min(positions(model.config, tokenizer) or self.default_max_length, self.default_max_length)
        features, outputs, cut = self.steps(model, tokenizer, rows, length)
        if cut:
            say(f"{plural(cut, 'question')} longer than half of {length} tokens: their ends are not read", "warning")
        windows = _by_row(np.array(outputs), [f["row"] for f in features])
        return [self.answer(context, w) for context, w in zip(rows["context"], windows, strict=True)]

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        said = "(no answer)" if answer["answer"] == "" else answer["answer"]
        return "\t".join([" ".join(said.split()), f"{answer['score']:.4f}", " ".join(given["question"].split())])

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        return (
            f"{self.loading(folder)}"
            f"question, context = {row['question'][:200]!r}, {row['context'][:600]!r}\n"
            "inputs = tokenizer(question, context, return_tensors='pt')\n"
            "outputs = model(**inputs)\n"
            "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
            "print(tokenizer.decode(inputs['input_ids'][0, start : end + 1]))"
        )


def _by_row(windows: np.ndarray, rows: Sequence[int]) -> list[np.ndarray]:
    """The windows of each row together."""
    return np.split(windows, np.flatnonzero(np.diff(rows)) + 1)
