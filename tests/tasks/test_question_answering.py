"""Question answering: SQuAD's files as they come, windows that lose nothing, answers where they stand in the context,
scores of the official script."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXACT, QUESTIONS

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli import command
from llmkit.data import load_part, load_rows
from llmkit.errors import RecipeError
from llmkit.evaluation import squad
from llmkit.models import tokenizers
from llmkit.tasks import QuestionAnswering

FERRY = "Old Marrow the ferryman lost his brass bell on Tuesday. His granddaughter Pia found it in the goat shed."
LONG = " ".join(f"House {i} of the long street is painted {c}." for i, c in enumerate(["red", "blue", "green"] * 12))
CHINESE = "老渔夫方大河每天清晨划着一条绿色的小船去打鱼。星期三早上，他捡到一只受伤的白鹭。"


def asked(question: str, context: str, answer: str | None) -> dict[str, Any]:
    found = [] if answer is None else [answer]
    return {
        "question": question,
        "context": context,
        "answers": {"text": found, "answer_start": [context.index(a) for a in found]},
    }


def article(context: str, *qas: dict[str, Any]) -> dict[str, Any]:
    return {"title": "a title", "paragraphs": [{"context": context, "qas": list(qas)}]}


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    return tokenizers.load(str(tiny_bert))


@pytest.fixture(scope="module")
def typed() -> Any:
    """A tokenizer whose tokens say which of two texts they are of, as BERT's does."""
    tokenizer = tokenizers.train("wordpiece", 300, iter([FERRY, LONG, CHINESE]), "bert")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@pytest.fixture(scope="module")
