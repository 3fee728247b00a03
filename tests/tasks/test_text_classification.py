"""Text classification: pairs, several labels, numbers, class weights, thresholds and calibration, from rows to a folder
that plain Transformers loads; and the message of each fault."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, REVIEWS
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, build_trainer, run
from llmkit.cli.main import command, guard
from llmkit.cli.options import apply, build_recipe
from llmkit.cli.preview import preview
from llmkit.data.loading import load_part
from llmkit.errors import raise_faults
from llmkit.pipeline import evaluate
from llmkit.recipe import read_yaml, write_yaml
from llmkit.tasks import TextClassification

TEXTS = [row["text"] for row in REVIEWS[::4]]
PAIRS = [  # a number per row
    {"sentence1": a, "sentence2": b, "score": (i * 7 + j * 3) % 10 / 2}
    for i, a in enumerate(TEXTS)
    for j, b in enumerate(TEXTS)
]
TOPICS = [  # any number of labels per row
    {"text": row["text"], "labels": [name for name, there in {
        "good": row["label"] == "positive", "中文": ord(max(row["text"])) > 999, "long": len(row["text"]) > 15}.items() if there]}
    for row in REVIEWS
]  # fmt: skip
NLI = [{"premise": row["text"], "hypothesis": row["text"][::-1], "label": row["label"]} for row in REVIEWS]
ROWS = {"one": REVIEWS, "several": TOPICS, "number": PAIRS, "pair": NLI}
SEVERAL, ONE, NUMBER = "multi_label_classification", "single_label_classification", "regression"
TYPES = {"one": ONE, "several": SEVERAL, "number": NUMBER, "pair": ONE}


@pytest.fixture
def recipe(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    def make(rows: list[dict], output: str = "run", training: dict | None = None, **options: Any) -> Recipe:
        return Recipe(
            TextClassification(**options),
            ModelConfig(name=str(tiny_bert)),
            DataConfig(train=rows, validation=rows[::3], max_length=64),
            {**EXACT, "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return make


@pytest.fixture(scope="module", params=ROWS)
def trained(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with each kind of labels, long enough that answers differ."""
    rows = ROWS[request.param]
    data = DataConfig(train=rows, validation=rows[::3], test=rows[::2], max_length=64)
    settings = {**EXACT, "max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
    output = RunConfig(output=str(tmp_path_factory.mktemp("runs") / request.param), references=True)
    return run(Recipe(TextClassification(), ModelConfig(name=str(tiny_bert)), data, settings, output))


def inputs_of(result: Any) -> list[Any]:
    """The inputs of `predict` in the test rows."""
    rows = [{c: row[c] for c in result.trainer.task.predict_columns} for row in result.trainer.rows["test"]]
    return [row["text"] if len(row) == 1 else row for row in rows]


def fitted(rows: list[dict], **options: Any) -> TextClassification:
    task = TextClassification(**options)
    return task.fit({"train": load_part(rows, task, DataConfig())})


def fault(rows: list[dict], test_rows: list[dict] | None = None, **options: Any) -> str:
    """The one line that is raised for these options and rows, checked as `prepare` checks them."""
    task, data = TextClassification(**options), DataConfig()
    with pytest.raises(UsageError) as caught:
        raise_faults(task.check(Recipe(task)))
        task.fit({"train": load_part(rows, task, data, "train"), "test": load_part(test_rows or rows, task, data)})
    (line,) = caught.value.faults
    assert "\n" not in line
    return line


# -- what the rows decide


@pytest.mark.parametrize(
    "labels, kind, names",
    [
        (["b", "a"], ONE, ("a", "b")),
        ([10, 2], ONE, ("2", "10")),
        ([1.0, 0.0], ONE, ("0", "1")),
        (["1.0", "0.0"], ONE, ("0", "1")),
        (["1", "1.0", 1, 1.0, "2."], ONE, ("1", "2")),
        (["01", "1", "1e0"], ONE, ("01", "1", "1e0")),
        ([True, False], ONE, ("False", "True")),
        (["4.75", "5.0"], NUMBER, ()),
        ([4, 2.5], NUMBER, ()),
        (["1e-3", "-7"], NUMBER, ()),
        (["1.5", "inf"], ONE, ("1.5", "inf")),
        (["1.5", "two"], ONE, ("1.5", "two")),
        ([["b"], ["a", "b"], []], SEVERAL, ("a", "b")),
        ([[2], [10, 2], []], SEVERAL, ("2", "10")),
        ([["b"], ["a"]], SEVERAL, ("a", "b")),
        (["['toxic', 'insult']", '["toxic"]', "[]"], SEVERAL, ("insult", "toxic")),
        (["['1', '2.0']", "['1.0']"], SEVERAL, ("1", "2")),
        (["[toxic]", "(b)", "['"], ONE, ("(b)", "['", "[toxic]")),
    ],
)
def test_labels_decide_the_problem_type(labels: list, kind: str, names: tuple[str, ...]) -> None:
    task = fitted([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    assert (task.problem_type, task.labels) == (kind, names)


def test_options_override_what_the_labels_decide() -> None:
    stars = [{"text": f"text {i}", "label": i % 5} for i in range(9)]
    assert fitted(stars).problem_type == ONE
    assert fitted(stars, problem_type=NUMBER).problem_type == NUMBER
    halves = [{"text": f"text {i}", "label": i / 2} for i in range(4)]
    assert fitted(halves, problem_type=ONE).labels == fitted(halves, labels=("0", "0.5", "1", "1.5")).labels


@pytest.mark.parametrize("name, pairs", [("one", False), ("pair", True), ("number", True)])
def test_a_second_text_is_found_by_its_usual_column_names(name: str, pairs: bool) -> None:
    task = fitted(ROWS[name])
    assert task.pairs == pairs and task.predict_columns == (("text", "text_pair") if pairs else ("text",))
    assert len(list(task.texts(load_part(ROWS[name], task, DataConfig())))) == len(ROWS[name]) * (1 + pairs)


WORDS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
HALVES = [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}]
LISTS = [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y", "z"]}]
ONE_HOT = [{"text": t, "label": [i, 1 - i]} for i, t in enumerate("ab")]
TWO = [{"text": "a", "text_pair": "b", "label": "x"}, {"text": "b", "text_pair": "c", "label": "y"}]


@pytest.mark.parametrize(
    "rows, test_rows, options, expected",
    [
        ([*WORDS, {"text": "c", "label": ["x"]}], None, {}, ("row 3", "'label' is list", "text in the rows before")),
        ([*LISTS, {"text": "c", "label": "x"}], None, {}, ("row 3", "'label' is text", "list in the rows before")),
        ([*LISTS, {"text": "c", "label": [["x"]]}], None, {}, ("row 3", "['x']", "neither text nor a number")),
        (ONE_HOT, None, {}, ("data.train", "such as [0, 1], in every row")),
        ([*LISTS, {"text": "c", "label": [0, 1, 0]}], None, {}, ("row 3", "[0, 1, 0] holds a label twice")),
        ([*WORDS, {"text": "c", "label": math.nan}], None, {}, ("row 3", "nan")),
        *(
            ([*WORDS, {"text": "c", "label": v}], None, {}, ("row 3", "neither"))
            for v in ("NaN", "nan", "NAN", "", " ", None)
        ),
        ([*LISTS, {"text": "c", "label": ["NaN"]}], None, {}, ("row 3", "neither")),
        ([*WORDS, {"text": "c", "label": "['a' 'b']"}], None, {}, ("row 3", "is not a list", "with commas")),
        (
            [*WORDS, {"text": "c", "label": "[1, 0]"}],
            None,
            {},
            ("row 3", "a list of numbers in one text", "['1', '2']"),
        ),
        (
            [*WORDS, {"text": "c", "label": "['a', 'b']"}],
            None,
            {},
            ("row 3", "'label' is list", "text in the rows before"),
        ),
        ([*WORDS, {"text": "c", "label": {"a": 1}}], None, {}, ("row 3", "neither text nor a number")),
        ([*TWO, {"text": "c", "label": "x"}], None, {}, ("row 3", "no 'text_pair'")),
        ([*TWO, {"text": "c", "text_pair": "", "label": "x"}], None, {}, ("row 3", "empty 'text_pair'")),
        (WORDS, None, {"problem_type": NUMBER}, ("row 1", "'x' is not a number")),
        (WORDS, None, {"problem_type": SEVERAL}, ("row 1", "'x' is not a list of labels")),
        (LISTS, None, {"problem_type": ONE}, ("row 1", "['x']")),
        (WORDS[:1], None, {}, ("only one label", "'x'")),
        (WORDS, [{"text": "c", "label": "w"}], {}, ("data.test", "not in the training rows: w")),
        (LISTS, [{"text": "c", "label": ["x", "w"]}], {}, ("data.test", "not in the training rows: w")),
        (HALVES, WORDS, {}, ("data.test", "not in the training rows: x, y")),
        (WORDS, LISTS, {}, ("data.test", "['x']", "unlike")),
        (LISTS, WORDS, {}, ("data.test", "'x'", "unlike")),
        (TWO, WORDS, {}, ("data.test", "no text_pair", "unlike")),
        (WORDS, TWO, {}, ("data.test", "a text_pair", "unlike")),
        (WORDS, None, {"class_weights": "balancd"}, ("task.class_weights", "'balancd'", "balanced")),
        (WORDS, None, {"class_weights": {"xx": 2}}, ("task.class_weights.xx", "no such label", "'x'")),
        (WORDS, None, {"class_weights": {"x": -1}}, ("task.class_weights.x", "-1", "from 0")),
        (WORDS, None, {"class_weights": {"x": "much"}}, ("task.class_weights.x", "'much'")),
        (WORDS, None, {"threshold": 2}, ("task.threshold: 2", "from 0 to 1")),
        (WORDS, None, {"threshold": {"x": 0.1, "y": 0.2}}, ("task.threshold", "one of two labels")),
        ([*WORDS, {"text": "c", "label": "z"}], None, {"threshold": 0.5}, ("task.threshold", "0.5", "there are 3")),
        (LISTS, None, {"threshold": {"w": 0.5}}, ("task.threshold.w", "no such label")),
        (HALVES, None, {"threshold": 0.5}, ("task.threshold", "0.5", "regression")),
        (HALVES, None, {"class_weights": "balanced"}, ("task.class_weights", "regression")),
        (HALVES, None, {"calibrate": True}, ("task.calibrate", "regression")),
        (HALVES, None, {"label_smoothing": 0.1}, ("task.label_smoothing", "0.1")),
        (LISTS, None, {"label_smoothing": 0.1}, ("task.label_smoothing", "0.1")),
        (WORDS, None, {"problem_type": "regresion"}, ("task.problem_type", "'regresion'", "'regression'")),
    ],
)
def test_an_invalid_option_or_row_is_one_line(
    rows: list, test_rows: Any, options: dict, expected: tuple[str, ...]
) -> None:
    line = fault(rows, test_rows, **options)
    assert [text for text in expected if text not in line] == [], line


@pytest.mark.parametrize("rows, label", [(WORDS, 'w "quoted", 中文'), (LISTS, ["x", "w"])])
def test_a_label_that_only_a_held_out_part_has_is_refused_and_the_way_out_works(rows: list, label: Any) -> None:
    held_out = [{"text": "c", "label": label}]
    line = fault(rows, held_out)
    option = re.search("--task.labels '(.*)'$", line)
    assert option is not None and "add training rows with them" in line
    data, task = DataConfig(), build_recipe(None, ["--task", "text-classification", "--task.labels", option[1]])[0].task
    rows = {part: load_part(r, task, data, part) for part, r in {"train": rows, "test": held_out}.items()}
    assert {"x", "y"} < {*task.fit(rows).labels}
    with pytest.raises(UsageError, match=r"; remove them$"):  # when a trained model is evaluated
        fitted(WORDS).fit({"data": load_part([{"text": "c", "label": "w"}], TextClassification(), data)})


def test_labels_given_with_a_fraction_keep_it() -> None:
    rows = [{"text": "a", "label": "1.0"}, {"text": "b", "label": "2.0"}]
    assert fitted(rows, labels=("1.0", "2.0")).labels == ("1.0", "2.0")


GLUE = {
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone text\tanother\n0\t9\t10\ta b\tc d\n",
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tone text\tanother\t1\n6\t3\t4\ta b\tc d\t0\n",
    "RTE": "index\tsentence1\tsentence2\tlabel\n0\tone text\tanother\tentailment\n1\ta b\tc d\tnot_entailment\n",
    "MNLI": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tone text\tanother\tneutral\tentailment\n"
            "1\tx\ta b\tc d\tneutral\tcontradiction\n",
    "STS-B": "index\tgenre\tsentence1\tsentence2\tscore\n0\tx\tone text\tanother\t5.000\n1\tx\ta b\tc d\t2.600\n",
    "SST-2": "sentence\tlabel\none text\t1\na b\t0\n",
    "CoLA": "gj04\t1\t\tone text\ngj04\t0\t*\ta b\n",
}  # fmt: skip


@pytest.mark.parametrize("name", GLUE)
def test_files_of_glue_are_read_as_they_come(name: str, tmp_path: Path) -> None:
    """CoLA's has no header line: its columns are named by the option that the message proposes."""
    file = tmp_path / "train.tsv"
    file.write_text(GLUE[name])
    if name == "CoLA":
        with pytest.raises(UsageError, match=r"--data\.names A,B if the file has no header line"):
            load_part(str(file), TextClassification(), DataConfig())
    names = ("source", "label", "star", "text") if name == "CoLA" else ()
    rows = load_part(str(file), TextClassification(), DataConfig(names=names))
    assert [row["text"] for row in rows] == ["one text", "a b"]
    pairs = name not in ("SST-2", "CoLA")
    assert [row.get("text_pair") for row in rows] == (["another", "c d"] if pairs else [None, None])
    expected = {
        "RTE": ["entailment", "not_entailment"],
        "MNLI": ["entailment", "contradiction"],
        "STS-B": ["5", "2.600"],
    }
    assert rows["label"][:] == expected.get(name, ["1", "0"])


def test_invalid_options_of_all_parts_are_reported_at_once(recipe: Callable) -> None:
    options = {"problem_type": "regresion", "class_weights": "balancd", "threshold": {"x": 2}}
    with pytest.raises(UsageError) as caught:
        build_trainer(recipe(REVIEWS, training={"learning_rat": 1}, **options))
    assert len(caught.value.faults) == 4


# -- losses


def expected_loss(problem_type: str, logits: list[float], target: Any, weights: list[float]) -> float:
    if problem_type == NUMBER:
        return (logits[0] - target) ** 2
    if problem_type == ONE:
        return weights[target] * (math.log(sum(map(math.exp, logits))) - logits[target])
    return sum(
        math.log(1 + math.exp(-x)) * w if there else math.log(1 + math.exp(x))
        for x, there, w in zip(logits, target, weights, strict=True)
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_equals_the_formula(name: str, weighted: bool, recipe: Callable) -> None:
    if weighted and name == "number":
        return
    by_label = {"good": 3.0, "long": 0.25} if name == "several" else {"negative": 0.02, "positive": 0.07}
    trainer = build_trainer(recipe(ROWS[name], **({"class_weights": by_label} if weighted else {})))
    task, model = trainer.task, trainer.model.eval()
    weights = [by_label.get(label, 1.0) if weighted else 1.0 for label in task.labels]
    keys = next(iter(trainer.get_train_dataloader().batch_sampler))
    rows = [trainer.train_dataset[position] for position, _, _ in keys]
    total = count = 0.0
    for row in rows:
        types = {"token_type_ids": torch.tensor([row["token_type_ids"]])} if "token_type_ids" in row else {}
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]]), **types).logits[0].tolist()
        total += expected_loss(task.problem_type, logits, row["labels"], weights)
        single = weights[row["labels"]] if task.problem_type == ONE else 0
        count += {ONE: single, SEVERAL: len(weights), NUMBER: 1}[task.problem_type]
    trainer.train()
    first = next(log["loss"] for log in trainer.state.log_history if "loss" in log)
    assert first == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("name", ["one", "several", "number"])
