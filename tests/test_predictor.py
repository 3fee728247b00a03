"""`llmkit.load`: a model of a plain folder or a bundled name with its task; predictions equal those of the Transformers
objects within, for every batch size."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import llmkit
from llmkit.errors import UsageError

LABELS = {0: "bad", 1: "good", 2: "没意见"}
REVIEWS = [
    "a fine film",
    "dull",
    "太好看了，推荐",
    "the plot makes no sense at all, and the actors know it",
    "",
    "warm, funny and wise",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower with more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def classifier_folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier saved by transformers alone; its weights are large enough for answers that differ."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id, id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )  # fmt: skip
    return saved(BertForSequenceClassification(config), tokenizer, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def classifier(classifier_folder: Path) -> llmkit.predictor.Predictor:
    return llmkit.load(str(classifier_folder))


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- loading


@pytest.mark.parametrize(("fixture", "task", "cls"), [("tiny_gpt2", "causal-lm", GPT2LMHeadModel), ("tiny_bert", "masked-lm", BertForMaskedLM), ("classifier_folder", "text-classification", BertForSequenceClassification)])  # fmt: skip
def test_plain_folder_gives_its_task_and_transformers_own_objects(
    fixture: str, task: str, cls: type, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    assert not (folder / "recipe.yaml").exists()
    model = llmkit.load(str(folder))
    assert (model.task.name, type(model.model)) == (task, cls)
    assert isinstance(model.tokenizer, PreTrainedTokenizerBase) and not model.model.training
    theirs = cls.from_pretrained(folder).state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in model.model.state_dict().items())


def test_bundled_gpt2_generates() -> None:
    model = llmkit.load("tiny-gpt2")
    text = model.generate("Once upon a time", max_new_tokens=10)
    assert text.startswith("Once upon a time") and len(text) > len("Once upon a time")
    assert "".join(model.stream("Once upon a time", max_new_tokens=10)) == text.removeprefix("Once upon a time")


def test_bundled_bert_fills_masks() -> None:
    answer = llmkit.load("tiny-bert").predict("the fox ran over the [MASK].")
    assert len(answer["fills"]) == 1 and len(answer["fills"][0]) == 5


@pytest.mark.parametrize(("name", "as_path"), [("tiny_gpt2", True), ("tiny_gpt2", False)])
def test_folder_may_be_a_path_or_text(
    name: str, as_path: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(name)
    monkeypatch.chdir(folder.parent)
    model = llmkit.load(folder if as_path else f"./{folder.name}")  # type: ignore[arg-type]
    assert isinstance(model.model, PreTrainedModel)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_weights_are_float32_on_a_cpu_unless_dtype_is_given(
    tiny_gpt2: Path, tmp_path: Path, dtype: str, expected: torch.dtype
) -> None:
    half = GPT2LMHeadModel.from_pretrained(tiny_gpt2, dtype=torch.bfloat16)
    folder = saved(half, AutoTokenizer.from_pretrained(tiny_gpt2), tmp_path)
    assert llmkit.load(str(folder), dtype=dtype, device="cpu").model.dtype == expected


def test_run_folder_without_its_recipe_gives_the_same_predictions(review_recipe: Callable[..., Any]) -> None:
    """Of inputs that are not cut: without recipe.yaml the length is the model's limit."""
    folder = llmkit.run(review_recipe(training={"max_steps": 1}, max_length=64)).output
    first = llmkit.load(str(folder)).predict(REVIEWS)
    (folder / "recipe.yaml").unlink()
    assert llmkit.load(str(folder)).predict(REVIEWS) == first
    assert {a["label"] for a in first} <= {"positive", "negative"}


# -- classification


