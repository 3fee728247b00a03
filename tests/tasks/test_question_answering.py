"""QuestionAnswering: the loss of each window alone, the best span of all windows, and answers where they are in the context."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, QUESTIONS
from datasets import Dataset
from squad_rows import CHINESE, FERRY, LONG, make_article, make_row
from transformers import AutoConfig

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.cli.predict import read_inputs
from llmkit.data.loading import load_part, load_rows
from llmkit.errors import UsageError
from llmkit.metrics import squad
from llmkit.models.tokenizers import load_tokenizer, train_tokenizer
from llmkit.pipeline import evaluate
from llmkit.tasks import QuestionAnswering


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    return load_tokenizer(str(tiny_bert))


@pytest.fixture(scope="module")
def answerer(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 40 steps on QUESTIONS, which it memorizes."""
    recipe = Recipe(
        QuestionAnswering(),
        ModelConfig(name=str(tiny_bert)),
        DataConfig(train=QUESTIONS, validation=QUESTIONS),
        {**EXACT, "max_steps": 40, "learning_rate": 1e-2, "per_device_train_batch_size": len(QUESTIONS)},
        RunConfig(str(tmp_path_factory.mktemp("answerer") / "run")),
    )
    return run(recipe)


def encode(rows: list[dict[str, Any]], tokenizer: Any, max_length: int = 48) -> list[dict[str, Any]]:
    """The features of rows, one mapping for each window."""
    columns = {name: [row[name] for row in rows] for name in ("question", "context", "answers")}
    encoded = QuestionAnswering(stride=8).encode(columns, tokenizer, max_length)
    encoded.pop("truncated")
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


# -- rows and options


def test_context_stays_in_one_part_of_a_split() -> None:
    rows = [make_row(f"Question {i}?", f"{FERRY} Part {i // 5}.", "Pia") for i in range(100)]
    parts = load_rows(DataConfig(train=rows, validation=0.2), QuestionAnswering()).rows
    train, validation = set(parts["train"]["context"]), set(parts["validation"]["context"])
    assert len(train) == 16 and len(validation) == 4 and not train & validation


def test_missing_columns_are_named_with_the_formats() -> None:
    with pytest.raises(UsageError, match=r"reads question, context, answers; or .*; or context, qas; or paragraphs"):
        load_part([{"question": "When?", "text": FERRY}], QuestionAnswering(), DataConfig())


@pytest.mark.parametrize(("option", "value"), [("stride", -1), ("max_answer_tokens", 0), ("n_best", 0)])
def test_check_refuses_option_below_its_minimum(option: str, value: int) -> None:
    task = QuestionAnswering(**{option: value})
    assert task.check(Recipe(task)) == [f"task.{option}: {value} is less than {value + 1}"]
    with pytest.raises(UsageError, match=f"task.{option}: {value} is less than"):
        build_trainer(Recipe(task, ModelConfig(name="tiny-bert"), DataConfig(train=QUESTIONS)))


def test_fit_keeps_unanswerable_option_and_learns_it_from_training_rows_only() -> None:
    answers = ("Pia", None)
    answered, unanswered = (load_part([make_row("Who?", FERRY, a)], QuestionAnswering(), DataConfig()) for a in answers)
    assert QuestionAnswering().fit({"train": answered, "validation": unanswered}).unanswerable is False
    assert QuestionAnswering(unanswerable=False).fit({"train": unanswered}).unanswerable is False
    assert QuestionAnswering(unanswerable=True).fit({"test": answered}).unanswerable is True


# -- loss


def test_collate_keeps_token_type_ids_of_the_tokenizer(tokenizer: Any) -> None:
    typed = train_tokenizer("wordpiece", 300, iter([FERRY, LONG, CHINESE]), "bert")
    typed.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" not in encode([make_row("Which?", LONG, None)], tokenizer)[0]
    batch = QuestionAnswering().collate(encode([make_row("Which?", LONG, None)], typed)[:2], typed, "padded")
    inside = batch["char_starts"] >= 0
    assert batch["token_type_ids"][inside].eq(1).all() and batch["token_type_ids"][:, :3].eq(0).all()


def test_answer_in_no_window_is_not_trained_as_no_answer(tokenizer: Any) -> None:
    rows = [make_row("What?", LONG, LONG[20:400]), make_row("What?", LONG, None)]
    columns = {name: [row[name] for row in rows] for name in ("question", "context", "answers")}
    assert QuestionAnswering(stride=8).encode(columns, tokenizer, 48)["truncated"] == [True, False]
    features, task = encode(rows, tokenizer), QuestionAnswering()
    assert {row: {f["start"] for f in features if f["row"] == row} for row in (0, 1)} == {0: {-100}, 1: {0}}
    batch = task.collate(features, tokenizer, "padded")
    assert int(task.weight(batch)) == sum(f["row"] == 1 for f in features)


