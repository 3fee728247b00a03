"""Seq2Seq: the loss of a bare loop, the libraries' metrics, and a folder from which Transformers alone generates the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, PHRASES, save
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
)
from transformers.trainer_pt_utils import LabelSmoother

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.cli.options import apply
from llmkit.cli.predict import read_inputs
from llmkit.errors import UsageError
from llmkit.metrics import overlap
from llmkit.metrics.bootstrap import intervals
from llmkit.models.tokenizers import train_tokenizer
from llmkit.tasks import Seq2Seq

SUMMARIES = [
    {"text": f"The {a} went home. It was late, and the {b} slept.", "summary": f"The {a} went home."}
    for a in ("fox", "crow", "lion")
    for b in ("mouse", "ant", "dog", "cat")
]
BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0, "max_position_embeddings": 64,
}  # fmt: skip
SMALL = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0},
    **dict.fromkeys(("bart", "marian", "pegasus", "m2m_100"), BART),
}


@pytest.fixture
def recipe(tiny_t5: Path, tmp_path: Path) -> Any:
    """Return a function that makes a small recipe over PHRASES; `training` is added to EXACT, `options` are the task's."""

    def make(
        rows: Any = PHRASES, model: Any = None, training: dict | None = None, output: str = "run", **options: Any
    ) -> Recipe:
        if rows is PHRASES:
            options = {"source": "en", "target": "zh", **options}
        return Recipe(
            Seq2Seq(**{"generation": {"max_new_tokens": 8}, **options}),
            model or ModelConfig(name=str(tiny_t5)),
            DataConfig(train=rows, validation=rows[:8], max_length=32),
            {**EXACT, "max_steps": 3, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return make


def new_model(kind: str, tokenizer: str = "bpe") -> ModelConfig:
    return ModelConfig(name=kind, from_scratch=True, config=SMALL[kind], tokenizer=tokenizer, tokenizer_size=320)


def make_batch(trainer: Any, count: int = 4) -> dict[str, torch.Tensor]:
    rows = [{**trainer.train_dataset[i], "row": i, "epoch": 0} for i in range(count)]
    return trainer._prepare_inputs(trainer.task.collate(rows, trainer.processing_class, "padded"))


# -- loss


@pytest.mark.parametrize("kind", SMALL)
def test_loss_is_the_negative_log_likelihood_of_each_row_alone(kind: str, recipe) -> None:
    """Each row without padding, with the decoder's inputs made by hand."""
    trainer = build_trainer(recipe(model=new_model(kind)))
    task, model, batch = trainer.task, trainer.model.eval(), make_batch(trainer)
    config, expected = model.config, 0.0
    with torch.no_grad():
        loss, _ = task.loss(model, batch)
        for feature in trainer.train_dataset.select(range(4)):
            target = feature["labels"]
            inputs = torch.tensor([[config.decoder_start_token_id, *target[:-1]]])
            logits = model(input_ids=torch.tensor([feature["input_ids"]]), decoder_input_ids=inputs).logits[0]
            expected -= logits.float().log_softmax(-1)[range(len(target)), target].sum().item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert int(task.weight(batch)) == sum(len(ids) for ids in trainer.train_dataset.select(range(4))["labels"])


def test_label_smoothing_equals_that_of_transformers(recipe) -> None:
    trainer = build_trainer(recipe(label_smoothing=0.1))
    batch = make_batch(trainer)
    with torch.no_grad():
        loss, outputs = trainer.task.loss(trainer.model.eval(), batch)
    mean = LabelSmoother(epsilon=0.1)({"logits": outputs.logits}, batch["labels"])
    assert (loss / trainer.task.weight(batch)).item() == pytest.approx(mean.item(), rel=1e-5)


def test_one_batch_of_eight_equals_two_accumulated_of_four(recipe) -> None:
    def losses(size: int, steps: int) -> list[float]:
        training = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = build_trainer(recipe(training=training, output=f"run{size}"))
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    assert losses(8, 1) == pytest.approx(losses(4, 2), rel=1e-5)


# -- metrics


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("bleu", ("bleu", "chrf", "loss")),
        ("chrf", ("chrf", "bleu", "loss")),
        ("rougeL", ("rougeL", "rouge1", "rouge2", "loss")),
        ("f1", ("f1", "exact_match", "loss")),
    ],
)
def test_metric_option_is_the_first_metric_and_names_keep_their_values(metric: str, names: tuple[str, ...]) -> None:
    task = Seq2Seq(metric=metric, cut="rouge" if metric == "rougeL" else "13a")
    texts, targets = ["the cat sat on a mat", "a big dog"], [["the cat sat on the mat"], ["a big dog ran"]]
    stats = np.column_stack([np.full((2, 2), [3.0, 2.0]), overlap.count(metric, task.cut, texts, targets)])
    assert task.metrics == names
    bleu, chrf = BLEU().corpus_score(texts, [["the cat sat on the mat", "a big dog ran"]]), CHRF()
    expected = {
        "bleu": bleu.score,
        "chrf": chrf.corpus_score(texts, [["the cat sat on the mat", "a big dog ran"]]).score,
        "rouge1": (5 / 6 + 6 / 7) / 2,
        "rouge2": (3 / 5 + 4 / 5) / 2,
        "rougeL": (5 / 6 + 6 / 7) / 2,
        "exact_match": 1 / 2,  # articles do not count
        "f1": (1 + 4 / 5) / 2,
        "loss": 1.5,
    }
    assert task.score(stats) == pytest.approx({name: expected[name] for name in names})


