"""Text classification in full: pairs, several labels, numbers, weights, thresholds, calibration; what plain Transformers
makes of the saved folder, and what every mistake is told."""

from __future__ import annotations

import csv
import json
import math
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
from llmkit import DataConfig, ModelConfig, Recipe, RecipeError, RunConfig, build_trainer, run
from llmkit.cli import command, guard
from llmkit.data import load_part
from llmkit.evaluation import metrics
from llmkit.tasks import TextClassification

TEXTS = [row["text"] for row in REVIEWS[::4]]
PAIRS = [  # numbers
    {"sentence1": a, "sentence2": b, "score": (i * 7 + j * 3) % 10 / 2}
    for i, a in enumerate(TEXTS)
    for j, b in enumerate(TEXTS)
]
TOPICS = [  # several labels, or none
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
    def make(rows: list[dict], output: str = "run", training: dict | None = None, **knobs: Any) -> Recipe:
        return Recipe(
            TextClassification(**knobs),
            ModelConfig(name=str(tiny_bert)),
            DataConfig(train=rows, validation=rows[::3], max_length=64),
            {**EXACT, "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **(training or {})},
            RunConfig(output=str(tmp_path / output)),
        )

    return make


@pytest.fixture(scope="module", params=ROWS)
def trained(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each kind, long enough that answers differ."""
    rows = ROWS[request.param]
    data = DataConfig(train=rows, validation=rows[::3], test=rows[::2], max_length=64)
    settings = {**EXACT, "max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
    output = RunConfig(output=str(tmp_path_factory.mktemp("runs") / request.param), references=True)
    return run(Recipe(TextClassification(), ModelConfig(name=str(tiny_bert)), data, settings, output))


def questions(result: Any) -> list[Any]:
    """Every other raw row as `predict` is asked."""
    rows = [{c: row[c] for c in result.trainer.task.asks} for row in result.trainer.rows["test"]]
    return [row["text"] if len(row) == 1 else row for row in rows]


def fitted(rows: list[dict], **knobs: Any) -> TextClassification:
    task = TextClassification(**knobs)
    return task.fit(load_part(rows, task, DataConfig()))


def fault(rows: list[dict], held: list[dict] | None = None, **knobs: Any) -> str:
    """The one line of a run's rows, as `prepare` collects it."""
    with pytest.raises(RecipeError) as caught:
        task = TextClassification(**knobs)
        task = task.fit(load_part(rows, task, DataConfig(), "train"))
        faults = task.check_rows(load_part(held or rows, TextClassification(**knobs), DataConfig(), "test"), "test")
        raise RecipeError(*faults)
    (line,) = caught.value.faults
    assert "\n" not in line
    return line


# -- the rows decide


@pytest.mark.parametrize(
    "labels, kind, names",
    [
        (["b", "a"], ONE, ("a", "b")),
        ([10, 2], ONE, ("2", "10")),
        ([1.0, 0.0], ONE, ("0", "1")),
        (["1.0", "0.0"], ONE, ("0.0", "1.0")),
        ([True, False], ONE, ("False", "True")),
        (["4.75", "5.0"], NUMBER, ()),
        ([4, 2.5], NUMBER, ()),
        (["1e-3", "-7"], NUMBER, ()),
        (["1.5", "inf"], ONE, ("1.5", "inf")),
        (["1.5", "two"], ONE, ("1.5", "two")),
        ([["b"], ["a", "b"], []], SEVERAL, ("a", "b")),
        ([[2], [10, 2], []], SEVERAL, ("2", "10")),
        ([["b"], ["a"]], SEVERAL, ("a", "b")),
    ],
)
def test_labels_say_what_is_learned(labels: list, kind: str, names: tuple[str, ...]) -> None:
    task = fitted([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    assert (task.problem_type, task.labels) == (kind, names)


def test_the_user_has_the_last_word() -> None:
    stars = [{"text": f"text {i}", "label": i % 5} for i in range(9)]
    assert fitted(stars).problem_type == ONE
    assert fitted(stars, problem_type=NUMBER).problem_type == NUMBER
    halves = [{"text": f"text {i}", "label": i / 2} for i in range(4)]
    assert fitted(halves, problem_type=ONE).labels == fitted(halves, labels=("0", "0.5", "1", "1.5")).labels


@pytest.mark.parametrize("name, pairs", [("one", False), ("pair", True), ("number", True)])
def test_a_second_text_is_found_by_its_usual_names(name: str, pairs: bool) -> None:
    task = fitted(ROWS[name])
    assert task.pairs == pairs and task.asks == (("text", "text_pair") if pairs else ("text",))
    assert len(list(task.texts(load_part(ROWS[name], task, DataConfig())))) == len(ROWS[name]) * (1 + pairs)


WORDS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
HALVES = [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}]
LISTS = [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y", "z"]}]
TWO = [{"text": "a", "text_pair": "b", "label": "x"}, {"text": "b", "text_pair": "c", "label": "y"}]


@pytest.mark.parametrize(
    "rows, held, knobs, needles",
    [
        ([*WORDS, {"text": "c", "label": ["x"]}], None, {}, ("row 3", "'label' is list", "text in the rows before")),
        ([*LISTS, {"text": "c", "label": "x"}], None, {}, ("row 3", "'label' is text", "list in the rows before")),
        ([*LISTS, {"text": "c", "label": [["x"]]}], None, {}, ("row 3", "['x']", "neither a word nor a number")),
        (
            [{"text": t, "label": [i, 1 - i]} for i, t in enumerate("ab")],
            None,
            {},
            ("data.train", "such as [0, 1] in every"),
        ),
        ([*LISTS, {"text": "c", "label": [0, 1, 0]}], None, {}, ("row 3", "[0, 1, 0] names one twice")),
        ([*WORDS, {"text": "c", "label": math.nan}], None, {}, ("row 3", "nan")),
        ([*WORDS, {"text": "c", "label": {"a": 1}}], None, {}, ("row 3", "neither a word nor a number")),
        ([*TWO, {"text": "c", "label": "x"}], None, {}, ("row 3", "no 'text_pair'")),
        ([*TWO, {"text": "c", "text_pair": "", "label": "x"}], None, {}, ("row 3", "empty 'text_pair'")),
        (WORDS, None, {"problem_type": NUMBER}, ("row 1", "'x' is no number")),
        (WORDS, None, {"problem_type": SEVERAL}, ("row 1", "'x' is no list of labels")),
        (LISTS, None, {"problem_type": ONE}, ("row 1", "['x']")),
        (WORDS[:1], None, {}, ("only one label", "'x'")),
        (WORDS, [{"text": "c", "label": "w"}], {}, ("data.test", "training never saw: w")),
        (LISTS, [{"text": "c", "label": ["x", "w"]}], {}, ("data.test", "training never saw: w")),
        (HALVES, WORDS, {}, ("data.test", "training never saw: x, y")),
        (WORDS, LISTS, {}, ("data.test", "['x']", "unlike")),
        (LISTS, WORDS, {}, ("data.test", "'x'", "unlike")),
        (TWO, WORDS, {}, ("data.test", "no text_pair", "unlike")),
        (WORDS, TWO, {}, ("data.test", "a text_pair", "unlike")),
        (WORDS, None, {"class_weights": "balancd"}, ("task.class_weights", "'balancd'", "balanced")),
        (WORDS, None, {"class_weights": {"xx": 2}}, ("task.class_weights.xx", "no such label", "'x'")),
        (WORDS, None, {"class_weights": {"x": -1}}, ("task.class_weights.x", "-1", "from 0")),
        (WORDS, None, {"class_weights": {"x": "much"}}, ("task.class_weights.x", "'much'")),
        (WORDS, None, {"threshold": 2}, ("task.threshold.y", "2", "from 0 to 1")),
        (WORDS, None, {"threshold": {"x": 0.1, "y": 0.2}}, ("task.threshold", "one of two labels")),
        ([*WORDS, {"text": "c", "label": "z"}], None, {"threshold": 0.5}, ("task.threshold", "0.5", "here are 3")),
        (LISTS, None, {"threshold": {"w": 0.5}}, ("task.threshold.w", "no such label")),
        (HALVES, None, {"threshold": 0.5}, ("task.threshold", "0.5", "regression")),
        (HALVES, None, {"class_weights": "balanced"}, ("task.class_weights", "regression")),
        (HALVES, None, {"calibrate": True}, ("task.calibrate", "regression")),
        (HALVES, None, {"label_smoothing": 0.1}, ("task.label_smoothing", "0.1")),
        (LISTS, None, {"label_smoothing": 0.1}, ("task.label_smoothing", "0.1")),
        (WORDS, None, {"problem_type": "regresion"}, ("task.problem_type", "'regresion'", "'regression'")),
    ],
)
def test_what_does_not_suit_is_one_line(rows: list, held: Any, knobs: dict, needles: tuple[str, ...]) -> None:
    line = fault(rows, held, **knobs)
    assert [n for n in needles if n not in line] == [], line


def test_wrong_knobs_and_wrong_fields_come_at_once() -> None:
    from llmkit.parsing import build_recipe

    words = ["--task", "text-classification", "--task.problem_type", "regresion", "--data.max_lenght", "8"]
    with pytest.raises(RecipeError) as caught:
        build_recipe(None, words)
    assert len(caught.value.faults) == 2


# -- losses, by hand


def by_hand(kind: str, logits: list[float], target: Any, weights: list[float]) -> float:
    if kind == NUMBER:
        return (logits[0] - target) ** 2
    if kind == ONE:
        return weights[target] * (math.log(sum(map(math.exp, logits))) - logits[target])
    return sum(
        math.log(1 + math.exp(-x)) * w if there else math.log(1 + math.exp(x))
        for x, there, w in zip(logits, target, weights, strict=True)
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_one_by_hand(name: str, weighted: bool, recipe: Callable) -> None:
    if weighted and name == "number":
        return
    given = {"good": 3.0, "long": 0.25} if name == "several" else {"negative": 0.02, "positive": 0.07}
    trainer = build_trainer(recipe(ROWS[name], **({"class_weights": given} if weighted else {})))
    task, model = trainer.task, trainer.model.eval()
    weights = [given.get(label, 1.0) if weighted else 1.0 for label in task.labels]
    keys = next(iter(trainer.get_train_dataloader().batch_sampler))
    rows = [trainer.train_dataset[position] for position, _, _ in keys]
    total = count = 0.0
    for row in rows:
        types = {"token_type_ids": torch.tensor([row["token_type_ids"]])} if "token_type_ids" in row else {}
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]]), **types).logits[0].tolist()
        total += by_hand(task.problem_type, logits, row["label"], weights)
        count += {ONE: weights[row["label"]] if task.problem_type == ONE else 0, SEVERAL: len(weights), NUMBER: 1}[
            task.problem_type
        ]
    trainer.train()
    first = next(log["loss"] for log in trainer.state.log_history if "loss" in log)
    assert first == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("name", ["one", "several", "number"])
def test_a_batch_is_one_batch_however_it_is_cut(name: str, recipe: Callable) -> None:
    """With weights so small that a batch weighs less than one."""
    knobs = (
        {}
        if name == "number"
        else {"class_weights": {"good": 0.3} if name == "several" else {"negative": 0.01, "positive": 0.1}}
    )
    losses = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4)):
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 4}
        trainer = build_trainer(recipe(ROWS[name], f"{batch}", cut, **knobs))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_balanced_weights_are_scikit_learn_s() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    words = ["a"] * 5 + ["b"] * 2 + ["c"]
    task = fitted([{"text": f"text {i}", "label": word} for i, word in enumerate(words)], class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=words)
    assert list(task.class_weights.values()) == pytest.approx(expected)
    topics = fitted([{"text": f"{i}", "label": ["a", "b"] if i else ["a"]} for i in range(4)], class_weights="balanced")
    assert topics.class_weights == {"a": 0.25, "b": pytest.approx(1 / 3)}


