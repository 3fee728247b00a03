"""Masked language modeling: which tokens are masked, what replaces them, how documents are cut, filling masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TEXTS
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from llmkit import DataConfig, Recipe
from llmkit.tasks import MaskedLM


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(tiny_bert)


def masked(task: MaskedLM, tokenizer: Tokenizer, epoch: int = 0, rows: range = range(40)) -> list[dict[str, Any]]:
    """The original ids, and the masked ids and labels, of `TEXTS`, collated one by one."""
    ids = task.encode({"text": TEXTS}, tokenizer, 64)["input_ids"]
    batches = [task.collate([{"input_ids": ids[i], "row": i, "epoch": epoch}], tokenizer, "padded") for i in rows]
    return [
        {"ids": np.array(ids[i]), **{name: batch[name][0].numpy() for name in ("input_ids", "labels")}}
        for i, batch in zip(rows, batches, strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "max_length", "fault"),
    [
        ({"mask_probability": 0.0}, None, "task.mask_probability: 0 is"),
        ({"mask_probability": 1.5}, None, "task.mask_probability: 1.5 is"),
        ({"mask_seed": -1}, None, "task.mask_seed: -1 is"),
        ({}, 2, "data.max_length: 2 leaves no room"),
    ],
)
def test_check_names_options_out_of_range(options: dict[str, Any], max_length: int | None, fault: str) -> None:
    task = MaskedLM(**options)
    (found,) = task.check(Recipe(task, data=DataConfig(max_length=max_length)))
    assert found.startswith(fault)
    assert MaskedLM().check(Recipe(MaskedLM(), data=DataConfig(max_length=3))) == []


def test_long_documents_are_cut_between_special_tokens(tokenizer: Tokenizer) -> None:
    columns = MaskedLM().encode({"text": TEXTS[:8]}, tokenizer, 10)
    whole = tokenizer(TEXTS[:8], add_special_tokens=False)["input_ids"]
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id for ids in columns["input_ids"])
    assert max(map(len, columns["input_ids"])) == 10
    for row, ids in enumerate(whole):
        assert [
            i for r, c in zip(columns["row"], columns["input_ids"], strict=True) if r == row for i in c[1:-1]
        ] == ids


def test_masking_depends_on_seed_epoch_and_row_only(tokenizer: Tokenizer) -> None:
    first, again = masked(MaskedLM(), tokenizer), masked(MaskedLM(), tokenizer, rows=range(39, -1, -1))[::-1]
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    for other in (masked(MaskedLM(mask_seed=1), tokenizer), masked(MaskedLM(), tokenizer, epoch=1)):
        assert any(not np.array_equal(a["labels"], b["labels"]) for a, b in zip(first, other, strict=True))


def test_selected_tokens_are_masked_as_in_bert(tokenizer: Tokenizer) -> None:
    rows = [row for epoch in range(20) for row in masked(MaskedLM(), tokenizer, epoch)]
    ids, seen, labels = (np.concatenate([row[name] for row in rows]) for name in ("ids", "input_ids", "labels"))
    selected = labels != -100
    special = np.isin(ids, tokenizer.all_special_ids)
    assert not (selected & special).any() and np.array_equal(labels[selected], ids[selected])
    assert np.array_equal(seen[~selected], ids[~selected])
    assert selected.sum() / (~special).sum() == pytest.approx(0.15, abs=0.01)
    is_mask, same = seen[selected] == tokenizer.mask_token_id, seen[selected] == ids[selected]
    assert is_mask.mean() == pytest.approx(0.8, abs=0.03) and same.mean() == pytest.approx(0.1, abs=0.03)


def test_every_row_has_a_label(tokenizer: Tokenizer) -> None:
    rows = masked(MaskedLM(mask_probability=1e-6), tokenizer)
    assert [int((row["labels"] != -100).sum()) for row in rows] == [1] * len(rows)


def test_predict_counts_inputs_that_are_cut(tiny_bert: Path, tokenizer: Tokenizer, capfd) -> None:
    model = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    answers = MaskedLM().predict(model, tokenizer, ["a [MASK] fox", "a [MASK] " + "fox " * 60, "the fox"], 32)
    assert [len(answer["fills"]) for answer in answers] == [1, 1, 0] and "[MASK]" in answers[2]["note"]
    assert "1 input cut to 32 tokens" in capfd.readouterr().err
