"""Sequence to sequence: the loss a bare loop would compute, sacrebleu's and rouge_score's own figures, ids that begin and
end right, and a folder from which transformers alone generates the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, PHRASES, save

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.errors import RecipeError
from llmkit.evaluation import overlap
from llmkit.evaluation.metrics import intervals
from llmkit.models.tokenizers import train
from llmkit.parsing import apply
from llmkit.tasks import Seq2Seq

SUMMARIES = [
    {"text": f"The {a} went home. It was late, and the {b} slept.", "summary": f"The {a} went home."}
    for a in ("fox", "crow", "lion")
    for b in ("mouse", "ant", "dog", "cat")
]
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "max_position_embeddings": 64,
}
SMALL = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0},
    **dict.fromkeys(("bart", "marian", "pegasus", "m2m_100"), BART),
}


@pytest.fixture
def recipe(tiny_t5: Path, tmp_path: Path) -> Any:
    """A small recipe over PHRASES; keywords of `task` are knobs, of `data` fields, `training` is laid over EXACT."""

    def make(
        rows: Any = PHRASES, model: Any = None, training: dict | None = None, output: str = "run", **knobs: Any
    ) -> Recipe:
        if rows is PHRASES:
            knobs = {"source": "en", "target": "zh", **knobs}
        return Recipe(
            Seq2Seq(**{"generation": {"max_new_tokens": 8}, **knobs}),
            model or ModelConfig(name=str(tiny_t5)),
            DataConfig(train=rows, validation=rows[:8], max_length=32),
            {**EXACT, "max_steps": 3, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return make


def scratch(kind: str, tokenizer: str = "bpe") -> ModelConfig:
    return ModelConfig(name=kind, from_scratch=True, config=SMALL[kind], tokenizer=tokenizer, tokenizer_size=320)


def batch_of(trainer: Any, count: int = 4) -> dict[str, torch.Tensor]:
    rows = [{**trainer.train_dataset[i], "row": i, "epoch": 0} for i in range(count)]
    return trainer._prepare_inputs(trainer.task.collate(rows, trainer.processing_class, "padded"))


# -- loss


@pytest.mark.parametrize("kind", SMALL)
def test_the_loss_is_that_of_a_bare_loop(kind: str, recipe) -> None:
    """Each row alone, without padding, the decoder fed by hand: log-probabilities of the targets, added up."""
    trainer = build_trainer(recipe(model=scratch(kind)))
    task, model, batch = trainer.task, trainer.model.eval(), batch_of(trainer)
    config, by_hand = model.config, 0.0
    with torch.no_grad():
        loss, _ = task.loss(model, batch)
        for feature in trainer.train_dataset.select(range(4)):
            target = feature["labels"]
            seen = torch.tensor([[config.decoder_start_token_id, *target[:-1]]])
            logits = model(input_ids=torch.tensor([feature["input_ids"]]), decoder_input_ids=seen).logits[0]
            by_hand -= logits.float().log_softmax(-1)[range(len(target)), target].sum().item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert int(task.weight(batch)) == sum(len(ids) for ids in trainer.train_dataset.select(range(4))["labels"])


def test_label_smoothing_is_the_librarys(recipe) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    trainer = build_trainer(recipe(label_smoothing=0.1))
    batch = batch_of(trainer)
    with torch.no_grad():
        loss, outputs = trainer.task.loss(trainer.model.eval(), batch)
    mean = LabelSmoother(epsilon=0.1)({"logits": outputs.logits}, batch["labels"])
    assert (loss / trainer.task.weight(batch)).item() == pytest.approx(mean.item(), rel=1e-5)


def test_accumulation_changes_nothing(recipe) -> None:
    def losses(size: int, steps: int) -> list[float]:
        training = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = build_trainer(recipe(training=training, output=f"run{size}"))
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    assert losses(8, 1) == pytest.approx(losses(4, 2), rel=1e-5)


# -- metrics


def corpus(metric: str, cut: str, texts: list[str], references: list[list[str]]) -> dict[str, float]:
    """What the libraries themselves say."""
    if metric == "bleu":
        from sacrebleu.metrics import BLEU, CHRF

        streams = [[r[i] if i < len(r) else None for r in references] for i in range(max(map(len, references)))]
        return {
            "bleu": BLEU(tokenize=cut).corpus_score(texts, streams).score,
            "chrf": CHRF().corpus_score(texts, streams).score,
        }
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(overlap.SUMMARY, use_stemmer=True)
    found = [scorer.score_multi(r, t) for r, t in zip(references, texts, strict=True)]
    return {m: float(np.mean([f[m].fmeasure for f in found])) for m in overlap.SUMMARY}


ENGLISH = (
    ["the cat sat on the mat .", "A dog ran", "", "It rains cats and dogs in the old town today."],
    [["The cat sat on the mat."], ["A dog ran home.", "The dog ran away"], ["Silence."], ["It rains in the old town."]],
)
CHINESE = (
    ["猫睡在桌子下面。", "我有一只黑狗，很大", "下雨了 today"],
    [["猫睡在椅子下面。", "小猫睡在桌子底下。"], ["我哥哥有一只黑狗。"], ["今天下雨了。"]],
)


@pytest.mark.parametrize(
    ("metric", "cut", "case"),
    [("bleu", "13a", ENGLISH), ("bleu", "zh", CHINESE), ("rouge1", "rouge", ENGLISH)],
    ids=["english", "chinese", "rouge"],
)
def test_scores_are_the_libraries_own(metric: str, cut: str, case: tuple) -> None:
    texts, references = case
    counts = overlap.count(metric, cut, texts, references)
    assert overlap.scores(metric, counts) == pytest.approx(corpus(metric, cut, texts, references), abs=1e-9)
    draw = [0, 1, 1, 2]  # a bootstrap sample is a corpus too
    expected = corpus(metric, cut, [texts[i] for i in draw], [references[i] for i in draw])
    assert overlap.scores(metric, counts[draw]) == pytest.approx(expected, abs=1e-9)


def test_rouge_of_chinese_counts_characters() -> None:
    texts, references = ["猫睡在桌子下面"], [["猫睡在椅子下面"]]
    assert overlap.scores("rouge1", overlap.count("rouge1", "rouge", texts, references))["rouge1"] == 0
    scores = overlap.scores("rouge1", overlap.count("rouge1", "zh", texts, references))
    assert scores["rouge1"] == pytest.approx(6 / 7) and scores["rouge2"] == pytest.approx(4 / 6)


def test_answers_are_held_to_squads_measures() -> None:
    texts, references = ["The red fox.", "two cats", "狐狸"], [["a red fox"], ["Two dogs", "cats"], ["红狐狸"]]
    scores = overlap.scores("f1", overlap.count("f1", "", texts, references))
    assert scores == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0.8) / 3)}


@pytest.mark.parametrize(
    ("text", "bleu", "rouge"),
    [
        ("The cat is asleep.", "13a", "rouge"),
        ("猫睡着了，狗也睡了。", "zh", "zh"),
        ("猫は机の下で寝ています。", "char", "char"),
        ("Кошка спит под столом.", "13a", "intl"),
    ],
)
def test_words_are_told_apart_as_the_targets_are_written(text: str, bleu: str, rouge: str) -> None:
    assert (overlap.usual_cut([text], "chrf"), overlap.usual_cut([text], "rougeL")) == (bleu, rouge)


def test_a_run_s_figures_are_those_of_its_answers(recipe) -> None:
    """What evaluation wrote down is sacrebleu's figure of what the saved model says."""
    result = run(recipe(training={"num_train_epochs": 8, "max_steps": -1, "learning_rate": 1e-2}))
    rows = result.trainer.rows["validation"]
    said = [a["generated_text"] for a in llmkit.load(str(result.output)).predict(rows["en"][:])]
    expected = corpus("bleu", "zh", said, rows["zh"][:])
    assert expected["chrf"] > 0
    assert {m: result.metrics["after"][m] for m in ("bleu", "chrf")} == pytest.approx(expected, abs=1e-9)
    examples = result.trainer.per_example("validation")
    low, high = intervals(result.trainer.task, examples, resamples=20)["chrf"]
    assert low <= expected["chrf"] <= high