MIXED = "用 PyTorch Transformers datasets accelerate tokenizers evaluate 训练"


@pytest.mark.parametrize(
    ("options", "target", "cut"),
    [
        ({"metric": "rougeL"}, MIXED, "zh"), ({"metric": "bleu"}, MIXED, "zh"), ({"metric": "rouge1"}, "a fox", "rouge"),
        ({"metric": "rouge1", "cut": "char"}, MIXED, "char"), ({"metric": "f1"}, MIXED, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["train", "data"])
def test_tokenizer_of_the_metric_is_chosen_once_and_logged(
    options: dict, target: str, cut: str, part: str, capsys: pytest.CaptureFixture
) -> None:
    """By rows from the whole part; also for a checkpoint that is evaluated without a run."""
    rows = [{"source": "a", "target": ["a fox"]}] * 1500 + [{"source": "a", "target": [target]}] * 1500
    task = Seq2Seq(**options).fit({part: Dataset.from_list(rows)})
    line = f"config   {options['metric']} with the tokenizer {cut}: words of the targets are "
    assert task.cut == cut and capsys.readouterr().err.count(line) == (not options.get("cut") and bool(cut))


def test_metrics_of_a_run_are_those_of_its_predictions(recipe) -> None:
    result = run(recipe(training={"num_train_epochs": 8, "max_steps": -1, "learning_rate": 1e-2}))
    rows = result.trainer.rows["validation"]
    texts = [a["generated_text"] for a in llmkit.load(str(result.output)).predict(rows["en"][:])]
    references = list(zip(*rows["zh"][:], strict=True))
    bleu = BLEU(tokenize="zh").corpus_score(texts, references).score
    chrf = CHRF().corpus_score(texts, references).score
    assert chrf > 0
    after = result.metrics["after"]
    assert (after["bleu"], after["chrf"]) == pytest.approx((bleu, chrf), abs=1e-9)
    stats = result.trainer.predict(result.trainer.part("validation")).predictions
    low, high = intervals(result.trainer.task.score, stats, resamples=20)["chrf"]
    assert low <= chrf <= high


def test_baselines_are_the_source_and_its_first_sentence(recipe) -> None:
    trainer = build_trainer(recipe(SUMMARIES, metric="rougeL"))
    rows = {"train": trainer.rows["train"], "evaluation": trainer.rows["validation"]}
    baselines = trainer.task.baselines(trainer.features["train"], trainer.features["validation"], rows, False)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    copies = [scorer.score(row["summary"], row["text"])["rougeL"].fmeasure for row in SUMMARIES[:8]]
    assert baselines["copy-source"] == {"value": pytest.approx(np.mean(copies)), "kind": "floor"}
    assert baselines["lead-sentence"] == {"value": pytest.approx(1.0), "kind": "reference"}


# -- rows


def test_two_options_reverse_the_direction(recipe) -> None:
    reverse = apply(recipe(), {"task": {"source": "zh", "target": "en"}})
    trainer = build_trainer(reverse)
    assert trainer.rows["train"][0] == {"zh": "猫睡着了。", "en": ["The cat is asleep."]}
    assert trainer.task.cut == "13a" and build_trainer(recipe()).task.cut == "zh"


@pytest.mark.parametrize(
    ("options", "row", "expected"),
    [
        ({}, {"source": "a", "target": "b"}, {"source": "a", "target": ["b"]}),
        ({}, {"source": ["One. ", "Two."], "target": ["1.", "2."]}, {"source": "One. Two.", "target": ["1.", "2."]}),
        ({"source": "en", "target": "zh"}, {"translation": {"en": "a", "zh": "甲"}}, {"en": "a", "zh": ["甲"]}),
    ],
    ids=["columns", "lists", "translation"],
)
def test_read_row_takes_texts_lists_and_translations(options: dict, row: dict, expected: dict) -> None:
    assert Seq2Seq(**options).read_row(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"source": "a"}, "no 'target'"),
        ({"source": " ", "target": "b"}, "empty 'source'"),
        ({"source": "a", "target": []}, "empty 'target'"),
        ({"source": 3, "target": "b"}, "'source' is int, not text"),
        (
            {"translation": {"en": "a", "fr": "b"}},
            "'translation' holds en, fr; name two of them with --task.source and --task.target",
        ),
    ],
)
def test_read_row_names_the_reason_of_an_invalid_row(row: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Seq2Seq().read_row(row)


def test_summaries_are_found_under_their_usual_names(recipe) -> None:
    rows = build_trainer(recipe(SUMMARIES, metric="rouge1")).rows["train"]
    assert rows[0] == {"source": SUMMARIES[0]["text"], "target": [SUMMARIES[0]["summary"]]}


def test_missing_columns_are_named_with_those_present(recipe) -> None:
    with pytest.raises(UsageError, match=r"its columns are en, zh; seq2seq reads en, fr; or translation"):
        build_trainer(recipe(target="fr"))


def test_encode_cuts_and_counts_long_sources_and_targets(tiny_t5: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    rows = {"source": ["word " * 30, "a", "a"], "target": [["b"], ["字" * 30], ["b"]]}
    features = Seq2Seq().encode(rows, tokenizer, 8)
    assert features["truncated"] == [True, True, False]
    assert {len(ids) for ids in features["input_ids"] + features["labels"]} <= set(range(9))
    assert all(ids[-1] == tokenizer.eos_token_id for ids in features["input_ids"] + features["labels"])


def test_source_stays_in_one_part_of_a_split(recipe, tiny_t5: Path) -> None:
    rows = [{"en": f"Text {i}.", "zh": f"译文{i}{j}"} for i in range(20) for j in "甲乙"]
    base = recipe()
    data = DataConfig(train=rows, max_length=32)
    trainer = build_trainer(Recipe(base.task, base.model, data, base.training, base.run))
    assert not set(trainer.rows["train"]["en"]) & set(trainer.rows["validation"]["en"])


# -- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "blue"}, "task.metric: 'blue' is not one of bleu, chrf, rouge1, rouge2, rougeL, exact_match, f1"),
        ({"cut": "zhh"}, "task.cut: no tokenizer 'zhh'; did you mean 'zh'"),
        ({"languages": ("en",)}, "task.languages: .* are not two codes"),
        ({"languages": ("en", "zh")}, "task.languages: .* has no languages"),
        ({"generation": {"num_beam": 4}}, "task.generation.num_beam: .* did you mean 'num_beams'"),
        ({"generation": {"num_beams": "x"}}, "task.generation.num_beams: 'x' is not a whole number of at least 1"),
        ({"generation": {"num_return_sequences": 2}}, "each source has one answer"),
        ({"generation": {"length_penalty": 0.6}}, "task.generation: .*num_beams"),
    ],
)
def test_invalid_option_is_refused_in_one_line_before_the_model_is_loaded(options: dict, message: str, recipe) -> None:
    with pytest.raises(UsageError, match=message) as error:
        llmkit.pipeline.prepare(recipe(**options))
    assert all("\n" not in fault for fault in error.value.faults)