# -- what plain Transformers makes of the folder


def test_a_plain_pipeline_gives_the_same_answers(trained: Any) -> None:
    asked, model = questions(trained), llmkit.load(str(trained.output))
    assert model.task == trained.trainer.task
    classify = pipeline("text-classification", str(trained.output))
    kind, answers = model.task.problem_type, model.predict(asked)
    assert classify.model.config.problem_type == kind
    for question, answer in zip(asked, answers, strict=True):
        every = {row["label"]: row["score"] for row in classify(question, top_k=None, truncation=True)}
        if kind == SEVERAL:
            assert answer["labels"] == [name for name in model.task.labels if every[name] >= 0.5]
            assert answer["scores"] == pytest.approx([every[name] for name in answer["labels"]], abs=1e-5)
        elif kind == NUMBER:
            assert answer == {"score": pytest.approx(every["score"], abs=1e-5)}
        else:
            best = classify(question, truncation=True)
            best = best if isinstance(question, dict) else best[0]
            assert answer == {"label": best["label"], "score": pytest.approx(best["score"], abs=1e-5)}
    assert len({json.dumps(answer) for answer in answers}) > len(asked) // 16


def test_the_card_s_snippet_ran(trained: Any) -> None:
    card = (trained.output / "README.md").read_text(encoding="utf-8")
    assert "It printed, when this card was written" in card and "pipeline('text-classification'" in card