def test_baselines_are_the_copied_source_and_the_first_sentence(recipe) -> None:
    trainer = build_trainer(recipe(SUMMARIES, metric="rougeL"))
    raw = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    found = trainer.task.baselines(trainer.features["train"], trainer.features["validation"], raw, False)
    texts, wanted = [row["text"] for row in SUMMARIES[:8]], [[row["summary"]] for row in SUMMARIES[:8]]
    assert found["copy-source"] == {
        "value": pytest.approx(corpus("rougeL", "", texts, wanted)["rougeL"]),
        "kind": "floor",
    }
    assert found["lead-sentence"] == {"value": pytest.approx(1.0), "kind": "reference"}


# -- rows


def test_either_direction_by_two_flags(recipe) -> None:
    turned = apply(recipe(), {"task": {"source": "zh", "target": "en"}})
    trainer = build_trainer(turned)
    assert trainer.rows["train"][0] == {"zh": "猫睡着了。", "en": ["The cat is asleep."]}
    assert trainer.task.cut == "13a" and build_trainer(recipe()).task.cut == "zh"


@pytest.mark.parametrize(
    ("knobs", "row", "read"),
    [
        ({}, {"source": "a", "target": "b"}, {"source": "a", "target": ["b"]}),
        ({}, {"source": ["One. ", "Two."], "target": ["1.", "2."]}, {"source": "One. Two.", "target": ["1.", "2."]}),
        (
            {"source": "en", "target": "zh"},
            {"translation": {"en": "a", "zh": "甲"}},
            {"en": "a", "zh": ["甲"]},
        ),
    ],
    ids=["columns", "lists", "translation"],
)
def test_rows_are_read_as_they_come(knobs: dict, row: dict, read: dict) -> None:
    assert Seq2Seq(**knobs).read_row(row) == read


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": "a"}, "no 'target'"),
        ({"source": " ", "target": "b"}, "empty 'source'"),
        ({"source": "a", "target": []}, "empty 'target'"),
        ({"source": 3, "target": "b"}, "'source' is int, not text"),
        ({"translation": {"en": "a", "fr": "b"}}, "'translation' holds en, fr; say --task.source and --task.target"),
    ],
)
def test_a_bad_row_says_why(row: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Seq2Seq().read_row(row)


def test_summaries_are_found_under_their_usual_names(recipe) -> None:
    rows = build_trainer(recipe(SUMMARIES, metric="rouge1")).rows["train"]
    assert rows[0] == {"source": SUMMARIES[0]["text"], "target": [SUMMARIES[0]["summary"]]}


def test_missing_columns_name_what_is_there(recipe) -> None:
    with pytest.raises(RecipeError, match=r"its columns are en, zh; seq2seq reads en, fr; or translation"):
        build_trainer(recipe(target="fr"))


def test_what_is_cut_is_counted(tiny_t5: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    rows = {"source": ["word " * 30, "a", "a"], "target": [["b"], ["字" * 30], ["b"]]}
    features = Seq2Seq().encode(rows, tokenizer, 8)
    assert features["truncated"] == [True, True, False]
    assert {len(ids) for ids in features["input_ids"] + features["labels"]} <= set(range(9))
    assert all(ids[-1] == tokenizer.eos_token_id for ids in features["input_ids"] + features["labels"])


def test_one_source_stays_on_one_side_of_a_split(recipe, tiny_t5: Path) -> None:
    rows = [{"en": f"Text {i}.", "zh": f"译文{i}{j}"} for i in range(20) for j in "甲乙"]
    made = recipe()
    trainer = build_trainer(
        Recipe(made.task, made.model, DataConfig(train=rows, max_length=32), made.training, made.run)
    )
    assert not set(trainer.rows["train"]["en"]) & set(trainer.rows["validation"]["en"])


# -- knobs


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"metric": "blue"}, "task.metric: 'blue' is none of bleu, chrf, rouge1, rouge2, rougeL, exact_match, f1"),
        ({"cut": "zhh"}, "task.cut: 'zhh' is no way to tell words apart; did you mean 'zh'"),
        ({"languages": ("en",)}, "task.languages: .* are not two"),
        ({"languages": ("en", "zh")}, "task.languages: .* knows no languages"),
        ({"generation": {"num_beam": 4}}, "task.generation.num_beam: .* did you mean 'num_beams'"),
        ({"generation": {"num_beams": "x"}}, "task.generation.num_beams: 'x'; give a whole number from 1 on"),
        ({"generation": {"num_return_sequences": 2}}, "each source has one answer"),
        ({"generation": {"length_penalty": 0.6}}, "task.generation: .*num_beams"),
    ],
)
def test_a_wrong_knob_is_one_line_before_the_model_is_loaded(knobs: dict, said: str, recipe) -> None:
    with pytest.raises(RecipeError, match=said) as error:
        llmkit.running.prepare(recipe(**knobs))
    assert all("\n" not in fault for fault in error.value.faults)


