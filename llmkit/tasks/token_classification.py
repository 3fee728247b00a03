"""Token classification: a tag for each word, and with it labeled spans (named entities, parts of speech)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from datasets import Dataset
from transformers import PretrainedConfig

from llmkit.collate import IGNORED, Batch
from llmkit.data import spans
from llmkit.errors import UsageError
from llmkit.log import log, plural
from llmkit.metrics.baselines import dictionary_tagger
from llmkit.metrics.spans import span_counts, span_scores
from llmkit.task import (
    Columns,
    Json,
    Model,
    Row,
    Rows,
    Task,
    Tokenizer,
    baseline_values,
    label_losses,
    predict_batches,
    predict_values,
    read_list,
)
from llmkit.tasks._labels import missing_labels_fix

Words = list[tuple[str, float | None, float]]
"""`(predicted tag, loss, probability of that tag)` of each word of a sentence; without sub-words, no loss."""


@dataclass(frozen=True)
class TokenClassification(Task):
    """Words, and a tag for each. Tags of any scheme (IOB1, IOB2, BIOES, BMES, bare names) are read as spans and kept in
    IOB2. The first sub-word of a word is labeled. A sentence longer than a row is split into overlapping windows, and
    each of its words is trained on and scored in one of them."""

    labels: tuple[str, ...] = ()
    """Tags in the order of the logits (default: those of the training rows, sorted); spans of others count as missed"""

    name: ClassVar[str] = "token-classification"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words", "text", "sentence", "data"),
        "tags": ("ner_tags", "labels", "ner", "upos", "spans", "entities", "annotations", "label"),
        "answer": (),
    }  # fmt: skip
    formats: ClassVar[tuple[tuple[str, ...], ...]] = (("tokens", "tags"),)
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "loss")
    predict_columns: ClassVar[tuple[str, ...]] = ("tokens",)
    spans_key: ClassVar[str] = "entities"
    """Where an answer of `predict` holds the spans."""

    @property
    def config_fields(self) -> Json:
        return {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}

    def read_row(self, row: Row) -> Row | Sequence[Row | ValueError]:
        if row.get("answer") in ("reject", "ignore"):
            raise ValueError(f"the annotator's answer is {row['answer']!r}")
        words, tags = spans.read_sentence(read_list(row.get("tokens")), read_list(row.get("tags")))
        return {"tokens": words, "tags": tags}

    def read_question(self, row: Row) -> list[Any]:
        values = predict_values(self, row)
        values["tokens"] = read_list(values["tokens"])
        text, sentence = self.locate(values)["text"], values.pop("tokens")
        return [{"tokens": sentence, **values} if spans.is_words(sentence) else {"text": text, **values}]

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        task = self
        if "train" in rows:
            tags = {"O"}.union(*rows["train"]["tags"])
            if len(tags) == 1:
                raise UsageError("data.train: every tag is O; there are no spans to learn")
            task = replace(self, labels=self.labels or tuple(sorted(tags)))
        for part, dataset in rows.items():
            if unknown := [tag for tags in dataset["tags"] for tag in tags if tag not in {"O", *task.labels}]:
                names = sorted(set(unknown))
                what = f"{plural(len(unknown), 'word')} with tags the model has no label for ({', '.join(names[:8])})"
                fix = f"; {missing_labels_fix(task.labels, names)}" if "train" in rows else ""
                log(f"{part}: {what}{fix}", "warning")
        return task

    def texts(self, rows: Dataset) -> Iterator[str]:
        return ("".join(spans.join_words(words)) for words in rows["tokens"])

    def with_checkpoint(self, folder: Path, config: PretrainedConfig | None) -> Self:
        if config is None or self.labels:
            return self
        return replace(self, labels=tuple(name for _, name in sorted((config.id2label or {}).items())))

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        if not tokenizer.is_fast:
            raise UsageError(f"{type(tokenizer).__name__} does not map tokens to words; use a fast tokenizer")

    def model_words(self, row: Row, mark: str) -> spans.Words:
        """Return the words that the encoder sees of a row, see `llmkit.data.spans.Words`; `mark` is a marker's text."""
        return [(word, i) for i, word in enumerate(row["tokens"])]

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        """Return windows: `words` holds a word's index at its first sub-word, and a negative number elsewhere."""
        mark, tags = tokenizer.sep_token or tokenizer.eos_token, rows["tags"]
        ids = {name: i for i, name in enumerate(self.labels)}
        each = (dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True))
        windows = spans.encode_windows([self.model_words(row, mark) for row in each], tokenizer, max_length)
        labels = [[ids.get(tags[r][w], IGNORED) if w >= 0 else IGNORED for w in words] for r, _, words in windows]
        row, input_ids, words = map(list, zip(*windows, strict=True))
        return {"input_ids": input_ids, "labels": labels, "words": words, "row": row}

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return `[predicted label, loss, probability of the predicted label]` of each sub-word: (rows, longest, 3)."""
        losses, outputs = label_losses(self, model, batch)
        best = outputs.logits.float().softmax(-1).max(-1)
        return torch.stack([best.indices, losses, best.values], dim=-1)

    def _words(self, features: Iterable[Row], outputs: Iterable[np.ndarray], lengths: Iterable[int]) -> list[Words]:
        """Return the words of each sentence, of as many words as `lengths` says."""
        sentences: list[Words] = [[("O", None, 1.0)] * length for length in lengths]
        for feature, output in zip(features, outputs, strict=True):
            for word, (label, loss, prob) in zip(feature["words"], output.tolist(), strict=False):
                if word >= 0:
                    sentences[feature["row"]][word] = self.labels[int(label)], loss, prob
        return sentences

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[summed loss, words, correct, predicted and true spans of each label ...]` of each sentence."""
        stats, tags = [], rows["tags"][:]
        for true, words in zip(tags, self._words(features, outputs, map(len, tags)), strict=True):
            losses = [w[1] for w, tag in zip(words, true, strict=True) if w[1] is not None and tag in self.labels]
            counts = span_counts(true, [tag for tag, _, _ in words], self._span_labels())
            stats.append([np.sum(losses, dtype=float), len(losses), *counts.ravel()])
        return np.array(stats)

    def _span_labels(self) -> list[str]:
        return sorted({label for tag in self.labels if (label := spans.parse_tag(tag)[1])})

    def score(self, stats: np.ndarray) -> dict[str, float]:
        loss, words, *counts = stats.sum(0).tolist()
        return {"loss": loss / max(words, 1), **span_scores([sum(counts[i::3]) for i in range(3)])}

    def details(self, stats: np.ndarray) -> Json:
        """Return the scores `by_label`, and how many true spans each has (`support`)."""
        counts = stats[:, 2:].sum(0).reshape(-1, 3)
        by_label = zip([*self._span_labels(), "(not in training)"], counts, strict=True)
        return {"by_label": {k: {**span_scores(c), "support": int(c[2])} for k, c in by_label if c[1:].any()}}

    def dictionary_keys(self, row: Row) -> Sequence[Any]:
        """Return what the dictionary baseline looks up for each word."""
        return row["tokens"]

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        def f1(keys: Callable[[Row], Sequence[Any]]) -> float:
            tagger = dictionary_tagger((keys(row), row["tags"]) for row in rows["train"])
            counts = [span_counts(row["tags"], tagger(keys(row)), ()).sum(0) for row in rows["evaluation"]]
            return span_scores(np.sum(counts, 0))["f1"]

        majority = f1(lambda row: [""] * len(row["tags"]))  # the same key for all words
        return baseline_values(floor={"majority tag": majority}, reference={"dictionary": f1(self.dictionary_keys)})

    def locate(self, values: Row) -> Json:
        """Return `{text, tokens, positions}` of an input that holds `tokens` or `text`. Raises ValueError."""
        return spans.locate_words(values.get("tokens", values.get("text")))

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int) -> list[Row]:
        """Return `{"text", "entities": [{"text", "label", "start", "end", "score"}]}` of each text or list of words.

        `start` and `end` are in characters; `score` is the mean probability of the tags. A long text is not cut.
        """
        try:
            questions = [self.locate(i if isinstance(i, Mapping) else {"tokens": i}) for i in inputs]
        except ValueError as e:
            raise UsageError(f"{self.name}: {e}") from None
        rows = {key: [question[key] for question in questions] for key in questions[0]}
        rows["tags"] = [["O"] * len(words) for words in rows["tokens"]]
        features, outputs, _ = predict_batches(self, model, tokenizer, rows, max_length)
        sentences = self._words(features, outputs, map(len, rows["tokens"]))
        return [self.answer(question, words) for question, words in zip(questions, sentences, strict=True)]

    def answer(self, question: Row, words: Words) -> Json:
        """Return the answer of `predict` to a question from `locate`."""
        text, positions, found = question["text"], question["positions"], []
        for label, first, last in spans.spans(tag for tag, _, _ in words):
            start, end = positions[first][0], positions[last - 1][1]
            score = sum(prob for _, _, prob in words[first:last]) / (last - first)
            found.append({"text": text[start:end], "label": label, "start": start, "end": end, "score": score})
        return {"text": text, self.spans_key: found}

    def format_prediction(self, answer: Row, given: object) -> str:
        """Return the text, with each span and its label in brackets."""
        text, position, out = answer["text"], 0, ""
        for span in sorted(answer[self.spans_key], key=lambda s: s["start"]):
            out += f"{text[position : span['start']]}[{span['text']} {span['label']}]"
            position = span["end"]
        return " ".join((out + text[position:]).split())