def test_losses_are_the_same_with_gradient_accumulation(name: str, recipe: Callable) -> None:
    """Also with class weights so small that those of a batch sum to less than one."""
    weights = {"one": {"negative": 0.01, "positive": 0.1}, "several": {"good": 0.3}, "number": None}[name]
    losses = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4)):
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 4}
        trainer = build_trainer(recipe(ROWS[name], f"{batch}", cut, class_weights=weights))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] == pytest.approx(losses[0], abs=1e-5)


# -- the saved folder


def test_a_transformers_pipeline_gives_the_same_answers(trained: Any) -> None:
    inputs, model = inputs_of(trained), llmkit.load(str(trained.output))
    assert model.task == trained.trainer.task
    classify = pipeline("text-classification", str(trained.output))
    problem_type, answers = model.task.problem_type, model.predict(inputs)
    assert classify.model.config.problem_type == problem_type
    for given, answer in zip(inputs, answers, strict=True):
        scores = {row["label"]: row["score"] for row in classify(given, top_k=None, truncation=True)}
        if problem_type == SEVERAL:
            assert answer["labels"] == [name for name in model.task.labels if scores[name] >= 0.5]
            assert answer["scores"] == pytest.approx([scores[name] for name in answer["labels"]], abs=1e-5)
        elif problem_type == NUMBER:
            assert answer == {"score": pytest.approx(scores["score"], abs=1e-5)}
        else:
            best = classify(given, truncation=True)
            best = best if isinstance(given, dict) else best[0]
            assert answer == {"label": best["label"], "score": pytest.approx(best["score"], abs=1e-5)}
    assert len({json.dumps(answer) for answer in answers}) > len(inputs) // 16


