"""Token classification: a tag for each word, and with it labelled spans (named entities, parts of speech)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError
from llmkit.task import Batch, Dataset, Task, np, torch, valued


@dataclass(frozen=True)
class TokenClassification(Task):
    """Words and a tag of each. Tags of any scheme (IOB1, IOB2, BIOES, BMES, bare names) are read as spans and kept in
    IOB2. A word's first sub-word is labelled; a sentence longer than a row becomes several that overlap, and each of
    its words is learned from and scored once."""

    labels: tuple[str, ...] = ()
    """tags in the order of the logits (left out: those of the training rows, sorted); any other counts as missed"""

    name: ClassVar[str] = "token-classification"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words", "text", "sentence"),
        "tags": ("ner_tags", "labels", "ner", "upos"),
    }
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "loss")
    asks: ClassVar[tuple[str, ...]] = ("tokens",)
    answers: ClassVar[str] = "entities"

    def read_row(self, row: Mapping[str, Any]) -> Any:
        from llmkit.data.tagging import read_tags, read_words

        words = read_words(row.get("tokens"))
        return {"tokens": words, "tags": read_tags(row.get("tags"), words)}

    def fit(self, rows: Dataset) -> Self:
        found = {"O"}.union(*rows["tags"])
        if len(found) == 1:
            raise RecipeError("data.train: every tag is O: nothing to find")
        return self if self.labels else self.replace(labels=tuple(sorted(found)))

    def check_rows(self, rows: Dataset, part: str) -> list[str]:
        from llmkit.console import plural, say

        known = {"O", *self.labels}
        if foreign := [tag for tags in rows["tags"] for tag in tags if tag not in known]:
            names = ", ".join(sorted(set(foreign))[:8])
            say(f"{part}: {plural(len(foreign), 'word')} with tags that training never saw ({names})", "warning")
        return []

    def texts(self, rows: Dataset) -> Iterator[str]:
        from llmkit.data.tagging import join

        return ("".join(join(words)) for words in rows["tokens"])

    def ready_tokenizer(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            name = type(tokenizer).__name__
            raise RecipeError(f"{name} cannot say which word a sub-word is of; give a fast tokenizer")

    def with_config(self, config: Any) -> Self:
        return self if self.labels else self.replace(labels=tuple(config.id2label[i] for i in range(config.num_labels)))

    def model_kwargs(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.labels)), "label2id": {n: i for i, n in enumerate(self.labels)}}

    def shown(self, row: Mapping[str, Any], mark: str) -> list[tuple[str, int]]:
        """What the encoder sees of a row: each word with its number, see `data.tagging.windows`."""
        return [(word, i) for i, word in enumerate(row["tokens"])]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        from llmkit.data.tagging import windows

        ids = {name: i for i, name in enumerate(self.labels)}
        mark = tokenizer.sep_token or tokenizer.eos_token
        shown = [self.shown(dict(zip(rows, row, strict=True)), mark) for row in zip(*rows.values(), strict=True)]
        row, input_ids, words = map(list, zip(*windows(shown, tokenizer, max_length), strict=True))
        tags = [rows["tags"][r] for r in row]
        labels = [[ids.get(t[n], -100) if n >= 0 else -100 for n in read] for t, read in zip(tags, words, strict=True)]
        return {"input_ids": input_ids, "labels": labels, "words": words, "row": row}

    def say_label(self, label: int, token: int, tokenizer: Any) -> str:
        return self.labels[label] if self.labels[label] != "O" else ""

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        return collation.tokens(features, tokenizer.pad_token_id, layout, causal=False, labels=collation.IGNORED)

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[likeliest tag, nats of the true one, the likeliest's probability]` of each sub-word: (rows, longest, 3)."""
        outputs, nats = self.nats(model, batch)
        best = outputs.logits.float().softmax(-1).max(-1)
        return torch.stack([best.indices, nats, best.values], dim=-1)

    def _of_words(self, features: Any, outputs: Any, sizes: Iterable[int]) -> list[list[np.ndarray | None]]:
        """The numbers of `predict_step` for each word of each sentence; None for a word that is not read."""
        found: list[list[np.ndarray | None]] = [[None] * size for size in sizes]
        for feature, output in zip(features, outputs, strict=True):
            for word, numbers in zip(feature["words"], output, strict=False):
                if word >= 0:
                    found[feature["row"]][word] = numbers
        return found

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[nats, words, right, predicted, true spans of each label …]` of each sentence."""
        from llmkit.evaluation.metrics import span_counts

        examples, true, kinds = [], rows["tags"][:], self._kinds()
        for tags, words in zip(true, self._of_words(features, outputs, map(len, true)), strict=True):
            said = ["O" if word is None else self.labels[int(word[0])] for word in words]
            nats = [w[1] for w, tag in zip(words, tags, strict=True) if w is not None and tag in self.labels]
            examples.append([np.sum(nats, dtype=float), len(nats), *span_counts(tags, said, kinds).ravel()])
        return np.array(examples)

    def _kinds(self) -> list[str]:
        """The labels of spans, without prefixes."""
        from llmkit.data.tagging import parse

        return sorted({kind for label in self.labels if (kind := parse(label)[1])})

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import span_scores

        nats, words, *counts = examples.sum(0).tolist()
        return {"loss": nats / max(words, 1), **span_scores([sum(counts[i::3]) for i in range(3)])}

    def details(self, examples: np.ndarray) -> dict[str, Any]:
        """`by_label`: the scores of each, and how many true spans it has (`support`)."""
        from llmkit.evaluation.metrics import span_scores

        counts = examples[:, 2:].sum(0).reshape(-1, 3)
        named = zip([*self._kinds(), "(not in training)"], counts, strict=True)
        return {"by_label": {k: {**span_scores(c), "support": int(c[2])} for k, c in named if c[1:].any()}}

    def clues(self, row: Mapping[str, Any]) -> list[Any]:
        """What the dictionary tagger looks up for each word."""
        return row["tokens"]

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation.baselines import dictionary_tagger
        from llmkit.evaluation.metrics import span_counts, span_scores

        def f1(clues: Callable[[Mapping[str, Any]], list[Any]]) -> float:
            tagger = dictionary_tagger((clues(row), row["tags"]) for row in rows["train"])
            counts = [span_counts(row["tags"], tagger(clues(row)), ()).sum(0) for row in rows["evaluation"]]
            return span_scores(sum(counts))["f1"]

        majority = f1(lambda row: [""] * len(row["tags"]))  # nothing tells the words apart
        return valued(floor={"majority tag": majority}, reference={"dictionary": f1(self.clues)})

    def read_question(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        given = self.asked(row)
        self.question(given)
        sentence, rest = given["tokens"], {k: v for k, v in given.items() if k != "tokens"}
        return [{"text" if isinstance(sentence, str) else "tokens": sentence, **rest}]

    def question(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """An input (`tokens`, or `text`) with what it takes to answer: text, words, places. Raises ValueError."""
        from llmkit.data.tagging import situate

        return situate(given.get("tokens", given.get("text")))

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"text", "entities": [{"text", "label", "start", "end", "score"}]}` of each text or list of words: places in
        characters, the score the mean probability of the words' tags."""
        from llmkit.models.loading import positions

        try:
            asked = [self.question(i if isinstance(i, Mapping) else {"tokens": i}) for i in inputs]
        except ValueError as e:
            raise RecipeError(f"{self.name}: {e}") from None
        rows = {key: [question[key] for question in asked] for key in asked[0]}
        rows["tags"] = [["O"] * len(words) for words in rows["tokens"]]
        length = min(positions(model.config, tokenizer) or self.default_max_length, self.default_max_length)
        features, outputs, _ = self.steps(model, tokenizer, rows, length)
        return [
            self.answer(one, [("O", 1.0) if w is None else (self.labels[int(w[0])], float(w[2])) for w in words])
            for one, words in zip(asked, self._of_words(features, outputs, map(len, rows["tokens"])), strict=True)
        ]

    def answer(self, question: Mapping[str, Any], tags: Sequence[tuple[str, float]]) -> dict[str, Any]:
        """What `predict` gives, from the tag and probability of each word."""
        from llmkit.data.tagging import spans

        text, places, found = question["text"], question["places"], []
        for label, first, last in spans(tag for tag, _ in tags):
            start, end = places[first][0], places[last - 1][1]
            score = sum(p for _, p in tags[first:last]) / (last - first)
            found.append({"text": text[start:end], "label": label, "start": start, "end": end, "score": score})
        return {"text": text, self.answers: found}

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        """The text, each span in brackets with its label."""
        text, at, out = answer["text"], 0, ""
        for span in sorted(answer[self.answers], key=lambda s: s["start"]):
            out += f"{text[at : span['start']]}[{span['text']} {span['label']}]"
            at = span["end"]
        return " ".join((out + text[at:]).split())

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        """By words, as the model was trained: a pipeline takes "Berlin," for one."""
        from llmkit.data.tagging import MARK, pieces

        shown = self.shown(row, "mark")
        words = ["mark" if n == MARK else repr(w) for (_, n), w in zip(shown, pieces(shown, True), strict=True)]
        marks = ["mark = tokenizer.sep_token or tokenizer.eos_token"] if "mark" in words else []
        lines = [
            *marks,
            f"words = [{', '.join(words)}]",
            "batch = tokenizer(words, is_split_into_words=True, return_tensors='pt')",
            "best = model(**batch).logits[0].argmax(-1).tolist()",
            "numbers = batch.word_ids()",
            "names = model.config.id2label",
            "tags = [names[best[numbers.index(n)]] if n in numbers else 'O' for n in range(len(words))]",
            "print(list(zip(words, tags)))",
        ]
        return self.loading(folder) + "\n".join(lines)
