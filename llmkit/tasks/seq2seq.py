"""Sequence to sequence: generate a text from another one (T5, BART, Marian): translation, summarization, answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset

from llmkit.collate import IGNORED, Batch, token_batch
from llmkit.errors import UsageError, suggest
from llmkit.log import log, log_truncated
from llmkit.metrics import overlap
from llmkit.models import generation_config
from llmkit.recipe import Recipe
from llmkit.task import Columns, Model, Row, Rows, Task, Tokenizer, baseline_values, read_text, token_losses

USUAL_NAMES = {
    "source": ("text", "document", "article", "dialogue", "src"),
    "target": ("summary", "highlights", "abstract", "tgt"),
}
FIRST_SENTENCE = re.compile(r"(?<=[.!?])\s|(?<=[。！？])")


@dataclass(frozen=True)
class Seq2Seq(Task):
    """Generate a target from a source. Of several targets the first is trained on, and all are references.

    Evaluation generates, also during training. The options in `generation` are saved in the model's generation config,
    so that Transformers alone generates the same.
    """

    source: str = "source"
    """Column to read, such as en (default: source, or one of its usual names)"""
    target: str = "target"
    """Column to generate, such as zh"""
    metric: str = "bleu"
    """Main metric: bleu or chrf (translation), rouge1, rouge2 or rougeL (summaries), exact_match or f1 (answers)"""
    cut: str = ""
    """Tokenizer of BLEU and ROUGE, by sacrebleu's names (default: zh for targets with Chinese, char for Japanese, …)"""
    prefix: str = ""
    """Text put before every source, such as "summarize: " for T5"""
    languages: tuple[str, ...] = ()
    """Language codes of source and target for a multilingual tokenizer, such as [eng_Latn, zho_Hans]"""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy"""
    generation: Row = field(default_factory=dict)
    """Fields of GenerationConfig, such as num_beams: 4 (default: max_new_tokens: 128)"""

    name: ClassVar[str] = "seq2seq"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        # translation: {"en": …, "zh": …}, the format of translation datasets on the hub
        return {column: USUAL_NAMES.get(column, ()) for column in (self.source, self.target, "translation")}

    @property
    def formats(self) -> tuple[tuple[str, ...], ...]:
        return (self.source, self.target), ("translation",)

    @property
    def split_group(self) -> str:
        return self.source

    @property
    def predict_columns(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*overlap.metric_names(self.metric), "loss")

    def check(self, recipe: Recipe) -> list[str]:
        known, tokenizers = [*overlap.TRANSLATION, *overlap.SUMMARY, *overlap.ANSWER], overlap.tokenizers()
        faults = super().check(recipe)
        if self.metric not in known:
            faults.append(f"task.metric: {self.metric!r} is not one of {', '.join(known)}")
        if self.cut and self.cut not in tokenizers:
            faults.append(f"task.cut: no tokenizer {self.cut!r}; {suggest(self.cut, tokenizers)}")
        if len(self.languages) not in (0, 2):
            faults.append(f"task.languages: {list(self.languages)} are not two codes, of source and target")
        return faults + generation_config.task_faults(self.generation)

    def read_row(self, row: Row) -> Row:
        if (pair := row.get("translation")) is not None:
            if not isinstance(pair, Mapping) or self.source not in pair:
                keys = ", ".join(pair) if isinstance(pair, Mapping) else type(pair).__name__
                raise ValueError(f"'translation' holds {keys}; name two of them with --task.source and --task.target")
            row = pair
        targets = row.get(self.target)
        texts = targets if isinstance(targets, (list, tuple)) else [read_text(row, self.target)]
        if wrong := next((text for text in texts if not isinstance(text, (str, type(None)))), None):
            raise ValueError(f"{self.target!r} holds {type(wrong).__name__}, not text")
        if not (texts := [text.strip() for text in texts if text and text.strip()]):
            raise ValueError(f"empty {self.target!r}")
        return {self.source: _read_joined(row, self.source), self.target: texts}

    def read_question(self, row: Row) -> list[str]:
        return [_read_joined(row, self.source)]

    def fit(self, rows: Mapping[str, Dataset]) -> Self:
        if self.cut or self.metric in overlap.ANSWER:
            return self
        part = rows.get("train", next(iter(rows.values())))
        sample = part.select(range(0, len(part), max(1, len(part) // 1000)))
        shares = overlap.script_shares([texts[0] for texts in sample[self.target]])
        cut = overlap.default_tokenizer(shares, self.metric)
        scripts = ", ".join(f"{share:.0%} {script}" for script, share in shares.items() if share)
        log(f"{self.metric} with the tokenizer {cut}: words of the targets are {scripts} (--task.cut)", "config")
        return replace(self, cut=cut)

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (text for row in rows for text in (row[self.source], *row[self.target]))

    def configure(self, tokenizer: Tokenizer, model: Model | None = None) -> None:
        fields = dict(self.generation)
        if self.languages:
            if not (hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")):
                raise UsageError(f"task.languages: {type(tokenizer).__name__} has no languages; leave it out")
            tokenizer.src_lang, tokenizer.tgt_lang = self.languages
            fields["forced_bos_token_id"] = tokenizer(text_target="")["input_ids"][0]  # the code of the target language
        if model is not None:
            generation_config.configure_generation(model, fields)

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        sources, source_cut = _encode(tokenizer, max_length, text=[self.prefix + text for text in rows[self.source]])
        targets, target_cut = _encode(tokenizer, max_length, text_target=[texts[0] for texts in rows[self.target]])
        special, eos = set(tokenizer.all_special_ids), tokenizer.eos_token_id
        return {
            "input_ids": sources,
            "labels": [ids if ids[-1] in special else [*ids[: max_length - 1], eos] for ids in targets],
            "row": list(range(len(sources))),
            "truncated": [a or b for a, b in zip(source_cut, target_cut, strict=True)],
        }

    def loss(self, model: Model, batch: Batch) -> tuple[torch.Tensor, Any]:
        outputs = _model_outputs(model, batch)
        return token_losses(outputs.logits, batch["labels"], self.label_smoothing).sum(), outputs

    def predict_step(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return `[summed loss of the target, its tokens, generated ids …]` of each row: (rows, 2 + longest)."""
        losses = token_losses(_model_outputs(model, batch).logits, batch["labels"])
        generated = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])  # type: ignore
        return torch.column_stack([losses.sum(-1), (batch["labels"] != IGNORED).sum(-1), generated])

    def example_stats(self, outputs: np.ndarray, features: Dataset, rows: Dataset, tokenizer: Tokenizer) -> np.ndarray:
        """Return `[summed loss, tokens, counts of overlap …]` of each row."""
        texts = _decode(tokenizer, [[int(i) for i in ids if i >= 0] for ids in outputs[:, 2:]])
        counts = overlap.count(self.metric, self.cut, texts, rows[self.target][:])
        return np.column_stack([outputs[:, :2].astype(np.float64), counts])

    def score(self, stats: np.ndarray) -> dict[str, float]:
        loss, tokens = stats[:, :2].sum(0)
        return {**overlap.scores(self.metric, stats[:, 2:]), "loss": float(loss / tokens)}

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        sources, targets = (rows["evaluation"][column][:] for column in (self.source, self.target))
        texts = {"copy-source": sources}
        if self.metric in overlap.SUMMARY:
            texts["lead-sentence"] = [FIRST_SENTENCE.split(text, maxsplit=1)[0] for text in sources]
        counts = {name: overlap.count(self.metric, self.cut, answers, targets) for name, answers in texts.items()}
        values = {name: overlap.scores(self.metric, count)[self.metric] for name, count in counts.items()}
        return baseline_values(floor={"copy-source": values.pop("copy-source")}, reference=values)

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[str], max_length: int) -> list[Row]:
        """Return `{"generated_text"}` for each source, generated as the model's generation config says."""
        sources, cut = _encode(tokenizer, max_length, text=[self.prefix + text for text in inputs])
        log_truncated(sum(cut), "source", max_length)
        batch = token_batch([{"input_ids": ids} for ids in sources], tokenizer.pad_token_id, "padded", causal=False)
        with torch.no_grad():
            generated = model.generate(**{name: tensor.to(model.device) for name, tensor in batch.items()})  # type: ignore
        return [{"generated_text": text} for text in _decode(tokenizer, generated)]

    def format_prediction(self, answer: Row, given: object) -> str:
        return " ".join(answer["generated_text"].split())