def directly(classifier: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return classifier.model(**classifier.tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)


@pytest.mark.parametrize("text", REVIEWS)
def test_label_is_that_of_the_folder_and_score_its_probability(classifier: Any, text: str) -> None:
    answer, expected = classifier.predict(text), directly(classifier, text)
    assert answer["label"] == LABELS[int(expected.argmax())]
    assert answer["score"] == pytest.approx(float(expected.max()), abs=1e-5)


def test_texts_of_this_file_have_different_answers(classifier: Any) -> None:
    """Otherwise the tests of order and batches would hold for one answer repeated."""
    answers = classifier.predict(REVIEWS)
    assert len({a["label"] for a in answers}) > 1 and len({round(a["score"], 4) for a in answers}) == len(REVIEWS)


@pytest.mark.parametrize(("inputs", "kind"), [("a fine film", dict), (["a fine film"], list), ([], list)])
def test_one_text_gives_one_answer_and_a_list_gives_a_list(classifier: Any, inputs: Any, kind: type) -> None:
    answer = classifier.predict(inputs)
    assert type(answer) is kind and (kind is dict or len(answer) == len(inputs))


@pytest.mark.parametrize(
    "inputs",
    [tuple(REVIEWS), iter(REVIEWS), np.array(REVIEWS), pd.Series(REVIEWS, index=range(6, 0, -1)), Dataset.from_dict({"text": REVIEWS})["text"]],
    ids=lambda inputs: type(inputs).__name__,
)  # fmt: skip
def test_inputs_may_come_in_any_collection(classifier: Any, inputs: Any) -> None:
    assert classifier.predict(inputs, batch_size=4) == classifier.predict(REVIEWS, batch_size=4)
    assert classifier.predict(np.array(REVIEWS)[0]) == classifier.predict(REVIEWS[0])


def test_iterator_is_read_a_batch_at_a_time(classifier: Any) -> None:
    texts = iter(REVIEWS)
    next(classifier.predict_iter(texts, batch_size=2))
    assert next(texts) == REVIEWS[2]


def test_plain_folder_is_evaluated_at_the_length_that_predict_reads(tiny_bert: Path, tmp_path: Path) -> None:
    """The default of 512 tokens is for runs; this model has more positions."""
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=600, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.3, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1},
    )  # fmt: skip
    folder = saved(BertForSequenceClassification(config), tokenizer, tmp_path)
    model = llmkit.load(folder)
    rows = [{"text": "a " * 550 + end, "label": "good"} for end in ("太好看了", "loud and long")]
    answers = model.predict([row["text"] for row in rows])
    assert model.max_length == 600 and answers[0]["score"] != pytest.approx(answers[1]["score"], abs=1e-4)
    losses = [-math.log(a["score"] if a["label"] == "good" else 1 - a["score"]) for a in answers]
    assert llmkit.evaluate(str(folder), rows)["metrics"]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_answers_and_their_order_do_not_depend_on_the_batch_size(classifier: Any, batch_size: int) -> None:
    together = classifier.predict(REVIEWS * 2, batch_size=batch_size)
    alone = [classifier.predict(t) for t in REVIEWS] * 2
    assert [a["label"] for a in together] == [a["label"] for a in alone]
    assert [a["score"] for a in together] == pytest.approx([a["score"] for a in alone], abs=1e-5)


