"""Masked language modeling: predict the tokens that are masked (BERT, ModernBERT, ...)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llmkit.collate import IGNORED, Feature
from llmkit.data.packing import chunk
from llmkit.log import log_truncated
from llmkit.metrics import language_model
from llmkit.metrics.baselines import ngram_losses
from llmkit.recipe import Recipe
from llmkit.task import Batch, Columns, Dataset, Model, Row, Rows, Task, Tokenizer, baseline_values


@dataclass(frozen=True)
class MaskedLM(Task):
    """BERT's masking (Devlin et al. 2019): of the selected tokens 80% are masked, 10% random, 10% unchanged.

    The selection depends on (mask_seed, epoch, row) only, so it is the same after resuming and with any batch size;
    evaluation uses the same one every time.
    """

    mask_probability: float = 0.15
    """Share of the tokens to predict"""
    mask_seed: int = 0
    """Random seed for masking"""

    name: ClassVar[str] = "masked-lm"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("content", "story", "document", "body")}
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    higher_is_better: ClassVar[bool] = False
    language_modeling: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> list[str]:
        faults, max_length = [], recipe.data.max_length
        if not 0 < self.mask_probability <= 1:
            faults.append(f"task.mask_probability: {self.mask_probability:g} is not above 0 and at most 1")
        if self.mask_seed < 0:
            faults.append(f"task.mask_seed: {self.mask_seed} is negative; use 0 or more")
        if max_length is not None and max_length < 3:
            faults.append(f"data.max_length: {max_length} leaves no room between [CLS] and [SEP]; use at least 3")
        return faults

    def encode(self, rows: Rows, tokenizer: Tokenizer, max_length: int) -> Columns:
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(list(rows["text"]), **options)["input_ids"]
        chunks = [(row, part) for row, ids in enumerate(encoded) for part in chunk(ids, max_length - 2)]
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        return {"input_ids": [[first, *ids, last] for _, ids in chunks], "row": [row for row, _ in chunks]}

    def collate(self, features: Sequence[Feature], tokenizer: Tokenizer, layout: str) -> Batch:
        return super().collate([{**f, **self._mask(f, tokenizer)} for f in features], tokenizer, layout)

    def _mask(self, feature: Feature, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """Return `input_ids` with masks and the `labels` of the selected tokens, of which a row has at least one."""
        ids = np.asarray(feature["input_ids"], dtype=np.int64)
        rng = np.random.default_rng((self.mask_seed, feature["epoch"], abs(feature["row"])))
        draw, kind = rng.random(len(ids)), rng.random(len(ids))
        random_ids = rng.integers(0, len(tokenizer), len(ids))
        maskable = ~np.isin(ids, tokenizer.all_special_ids)
        selected = maskable & (draw < self.mask_probability)
        if maskable.any() and not selected.any():
            selected[np.argmin(np.where(maskable, draw, 2.0))] = True
        replaced = np.where(selected & (kind >= 0.9), random_ids, ids)
        masked = np.where(selected & (kind < 0.8), tokenizer.mask_token_id, replaced)
        return {"input_ids": masked, "labels": np.where(selected, ids, IGNORED)}

    def score(self, stats: np.ndarray) -> dict[str, float]:
        return language_model.scores(stats)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        return baseline_values(floor={"unigram": ngram_losses(train, evaluation)[0]})

    def predict(self, model: Model, tokenizer: Tokenizer, inputs: Sequence[str], max_length: int) -> list[Row]:
        """Return `{"text", "fills"}` of each text: for every mask token the best five tokens with their probabilities.

        A text without a mask has no fills, and a `note`.
        """
        mask, truncated = str(tokenizer.mask_token), 0
        options = {"return_tensors": "pt", "truncation": True, "max_length": max_length}
        answers: list[Row] = []
        for text in inputs:
            encoded = tokenizer(text.replace("[MASK]", mask), **options).to(model.device)
            truncated += bool(encoded.encodings[0].overflowing)
            with torch.no_grad():
                logits = model(**encoded).logits
            best = logits[encoded["input_ids"] == tokenizer.mask_token_id].float().softmax(-1).topk(5)
            fills = [
                [{"token": str(tokenizer.decode([i])).strip(), "score": p} for p, i in zip(*top, strict=True)]
                for top in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            note = {} if fills else {"note": f"no {mask} in the text to fill"}
            answers.append({"text": text, "fills": fills, **note})
        log_truncated(truncated, "input", max_length)
        return answers

    def format_prediction(self, answer: Row, given: object) -> str:
        fills = [", ".join(f"{f['token']} {f['score']:.3f}" for f in top) for top in answer["fills"]]
        return answer.get("note") or " | ".join(fills)