def test_evaluation_says_what_the_run_said(trained: Any, tmp_path: Path) -> None:
    from llmkit.evaluation.measure import measure

    rows = ROWS[trained.output.name][::2]
    found = measure(str(trained.output), rows, max_length=64)
    assert found["metrics"] == pytest.approx(trained.metrics["after"], abs=1e-5)
    assert set(found["metrics"]) == set(trained.trainer.task.metrics) == set(found["intervals"])
    assert found.get("details", {}) == trained.metrics.get("details", {})


def test_texts_without_a_word_have_a_reference_too() -> None:
    from llmkit.evaluation import baselines

    rows = Dataset.from_list([{"text": "👍👍", "label": 1}, {"text": "👎", "label": 0}] * 4)
    assert baselines.tfidf_answers(rows, rows, rows["label"][:]).tolist() == rows["label"][:]


def test_a_baseline_is_a_floor_or_a_reference(trained: Any) -> None:
    baselines = trained.metrics["baselines"]
    assert [b["kind"] for b in baselines.values()] == ["floor", "reference"]
    assert trained.metrics["primary"] == trained.trainer.task.metrics[0]
    if trained.output.name == "number":
        assert baselines["mean"]["value"] == 0 and "tfidf cosine" in baselines
    if trained.output.name == "one":
        assert baselines["majority"]["value"] == 0.5