def make_recipe(bert: Path, folder: Path, **training: Any) -> Recipe:
    data = DataConfig(train=QUESTIONS, validation=QUESTIONS, max_length=48)
    training = {**EXACT, "max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 8, **training}
    return Recipe(QuestionAnswering(), ModelConfig(name=str(bert)), data, training, RunConfig(str(folder)))


def test_loss_is_the_sum_of_the_library_loss_of_each_window(tiny_bert: Path, tmp_path: Path) -> None:
    trainer = build_trainer(make_recipe(tiny_bert, tmp_path))
    model, task, features = trainer.model.eval(), trainer.task, trainer.train_dataset
    rows = [{**features[i], "row": i, "epoch": 0} for i in range(len(features))]
    assert len({len(r["input_ids"]) for r in rows}) > 3
    with torch.no_grad():
        total, _ = task.loss(model, task.collate(rows, trainer.processing_class, "padded"))
        losses = []
        for row in rows:  # alone, without padding
            labels = {"start_positions": torch.tensor([row["start"]]), "end_positions": torch.tensor([row["end"]])}
            types = torch.tensor([row["token_type_ids"]])
            losses.append(model(torch.tensor([row["input_ids"]]), token_type_ids=types, **labels).loss)
    assert total.item() == pytest.approx(sum(losses).item(), rel=1e-5)
    assert int(task.weight(task.collate(rows, trainer.processing_class, "padded"))) == len(rows)


def test_one_batch_of_eight_equals_two_accumulated_of_four(tiny_bert: Path, tmp_path: Path) -> None:
    def losses(name: str, **training: int) -> list[float]:
        trainer = build_trainer(make_recipe(tiny_bert, tmp_path / name, **training))
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    one = losses("one")
    two = losses("two", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert len(one) == 4 and two == pytest.approx(one, abs=1e-5)


# -- answers


def test_predict_step_returns_the_best_of_all_spans(tokenizer: Any) -> None:
    """Compares with every pair of tokens, one by one."""
    task = QuestionAnswering(n_best=7, max_answer_tokens=4)
    features = encode([make_row("Which?", FERRY, None), make_row("Which house is green?", LONG, None)], tokenizer)
    batch = task.collate(features, tokenizer, "padded")
    torch.manual_seed(0)
    logits = torch.randn(2, *batch["input_ids"].shape) * 3

    def model(**_: Any) -> Any:
        return SimpleNamespace(start_logits=logits[0], end_logits=logits[1])

    outputs = task.predict_step(model, batch).numpy()
    assert outputs.shape == (len(features), 2 + 3 * 7)
    for i, feature in enumerate(features):
        inside = np.flatnonzero(feature["char_starts"] >= 0)
        scores = {
            (feature["char_starts"][a], feature["char_ends"][b]): (logits[0, i, a] + logits[1, i, b]).item()
            for a in inside
            for b in inside
            if a <= b < a + 4
        }
        best = sorted(scores.items(), key=lambda pair: -pair[1])
        null, rest, values, starts, ends = outputs[i, 0], outputs[i, 1], *np.split(outputs[i, 2:], 3)
        assert null == pytest.approx((logits[0, i, 0] + logits[1, i, 0]).item(), abs=1e-5)
        assert list(zip(starts, ends, strict=True)) == [span for span, _ in best[:7]]
        assert values == pytest.approx([score for _, score in best[:7]], abs=1e-5)
        assert rest == pytest.approx(np.logaddexp.reduce([score for _, score in best[7:]]), abs=1e-4)


def window(null: float, *spans: tuple[float, int, int], rest: float = -math.inf) -> list[float]:
    """The `predict_step` of a window, from (score, start, end) of its spans."""
    return [null, rest, *(v for column in zip(*spans, strict=True) for v in column)]


def test_answer_is_the_best_of_all_windows_with_its_probability() -> None:
    task = QuestionAnswering(unanswerable=False, n_best=2)
    at = FERRY.index("Tuesday")
    first = window(9.0, (1.0, 0, 3), (2.0, at - 1, at + 7))
    second = window(0.0, (3.0, at, at + 7), (0.0, 4, 10), rest=1.0)
    answer = task.answer(FERRY, np.array([first, second]))
    total = sum(map(math.exp, (1.0, 3.0, 0.0, 1.0)))  # Tuesday counts once, with and without the space before it
    assert (answer["answer"], answer["start"], answer["end"]) == ("Tuesday", at, at + 7)
    assert answer["score"] == pytest.approx(math.exp(3.0) / total)
    assert [a["answer"] for a in answer["n_best"]] == ["Tuesday", "Old"]


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, ""), (1.5, ""), (2.5, "Old")])
def test_no_answer_must_exceed_the_best_answer_by_null_threshold(threshold: float, expected: str) -> None:
    windows = np.array([window(5.0, (1.0, 0, 3)), window(3.0, (0.0, 4, 10))])  # the lowest null score counts
    answer = QuestionAnswering(unanswerable=True, n_best=1, null_threshold=threshold).answer(FERRY, windows)
    assert answer["answer"] == expected
    assert (answer["start"], answer["end"]) == ((None, None) if expected == "" else (0, 3))
    assert [a["answer"] for a in answer["n_best"]] == ["", "Old"]
    assert sum(a["score"] for a in answer["n_best"]) == pytest.approx(1 - 1 / sum(map(math.exp, (3.0, 1.0, 0.0))))