def test_more_tokens_than_positions_are_refused(recipe) -> None:
    with pytest.raises(RecipeError, match=r"max_new_tokens: 100 is more than the model's 64 positions"):
        build_trainer(recipe(model=scratch("bart"), generation={"max_new_tokens": 100}))


# -- models


@pytest.mark.parametrize("tokenizer", ["bpe", "char", "wordpiece"])
@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_a_new_model_begins_and_ends_by_its_own_tokenizer(kind: str, tokenizer: str, recipe) -> None:
    trainer = build_trainer(recipe(model=scratch(kind, tokenizer)))
    own, config, generation = trainer.processing_class, trainer.model.config, trainer.model.generation_config
    for ids in (config, generation):
        assert (ids.decoder_start_token_id, ids.pad_token_id) == (own.pad_token_id, own.pad_token_id)
        assert ids.eos_token_id == own.eos_token_id == trainer.train_dataset[0]["labels"][-1]
    assert getattr(generation, "forced_eos_token_id", None) is None and generation.max_length is None
    assert config.vocab_size == len(own) == trainer.model.get_input_embeddings().num_embeddings


def test_a_tokenizer_of_berts_kind_ends_by_its_separator(recipe, tiny_bert: Path) -> None:
    model = ModelConfig(name="t5", from_scratch=True, config=SMALL["t5"], tokenizer=str(tiny_bert))
    trainer = build_trainer(recipe(model=model))
    assert trainer.model.generation_config.eos_token_id == trainer.processing_class.sep_token_id
    assert trainer.train_dataset[0]["labels"][-1] == trainer.processing_class.sep_token_id


