"""Text classification: a label for a text or a pair of texts (sentiment, intent, entailment), several labels, a number.

What the labels look like decides: words and whole numbers are classes, of which a row has one; lists hold any number of
them; numbers such as 3.8 are a regression. What the three do differently is in `evaluation.labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llmkit.errors import RecipeError, raise_faults, suggest
from llmkit.task import Batch, Dataset, Task, is_number, np, read_text, torch, valued

if TYPE_CHECKING:
    from llmkit.evaluation.labels import One

SINGLE, MULTI, REGRESSION = KINDS = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True)
class TextClassification(Task):
    """A text, or two, and its label. What the training rows teach is saved in the config, as plain Transformers expects
    it; a threshold stands in recipe.yaml alone."""

    problem_type: str = ""
    """single_label_classification, multi_label_classification or regression (left out: the labels decide)"""
    labels: tuple[str, ...] = ()
    """in the order of the logits (left out: those of the training rows, sorted)"""
    pairs: bool | None = None
    """whether a row holds two texts, text and text_pair (learned from the rows)"""
    class_weights: str | Mapping[str, float] | None = None
    """in the loss: balanced (rare labels weigh more), or a number by label; of several a row, for those there are"""
    label_smoothing: float = 0.0
    """of the cross entropy"""
    threshold: float | Mapping[str, float] | None = None
    """least probability of the second of two labels, or the one named; of several a row, of all or by label (0.5)"""
    calibrate: bool = False
    """after training, divide the logits by the temperature that suits the validation part best (Guo et al. 2017)"""

    name: ClassVar[str] = "text-classification"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("sentence", "review", "content", "body", "sentence1", "premise", "question1"),
        "text_pair": ("sentence2", "hypothesis", "question2"),
        "label": ("labels", "category", "class", "sentiment", "intent", "score", "similarity_score"),
    }
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "label"),)
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    def __post_init__(self) -> None:
        if self.problem_type not in ("", *KINDS):
            raise RecipeError(f"task.problem_type: no {self.problem_type!r}; {suggest(self.problem_type, KINDS)}")

    @property
    def kind(self) -> One:
        """What one label, several and a number do not share."""
        from llmkit.evaluation.labels import Number, One, Several

        return {MULTI: Several, REGRESSION: Number}.get(self.problem_type, One)(self)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.kind.metrics

    @property
    def asks(self) -> tuple[str, ...]:
        return ("text", "text_pair") if self.pairs else ("text",)

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        texts = {column: read_text(row, column) for column in ("text", "text_pair") if column in row}
        label = row.get("label")
        if self.problem_type == MULTI and not isinstance(label, list):
            raise ValueError(f"label {label!r} is no list of labels")
        if isinstance(label, list) and self.problem_type in ("", MULTI):
            names = list(map(self._word, label))
            if len(set(names)) < len(names):
                raise ValueError(f"label {label!r} names one twice; give the names of those that the row has")
            return {**texts, "label": names}
        return {**texts, "label": self._word(label)}

    def _word(self, label: Any) -> str:
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        word = str(label).strip() if isinstance(label, (str, int, float)) else ""
        if not word or word == "nan":
            raise ValueError(f"label {label!r} is neither a word nor a number")
        if self.problem_type == REGRESSION and not is_number(word):
            raise ValueError(f"label {word!r} is no number")
        if self.labels and word not in self.labels:
            raise ValueError(f"label {word!r} is none of {', '.join(self.labels[:8])}")
        return word

    def fit(self, rows: Dataset) -> Self:
        from llmkit.console import say

        found, kind = rows["label"][:], self.problem_type or SINGLE
        if isinstance(found[0], list):
            kind = MULTI
            if all(sorted(names) == ["0", "1"] for names in found):
                raise RecipeError(
                    "data.train: labels such as [0, 1] in every row; give the names of those that a row has"
                )
        elif not (self.problem_type or self.labels) and all(map(is_number, found)):
            broken = next((label for label in found if not float(label).is_integer()), None)
            if broken is not None:
                kind, fix = REGRESSION, f"--task.problem_type {SINGLE} makes classes of them"
                say(f"labels are numbers, {broken} among them: a regression; {fix}", "decided")
        task = self.replace(problem_type=kind, pairs="text_pair" in rows.column_names)
        given = {knob: value for knob in task.kind.idle if (value := getattr(self, knob))}
        raise_faults([f"task.{k}: {v!r} is not for {task.problem_type}; leave it out" for k, v in given.items()])
        return task.replace(**task.kind.learn(found))

    def check_rows(self, rows: Dataset, part: str) -> list[str]:
        found, faults = rows["label"][:], []
        if self.pairs is not None and self.pairs != ("text_pair" in rows.column_names):
            faults.append(f"data.{part}: {'no' if self.pairs else 'a'} text_pair, unlike the training rows")
        if isinstance(found[0], list) != (self.problem_type == MULTI):
            return [*faults, f"data.{part}: labels such as {found[0]!r}, unlike those of the training rows"]
        if foreign := self.kind.foreign(found):
            faults.append(f"data.{part}: labels that training never saw: {', '.join(foreign[:8])}")
        return faults

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (row[column] for row in rows for column in self.asks)

    def with_config(self, config: Any) -> Self:
        if self.labels or self.problem_type:
            return self
        kind = config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE)
        names = () if kind == REGRESSION else tuple(config.id2label[i] for i in range(config.num_labels))
        return self.replace(problem_type=kind, labels=names)

    def model_kwargs(self) -> dict[str, Any]:
        names = self.labels or ("score",)
        ids = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
        return {"problem_type": self.problem_type or SINGLE, **ids}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        texts = [list(rows[column]) for column in ("text", "text_pair") if column in rows]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        kept = ("input_ids", "token_type_ids") if len(texts) == 2 else ("input_ids",)
        return {
            **{column: encoded[column] for column in kept if column in encoded},
            **({"label": self.kind.targets(rows["label"])} if "label" in rows else {}),
            "row": list(range(len(rows["text"]))),
            "truncated": [bool(e.overflowing) for e in encoded.encodings or ()],
        }

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        batch = collation.tokens(features, tokenizer.pad_token_id, layout, causal=False)
        if "label" not in features[0]:
            return batch
        dtype = torch.float32 if self.problem_type in (MULTI, REGRESSION) else torch.int64
        return {**batch, "labels": torch.tensor([f["label"] for f in features], dtype=dtype)}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        outputs = self.forward(model, batch)
        return self.kind.loss(outputs.logits.float(), batch["labels"]), outputs

    def weight(self, batch: Batch) -> torch.Tensor:
        return self.kind.weight(batch["labels"])

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """Logits: (rows, labels)."""
        return self.forward(model, batch).logits.float()

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[label, logits …]` of each row; of several labels, for each a 1 or a 0."""
        return np.column_stack([features["label"][:], outputs])

    def _parted(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets, (rows,) or of several labels (rows, labels), and logits."""
        if self.problem_type == MULTI:
            return examples[:, : len(self.labels)].astype(int), examples[:, len(self.labels) :]
        targets = examples[:, 0]
        return targets if self.problem_type == REGRESSION else targets.astype(int), examples[:, 1:]

    def score(self, examples: np.ndarray) -> dict[str, float]:
        return self.kind.score(*self._parted(examples))

    def details(self, examples: np.ndarray) -> dict[str, Any]:
        return self.kind.details(*self._parted(examples))

    def after_training(self, model: Any, examples: Callable[[], np.ndarray]) -> None:
        if self.calibrate:
            from llmkit.evaluation.labels import calibrate

            calibrate(model, self.kind, *self._parted(examples()))

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        known, targets = (np.asarray(features["label"][:]) for features in (train, evaluation))
        reference = self.kind.reference(known, targets, rows) if references else {}
        return valued(floor=self.kind.floor(known, targets), reference=reference)

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Of each text, or mapping of `text` and `text_pair`: `{"label", "score"}`, its label with the probability; of
        several `{"labels", "scores"}`; of a regression `{"score"}`. Raises RecipeError for one text instead of two."""
        from llmkit.models.loading import positions

        rows = [{"text": given} if isinstance(given, str) else given for given in inputs]
        both = self.pairs or (self.pairs is None and "text_pair" in rows[0])
        columns = ("text", "text_pair") if both else ("text",)
        if strange := [row for row in rows if {*row} & {"text", "text_pair"} != {*columns}]:
            wanted = " and ".join(columns)
            raise RecipeError(f"{self.name}: this model reads {wanted} of each input, not {strange[0]!r}")
        texts = {column: [row[column] for row in rows] for column in columns}
        _, logits, _ = self.steps(model, tokenizer, texts, positions(model.config, tokenizer) or 10**9)
        return self.with_config(model.config).kind.answers(np.array(logits))

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        cells = [value if isinstance(value, list) else [value] for value in answer.values()]
        said = [",".join(f"{v:.4f}" if isinstance(v, float) else v for v in cell) for cell in cells]
        texts = [given] if isinstance(given, str) else given.values()
        return "\t".join([*said, *(" ".join(text.split()) for text in texts)])

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        asked = {column: row[column][:200] for column in self.asks}
        held = ", ".join(f"{name} {least:g}" for name, least in self.kind.fitted_threshold.items())
        return (
            "from transformers import pipeline\n\n"
            + f"# figures and llmkit's answers are at the thresholds {held}, which no pipeline knows\n" * bool(held)
            + f"classify = pipeline('text-classification', {folder!r})\n"
            f"print(classify({asked if self.pairs else asked['text']!r}, truncation=True))"
        )