def test_answer_below_unknown_below_is_unknown_and_has_no_span() -> None:
    windows = np.array([window(-9.0, (1.0, 0, 3), (0.9, 4, 10))])
    low, high = (QuestionAnswering(unknown_below=p, n_best=2).answer(FERRY, windows) for p in (0.6, 0.5))
    assert high["answer"] == "Old"
    assert low["answer"] == "unknown" and low["start"] is low["end"] is None
    assert low["n_best"] == high["n_best"] and low["score"] == high["score"]


def test_context_without_any_span_has_no_answer() -> None:
    answer = QuestionAnswering(n_best=2).answer("…", np.array([[0.0, -np.inf, -np.inf, -np.inf, -1, -1, -1, -1]]))
    assert answer["answer"] == "" and answer["score"] == 1.0


def test_saved_folder_predicts_what_the_trainer_measured(answerer: Any) -> None:
    assert answerer.metrics["after"]["f1"] > answerer.metrics["before"]["f1"] + 30
    model = llmkit.load(str(answerer.output))
    assert model.task == answerer.trainer.task and model.task.unanswerable
    answers = model.predict(QUESTIONS)
    scores = [
        squad.f1(a["answer"] if a["start"] is not None else "", row["answers"]["text"])
        for a, row in zip(answers, QUESTIONS, strict=True)
    ]
    assert 100 * sum(scores) / len(scores) == pytest.approx(answerer.metrics["after"]["f1"])
    for row, answer in zip(QUESTIONS, answers, strict=True):
        alone = model.predict(row)
        assert (alone["answer"], alone["start"], alone["end"]) == (answer["answer"], answer["start"], answer["end"])
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_every_answer_is_at_its_start_and_end(answerer: Any) -> None:
    model = llmkit.load(str(answerer.output))
    for context in (LONG, CHINESE * 8, FERRY):
        answer = model.predict({"question": "什么颜色？ What colour?", "context": context})
        assert len(answer["n_best"]) == 6 and sum(a["score"] for a in answer["n_best"]) <= 1 + 1e-6
        assert [a["score"] for a in answer["n_best"]] == sorted((a["score"] for a in answer["n_best"]), reverse=True)
        for a in answer["n_best"]:
            assert a["answer"] == ("" if a["start"] is None else context[a["start"] : a["end"]])
            assert a["answer"] == a["answer"].strip()


def test_predict_finds_answer_at_the_end_of_a_long_context(
    tokenizer: Any, tiny_bert: Path, capsys: pytest.CaptureFixture
) -> None:
    """By a model that points at question marks, in a context of dozens of windows."""
    (mark,) = tokenizer("?", add_special_tokens=False)["input_ids"]

    class Pointer(torch.nn.Module):
        config, device = AutoConfig.from_pretrained(tiny_bert), torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            logits = 20.0 * (input_ids == mark)
            return SimpleNamespace(start_logits=logits, end_logits=logits)

    context = "nothing to see here. " * 200 + "But here? Nothing."
    answer = QuestionAnswering().predict(Pointer(), tokenizer, [{"question": "Where", "context": context}], 64)[0]
    assert (answer["answer"], answer["start"]) == ("?", context.index("?")) and answer["score"] > 0.99
    assert capsys.readouterr().err == ""
    QuestionAnswering().predict(Pointer(), tokenizer, [{"question": "Where " * 60, "context": context}], 64)
    assert f"1 question cut to {(64 - 3) // 2} tokens" in capsys.readouterr().err