@pytest.mark.parametrize("labels, problem_type", [(1, None), (1, NUMBER), (3, None), (3, SEVERAL)])
def test_a_folder_of_plain_transformers_says_what_it_does(
    labels: int, problem_type: str | None, tiny_bert: Path, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=labels, problem_type=problem_type)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    found = llmkit.load(str(tmp_path))
    assert found.task.problem_type == (problem_type or (NUMBER if labels == 1 else ONE))
    asked = {"text": "a fine film", "text_pair": "dull"}
    keys = {NUMBER: {"score"}, ONE: {"label", "score"}, SEVERAL: {"labels", "scores"}}[found.task.problem_type]
    assert set(found.predict("a fine film")) == set(found.predict(asked)) == keys


# -- pairs


@pytest.mark.parametrize("types", [True, False])
def test_pairs_do_with_and_without_token_types(types: bool, tiny_bert: Path) -> None:
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
    """`(status, stdout, stderr)` of a command in an empty folder."""
    import io
    import sys

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


@pytest.mark.parametrize("how", ["typed", "piped", "jsonl", "csv"])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_pairs_are_answered_in_order(
    how: str, batch_size: int, pair_model: Path, ask: Callable, tmp_path: Path
) -> None:
    asked = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in PAIRS[::7]]
    expected = [{**a, **llmkit.load(str(pair_model)).predict(a)} for a in asked]
    lines, words, stdin = [json.dumps(a, ensure_ascii=False) for a in asked], [], ""
    if how == "typed":
        words = lines
    elif how == "piped":
        words, stdin = ["-"], "\n".join(lines)
    else:
        words = [f"asked.{how}"]
        with (tmp_path / words[0]).open("w", encoding="utf-8", newline="") as file:
            if how == "csv":
                csv.writer(file).writerows([("sentence2", "sentence1"), *((a["text_pair"], a["text"]) for a in asked)])
            else:
                file.write("\n".join(lines))
    status, out, err = ask("predict", pair_model, *words, "--json", "--batch-size", batch_size, stdin=stdin)
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0, err
    assert [(r["text"], r["text_pair"]) for r in found] == [(r["text"], r["text_pair"]) for r in expected]
    assert [r["score"] for r in found] == pytest.approx([r["score"] for r in expected], abs=1e-5)
    status, out, _ = ask("predict", pair_model, *words, stdin=stdin)
    assert out.splitlines()[1].split("\t")[1:] == [asked[1]["text"], asked[1]["text_pair"]]