def test_a_target_that_its_tokenizer_does_not_end_gets_eos(recipe, tiny_gpt2: Path) -> None:
    model = ModelConfig(name="t5", from_scratch=True, config=SMALL["t5"], tokenizer=str(tiny_gpt2))
    trainer = build_trainer(recipe(model=model))
    assert trainer.train_dataset[0]["labels"][-1] == trainer.processing_class.eos_token_id


def test_transformers_alone_generates_the_same(recipe) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    generation = {"num_beams": 3, "length_penalty": 0.6, "max_new_tokens": 6}
    training = {"max_steps": 20, "learning_rate": 1e-2}
    result = run(recipe(model=scratch("marian"), training=training, generation=generation))
    saved = json.loads((result.output / "generation_config.json").read_text())
    assert generation.items() <= saved.items() and "max_length" not in saved
    tokenizer = AutoTokenizer.from_pretrained(result.output)
    model = AutoModelForSeq2SeqLM.from_pretrained(result.output)
    texts = [row["en"] for row in PHRASES[:8]]
    answers = llmkit.load(str(result.output)).predict(texts)
    assert any(a["generated_text"] for a in answers)
    for text, answer in zip(texts, answers, strict=True):  # one by one, where llmkit asked in a batch
        ids = model.generate(**tokenizer(text, return_tensors="pt"))[0]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == answer["generated_text"]


def test_a_checkpoint_from_elsewhere_is_asked(tiny_t5: Path) -> None:
    model = llmkit.load(str(tiny_t5))
    assert type(model.task) is Seq2Seq and model.model.generation_config.max_new_tokens == 128
    assert set(model.predict("The cat")) == {"generated_text"}