def _read_joined(row: Row, column: str) -> str:
    """Return the text in a column, or its list of sentences as one text."""
    value = row.get(column)
    if isinstance(value, (list, tuple)) and all(isinstance(sentence, str) for sentence in value):
        row = {column: " ".join(sentence.strip() for sentence in value)}
    return read_text(row, column).strip()


def _encode(tokenizer: Tokenizer, max_length: int, **texts: list[str]) -> tuple[list[list[int]], list[bool]]:
    """Return the ids of each text, and whether it was cut. `texts` are `text` or `text_target`."""
    whole = tokenizer(**texts, return_attention_mask=False, verbose=False)["input_ids"]
    ids = tokenizer(**texts, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    return ids, [len(short) < len(full) for short, full in zip(ids, whole, strict=True)]


def _decode(tokenizer: Tokenizer, ids: list[list[int]] | torch.Tensor) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _model_outputs(model: Model, batch: Batch) -> Any:
    """Call the model with the labels, shifted right, as its decoder's input."""
    shift = getattr(extract_model_from_parallel(model), "prepare_decoder_input_ids_from_labels", None)
    labels = batch["labels"]
    target = {"decoder_input_ids": shift(labels=labels)} if shift else {"labels": labels}  # M2M100 shifts them itself
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **target)