def test_a_text_alone_is_refused_where_two_are_asked(pair_model: Path, ask: Callable, trained: Any) -> None:
    status, out, err = ask("predict", pair_model, "a fine film")
    assert (status, out) == (2, "") and '"text_pair"' in err
    status, _, err = ask("predict", pair_model, "{}", "--column", "body")
    assert status == 2 and "--column body" in err
    with pytest.raises(RecipeError, match="text and text_pair"):
        llmkit.load(str(pair_model)).predict(["a fine film"])
    if not trained.trainer.task.pairs:
        with pytest.raises(RecipeError, match="reads text of each"):
            llmkit.load(str(trained.output)).predict([{"text": "a", "text_pair": "b"}])


# -- thresholds


def answers(task: TextClassification, probabilities: list[list[float]]) -> list[Any]:
    p = np.array(probabilities)
    logits = np.log(p / (1 - p)) if task.problem_type == SEVERAL else np.log(p)
    return [answer.get("label", answer.get("labels")) for answer in task.kind.answers(logits)]


@pytest.mark.parametrize(
    "threshold, expected",
    [
        (None, ["no", "no", "yes", "yes"]),
        (0.8, ["no", "no", "no", "yes"]),
        (0.1, ["no", "yes", "yes", "yes"]),
        ({"no": 0.5}, ["no", "no", "yes", "yes"]),
        ({"no": 0.3}, ["no", "no", "no", "yes"]),
    ],
)
def test_below_its_threshold_the_other_of_two_is_said(threshold: Any, expected: list[str]) -> None:
    task = fitted([{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}], threshold=threshold)
    assert answers(task, [[0.95, 0.05], [0.6, 0.4], [0.4, 0.6], [0.15, 0.85]]) == expected


@pytest.mark.parametrize(
    "threshold, expected",
    [(None, [["x"], []]), (0.2, [["x", "y"], ["y"]]), ({"y": 0.25}, [["x"], ["y"]]), (0.95, [[], []])],
)
def test_each_of_several_labels_has_its_threshold(threshold: Any, expected: list) -> None:
    task = fitted([{"text": "a", "label": ["x", "y"]}], threshold=threshold)
    assert answers(task, [[0.9, 0.22], [0.1, 0.3]]) == expected


def test_a_threshold_counts_in_the_figures_and_is_kept(recipe: Callable) -> None:
    result = run(recipe(REVIEWS, threshold=1.0))
    assert result.metrics["after"]["accuracy"] == np.mean([r["label"] == "negative" for r in REVIEWS[::3]])
    model = llmkit.load(str(result.output))
    assert model.task.threshold == {"positive": 1.0}
    assert {answer["label"] for answer in model.predict(TEXTS)} == {"negative"}


