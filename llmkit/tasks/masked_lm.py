"""Masked language modelling: predict the tokens that were hidden (BERT, ModernBERT …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkit.errors import RecipeError, raise_faults
from llmkit.task import Batch, Dataset, Task, np, torch, valued


@dataclass(frozen=True)
class MaskedLM(Task):
    """BERT's recipe (Devlin et al. 2019): of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay.

    Which are chosen depends on (mask_seed, epoch, row) alone: a resumed run, or one cut into other batches, hides the
    same tokens; evaluation always hides the same.
    """

    mask_probability: float = 0.15
    """share of the tokens to predict"""
    mask_seed: int = 0
    """of the choice"""

    name: ClassVar[str] = "masked-lm"
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("content", "story", "document", "body")}
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    higher_is_better: ClassVar[bool] = False
    packs: ClassVar[bool] = True
    whole_documents: ClassVar[bool] = True

    def fit(self, rows: Dataset) -> Self:
        faults = []
        if not 0 < self.mask_probability <= 1:
            faults.append(f"task.mask_probability: {self.mask_probability:g} is not between 0 and 1")
        if self.mask_seed < 0:
            faults.append(f"task.mask_seed: {self.mask_seed} is below 0")
        raise_faults(faults)
        return self

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
        room = max_length - 2
        if room < 1:
            raise RecipeError(f"data.max_length: {max_length} leaves no room between [CLS] and [SEP]; at least 3")
        plain = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(list(rows["text"]), **plain)["input_ids"]
        pieces = [(r, ids[i : i + room]) for r, ids in enumerate(encoded) for i in range(0, len(ids), room)]
        first, last = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        return {"input_ids": [first + ids + last for _, ids in pieces], "row": [r for r, _ in pieces]}

    def collate(self, features: list[dict[str, Any]], tokenizer: Any, layout: str) -> Batch:
        from llmkit.data import collation

        masked = [{**f, **self._mask(f, tokenizer)} for f in features]
        return collation.tokens(masked, tokenizer.pad_token_id, layout, causal=False, labels=collation.IGNORED)

    def _mask(self, feature: dict[str, Any], tokenizer: Any) -> dict[str, np.ndarray]:
        """`input_ids` as the model sees them, and what it must say; at least one token of a row is hidden."""
        ids = np.asarray(feature["input_ids"], dtype=np.int64)
        random = np.random.default_rng((self.mask_seed, feature["epoch"], abs(feature["row"])))
        draw, kind = random.random(len(ids)), random.random(len(ids))
        other = random.integers(0, len(tokenizer), len(ids))
        may = ~np.isin(ids, tokenizer.all_special_ids)
        chosen = may & (draw < self.mask_probability)
        if may.any() and not chosen.any():
            chosen[np.argmin(np.where(may, draw, 2.0))] = True
        seen = np.where(chosen & (kind < 0.8), tokenizer.mask_token_id, np.where(chosen & (kind >= 0.9), other, ids))
        return {"input_ids": seen, "labels": np.where(chosen, ids, -100)}

    def score(self, examples: np.ndarray) -> dict[str, float]:
        from llmkit.evaluation.metrics import language_model

        return language_model(examples)

    def baselines(self, train: Dataset, evaluation: Dataset, rows: Mapping[str, Dataset], references: bool) -> dict:
        from llmkit.evaluation.baselines import ngram_losses

        return valued(floor={"unigram": ngram_losses(train, evaluation)[0]})

    def predict(self, model: Any, tokenizer: Any, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Fill each text's mask tokens: the best five for every one, with their probabilities."""
        from llmkit.models.loading import positions

        mask, answers = tokenizer.mask_token, []
        limit = positions(model.config, tokenizer)
        for text in inputs:
            given = text.replace("[MASK]", mask)
            encoded = tokenizer(given, return_tensors="pt", truncation=True, max_length=limit).to(model.device)
            with torch.no_grad():
                logits = model(**encoded).logits
            best = logits[encoded["input_ids"] == tokenizer.mask_token_id].float().softmax(-1).topk(5)
            fills = [
                [{"token": tokenizer.decode([i]).strip(), "score": p} for p, i in zip(*place, strict=True)]
                for place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            note = {} if fills else {"note": f"no {mask} in the text to fill"}
            answers.append({"text": text, "fills": fills, **note})
        return answers

    def show(self, answer: Mapping[str, Any], given: Any) -> str:
        fills = [", ".join(f"{f['token']} {f['score']:.3f}" for f in place) for place in answer["fills"]]
        return answer.get("note") or " | ".join(fills)

    def snippet(self, folder: str, row: Mapping[str, Any]) -> str:
        words = " ".join(row["text"].split()[:8])[:60]
        return (
            "from transformers import pipeline\n\n"
            f"fill = pipeline('fill-mask', {folder!r})\n"
            f"print(fill({words!r} + fill.tokenizer.mask_token)[0])"
        )