def test_check_collects_all_faults() -> None:
    task = Seq2Seq(metric="blue", cut="zhh", languages=("en",), generation={"num_beam": 4})
    assert [fault.partition(":")[0] for fault in task.check(Recipe(task))] == [
        "task.metric", "task.cut", "task.languages", "task.generation.num_beam",
    ]  # fmt: skip


def test_max_new_tokens_above_the_positions_is_refused(recipe) -> None:
    with pytest.raises(UsageError, match=r"max_new_tokens: 100 is more than the model's 64 positions"):
        build_trainer(recipe(model=new_model("bart"), generation={"max_new_tokens": 100}))


# -- models


@pytest.mark.parametrize("tokenizer", ["bpe", "char", "wordpiece"])
@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_new_model_uses_the_special_tokens_of_its_tokenizer(kind: str, tokenizer: str, recipe) -> None:
    trainer = build_trainer(recipe(model=new_model(kind, tokenizer)))
    own, config, generation = trainer.processing_class, trainer.model.config, trainer.model.generation_config
    for ids in (config, generation):
        assert (ids.decoder_start_token_id, ids.pad_token_id) == (own.pad_token_id, own.pad_token_id)
        assert ids.eos_token_id == own.eos_token_id == trainer.train_dataset[0]["labels"][-1]
    assert getattr(generation, "forced_eos_token_id", None) is None and generation.max_length is None
    assert config.vocab_size == len(own) == trainer.model.get_input_embeddings().num_embeddings