def test_knobs_by_label_are_typed(tmp_path: Path) -> None:
    from llmkit.parsing import apply, build_recipe, read_yaml, write_yaml

    words = ["--task", "text-classification", "--task.threshold.yes", "0.3", "--task.class_weights", "{0: 2, no: 1}"]
    task = build_recipe(None, words)[0].task
    assert task.threshold == {"yes": 0.3} and task.class_weights == {0: 2, "no": 1}
    digits = fitted([{"text": "a", "label": 0}, {"text": "b", "label": 1}], class_weights={0: 2})
    assert digits.class_weights == {"0": 2}
    assert build_recipe(None, [*words[:2], "--task.class_weights", "balanced"])[0].task.class_weights == "balanced"
    assert build_recipe(None, [*words[:2], "--task.threshold", "0.3"])[0].task.threshold == 0.3
    made = fitted(REVIEWS, class_weights="balanced", threshold=0.4)
    recipe = Recipe(made, ModelConfig(name="tiny-bert"), DataConfig(train="reviews"))
    write_yaml(recipe.to_dict(), tmp_path / "recipe.yaml")
    assert apply(None, read_yaml(tmp_path / "recipe.yaml")) == recipe


# -- metrics


def test_calibration_error_is_the_one_by_definition() -> None:
    random = np.random.default_rng(0)
    sure, right = random.uniform(0.2, 1.0, 500), random.random(500) < 0.7
    expected = 0.0
    for b in range(15):
        inside = [i for i in range(500) if b / 15 <= sure[i] < (b + 1) / 15]
        if inside:
            accuracy, confidence = (
                sum(right[i] for i in inside) / len(inside),
                sum(sure[i] for i in inside) / len(inside),
            )
            expected += len(inside) / 500 * abs(accuracy - confidence)
    assert metrics.calibration_error(sure, right) == pytest.approx(expected)
    assert metrics.calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


@pytest.mark.parametrize("name", ["one", "several", "number"])
def test_figures_are_the_reference_implementation_s(name: str) -> None:
    import sklearn.metrics as reference
    from scipy import stats

    task, random = fitted(ROWS[name]), np.random.default_rng(1)
    width = max(1, len(task.labels))
    logits = random.normal(size=(60, width))
    if name == "number":
        truth = random.normal(size=60).round(1)
        found, said = task.score(np.column_stack([truth, logits])), logits[:, 0]
        expected = {
            "spearman": stats.spearmanr(truth, said)[0],
            "pearson": stats.pearsonr(truth, said)[0],
            "mse": reference.mean_squared_error(truth, said),
        }
        assert task.score(np.column_stack([truth, np.ones(60)]))["spearman"] == 0
    elif name == "one":
        truth, p = random.integers(0, width, 60), torch.tensor(logits).softmax(-1).numpy()
        said = p.argmax(-1)
        found = task.score(np.column_stack([truth, logits]))
        expected = {
            "accuracy": reference.accuracy_score(truth, said),
            "f1_macro": reference.f1_score(truth, said, average="macro"),
            "ece": metrics.calibration_error(p.max(-1), said == truth),
            "loss": reference.log_loss(truth, p),
        }
    else:
        truth, p = random.integers(0, 2, (60, width)), torch.tensor(logits).sigmoid().numpy()
        said = (p >= 0.5).astype(int)
        found = task.score(np.column_stack([truth, logits]))
        expected = {
            "f1_micro": reference.f1_score(truth, said, average="micro"),
            "f1_macro": reference.f1_score(truth, said, average="macro"),
            "subset_accuracy": reference.accuracy_score(truth, said),
            "ece": metrics.calibration_error(np.maximum(p, 1 - p).ravel(), (said == truth).ravel()),
            "loss": np.mean([reference.log_loss(truth[:, i], p[:, i]) for i in range(width)]),
        }
    assert found == pytest.approx(expected)
    if name != "number":
        report = task.details(np.column_stack([truth, logits]))["report"]
        expected = reference.classification_report(
            truth, said, target_names=task.labels, output_dict=True, zero_division=0
        )
        for label in task.labels:
            assert list(report[label].values()) == pytest.approx(list(expected[label].values()))


def test_the_confusion_matrix_counts_every_row() -> None:
    task = fitted(REVIEWS)
    logits = np.array([[2.0, 0], [2, 0], [0, 2], [0, 2], [0, 2]])
    details = task.details(np.column_stack([[0, 1, 1, 1, 0], logits]))
    assert details["confusion"] == {
        "negative": {"negative": 1, "positive": 1},
        "positive": {"negative": 1, "positive": 2},
    }
    json.dumps(details)


