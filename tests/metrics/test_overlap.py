"""Overlap metrics equal those of sacrebleu and rouge_score, of a corpus and of each bootstrap sample."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from llmkit.metrics import overlap

ENGLISH = (
    ["the cat sat on the mat .", "A dog ran", "", "It rains cats and dogs in the old town today."],
    [["The cat sat on the mat."], ["A dog ran home.", "The dog ran away"], ["Silence."], ["It rains in the old town."]],
)
CHINESE = (
    ["猫睡在桌子下面。", "我有一只黑狗，很大", "下雨了 today"],
    [["猫睡在椅子下面。", "小猫睡在桌子底下。"], ["我哥哥有一只黑狗。"], ["今天下雨了。"]],
)


def library_scores(metric: str, tokenizer: str, texts: list[str], references: list[list[str]]) -> dict[str, float]:
    """The metrics of a corpus, computed by the libraries alone."""
    if metric == "bleu":
        streams = [[r[i] if i < len(r) else None for r in references] for i in range(max(map(len, references)))]
        return {
            "bleu": BLEU(tokenize=tokenizer).corpus_score(texts, streams).score,
            "chrf": CHRF().corpus_score(texts, streams).score,
        }
    scorer = RougeScorer(overlap.SUMMARY, use_stemmer=True)
    results = [scorer.score_multi(r, t) for r, t in zip(references, texts, strict=True)]
    return {m: float(np.mean([result[m].fmeasure for result in results])) for m in overlap.SUMMARY}


@pytest.mark.parametrize(
    ("metric", "tokenizer", "case"),
    [("bleu", "13a", ENGLISH), ("bleu", "zh", CHINESE), ("rouge1", "rouge", ENGLISH)],
    ids=["english", "chinese", "rouge"],
)
def test_scores_equal_those_of_the_libraries(metric: str, tokenizer: str, case: tuple) -> None:
    texts, references = case
    counts = overlap.count(metric, tokenizer, texts, references)
    assert overlap.scores(metric, counts) == pytest.approx(
        library_scores(metric, tokenizer, texts, references), abs=1e-9
    )
    sample = [0, 1, 1, 2]  # a bootstrap sample is a corpus too
    expected = library_scores(metric, tokenizer, [texts[i] for i in sample], [references[i] for i in sample])
    assert overlap.scores(metric, counts[sample]) == pytest.approx(expected, abs=1e-9)


def test_rouge_of_chinese_counts_characters() -> None:
    texts, references = ["猫睡在桌子下面"], [["猫睡在椅子下面"]]
    assert overlap.scores("rouge1", overlap.count("rouge1", "rouge", texts, references))["rouge1"] == 0
    scores = overlap.scores("rouge1", overlap.count("rouge1", "zh", texts, references))
    assert scores["rouge1"] == pytest.approx(6 / 7) and scores["rouge2"] == pytest.approx(4 / 6)


def test_answer_metrics_are_those_of_squad() -> None:
    texts, references = ["The red fox.", "two cats", "狐狸"], [["a red fox"], ["Two dogs", "cats"], ["红狐狸"]]
    scores = overlap.scores("f1", overlap.count("f1", "", texts, references))
    assert scores == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0.8) / 3)}


@pytest.mark.parametrize("metric", [*overlap.TRANSLATION, *overlap.SUMMARY, *overlap.ANSWER])
def test_metric_names_start_with_the_metric_itself(metric: str) -> None:
    family = next(f for f in (overlap.TRANSLATION, overlap.SUMMARY, overlap.ANSWER) if metric in f)
    assert overlap.metric_names(metric)[0] == metric and sorted(overlap.metric_names(metric)) == sorted(family)


@pytest.mark.parametrize(
    ("text", "bleu", "rouge"),
    [
        ("The cat is asleep.", "13a", "rouge"),
        ("猫睡着了，狗也睡了。", "zh", "zh"),
        ("猫は机の下で寝ています。", "char", "char"),
        ("Кошка спит под столом.", "13a", "intl"),
        ("Кошка uses PyTorch Transformers datasets and accelerate, évidemment", "13a", "intl"),
        ("用 PyTorch, Transformers, datasets, accelerate, tokenizers, evaluate and PEFT 训练", "zh", "zh"),
        ("PyTorch で Transformers datasets accelerate and tokenizers を使う", "char", "char"),
        ("Le café était fermé, hélas ; 3 élèves", "13a", "rouge"),
        ("", "13a", "rouge"),
    ],
)
def test_default_tokenizer_follows_scripts_of_targets(text: str, bleu: str, rouge: str) -> None:
    shares = overlap.script_shares([text])
    assert overlap.default_tokenizer(shares, "chrf") == bleu
    assert overlap.default_tokenizer(shares, "rougeL") == rouge


def test_chinese_among_latin_words_is_scored() -> None:
    """rouge_score's own tokenizer would see the same Latin words and nothing else."""
    texts, others = (
        ["用 PyTorch Transformers datasets accelerate 训练模型"],
        ["不用 PyTorch Transformers datasets accelerate 测试数据"],
    )
    cut = overlap.default_tokenizer(overlap.script_shares(others), "rougeL")
    assert overlap.scores("rouge1", overlap.count("rouge1", "rouge", texts, [others]))["rouge1"] == 1
    rouge = overlap.scores("rouge1", overlap.count("rouge1", cut, texts, [others]))
    assert rouge == {
        name: pytest.approx(value) for name, value in {"rouge1": 10 / 19, "rouge2": 8 / 17, "rougeL": 10 / 19}.items()
    }
    bleu = [
        overlap.scores("bleu", overlap.count("bleu", tokenizer, texts, [others]))["bleu"] for tokenizer in ("13a", cut)
    ]
    assert 0 < bleu[1] != bleu[0]