def test_bert_tokenizer_ends_targets_with_its_separator(recipe, tiny_bert: Path) -> None:
    model = ModelConfig(name="t5", from_scratch=True, config=SMALL["t5"], tokenizer=str(tiny_bert))
    trainer = build_trainer(recipe(model=model))
    assert trainer.model.generation_config.eos_token_id == trainer.processing_class.sep_token_id
    assert trainer.train_dataset[0]["labels"][-1] == trainer.processing_class.sep_token_id


def test_target_gets_eos_if_its_tokenizer_adds_none(recipe, tiny_gpt2: Path) -> None:
    model = ModelConfig(name="t5", from_scratch=True, config=SMALL["t5"], tokenizer=str(tiny_gpt2))
    trainer = build_trainer(recipe(model=model))
    assert trainer.train_dataset[0]["labels"][-1] == trainer.processing_class.eos_token_id


def test_transformers_alone_generates_the_same_from_the_saved_folder(recipe) -> None:
    generation = {"num_beams": 3, "length_penalty": 0.6, "max_new_tokens": 6}
    training = {"max_steps": 20, "learning_rate": 1e-2}
    result = run(recipe(model=new_model("marian"), training=training, generation=generation))
    saved = json.loads((result.output / "generation_config.json").read_text())
    assert generation.items() <= saved.items() and "max_length" not in saved
    tokenizer = AutoTokenizer.from_pretrained(result.output)
    model = AutoModelForSeq2SeqLM.from_pretrained(result.output)
    texts = [row["en"] for row in PHRASES[:8]]
    answers = llmkit.load(str(result.output)).predict(texts)
    assert any(a["generated_text"] for a in answers)
    for text, answer in zip(texts, answers, strict=True):  # one by one here, in a batch there
        ids = model.generate(**tokenizer(text, return_tensors="pt"))[0]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == answer["generated_text"]


def test_checkpoint_from_elsewhere_predicts(tiny_t5: Path) -> None:
    model = llmkit.load(str(tiny_t5))
    assert type(model.task) is Seq2Seq and model.model.generation_config.max_new_tokens == 128
    assert set(model.predict("The cat")) == {"generated_text"}