def answerer(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 40 steps on QUESTIONS, that learns them by heart."""
    recipe = Recipe(
        QuestionAnswering(),
        ModelConfig(name=str(tiny_bert)),
        DataConfig(train=QUESTIONS, validation=QUESTIONS),
        {**EXACT, "max_steps": 40, "learning_rate": 1e-2, "per_device_train_batch_size": len(QUESTIONS)},
        RunConfig(str(tmp_path_factory.mktemp("answerer") / "run")),
    )
    return run(recipe)


# --- rows --------------------------------------------------------------------------------------------------------------

TUESDAY = {"text": "Tuesday", "answer_start": FERRY.index("Tuesday")}
SAME = {
    "SQuAD 1": article(FERRY, {"id": "q1", "question": "When?", "answers": [TUESDAY]}),
    "SQuAD 2": article(FERRY, {"id": "q1", "question": "When?", "answers": [TUESDAY], "is_impossible": False}),
    "a paragraph": {"context": FERRY, "qas": [{"id": 1, "question": "When?", "answers": [TUESDAY]}]},
    "flat, a list": {"question": "When?", "context": FERRY, "answers": [TUESDAY]},
    "flat, lists": {"question": "When?", "context": FERRY, "answers": {k: [v] for k, v in TUESDAY.items()}},
    "one answer": {"query": "When?", "passage": FERRY, "answer": "Tuesday", "answer_start": 47},
    "of a .csv": {"question": "When?", "context": FERRY, "answer": "Tuesday", "answer_start": "47"},
    "blanks around it": {"question": "When?", "context": FERRY, "answer": " Tuesday ", "answer_start": 46},
    "blanks not counted": {"question": "When?", "context": FERRY, "answer": " Tuesday", "answer_start": 47},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_a_question_is_the_same_in_every_format(row: dict[str, Any]) -> None:
    (found,) = load_part([row], QuestionAnswering(), DataConfig())
    assert found == asked("When?", FERRY, "Tuesday")


NONE = {
    "SQuAD 2": article(
        FERRY, {"question": "Who?", "answers": [], "plausible_answers": [TUESDAY], "is_impossible": True}
    ),
    "an empty list": {"question": "Who?", "context": FERRY, "answers": []},
    "empty lists": {"question": "Who?", "context": FERRY, "answers": {"text": [], "answer_start": []}},
    "an empty answer": {"question": "Who?", "context": FERRY, "answer": "", "answer_start": None},
}


@pytest.mark.parametrize("row", NONE.values(), ids=NONE)
def test_a_question_without_an_answer_is_known_in_every_format(row: dict[str, Any]) -> None:
    rows = load_part([row], QuestionAnswering(), DataConfig())
    assert list(rows) == [asked("Who?", FERRY, None)]
    assert QuestionAnswering().fit(rows).unanswerable is True


BAD = {
    "does not stand at character 40 of its context, but at 47": {"answers": [{"text": "Tuesday", "answer_start": 40}]},
    "does not stand at character 0 of its context, nor anywhere else": {
        "answers": [{"text": "Friday", "answer_start": 0}]
    },
    "at character -7": {"answers": [{"text": "shed.", "answer_start": -7}]},
    "answer '' at 3: not a text": {"answers": [{"text": "", "answer_start": 3}]},
    "answer 'Tuesday' at None: not a text and a whole number": {"answers": [{"text": "Tuesday"}]},
    "no 'answers'; they are a list of text and answer_start, empty where there is none": {"answers": None},
    "'answers' is 'Tuesday'": {"answers": "Tuesday"},
    "2 texts in 'answers'": {"answers": {"text": ["Tuesday", "Pia"], "answer_start": [47]}},
    "is_impossible, and yet answered by 'Tuesday'": {"answers": [TUESDAY], "is_impossible": True},
    "no answer, and yet not is_impossible": {"answers": [], "is_impossible": False},
    "empty 'question'": {"answers": [TUESDAY], "question": " "},
    "no 'context'": {"answers": [TUESDAY], "context": None},
}


@pytest.mark.parametrize(("why", "row"), BAD.items(), ids=BAD)
def test_a_bad_question_is_named_with_its_reason(why: str, row: dict[str, Any]) -> None:
    rows = [{"question": "When?", "context": FERRY, "is_impossible": None, **row}]
    with pytest.raises(RecipeError) as e:
        load_part(rows, QuestionAnswering(), DataConfig())
    (line,) = e.value.faults
    assert line.startswith("1 bad row: row 1: ") and why in line and "\n" not in line


def test_one_bad_question_leaves_the_others_of_its_article(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = {"id": "w7", "question": "When?", "answers": [{"text": "Tuesday", "answer_start": 40}]}
    right = {"id": "r8", "question": "When was it?", "answers": [TUESDAY]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [article(FERRY, wrong, right)]}))
    with pytest.raises(RecipeError, match=r"squad.json row 1: question 'w7': answer 'Tuesday' does not stand"):
        load_part(str(file), QuestionAnswering(), DataConfig())
    rows = load_part(str(file), QuestionAnswering(), DataConfig(on_error="skip"))
    assert rows["question"][:] == ["When was it?"] and "question 'w7'" in capsys.readouterr().err


def test_a_malformed_article_is_a_bad_row() -> None:
    for paragraphs in ("text", [FERRY], [{"context": FERRY}], [{"context": FERRY, "qas": ["When?"]}]):
        with pytest.raises(RecipeError, match="row 1: a paragraph is no mapping of 'context' and 'qas'"):
            load_part([{"paragraphs": paragraphs}], QuestionAnswering(), DataConfig())


def test_a_context_stays_on_one_side_of_a_split() -> None:
    rows = [asked(f"Question {i}?", f"{FERRY} Part {i // 5}.", "Pia") for i in range(100)]
    parts = load_rows(DataConfig(train=rows, validation=0.2), QuestionAnswering()).rows
    train, held = set(parts["train"]["context"]), set(parts["validation"]["context"])
    assert len(train) == 16 and len(held) == 4 and not train & held


def test_columns_that_are_not_there_are_said_with_those_that_would_do() -> None:
    with pytest.raises(RecipeError, match=r"reads question, context, answers; or .*; or context, qas; or paragraphs"):
        load_part([{"question": "When?", "text": FERRY}], QuestionAnswering(), DataConfig())


@pytest.mark.parametrize(("knob", "value"), [("stride", -1), ("max_answer_tokens", 0), ("n_best", 0)])
def test_an_impossible_knob_is_refused(knob: str, value: int) -> None:
    with pytest.raises(RecipeError, match=f"task.{knob}: {value}; at least"):
        QuestionAnswering(**{knob: value})


# --- windows -----------------------------------------------------------------------------------------------------------


def windows(rows: list[dict[str, Any]], tokenizer: Any, max_length: int, stride: int = 8) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows] for name in ("question", "context", "answers")}
    return QuestionAnswering(stride=stride).encode(columns, tokenizer, max_length)


def shown(found: dict[str, Any], i: int) -> tuple[np.ndarray, np.ndarray]:
    inside = found["char_starts"][i] >= 0
    return found["char_starts"][i][inside], found["char_ends"][i][inside]


@pytest.mark.parametrize("context", [LONG, CHINESE * 6], ids=["English", "Chinese"])
@pytest.mark.parametrize("which", ["tokenizer", "typed"])
def test_windows_cover_the_context_and_share_the_stride(which: str, context: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(which)
    found = windows([asked("Which is green?", context, None)], tokenizer, 48)
    tokens = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    seen = [list(zip(*shown(found, i), strict=True)) for i in range(len(found["row"]))]
    assert len(seen) > 3 and all(len(ids) <= 48 for ids in found["input_ids"])
    for before, after in itertools.pairwise(seen):
        assert before[-8:] == after[:8]
    assert seen[0] + [pair for part in seen[1:] for pair in part[8:]] == tokens


@pytest.mark.parametrize("which", ["tokenizer", "typed"])
@pytest.mark.parametrize(
    ("context", "answer"),
    [(LONG, "House 17"), (LONG, "street is painted"), (FERRY, "the goat shed"), (CHINESE * 6, "绿色的小船")],
)
def test_a_window_s_labels_are_its_answer_or_none(which: str, context: str, answer: str, request: Any) -> None:
    tokenizer = request.getfixturevalue(which)
    row = asked("Which?", context, answer)
    found, (start,) = windows([row], tokenizer, 48), row["answers"]["answer_start"]
    holds = 0
    for i in range(len(found["row"])):
        starts, ends = shown(found, i)
        first, last = found["start"][i], found["end"][i]
        if starts[0] <= start and start + len(answer) <= ends[-1]:
            text = context[found["char_starts"][i][first] : found["char_ends"][i][last]]
            assert text.strip() == answer
            holds += 1
        else:
            assert first == last == found["null"][i] == 0
            assert found["input_ids"][i][0] == tokenizer.cls_token_id
    assert holds >= 1 and found["truncated"] == [False]


def test_tokens_say_which_text_they_are_of_where_the_tokenizer_does(tokenizer: Any, typed: Any) -> None:
    row = asked("Which?", LONG, None)
    assert "token_type_ids" not in windows([row], tokenizer, 48)
    found = windows([row], typed, 48)
    batch = QuestionAnswering().collate(
        [{k: v[i] for k, v in found.items() if k != "truncated"} for i in (0, 1)], typed, "padded"
    )
    inside = batch["char_starts"] >= 0
    assert batch["token_type_ids"][inside].eq(1).all() and batch["token_type_ids"][:, :3].eq(0).all()


def test_a_question_longer_than_half_a_row_is_cut_and_counted(tokenizer: Any) -> None:
    rows = [asked("Which? " * 60, FERRY, "Pia"), asked("Which?", FERRY, "Pia")]
    found = windows(rows, tokenizer, 48)
    assert found["truncated"] == [True, False]
    for i, row in enumerate(found["row"]):
        assert len(found["input_ids"][i]) <= 48
        if row == 0:
            assert found["input_ids"][i].index(tokenizer.sep_token_id) - 1 == (48 - 3) // 2
        assert any(found["start"][j] > 0 for j, r in enumerate(found["row"]) if r == row)


def test_an_answer_that_no_window_holds_is_not_taught_to_be_none(tokenizer: Any) -> None:
    found = windows([asked("What?", LONG, LONG[20:400]), asked("What?", LONG, None)], tokenizer, 48)
    task = QuestionAnswering()
    labels = {row: {s for s, r in zip(found["start"], found["row"], strict=True) if r == row} for row in (0, 1)}
    assert labels == {0: {-100}, 1: {0}} and found.pop("truncated") == [True, False]
    features = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    batch = task.collate(features, tokenizer, "padded")
    assert int(task.weight(batch)) == sum(r == 1 for r in found["row"])


@pytest.mark.parametrize("max_length", [8, 12, 64])
@pytest.mark.parametrize("stride", [0, 128])
def test_any_row_length_and_stride_gives_windows(tokenizer: Any, max_length: int, stride: int) -> None:
    found = windows([asked("Which house is green?", LONG, "blue")], tokenizer, max_length, stride)
    assert max(map(len, found["input_ids"])) <= max_length
    assert max(ends.max() for ends in found["char_ends"]) == len(LONG)


def test_a_row_without_room_is_said(tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"data.max_length: 5 leaves no room for a question and its context"):
        windows([asked("Which?", FERRY, "Pia")], tokenizer, 5)


# --- loss --------------------------------------------------------------------------------------------------------------


def recipe(bert: Path, folder: Path, **training: Any) -> Recipe:
    data = DataConfig(train=QUESTIONS, validation=QUESTIONS, max_length=48)
    training = {**EXACT, "max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 8, **training}
    return Recipe(QuestionAnswering(), ModelConfig(name=str(bert)), data, training, RunConfig(str(folder)))


def test_the_loss_is_that_of_each_window_alone_by_hand(tiny_bert: Path, tmp_path: Path) -> None:
    trainer = build_trainer(recipe(tiny_bert, tmp_path))
    model, task, features = trainer.model.eval(), trainer.task, trainer.train_dataset
    rows = [{**features[i], "row": i, "epoch": 0} for i in range(len(features))]
    assert len({len(r["input_ids"]) for r in rows}) > 3
    with torch.no_grad():
        total, _ = task.loss(model, task.collate(rows, trainer.processing_class, "padded"))
        alone = []
        for row in rows:
            wanted = {"start_positions": torch.tensor([row["start"]]), "end_positions": torch.tensor([row["end"]])}
            types = torch.tensor([row["token_type_ids"]])
            alone.append(
                model(torch.tensor([row["input_ids"]]), token_type_ids=types, **wanted).loss
            )  # the library's, with no padding
    assert total.item() == pytest.approx(sum(alone).item(), rel=1e-5)
    assert int(task.weight(task.collate(rows, trainer.processing_class, "padded"))) == len(rows)


def test_eight_at_once_are_four_twice(tiny_bert: Path, tmp_path: Path) -> None:
    def losses(name: str, **cut: int) -> list[float]:
        trainer = build_trainer(recipe(tiny_bert, tmp_path / name, **cut))
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    whole = losses("whole")
    cut = losses("cut", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert len(whole) == 4 and cut == pytest.approx(whole, abs=1e-5)


# --- answers -----------------------------------------------------------------------------------------------------------


def test_a_window_s_spans_are_the_best_of_all(tokenizer: Any) -> None:
    """Against every pair of tokens, one by one."""
    task = QuestionAnswering(n_best=7, max_answer_tokens=4)
    found = windows([asked("Which?", FERRY, None), asked("Which house is green?", LONG, None)], tokenizer, 48)
    found.pop("truncated")
    features = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    batch = task.collate(features, tokenizer, "padded")
    torch.manual_seed(0)
    logits = torch.randn(2, *batch["input_ids"].shape) * 3

    def model(**_: Any) -> Any:
        return type("Output", (), {"start_logits": logits[0], "end_logits": logits[1]})

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
    return [null, rest, *(v for column in zip(*spans, strict=True) for v in column)]


def test_the_best_of_all_windows_answers_with_its_share() -> None:
    task = QuestionAnswering(unanswerable=False, n_best=2)
    at = FERRY.index("Tuesday")
    seen = np.array(
        [window(9.0, (1.0, 0, 3), (2.0, at - 1, at + 7)), window(0.0, (3.0, at, at + 7), (0.0, 4, 10), rest=1.0)]
    )
    answer = task.answer(FERRY, seen)
    total = sum(map(math.exp, (1.0, 3.0, 0.0, 1.0)))  # Tuesday once: seen twice, with and without the blank before it
    assert (answer["answer"], answer["start"], answer["end"]) == ("Tuesday", at, at + 7)
    assert answer["score"] == pytest.approx(math.exp(3.0) / total)
    assert [a["answer"] for a in answer["n_best"]] == ["Tuesday", "Old"]


@pytest.mark.parametrize(("threshold", "said"), [(0.0, ""), (1.5, ""), (2.5, "Old")])
def test_no_answer_must_exceed_the_best_by_the_threshold(threshold: float, said: str) -> None:
    seen = np.array([window(5.0, (1.0, 0, 3)), window(3.0, (0.0, 4, 10))])  # none is as likely as where it is least so
    answer = QuestionAnswering(unanswerable=True, n_best=1, null_threshold=threshold).answer(FERRY, seen)
    assert answer["answer"] == said
    assert (answer["start"], answer["end"]) == ((None, None) if said == "" else (0, 3))
    assert [a["answer"] for a in answer["n_best"]] == ["", "Old"]
    assert sum(a["score"] for a in answer["n_best"]) == pytest.approx(1 - 1 / sum(map(math.exp, (3.0, 1.0, 0.0))))


def test_an_answer_below_the_confidence_is_unknown_and_counts_as_none() -> None:
    seen = np.array([window(-9.0, (1.0, 0, 3), (0.9, 4, 10))])
    unsure, sure = (QuestionAnswering(unknown_below=p, n_best=2).answer(FERRY, seen) for p in (0.6, 0.5))
    assert sure["answer"] == "Old"
    assert unsure["answer"] == "unknown" and unsure["start"] is unsure["end"] is None
    assert unsure["n_best"] == sure["n_best"] and unsure["score"] == sure["score"]


def test_a_context_of_which_nothing_is_seen_has_no_answer() -> None:
    answer = QuestionAnswering(n_best=2).answer("…", np.array([[0.0, -np.inf, -np.inf, -np.inf, -1, -1, -1, -1]]))
    assert answer["answer"] == "" and answer["score"] == 1.0


def test_it_learns_and_the_folder_answers_as_the_trainer_did(answerer: Any) -> None:
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


def test_every_answer_stands_where_it_says(answerer: Any) -> None:
    model = llmkit.load(str(answerer.output))
    for context in (LONG, CHINESE * 8, FERRY):
        answer = model.predict({"question": "什么颜色？ What colour?", "context": context})
        assert len(answer["n_best"]) == 6 and sum(a["score"] for a in answer["n_best"]) <= 1 + 1e-6
        assert [a["score"] for a in answer["n_best"]] == sorted((a["score"] for a in answer["n_best"]), reverse=True)
        for a in answer["n_best"]:
            assert a["answer"] == ("" if a["start"] is None else context[a["start"] : a["end"]])
            assert a["answer"] == a["answer"].strip()


def test_an_answer_at_the_end_of_a_long_context_is_found(tokenizer: Any, tiny_bert: Path) -> None:
    """By a model that points at question marks, in a context of dozens of rows."""
    from transformers import AutoConfig

    (mark,) = tokenizer("?", add_special_tokens=False)["input_ids"]

    class Pointer(torch.nn.Module):
        config, device = AutoConfig.from_pretrained(tiny_bert), torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            logits = 20.0 * (input_ids == mark)
            return type("Output", (), {"start_logits": logits, "end_logits": logits})

    context = "nothing to see here. " * 200 + "But here? Nothing."
    answer = QuestionAnswering().predict(Pointer(), tokenizer, [{"question": "Where", "context": context}])[0]
    assert (answer["answer"], answer["start"]) == ("?", context.index("?")) and answer["score"] > 0.99


def test_the_command_answers_what_is_typed_piped_and_in_files(
    answerer: Any, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    def said(*words: str) -> list[str]:
        assert command(["predict", str(answerer.output), *words]) in (0, None)
        return capsys.readouterr().out.splitlines()

    pairs = [{"question": q["question"], "context": q["context"]} for q in QUESTIONS[:3]]
    lines = [json.dumps(p, ensure_ascii=False) for p in pairs]
    flat, nested = tmp_path / "asked.jsonl", tmp_path / "squad.json"
    flat.write_text("\n".join(lines))
    nested.write_text(json.dumps({"data": [article(p["context"], {"question": p["question"]}) for p in pairs]}))
    expected = said(str(flat))
    assert [line.split("\t")[2] for line in expected] == [p["question"] for p in pairs]
    assert said(*lines) == said(str(nested)) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert said("-") == expected
    (answer,) = map(json.loads, said(lines[0], "--json"))
    assert answer.items() >= pairs[0].items() and {"answer", "score", "start", "end", "n_best"} <= set(answer)


def test_a_question_without_its_context_is_said_with_an_example(answerer: Any) -> None:
    with pytest.raises(RecipeError, match="no context; question-answering asks for question, context") as e:
        command(["predict", str(answerer.output), '{"question": "When?"}'])
    assert """type a JSON object: '{"question": "…", "context": "…"}'""" in e.value.faults[-1]


def test_evaluate_measures_a_squad_file_as_the_training_did(answerer: Any, tmp_path: Path) -> None:
    from llmkit.evaluation.measure import measure

    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in QUESTIONS))
    result = measure(str(answerer.output), str(file))
    assert result["metrics"] == pytest.approx(answerer.metrics["after"])
    low, high = result["intervals"]["f1"]
    assert low <= result["metrics"]["f1"] <= high
    parts = result["details"]
    assert parts["answerable"]["questions"] + parts["unanswerable"]["questions"] == len(QUESTIONS)


def test_an_empty_context_is_named() -> None:
    from llmkit.asking import read_inputs

    with pytest.raises(RecipeError, match="input 2: empty 'context'"):
        read_inputs(
            ['{"question": "Who?", "context": "A man."}', '{"question": "Who?", "context": ""}'], QuestionAnswering()
        )


# --- scores ------------------------------------------------------------------------------------------------------------

OFFICIAL = [  # what evaluate-v2.0.py, and where there is a truth evaluate-v1.1.py, gives for a prediction and its truths
    ("Denver Broncos", ["Denver Broncos"], 1, 1.0),
    ("the Denver Broncos", ["Denver Broncos"], 1, 1.0),
    ("Broncos", ["Denver Broncos", "The Broncos"], 1, 1.0),
    ("Denver Broncos!", ["denver  broncos"], 1, 1.0),
    ("in 1990", ["1990"], 0, 0.6666666666666666),
    ("1990s", ["1990"], 0, 0),
    ("cat cat dog", ["cat dog dog"], 0, 0.6666666666666666),
    ("an apple a day", ["apple day"], 1, 1.0),
    ("", ["Denver"], 0, 0),
    ("Denver", [], 0, 0),
    ("", [], 1, 1),
    ("state-of-the-art", ["state of the art"], 0, 0),
    ("it's", ["its"], 1, 1.0),
    ("U.S.A.", ["USA"], 1, 1.0),
    ("“quoted”", ["quoted"], 0, 0),
    ("$5 million", ["5 million"], 1, 1.0),
    ("The", ["Denver"], 0, 0),
    ("New York City, New York", ["New York", "New York City"], 0, 0.7499999999999999),
    ("theory", ["the ory"], 0, 0),
    ("one two three four", ["three", "two three", "four five six"], 0, 0.6666666666666666),
]


@pytest.mark.parametrize(("prediction", "truths", "exact", "f1"), OFFICIAL)
def test_scores_are_the_official_script_s(prediction: str, truths: list[str], exact: int, f1: float) -> None:
    assert squad.exact_match(prediction, truths) == exact
    assert squad.f1(prediction, truths) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "f1"),
    [
        ("绿色", "绿色", 1, 1.0),
        ("绿色的小船", "绿色", 0, 2 * 2 / (5 + 2)),
        ("“绿色”。", "绿色", 1, 1.0),  # full-width punctuation goes where the text is Chinese
        ("一只受伤的白鹭", "白鹭", 0, 2 * 2 / (7 + 2)),
        ("iPhone 手机", "iphone手机", 1, 1.0),
        ("2019年", "2019", 0, 2 / 3),
        ("白鹭", "鹭白", 0, 1.0),  # as of words, their order does not count
        ("ひらがな", "かな", 0, 2 * 1 / (4 + 2)),
        ("北京", "Beijing", 0, 0.0),
    ],
)
def test_chinese_is_compared_character_by_character(prediction: str, truth: str, exact: int, f1: float) -> None:
    assert squad.exact_match(prediction, truth) == exact
    assert squad.f1(prediction, truth) == pytest.approx(f1)


def test_details_part_questions_with_and_without_answer() -> None:
    examples = np.array([[1, 1.0, 1], [0, 0.5, 1], [1, 1.0, 0], [0, 0.0, 0]])  # EM, F1, whether there is an answer
    task = QuestionAnswering()
    assert task.score(examples) == {"exact_match": 50.0, "f1": 62.5}
    details = task.details(examples)
    assert details["answerable"] == {"questions": 2, "exact_match": 50.0, "f1": 75.0}
    assert details["unanswerable"] == {"questions": 2, "exact_match": 50.0, "f1": 50.0}
    assert task.details(examples[:2]) == {}


def test_baselines_are_floors_and_a_reference() -> None:
    rows = load_part(
        [asked("When was the bell lost?", FERRY, "Tuesday"), asked("Why?", FERRY, None)],
        QuestionAnswering(),
        DataConfig(),
    )
    found = QuestionAnswering(unanswerable=True).baselines(None, None, {"evaluation": rows}, False)
    assert {k: v["kind"] for k, v in found.items()} == {
        "always no answer": "floor", "the whole context": "floor", "the sentence most like the question": "reference",
    }  # fmt: skip
    assert found["always no answer"]["value"] == 50.0
    assert found["the whole context"]["value"] == pytest.approx(100 * (2 / (1 + len(squad.tokens(FERRY)))) / 2)
    assert found["the sentence most like the question"]["value"] > found["the whole context"]["value"]
    assert "always no answer" not in QuestionAnswering().baselines(None, None, {"evaluation": rows}, False)