def test_an_adapter_is_saved_and_answers_the_same(recipe, tiny_t5: Path) -> None:
    adapter = {"type": "lora", "r": 4, "target_modules": ["q", "v"]}
    result = run(recipe(model=ModelConfig(name=str(tiny_t5), adapter=adapter), training={"learning_rate": 1e-2}))
    assert (result.output / "adapter_model.safetensors").exists()
    loaded = llmkit.load(str(result.output))
    assert loaded.model.generation_config.max_new_tokens == 8
    again = build_trainer(recipe(output="again")).task.collate  # the same batch through both
    batch = again([{**result.trainer.train_dataset[0], "row": 0, "epoch": 0}], loaded.tokenizer, "padded")
    with torch.no_grad():
        ours, theirs = (result.trainer.task.loss(m.eval(), batch)[0] for m in (result.model, loaded.model))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_multilingual_decoder_begins_with_the_target_s_language(tmp_path: Path, recipe) -> None:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    base = train("bpe", 400, (text for row in PHRASES for text in row.values()), "t5")
    vocabulary = {
        t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", *(t for t in base.get_vocab() if t[0] != "<")])
    }
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[], src_lang="eng_Latn", tgt_lang="fra_Latn")
    config = M2M100Config(vocab_size=len(tokenizer), **BART, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    folder = save(M2M100ForConditionalGeneration(config), tokenizer, tmp_path / "nllb")
    result = run(recipe(model=ModelConfig(name=str(folder)), languages=("eng_Latn", "zho_Hans")))
    first = tokenizer.convert_tokens_to_ids("zho_Hans")
    feature = result.trainer.train_dataset[0]
    assert feature["labels"][0] == first and feature["input_ids"][0] == tokenizer.convert_tokens_to_ids("eng_Latn")
    loaded = llmkit.load(str(result.output))
    assert loaded.model.generation_config.forced_bos_token_id == first
    assert loaded.tokenizer("a")["input_ids"][0] == feature["input_ids"][0]


def test_a_prefix_stands_before_every_source(recipe) -> None:
    trainer = build_trainer(recipe(prefix="translate: "))
    tokenizer = trainer.processing_class
    assert tokenizer.decode(trainer.train_dataset[0]["input_ids"]).startswith("translate: The cat")
    plain = Seq2Seq().predict(trainer.model, tokenizer, ["translate: A dog"])
    assert trainer.task.predict(trainer.model, tokenizer, ["A dog"]) == plain


# -- verbs


def test_the_command_line_predicts_evaluates_and_previews(recipe, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = str(run(recipe()).output)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PHRASES[:5]), encoding="utf-8")
    capsys.readouterr()
    assert not command(["predict", output, str(rows), "--json", "--batch-size", "2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["en"] for line in lines] == [row["en"] for row in PHRASES[:5]]
    assert all(isinstance(line["generated_text"], str) for line in lines)
    rows.write_text('{"en": ["The cat.", "It slept."]}\n', encoding="utf-8")
    assert not command(["predict", output, str(rows), "--json"])
    assert json.loads(capsys.readouterr().out)["en"] == "The cat. It slept."
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PHRASES[:5]), encoding="utf-8")
    assert not command(["evaluate", output, "--data", str(rows), "--json"])
    measured = json.loads(capsys.readouterr().out)
    assert set(measured["metrics"]) == set(measured["intervals"]) == {"bleu", "chrf", "loss"}


def test_tabs_without_a_header_are_read_by_one_flag(tmp_path: Path, tiny_t5: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{row['en']}\t{row['zh']}\tCC-BY ({i})" for i, row in enumerate(PHRASES)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [
        "--model",
        str(tiny_t5),
        "--data",
        "pairs.txt",
        "--data.names",
        "en,zh,attribution",
        "--data.max_length",
        "32",
    ]
    knobs = ["--task", "seq2seq", "--task.source", "en", "--task.target", "zh"]
    assert not command(["preview", "seq2seq", *words, *knobs, "-n", "1"])
    shown = capsys.readouterr().out
    assert "</s>»" in shown and "CC-BY" not in shown


def test_a_text_file_needs_no_column(tmp_path: Path) -> None:
    from llmkit.asking import read_inputs

    (tmp_path / "zh.txt").write_text("猫睡着了。\n\n下雨了。\n", encoding="utf-8")
    assert read_inputs([str(tmp_path / "zh.txt")], Seq2Seq(source="zh", target="en")) == ["猫睡着了。", "下雨了。"]