def test_predict_command_answers_arguments_stdin_and_files(
    answerer: Any, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*words: str) -> list[str]:
        assert command(["predict", str(answerer.output), *words]) in (0, None)
        return capsys.readouterr().out.splitlines()

    pairs = [{"question": q["question"], "context": q["context"]} for q in QUESTIONS[:3]]
    lines = [json.dumps(p, ensure_ascii=False) for p in pairs]
    flat, nested = tmp_path / "questions.jsonl", tmp_path / "squad.json"
    flat.write_text("\n".join(lines))
    nested.write_text(json.dumps({"data": [make_article(p["context"], {"question": p["question"]}) for p in pairs]}))
    expected = predict(str(flat))
    assert [line.split("\t")[2] for line in expected] == [p["question"] for p in pairs]
    assert predict(*lines) == predict(str(nested)) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert predict("-") == expected
    (answer,) = map(json.loads, predict(lines[0], "--json"))
    assert answer.items() >= pairs[0].items() and {"answer", "score", "start", "end", "n_best"} <= set(answer)


def test_predict_command_shows_an_example_for_a_question_without_context(answerer: Any) -> None:
    with pytest.raises(UsageError, match="no context; question-answering reads question, context") as e:
        command(["predict", str(answerer.output), '{"question": "When?"}'])
    assert """a JSON object as text: '{"question": "…", "context": "…"}'""" in e.value.faults[-1]


def test_evaluate_of_a_file_equals_the_metrics_of_training(answerer: Any, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in QUESTIONS))
    result = evaluate(str(answerer.output), str(file))
    assert result["metrics"] == pytest.approx(answerer.metrics["after"])
    low, high = result["intervals"]["f1"]
    assert low <= result["metrics"]["f1"] <= high
    parts = result["details"]
    assert parts["answerable"]["questions"] + parts["unanswerable"]["questions"] == len(QUESTIONS)


def test_predict_names_an_empty_context() -> None:
    lines = ['{"question": "Who?", "context": "A man."}', '{"question": "Who?", "context": ""}']
    with pytest.raises(UsageError, match="input 2: empty 'context'"):
        read_inputs(lines, QuestionAnswering())


# -- metrics


def test_example_stats_count_an_unknown_answer_as_none() -> None:
    rows = load_part([make_row("Who?", FERRY, None)], QuestionAnswering(), DataConfig())
    outputs, features = np.array([window(-9.0, (1.0, 0, 3), (0.9, 4, 10))]), Dataset.from_dict({"row": [0]})
    for unknown_below, expected in ((0.6, [[1.0, 1.0, 0.0]]), (0.5, [[0.0, 0.0, 0.0]])):
        task = QuestionAnswering(unknown_below=unknown_below, n_best=2)
        assert task.example_stats(outputs, features, rows, None).tolist() == expected


def test_details_separate_questions_with_and_without_answer() -> None:
    stats = np.array([[1, 1.0, 1], [0, 0.5, 1], [1, 1.0, 0], [0, 0.0, 0]])  # exact match, F1, whether it has an answer
    task = QuestionAnswering()
    assert task.metrics[0] == "f1" and task.score(stats) == {"exact_match": 50.0, "f1": 62.5}
    details = task.details(stats)
    assert details["answerable"] == {"questions": 2, "exact_match": 50.0, "f1": 75.0}
    assert details["unanswerable"] == {"questions": 2, "exact_match": 50.0, "f1": 50.0}
    assert task.details(stats[:2]) == {}


def test_baselines_are_two_floors_and_a_reference() -> None:
    rows = [make_row("When was the bell lost?", FERRY, "Tuesday"), make_row("Why?", FERRY, None)]
    parts = {"evaluation": load_part(rows, QuestionAnswering(), DataConfig())}
    baselines = QuestionAnswering(unanswerable=True).baselines(None, None, parts, False)
    assert {k: v["kind"] for k, v in baselines.items()} == {
        "always no answer": "floor", "the whole context": "floor", "the sentence most like the question": "reference",
    }  # fmt: skip
    assert baselines["always no answer"]["value"] == 50.0
    assert baselines["the whole context"]["value"] == pytest.approx(100 * (2 / (1 + len(squad.words(FERRY)))) / 2)
    assert baselines["the sentence most like the question"]["value"] > baselines["the whole context"]["value"]
    assert "always no answer" not in QuestionAnswering().baselines(None, None, parts, False)