def test_saved_adapter_gives_the_same_loss(recipe, tiny_t5: Path) -> None:
    adapter = {"type": "lora", "r": 4, "target_modules": ["q", "v"]}
    result = run(recipe(model=ModelConfig(name=str(tiny_t5), adapter=adapter), training={"learning_rate": 1e-2}))
    assert (result.output / "adapter_model.safetensors").exists()
    loaded = llmkit.load(str(result.output))
    assert loaded.model.generation_config.max_new_tokens == 8
    collate = build_trainer(recipe(output="again")).task.collate  # the same batch for both models
    batch = collate([{**result.trainer.train_dataset[0], "row": 0, "epoch": 0}], loaded.tokenizer, "padded")
    with torch.no_grad():
        trained, saved = (result.trainer.task.loss(m.eval(), batch)[0] for m in (result.model, loaded.model))
    assert trained.item() == pytest.approx(saved.item(), rel=1e-5)


def test_multilingual_decoder_starts_with_the_target_language(tmp_path: Path, recipe) -> None:
    base = train_tokenizer("bpe", 400, (text for row in PHRASES for text in row.values()), "t5")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(t for t in base.get_vocab() if t[0] != "<")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
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


def test_prefix_is_put_before_every_source(recipe) -> None:
    trainer = build_trainer(recipe(prefix="translate: "))
    tokenizer = trainer.processing_class
    assert tokenizer.decode(trainer.train_dataset[0]["input_ids"]).startswith("translate: The cat")
    plain = Seq2Seq().predict(trainer.model, tokenizer, ["translate: A dog"], 32)
    assert trainer.task.predict(trainer.model, tokenizer, ["A dog"], 32) == plain


def test_predict_cuts_long_sources_with_a_warning(tiny_t5: Path, capsys: pytest.CaptureFixture) -> None:
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), AutoTokenizer.from_pretrained(tiny_t5)
    capsys.readouterr()
    answers = Seq2Seq().predict(model, tokenizer, ["word " * 30, "a dog"], 8)
    assert len(answers) == 2 and "1 source cut to 8 tokens" in capsys.readouterr().err
    Seq2Seq().predict(model, tokenizer, ["a dog"], 8)
    assert "cut" not in capsys.readouterr().err


# -- commands


def test_commands_predict_and_evaluate(recipe, tmp_path: Path, capsys, monkeypatch) -> None:
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
    result = json.loads(capsys.readouterr().out)
    assert set(result["metrics"]) == set(result["intervals"]) == {"bleu", "chrf", "loss"}


def test_preview_reads_tab_separated_text_with_named_columns(
    tmp_path: Path, tiny_t5: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{row['en']}\t{row['zh']}\tCC-BY ({i})" for i, row in enumerate(PHRASES)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = ["--data", "pairs.txt", "--data.names", "en,zh,attribution", "--data.max_length", "32"]
    task = ["--task", "seq2seq", "--task.source", "en", "--task.target", "zh"]
    assert not command(["preview", "seq2seq", "--model", str(tiny_t5), *data, *task, "-n", "1"])
    shown = capsys.readouterr().out
    assert "</s>»" in shown and "CC-BY" not in shown


def test_predict_reads_a_text_file_without_columns(tmp_path: Path) -> None:
    (tmp_path / "zh.txt").write_text("猫睡着了。\n\n下雨了。\n", encoding="utf-8")
    assert read_inputs([str(tmp_path / "zh.txt")], Seq2Seq(source="zh", target="en")) == ["猫睡着了。", "下雨了。"]


@pytest.mark.parametrize(("targets", "message"), [
    (["a", 3], "'target' holds int, not text"),
    ([["a"]], "'target' holds list"),
    (["", None], "empty 'target'"),
    (3, "'target' is int"),
])  # fmt: skip
def test_targets_that_are_not_texts_are_an_invalid_row(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2Seq().read_row({"source": "s", "target": targets})
    assert Seq2Seq().read_row({"source": "s", "target": ["a", "", None]}) == {"source": "s", "target": ["a"]}
