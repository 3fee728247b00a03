"""Sequence to sequence: a text in, another out (T5, BART, Marian …): translation, summaries, any text from a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError, raise_faults, suggest
from llmkit.task import Batch, Dataset, Task, np, read_text, torch, valued


@dataclass(frozen=True)
class Seq2Seq(Task):
    """A source and its target; of several targets of one source the first is learned, and all count in the score.

    Evaluation generates, while training too. What `generation` says is saved in the model's generation config, so that
    transformers alone generates the same.
    """

    source: str = "source"
    """the column to read, such as en (left out: also found under its usual names)"""
    target: str = "target"
    """the column to write, such as zh"""
    metric: str = "bleu"
    """which decides: bleu or chrf (translation), rouge1, rouge2 or rougeL (summaries), exact_match or f1 (answers)"""
    cut: str = ""
    """how BLEU and ROUGE tell words apart, by sacrebleu's names (left out: zh for Chinese targets, …)"""
    prefix: str = ""
    """put before every source, such as "summarize: " for a T5"""
    languages: tuple[str, ...] = ()
    """codes of source and target for a multilingual tokenizer, such as [eng_Latn, zho_Hans]"""
    label_smoothing: float = 0.0
    """of the cross entropy"""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """any field of GenerationConfig, such as num_beams: 4 (left out: max_new_tokens: 128)"""

    name: ClassVar[str] = "seq2seq"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    tokenizer_style: ClassVar[str] = "t5"
    writes: ClassVar[bool] = True

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        usual = {
            "source": ("text", "document", "article", "dialogue", "src"),
            "target": ("summary", "highlights", "abstract", "tgt"),
        }
        # a translation is {"translation": {"en": …, "zh": …}}, as the hub's sets have it
        return {column: usual.get(column, ()) for column in (self.source, self.target, "translation")}

    @property
    def formats(self) -> tuple[tuple[str, ...], ...]:
        return (self.source, self.target), ("translation",)

    @property
    def document(self) -> str:
        return self.source

    @property
    def asks(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def metrics(self) -> tuple[str, ...]:
        from llmkit.evaluation import overlap

        return (*overlap.names(self.metric), "loss")

    @property
    def primary(self) -> str:
        return self.metric

    def read_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if (pair := row.get("translation")) is not None:
            if not isinstance(pair, Mapping) or self.source not in pair:
                there = ", ".join(pair) if isinstance(pair, Mapping) else type(pair).__name__
                raise ValueError(f"'translation' holds {there}; say --task.source and --task.target, one of them each")
            row = pair
        written = row.get(self.target)
        if isinstance(written, (list, tuple)):
            written = [w.strip() for w in written if isinstance(w, str) and w.strip()]
        else:
            written = [read_text(row, self.target).strip()]
        if not written:
            raise ValueError(f"empty {self.target!r}")
        return {self.source: _joined(row, self.source), self.target: written}

    def read_question(self, row: Mapping[str, Any]) -> list[Any]:
        return [_joined(self.asked(row), self.source)]

    def fit(self, rows: Dataset) -> Self:
        from llmkit.evaluation import overlap
        from llmkit.models import generating

        known, cuts = [*overlap.TRANSLATION, *overlap.SUMMARY, *overlap.ANSWER], overlap.cuts()
        faults = [] if self.metric in known else [f"task.metric: {self.metric!r} is none of {', '.join(known)}"]
        if self.cut and self.cut not in cuts:
            faults.append(f"task.cut: {self.cut!r} is no way to tell words apart; {suggest(self.cut, cuts)}")
        if len(self.languages) not in (0, 2):
            faults.append(f"task.languages: {list(self.languages)} are not two, a source and a target")
        raise_faults([*faults, *generating.of_task(self.generation)])
        targets = [written[0] for written in rows[:1000][self.target]]
        return self.replace(cut=self.cut or overlap.usual_cut(targets, self.metric))

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (text for row in rows for text in (row[self.source], *row[self.target]))

    def ready_tokenizer(self, tokenizer: Any) -> None:
        speaks = hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")
        if self.languages and not speaks:
            raise RecipeError(f"task.languages: {type(tokenizer).__name__} knows no languages; leave it out")
        if self.languages:
            tokenizer.src_lang, tokenizer.tgt_lang = self.languages

    def ready_model(self, model: Any, tokenizer: Any) -> None:
        from llmkit.models import generating

        self.ready_tokenizer(tokenizer)
        wanted = dict(self.generation)
        if self.languages:  # the target's code is what a multilingual decoder says first
            wanted["forced_bos_token_id"] = tokenizer(text_target="")["input_ids"][0]
        generating.set_up(model, wanted)

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        sources, cut = _ids(tokenizer, max_length, text=[self.prefix + text for text in rows[self.source]])
        targets, cut_too = _ids(tokenizer, max_length, text_target=[written[0] for written in rows[self.target]])
        ends, eos = set(tokenizer.all_special_ids), tokenizer.eos_token_id
        return {
            "input_ids": sources,
            "labels": [ids if ids[-1] in ends else [*ids[: max_length - 1], eos] for ids in targets],
            "row": list(range(len(sources))),
            "truncated": [a or b for a, b in zip(cut, cut_too, strict=True)],
        }

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        return collation.tokens(features, tokenizer.pad_token_id, layout, causal=False, labels=collation.IGNORED)

    def forward(self, model: Any, batch: Batch) -> Any:
        from accelerate.utils import extract_model_from_parallel

        labels = batch["labels"]
        shift = getattr(extract_model_from_parallel(model), "prepare_decoder_input_ids_from_labels", None)
        said = {"decoder_input_ids": shift(labels=labels)} if shift else {"labels": labels}  # M2M100 shifts within
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **said, use_cache=False)

    def predict_step(self, model: Any, batch: Batch) -> torch.Tensor:
        """`[summed nats of the target, its tokens, ids of the answer …]` of each row: (rows, 2 + longest answer)."""
        _, nats = self.nats(model, batch)
        answer = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return torch.column_stack([nats.sum(-1), (batch["labels"] != -100).sum(-1), answer])

    def per_example(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Any) -> np.ndarray:
        """`[nats, tokens, counts of what is shared with the targets …]` of each row."""
        answers = _texts(tokenizer, [[int(i) for i in ids if i >= 0] for ids in outputs[:, 2:]])
        return self._examples(outputs[:, :2], answers, rows[self.target][:])

    def _examples(self, nats: np.ndarray, answers: Sequence[str], targets: Sequence[Sequence[str]]) -> np.ndarray:
        from llmkit.evaluation import overlap

        return np.column_stack([nats.astype(np.float64), overlap.count(self.metric, self.cut, answers, targets)])

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation import overlap

        nats, tokens = examples[:, :2].sum(0)
        return {**overlap.scores(self.metric, examples[:, 2:]), "loss": float(nats / tokens)}

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation import overlap

        sources, targets = (rows["evaluation"][column][:] for column in (self.source, self.target))

        def value(answers: Sequence[str]) -> float:
            return self.score(self._examples(np.ones((len(sources), 2)), answers, targets))[self.primary]

        copies, leads = {"copy-source": value(sources)}, {}
        if self.metric in overlap.SUMMARY:
            firsts = [re.split(r"(?<=[.!?])\s|(?<=[。！？])", text, maxsplit=1)[0] for text in sources]
            leads = {"lead-sentence": value(firsts)}
        return valued(floor=copies, reference=leads)

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """`{"generated_text"}` of each source, as the model's generation config says."""
        from llmkit.models.loading import positions

        limit = positions(model.config, tokenizer)
        given = [self.prefix + text for text in inputs]
        cut = {"truncation": limit is not None, "max_length": limit}
        encoded = tokenizer(given, **cut, padding=True, return_token_type_ids=False, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**encoded.to(model.device))
        return [{"generated_text": text} for text in _texts(tokenizer, ids)]

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        return " ".join(answer["generated_text"].split())

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        text = self.prefix + row[self.source][:400]
        return (
            f"{self.loading(folder)}"
            f"batch = tokenizer([{text!r}], return_tensors='pt')\n"
            "print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))"
        )


def _joined(row: Mapping[str, Any], column: str) -> str:
    """The text of a column; a list of sentences is one."""
    value = row.get(column)
    if isinstance(value, (list, tuple)) and all(isinstance(sentence, str) for sentence in value):
        row = {column: " ".join(sentence.strip() for sentence in value)}
    return read_text(row, column).strip()


def _ids(tokenizer: Any, max_length: int, **texts: list[str]) -> tuple[list[list[int]], list[bool]]:
    """Ids of each text, and whether it was cut."""
    whole = tokenizer(**texts, return_attention_mask=False, verbose=False)["input_ids"]
    ids = tokenizer(**texts, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    return ids, [len(kept) < len(all_of_it) for kept, all_of_it in zip(ids, whole, strict=True)]


def _texts(tokenizer: Any, ids: Any) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