def test_the_snippet_of_the_model_card_ran(trained: Any) -> None:
    card = (trained.output / "README.md").read_text(encoding="utf-8")
    assert "Output when this card was written" in card and "pipeline('text-classification'" in card


def test_evaluate_gives_the_metrics_of_the_run(trained: Any) -> None:
    rows = ROWS[trained.output.name][::2]
    report = evaluate(str(trained.output), rows, max_length=64)
    assert report["metrics"] == pytest.approx(trained.metrics["after"], abs=1e-5)
    assert set(report["metrics"]) == set(trained.trainer.task.metrics) == set(report["intervals"])
    assert report.get("details", {}) == trained.metrics.get("details", {})


def test_a_baseline_is_a_floor_or_a_reference(trained: Any) -> None:
    baselines = trained.metrics["baselines"]
    assert [b["kind"] for b in baselines.values()] == ["floor", "reference"]
    assert trained.metrics["primary"] == trained.trainer.task.metrics[0]
    if trained.output.name == "number":
        assert baselines["mean"]["value"] == 0 and "tfidf cosine" in baselines
    if trained.output.name == "one":
        assert baselines["majority"]["value"] == 0.5


@pytest.mark.parametrize("labels, problem_type", [(1, None), (1, NUMBER), (3, None), (3, SEVERAL)])
def test_the_problem_type_of_a_transformers_folder_is_in_its_config(
    labels: int, problem_type: str | None, tiny_bert: Path, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=labels, problem_type=problem_type)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    loaded = llmkit.load(str(tmp_path))
    assert loaded.task.problem_type == (problem_type or (NUMBER if labels == 1 else ONE))
    pair = {"text": "a fine film", "text_pair": "dull"}
    keys = {NUMBER: {"score"}, ONE: {"label", "score"}, SEVERAL: {"labels", "scores"}}[loaded.task.problem_type]
    assert set(loaded.predict("a fine film")) == set(loaded.predict(pair)) == keys