def test_the_floor_of_several_labels_is_the_best_constant() -> None:
    import itertools

    from sklearn.metrics import f1_score

    from llmkit.evaluation.baselines import commonest_labels

    random = np.random.default_rng(0)
    for _ in range(5):
        known = (random.random((40, 5)) < random.random(5)).astype(int)
        every = [np.tile(c, (40, 1)) for c in itertools.product([0, 1], repeat=5) if any(c)]
        best = max(f1_score(known, constant, average="micro", zero_division=0) for constant in every)
        chosen = np.tile(commonest_labels(known), (40, 1))
        assert f1_score(known, chosen, average="micro", zero_division=0) == pytest.approx(best)


# -- calibration


def test_the_temperature_is_the_best_one() -> None:
    task, random = fitted(REVIEWS), np.random.default_rng(2)
    logits = random.normal(size=(4000, 2)) * 2
    truth = (random.random(4000) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(int)
    found = metrics.temperature(lambda t: task.kind.nats(truth, 3 * logits / t))
    assert found == pytest.approx(3, rel=0.1)
    nats = [task.kind.nats(truth, 3 * logits / t) for t in (found * 0.95, found, found * 1.05)]
    assert nats[1] == min(nats)


@pytest.mark.parametrize("name", ["one", "several", "pair"])
def test_a_calibrated_folder_is_so_for_everyone(name: str, recipe: Callable, capsys: pytest.CaptureFixture) -> None:
    settings = {"max_steps": 12, "learning_rate": 3e-3}
    plain, calibrated = (
        run(recipe(ROWS[name], "plain", settings)),
        run(recipe(ROWS[name], "calm", settings, calibrate=True)),
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "divided by" in line]
    temperature = float(line.split("divided by ")[1].split(",")[0])
    assert calibrated.metrics["after"]["loss"] <= plain.metrics["after"]["loss"]
    assert calibrated.metrics["after"][plain.metrics["primary"]] == plain.metrics["after"][plain.metrics["primary"]]
    models = [
        AutoModelForSequenceClassification.from_pretrained(r.output, dtype=torch.float32) for r in (plain, calibrated)
    ]
    given = AutoTokenizer.from_pretrained(plain.output)("a fine film", "dull", return_tensors="pt")
    with torch.no_grad():
        before, after = (model(**given).logits for model in models)
    assert torch.allclose(before / temperature, after, rtol=1e-3)


# -- said


def test_details_are_readable(ask: Callable, tiny_bert: Path, tmp_path: Path, recipe: Callable) -> None:
    run(recipe(REVIEWS, "r"))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in REVIEWS), encoding="utf-8")
    status, out, err = ask("evaluate", "r", "--data", "test.jsonl")
    assert status == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["report", "precision", "recall", "f1", "support"] in lines and [
        "confusion",
        "negative",
        "positive",
    ] in lines
    assert sum(int(n) for line in lines[-2:] for n in line[1:]) == len(REVIEWS)
    found = json.loads(ask("evaluate", "r", "--data", "test.jsonl", "--json")[1])
    assert found["details"]["report"]["negative"]["support"] == 16


def test_a_floor_that_stands_is_a_warning(recipe: Callable, capsys: pytest.CaptureFixture) -> None:
    run(recipe(REVIEWS, training={"learning_rate": 1e-12}))
    warned = [line for line in capsys.readouterr().err.splitlines() if "is a floor" in line]
    assert warned and warned[0].split()[:3] == ["warning", "baseline", "untrained:"]
    assert all(w.startswith("warning") and "not beaten" in w for w in warned)


@pytest.mark.parametrize("name, needle", [("several", "label good"), ("number", "label 0.0")])
def test_preview_says_labels_by_name(name: str, needle: str, recipe: Callable) -> None:
    from llmkit.reporting.preview import preview

    assert needle in preview(recipe(ROWS[name]), 1)


def test_rows_of_a_dataset_are_rows(recipe: Callable) -> None:
    trainer = build_trainer(recipe(list(Dataset.from_list(TOPICS))))
    assert trainer.task.labels == ("good", "long", "中文")