@pytest.mark.parametrize("more", ["fine ", "太好看了"])
def test_text_longer_than_the_positions_is_cut(classifier: Any, more: str) -> None:
    """The tokenizer has no limit of its own; the model has 64 positions."""
    ids = classifier.tokenizer(more * 200, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        expected = classifier.model(**ids).logits[0].softmax(-1)
    short, long = classifier.predict(["dull", more * 200])
    assert short["score"] == pytest.approx(classifier.predict("dull")["score"], abs=1e-5)
    assert long["label"] == LABELS[int(expected.argmax())] and long["score"] == pytest.approx(
        float(expected.max()), abs=1e-5
    )


@pytest.mark.parametrize("max_length", [8, None])
def test_predict_cuts_at_the_length_of_the_run_and_warns_once(
    max_length: int | None, review_recipe: Callable[..., Any], capsys: pytest.CaptureFixture
) -> None:
    """Without a length of its own, a run has the model's 64 positions."""
    settings = {"max_steps": 1, "learning_rate": 0.1}
    model = llmkit.load(llmkit.run(review_recipe(training=settings, max_length=max_length)).output)
    length, long = max_length or 64, "warm, funny and wise, " * 20
    assert model.max_length == length
    capsys.readouterr()
    answers = model.predict([long, "good"] * 4, batch_size=2)
    assert capsys.readouterr().err == f"warning  4 inputs cut to {length} tokens\n"
    assert answers[0]["score"] == pytest.approx(model.predict(long + "dull, long and loud")["score"], abs=1e-6)
    ids = model.tokenizer(long, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        expected = model.model(**ids).logits[0].softmax(-1).max().item()
    assert answers[0]["score"] == pytest.approx(expected, abs=1e-5)


# -- masks


@pytest.fixture(scope="module")
def filler(tiny_bert: Path) -> Any:
    return llmkit.load(str(tiny_bert))


@pytest.mark.parametrize("text", ["the fox ran over the [MASK].", "[MASK] fox and a [MASK]", "从前，有一只[MASK]狸"])
def test_each_mask_gets_its_five_most_likely_tokens(filler: Any, text: str) -> None:
    ids = filler.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = filler.model(**ids).logits[0]
    best = logits[ids["input_ids"][0] == filler.tokenizer.mask_token_id].softmax(-1).topk(5)
    fills = filler.predict(text)["fills"]
    assert len(fills) == text.count("[MASK]")
    assert [[f["score"] for f in place] for place in fills] == [
        pytest.approx(p, abs=1e-5) for p in best.values.tolist()
    ]
    assert [[f["token"] for f in place] for place in fills] == [
        [filler.tokenizer.decode([i]).strip() for i in p] for p in best.indices.tolist()
    ]


def test_masked_texts_are_answered_in_order(filler: Any) -> None:
    texts = ["a [MASK]", "the quick brown [MASK] jumps over the lazy dog", "[MASK]"]
    assert filler.predict(texts) == [filler.predict(t) for t in texts]


def test_text_without_a_mask_gets_a_note_and_no_fills(filler: Any) -> None:
    answer = filler.predict("the fox ran")
    assert answer["fills"] == [] and "[MASK]" in answer["note"]


def test_mask_may_be_written_as_for_bert_whatever_the_model(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "roberta-like"
    shutil.copytree(tiny_bert, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("[MASK]", "<mask>"))
    model = llmkit.load(str(folder))
    assert model.tokenizer.mask_token == "<mask>"
    both = [model.predict(f"the fox ran over the {m}.")["fills"] for m in ("[MASK]", "<mask>")]
    assert both[0] == both[1] and len(both[0]) == 1


def test_mask_in_a_text_longer_than_the_positions_is_filled(filler: Any) -> None:
    assert len(filler.predict("a [MASK] " + "fox " * 200)["fills"]) == 1


# -- refusals


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        work()
    (line,) = caught.value.faults
    assert "\n" not in line
    return line


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize("fixture", ["filler", "classifier"])
def test_model_that_does_not_generate_is_refused(fixture: str, method: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(fixture)
    line = refusal(lambda: getattr(model, method)("Once upon a time"))
    assert model.task.name in line and "predict" in line


def test_model_that_does_not_predict_is_refused(tiny_gpt2: Path) -> None:
    line = refusal(lambda: llmkit.load(str(tiny_gpt2)).predict("a fine film"))
    assert "causal-lm" in line and "generate" in line


def test_model_of_no_task_is_refused_with_a_list_of_tasks(tiny_bert: Path, tmp_path: Path) -> None:
    other = BertForNextSentencePrediction(
        BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    line = refusal(lambda: llmkit.load(str(saved(other, AutoTokenizer.from_pretrained(tiny_bert), tmp_path))))
    assert "BertForNextSentencePrediction" in line and "text-classification" in line


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folder_without_one_of_its_files_is_refused(tiny_gpt2: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_gpt2, folder)
    (folder / missing).unlink()
    assert str(folder) in refusal(lambda: llmkit.load(str(folder)))


@pytest.mark.parametrize("content", [b"", b"{", b"\x89PNG"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_folder_with_a_broken_file_is_refused(tiny_gpt2: Path, tmp_path: Path, file: str, content: bytes) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_gpt2, folder)
    (folder / file).write_bytes(content)
    assert str(folder) in refusal(lambda: llmkit.load(str(folder)))


def test_mistyped_folder_is_refused_with_a_suggestion(tiny_gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_gpt2, tmp_path / "finetuned")
    assert f"did you mean '{tmp_path}/finetuned'" in refusal(lambda: llmkit.load(f"{tmp_path}/fintuned"))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refusal(lambda: llmkit.load(str(tmp_path)))


def test_name_that_is_neither_text_nor_a_path_is_refused() -> None:
    assert refusal(lambda: llmkit.load(3)) == "llmkit.load: got int; expected a folder or name"


def test_code_in_the_folder_of_a_model_is_not_run(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_gpt2, folder)
    (folder / "downloaded.py").write_text("raise SystemExit('it was run')")
    (folder / "recipe.yaml").write_text("task: {name: 'downloaded:Task'}")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    line = refusal(lambda: llmkit.load("."))
    assert "task 'downloaded:Task': its code is in the model's own folder, and is not run" in line
    assert "downloaded" not in sys.modules


def test_two_iterations_at_once_keep_their_warnings_apart(
    review_recipe: Callable[..., Any], capsys: pytest.CaptureFixture
) -> None:
    model = llmkit.load(llmkit.run(review_recipe(training={"max_steps": 1}, max_length=8)).output)
    long, short = "warm, funny and wise, " * 3, "good"
    capsys.readouterr()
    first, second = (model.predict_iter([long, short, long], batch_size=1) for _ in range(2))
    pairs = zip(first, second, strict=False)
    next(pairs)
    model.predict([long])
    assert capsys.readouterr().err == "warning  1 input cut to 8 tokens\n"
    assert len(list(pairs)) == 2
    list(second)
    assert capsys.readouterr().err == "warning  2 inputs cut to 8 tokens\n" * 2
    model.predict([long])
    assert capsys.readouterr().err == "warning  1 input cut to 8 tokens\n"