# -- pairs


@pytest.mark.parametrize("types", [True, False])
def test_pairs_are_encoded_with_and_without_token_types(types: bool, tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    if types:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    task, rows = fitted(NLI), load_part(NLI[:9:8], TextClassification(), DataConfig())
    columns = task.encode(rows[:], tokenizer, 12)
    assert ("token_type_ids" in columns) == types and columns["truncated"] == [True, True]
    features = [{k: v[i] for k, v in columns.items()} for i in range(len(rows))]
    batch = task.collate(features, tokenizer, "padded")
    assert batch["input_ids"].shape[1] <= 12
    if types:
        assert batch["token_type_ids"].shape == batch["input_ids"].shape and batch["token_type_ids"].max() == 1


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Any]:
    """Run a command in an empty folder: `(status, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = guard(lambda: command([str(w) for w in words]))
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def pair_model(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pairs") / "run"
    data = DataConfig(train=PAIRS, validation=PAIRS[::3], max_length=64)
    settings = {**EXACT, "max_steps": 5, "learning_rate": 3e-3}
    run(Recipe(TextClassification(), ModelConfig(name=str(tiny_bert)), data, settings, RunConfig(str(output))))
    return output


@pytest.mark.parametrize("source", ["arguments", "stdin", "jsonl", "csv"])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_pairs_are_answered_in_order(
    source: str, batch_size: int, pair_model: Path, ask: Callable, tmp_path: Path
) -> None:
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in PAIRS[::7]]
    expected = [{**pair, **llmkit.load(str(pair_model)).predict(pair)} for pair in pairs]
    lines, words, stdin = [json.dumps(pair, ensure_ascii=False) for pair in pairs], [], ""
    if source == "arguments":
        words = lines
    elif source == "stdin":
        words, stdin = ["-"], "\n".join(lines)
    else:
        words = [f"pairs.{source}"]
        with (tmp_path / words[0]).open("w", encoding="utf-8", newline="") as file:
            if source == "csv":
                csv.writer(file).writerows([("sentence2", "sentence1"), *((p["text_pair"], p["text"]) for p in pairs)])
            else:
                file.write("\n".join(lines))
    status, out, err = ask("predict", pair_model, *words, "--json", "--batch-size", batch_size, stdin=stdin)
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    assert [(r["text"], r["text_pair"]) for r in answers] == [(r["text"], r["text_pair"]) for r in expected]
    assert [r["score"] for r in answers] == pytest.approx([r["score"] for r in expected], abs=1e-5)
    status, out, _ = ask("predict", pair_model, *words, stdin=stdin)
    assert out.splitlines()[1].split("\t")[1:] == [pairs[1]["text"], pairs[1]["text_pair"]]


def test_predict_refuses_one_text_where_the_model_reads_two(pair_model: Path, ask: Callable, trained: Any) -> None:
    status, out, err = ask("predict", pair_model, "a fine film")
    assert (status, out) == (2, "") and '"text_pair"' in err
    status, _, err = ask("predict", pair_model, "{}", "--column", "body")
    assert status == 2 and "--column body" in err
    with pytest.raises(UsageError, match="text and text_pair"):
        llmkit.load(str(pair_model)).predict(["a fine film"])
    if not trained.trainer.task.pairs:
        with pytest.raises(UsageError, match="reads text of each"):
            llmkit.load(str(trained.output)).predict([{"text": "a", "text_pair": "b"}])


def test_predict_counts_the_inputs_that_are_cut(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    task = TextClassification(problem_type=ONE, labels=("a", "b"))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert len(task.predict(model, tokenizer, ["a fine film " * 20, "dull"], 8)) == 2
    assert "1 input cut to 8 tokens" in capsys.readouterr().err


# -- thresholds


def test_a_threshold_is_used_in_metrics_and_saved(recipe: Callable) -> None:
    result = run(recipe(REVIEWS, threshold=1.0))
    assert result.metrics["after"]["accuracy"] == np.mean([r["label"] == "negative" for r in REVIEWS[::3]])
    model = llmkit.load(str(result.output))
    assert model.task.threshold == {"positive": 1.0}
    assert {answer["label"] for answer in model.predict(TEXTS)} == {"negative"}
    assert "use the thresholds positive 1," in (result.output / "README.md").read_text(encoding="utf-8")


def test_options_by_label_are_read_from_the_command_line_and_yaml(tmp_path: Path) -> None:
    words = ["--task", "text-classification", "--task.threshold.yes", "0.3", "--task.class_weights", "{0: 2, no: 1}"]
    task = build_recipe(None, words)[0].task
    assert task.threshold == {"yes": 0.3} and task.class_weights == {0: 2, "no": 1}
    digits = fitted([{"text": "a", "label": 0}, {"text": "b", "label": 1}], class_weights={0: 2})
    assert digits.class_weights == {"0": 2}
    assert build_recipe(None, [*words[:2], "--task.class_weights", "balanced"])[0].task.class_weights == "balanced"
    assert build_recipe(None, [*words[:2], "--task.threshold", "0.3"])[0].task.threshold == 0.3
    task = fitted(REVIEWS, class_weights="balanced", threshold=0.4)
    recipe = Recipe(task, ModelConfig(name="tiny-bert"), DataConfig(train="reviews"))
    write_yaml(recipe.to_dict(), tmp_path / "recipe.yaml")
    assert apply(None, read_yaml(tmp_path / "recipe.yaml")) == recipe


# -- metrics


@pytest.mark.parametrize("name", ["one", "several", "number"])
def test_score_and_details_split_targets_and_logits(name: str) -> None:
    task, random = fitted(ROWS[name]), np.random.default_rng(1)
    width = max(1, len(task.labels))
    logits = random.normal(size=(60, width))
    targets = {
        "one": random.integers(0, width, 60), "several": random.integers(0, 2, (60, width)),
        "number": random.normal(size=60).round(1),
    }[name]  # fmt: skip
    stats = np.column_stack([targets, logits])
    assert task.score(stats) == task.kind.score(targets, logits) and set(task.score(stats)) == set(task.metrics)
    assert task.details(stats) == task.kind.details(targets, logits)


# -- calibration


@pytest.mark.parametrize("name", ["one", "several", "pair"])
def test_plain_transformers_gives_calibrated_logits(name: str, recipe: Callable, capsys: pytest.CaptureFixture) -> None:
    settings = {"max_steps": 12, "learning_rate": 3e-3}
    plain = run(recipe(ROWS[name], "plain", settings))
    calibrated = run(recipe(ROWS[name], "calibrated", settings, calibrate=True))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "divided by" in line]
    temperature = float(line.split("divided by ")[1].split(",")[0])
    assert calibrated.metrics["after"]["loss"] <= plain.metrics["after"]["loss"]
    assert calibrated.metrics["after"][plain.metrics["primary"]] == plain.metrics["after"][plain.metrics["primary"]]
    load = AutoModelForSequenceClassification.from_pretrained
    inputs = AutoTokenizer.from_pretrained(plain.output)("a fine film", "dull", return_tensors="pt")
    with torch.no_grad():
        before, after = (load(r.output, dtype=torch.float32)(**inputs).logits for r in (plain, calibrated))
    assert torch.allclose(before / temperature, after, rtol=1e-3)


# -- output


def test_evaluate_prints_the_details_as_tables(ask: Callable, tmp_path: Path, recipe: Callable) -> None:
    run(recipe(REVIEWS, "r"))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in REVIEWS), encoding="utf-8")
    status, out, err = ask("evaluate", "r", "--data", "test.jsonl")
    assert status == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["report", "precision", "recall", "f1", "support"] in lines
    assert ["confusion", "negative", "positive"] in lines
    assert sum(int(n) for line in lines[-2:] for n in line[1:]) == len(REVIEWS)
    report = json.loads(ask("evaluate", "r", "--data", "test.jsonl", "--json")[1])
    assert report["details"]["report"]["negative"]["support"] == 16


def test_a_floor_that_is_not_beaten_is_a_warning(recipe: Callable, capsys: pytest.CaptureFixture) -> None:
    run(recipe(REVIEWS, training={"learning_rate": 1e-12}))
    warned = [line for line in capsys.readouterr().err.splitlines() if "nothing was learned" in line]
    assert warned and warned[0].split()[:3] == ["warning", "baseline", "untrained:"]
    assert all(w.startswith("warning") and "not beaten" in w for w in warned)


@pytest.mark.parametrize("name, expected", [("several", "label good"), ("number", "label 0.0")])
def test_preview_shows_labels_by_name(name: str, expected: str, recipe: Callable) -> None:
    assert expected in preview(recipe(ROWS[name]), 1)


def test_rows_of_a_dataset_may_be_a_list(recipe: Callable) -> None:
    trainer = build_trainer(recipe(list(Dataset.from_list(TOPICS))))
    assert trainer.task.labels == ("good", "long", "中文")
