"""`llmkit generate`, `predict` and `evaluate`: the answer alone on stdout, the talk on stderr, in order, resumable.

Most commands run in this process (`ask`); those about real pipes run in one of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import llmkit
from llmkit.cli import command, guard

PROMPTS = ["Once upon a time", "The", "从前，有一只", "a", "The quick brown fox jumps over the lazy dog"]
LABELS = {0: "bad", 1: "good"}
REVIEWS = ["a fine film", "dull", "太好看了，推荐", "the plot makes no sense at all", "warm, funny and wise"]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost models this small more than they give, the more so where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Answer]:
    """One llmkit command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any, stdin: str = "") -> Answer:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = guard(lambda: command([str(w) for w in words]))
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plain transformers, no recipe.yaml in it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id, id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.chat_template = TEMPLATE
    GPT2LMHeadModel.from_pretrained(tiny_gpt2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refused(answer: Answer, *words: str) -> None:
    """Status 2, nothing on stdout, one line on stderr that holds `words`."""
    assert (answer.code, answer.out) == (2, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("llmkit: ")
    assert [w for w in words if w not in line] == []


# --- generate: one prompt --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS[:3])
@pytest.mark.parametrize(("flags", "options"), [([], {}), (["--num-beams", 2], {"num_beams": 2}), (["--temperature", "0.8", "--seed", 1], {"temperature": 0.8, "seed": 1}), (["--stop", "e", "--stop", "7"], {"stop": ["e", "7"]})])  # fmt: skip
def test_stdout_holds_prompt_and_continuation_and_nothing_else(
    ask: Callable, tiny_gpt2: Path, prompt: str, flags: list, options: dict
) -> None:
    answer = ask("generate", tiny_gpt2, prompt, "--max-new-tokens", 8, *flags)
    assert (answer.code, answer.out) == (
        0,
        llmkit.load(str(tiny_gpt2)).generate(prompt, max_new_tokens=8, **options) + "\n",
    )
    assert len(answer.err.splitlines()) == 1 and "token" in answer.err


def test_json_holds_prompt_and_text_in_one_line(ask: Callable, tiny_gpt2: Path) -> None:
    (found,) = ask("generate", tiny_gpt2, PROMPTS[2], "--json").json
    assert found == {"prompt": PROMPTS[2], "text": llmkit.load(str(tiny_gpt2)).generate(PROMPTS[2])}


def test_several_sequences_are_json_lines(ask: Callable, tiny_gpt2: Path) -> None:
    answer = ask(
        "generate", tiny_gpt2, "Once", "--num-return-sequences", 3, "--seed", 4, "--max-new-tokens", 9, "--json"
    )
    expected = llmkit.load(str(tiny_gpt2)).generate("Once", num_return_sequences=3, seed=4, max_new_tokens=9)
    assert answer.json == [{"prompt": "Once", "text": t} for t in expected]


def test_several_sequences_are_all_printed(ask: Callable, tiny_gpt2: Path) -> None:
    answer = ask("generate", tiny_gpt2, "Once", "--num-return-sequences", 3, "--seed", 4, "--max-new-tokens", 9)
    expected = llmkit.load(str(tiny_gpt2)).generate("Once", num_return_sequences=3, seed=4, max_new_tokens=9)
    assert answer.out == "\n\n".join(expected) + "\n"


@pytest.mark.parametrize("flags", [[], ["--json"], ["--num-return-sequences", "2", "--num-beams", "2"]])
def test_the_figures_count_new_tokens_alone(ask: Callable, tiny_gpt2: Path, flags: list[str]) -> None:
    """The prompt was not generated. (Greedy on this model repeats one token: what it says is as long encoded again.)"""
    err = ask("generate", tiny_gpt2, PROMPTS[4], "--max-new-tokens", 6, *flags).err
    assert int(err.split()[0]) <= 6 * (2 if "--num-beams" in flags else 1)


@pytest.mark.parametrize("prompt", ["Once upon a time", "从前\n有一只"])
def test_a_dash_reads_the_prompt_from_stdin(ask: Callable, tiny_gpt2: Path, prompt: str) -> None:
    piped = ask("generate", tiny_gpt2, "-", "--max-new-tokens", 5, stdin=prompt)
    assert piped.out == ask("generate", tiny_gpt2, prompt, "--max-new-tokens", 5).out


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_chat_model_prints_its_answer_alone(ask: Callable, chat_model: Path, flags: list[str]) -> None:
    expected = llmkit.load(str(chat_model)).generate("Who?", max_new_tokens=6)
    answer = ask("generate", chat_model, "Who?", "--max-new-tokens", 6, *flags)
    assert (answer.json == [{"prompt": "Who?", "text": expected}]) if flags else (answer.out == expected + "\n")


def test_no_chat_continues_the_prompt_of_a_chat_model(ask: Callable, chat_model: Path, tiny_gpt2: Path) -> None:
    expected = llmkit.load(str(tiny_gpt2)).generate("Who?", max_new_tokens=6)
    assert ask("generate", chat_model, "Who?", "--max-new-tokens", 6, "--no-chat").out == expected + "\n"


def test_a_chat_model_with_nothing_to_say_prints_an_empty_line(ask: Callable, chat_model: Path) -> None:
    first = llmkit.load(str(chat_model)).generate("Who?", max_new_tokens=6)
    answer = ask("generate", chat_model, "Who?", "--max-new-tokens", 6, "--stop", first[0])
    assert answer.out == "\n"


# --- generate: a file ------------------------------------------------------------------------------------------------


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*PROMPTS, "", *PROMPTS[::-1]]) + "\n", encoding="utf-8")
    return file


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_file_of_prompts_is_answered_in_order(
    ask: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path, batch_size: int
) -> None:
    flags = ["--max-new-tokens", 7, "--batch-size", batch_size]
    answer = ask("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl", *flags)
    model = llmkit.load(str(tiny_gpt2))
    expected = [{"prompt": p, "text": model.generate(p, max_new_tokens=7)} for p in [*PROMPTS, *PROMPTS[::-1]]]
    assert (answer.code, answer.out, rows(tmp_path / "answers.jsonl")) == (0, "", expected), answer.err
    assert ask("generate", tiny_gpt2, "--file", prompts_file, *flags).json == expected


@pytest.mark.parametrize(("name", "content"), [("p.jsonl", '{"prompt": "Once"}\n{"prompt": "从前"}\n'), ("p.jsonl", '{"text": "Once", "id": 1}\n{"text": "从前", "id": 2}\n'), ("p.csv", "id,prompt\n1,Once\n2,从前\n"), ("p.md", "Once\n\n从前\n")])  # fmt: skip
def test_prompts_are_read_from_lines_or_from_rows(
    ask: Callable, tiny_gpt2: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = ask("generate", tiny_gpt2, "--file", name, "--max-new-tokens", 3).json
    assert [row["prompt"] for row in found] == ["Once", "从前"]


def test_prompts_come_from_stdin_too(ask: Callable, tiny_gpt2: Path) -> None:
    answer = ask("generate", tiny_gpt2, "--file", "-", "--max-new-tokens", 3, stdin="Once\n\n从前\n")
    assert [row["prompt"] for row in answer.json] == ["Once", "从前"]
    assert "1 empty line of the input left out" in answer.err


@pytest.mark.parametrize(
    "left", ["", "1 line", "2 lines and a torn one", "a torn line", "2 lines and a character torn", "all"]
)
def test_a_stopped_file_goes_on_where_it_stopped_and_ends_the_same(
    ask: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path, left: str
) -> None:
    words = [
        "generate",
        tiny_gpt2,
        "--file",
        prompts_file,
        "--out",
        "answers.jsonl",
        "--max-new-tokens",
        5,
        "--batch-size",
        4,
    ]
    assert ask(*words).code == 0
    file = tmp_path / "answers.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes({
        "": b"", "1 line": lines[0], "2 lines and a torn one": lines[0] + lines[1] + lines[2][:-5], "a torn line": lines[0][:9],
        "2 lines and a character torn": lines[0] + lines[1] + lines[2][: lines[2].index("从".encode()) + 1], "all": whole,
    }[left])  # fmt: skip
    again = ask(*words)
    assert (again.code, again.out, file.read_bytes()) == (0, "", whole), again.err


def test_going_on_says_after_how_many(ask: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path) -> None:
    given = [json.dumps({"prompt": prompt, "text": "b"}) + "\n" for prompt in PROMPTS[:2]]
    (tmp_path / "answers.jsonl").write_text("".join(given))
    err = ask("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl", "--max-new-tokens", 2).err
    assert "2 answers" in err and "8 prompts" in err


def test_answers_to_other_prompts_are_not_gone_on_with(
    ask: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path
) -> None:
    for others in ('{"prompt": "a", "text": "b"}\n', '{"prompt": "a", "text": "b"}\n' * 30, '{"text": "b"}\n', "b\n"):
        (tmp_path / "answers.jsonl").write_text(others)
        answer = ask("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl")
        refused(answer, "answers.jsonl", "choose another")
        assert (tmp_path / "answers.jsonl").read_text() == others


# --- generate: a conversation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "   \nnot read\n"])
def test_each_line_is_continued_until_an_empty_line_or_the_end(ask: Callable, tiny_gpt2: Path, end: str) -> None:
    answer = ask("generate", tiny_gpt2, "-i", "--max-new-tokens", 5, stdin="Once upon\nThe crow\n" + end)
    model = llmkit.load(str(tiny_gpt2))
    expected = [model.generate(p, max_new_tokens=5, return_full_text=False) + "\n" for p in ("Once upon", "The crow")]
    assert (answer.code, answer.out) == (0, "".join(expected))


def test_a_conversation_remembers_what_was_said(ask: Callable, chat_model: Path) -> None:
    model = llmkit.load(str(chat_model))
    said = [{"role": "user", "content": "Who?"}]
    said.append({"role": "assistant", "content": model.generate(said, max_new_tokens=5)})
    said.append({"role": "user", "content": "A fox"})
    expected = [said[1]["content"], model.generate(said, max_new_tokens=5)]
    answer = ask("generate", chat_model, "-i", "--max-new-tokens", 5, stdin="Who?\nA fox\n")
    assert (answer.code, answer.out) == (0, "".join(e + "\n" for e in expected))


# --- predict ---------------------------------------------------------------------------------------------------------

FILES = {
    "reviews.txt": "\n".join(REVIEWS) + "\n\n",
    "reviews.csv": "id,review\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(REVIEWS)),
    "reviews.tsv": "text\tid\n" + "".join(f"{t}\t{i}\n" for i, t in enumerate(REVIEWS)),
    "reviews.jsonl": "".join(
        json.dumps({"id": i, "text": t}, ensure_ascii=i % 2 == 0) + "\n" for i, t in enumerate(REVIEWS)
    ),
    "reviews.json": json.dumps([{"sentence": t} for t in REVIEWS]),
}


def expected_lines(folder: Path, texts: list[str]) -> list[str]:
    answers = llmkit.load(str(folder)).predict(texts)
    return [f"{a['label']}\t{a['score']:.4f}\t{t}" for a, t in zip(answers, texts, strict=True)]


@pytest.mark.parametrize("texts", [REVIEWS[:1], REVIEWS, ["reviews"]])
def test_texts_as_typed_get_a_line_each(ask: Callable, classifier: Path, texts: list[str]) -> None:
    answer = ask("predict", classifier, *texts)
    assert (answer.code, answer.lines, answer.err) == (0, expected_lines(classifier, texts), "")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_a_file_gets_a_line_for_each_text_in_order(
    ask: Callable, classifier: Path, tmp_path: Path, name: str, batch_size: int
) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    answer = ask("predict", classifier, name, "--batch-size", batch_size)
    assert (answer.code, answer.lines, answer.err) == (0, expected_lines(classifier, REVIEWS), "")


def test_a_dash_reads_texts_from_stdin(ask: Callable, classifier: Path) -> None:
    assert ask("predict", classifier, "-", stdin=FILES["reviews.txt"]).lines == expected_lines(classifier, REVIEWS)


def test_json_gives_an_object_a_line(ask: Callable, classifier: Path) -> None:
    answers = llmkit.load(str(classifier)).predict(REVIEWS)
    assert ask("predict", classifier, *REVIEWS, "--json").json == [
        {"text": t, **a} for t, a in zip(REVIEWS, answers, strict=True)
    ]


def test_out_takes_the_answers_and_stdout_stays_empty(ask: Callable, classifier: Path, tmp_path: Path) -> None:
    answer = ask("predict", classifier, *REVIEWS, "--out", "said.jsonl")
    assert (answer.code, answer.out) == (0, "") and "said.jsonl" in answer.err
    assert rows(tmp_path / "said.jsonl") == ask("predict", classifier, *REVIEWS, "--json").json


def test_another_column_is_read_on_request(ask: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("text,summary\ndull,a fine film\n")
    assert ask("predict", classifier, "two.csv", "--column", "summary").lines == expected_lines(
        classifier, ["a fine film"]
    )


def test_a_table_without_a_header_is_predicted_by_its_names(ask: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("1,a fine film\n2,a waste\n")
    bare = ask("predict", classifier, "bare.csv", "--names", "id,words", "--column", "text=words")
    assert bare.lines == expected_lines(classifier, ["a fine film", "a waste"])


def test_a_text_of_several_lines_gets_one_line(ask: Callable, classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(
        json.dumps({"text": "a fine\nfilm"}) + "\n" + json.dumps({"text": "dull\r\n"}) + "\n"
    )
    answer = ask("predict", classifier, "r.jsonl")
    assert [line.split("\t")[0] for line in answer.lines] == [
        a["label"] for a in llmkit.load(str(classifier)).predict(["a fine\nfilm", "dull\r\n"])
    ]


def test_masks_are_filled_a_line_for_each_text(ask: Callable, tiny_bert: Path) -> None:
    answer = ask("predict", tiny_bert, "a [MASK] fox", "[MASK] and [MASK]", "no mask")
    first, second, third = answer.lines
    assert first.count(",") >= 4 and second.count(" | ") == 1 and "no [MASK]" in third


def test_a_real_pipe_is_predicted_from_and_to(llmkit_command: Callable, classifier: Path) -> None:
    done = llmkit_command("predict", str(classifier), "-", stdin=FILES["reviews.txt"], env={"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout.splitlines()) == (0, expected_lines(classifier, REVIEWS))
    assert done.stderr == "warning  1 empty line of the input left out\n"


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    """As in `llmkit … | head -1`, with Python's own buffering."""
    words, env = (
        [sys.executable, "-m", "llmkit", "--help"],
        {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


# --- evaluate --------------------------------------------------------------------------------------------------------

LABELLED = [{"text": t, "label": LABELS[i % 2]} for i, t in enumerate(REVIEWS * 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LABELLED as test.jsonl, and as test.csv under other names."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in LABELLED))
    lines = ["body,verdict", *(f'"{r["text"]}",{r["label"]}' for r in LABELLED)]
    (folder / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluated(classifier: Path, data: Path) -> dict[str, Any]:
    """`llmkit evaluate --json` of the classifier."""
    words = ["evaluate", str(classifier), "--data", str(data / "test.jsonl"), "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert guard(lambda: command(words)) == 0
    (line,) = out.getvalue().splitlines()
    return json.loads(line)


def test_evaluate_gives_the_metrics_of_the_predictions(classifier: Path, evaluated: dict[str, Any]) -> None:
    from sklearn.metrics import f1_score

    said = [a["label"] for a in llmkit.load(str(classifier)).predict([r["text"] for r in LABELLED])]
    truth = [r["label"] for r in LABELLED]
    assert (evaluated["task"], evaluated["examples"]) == ("text-classification", len(LABELLED))
    assert evaluated["metrics"]["accuracy"] == pytest.approx(
        sum(s == t for s, t in zip(said, truth, strict=True)) / len(truth)
    )
    assert evaluated["metrics"]["f1_macro"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert 0 < evaluated["metrics"]["accuracy"] < 1


def test_evaluate_gives_each_metric_an_interval_around_it(evaluated: dict[str, Any]) -> None:
    assert set(evaluated["intervals"]) == set(evaluated["metrics"])
    for name, (low, high) in evaluated["intervals"].items():
        assert low <= evaluated["metrics"][name] <= high and low < high


def test_evaluate_prints_the_same_for_people_whatever_the_batch_and_the_format(
    ask: Callable, classifier: Path, data: Path, evaluated: dict[str, Any]
) -> None:
    columns = ["--column", "text=body", "--column", "label=verdict"]
    answer = ask("evaluate", classifier, "--data", data / "test.csv", *columns, "--batch-size", 7)
    spread = evaluated["intervals"]
    expected = [f"{n} {v:.4f}  [{spread[n][0]:.4f}, {spread[n][1]:.4f}]" for n, v in evaluated["metrics"].items()]
    assert (answer.code, answer.lines[: len(expected)]) == (0, expected), answer.err
    assert "report" in answer.out and "confusion" in answer.out


def test_evaluate_a_language_model_in_nats_per_token(ask: Callable, tiny_gpt2: Path, tmp_path: Path) -> None:
    texts = ["Once upon a time a fox met a crow.", "从前，有一只狐狸。"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (result,) = ask("evaluate", tiny_gpt2, "--data", "test.jsonl", "--json").json
    model = llmkit.load(str(tiny_gpt2))
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*model.tokenizer(text)["input_ids"], model.tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logits.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert result["metrics"]["loss"] == pytest.approx(total / count, abs=1e-4)


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["--file"]),
        (["Once", "-i"], ["--file", "-i"]),
        (["Once", "--file", "p.txt"], ["--file"]),
        (["Once", "--out", "a.jsonl"], ["--out"]),
        (["--file", "missing.txt"], ["missing.txt"]),
        (["--file", "missing"], ["missing"]),
        (["--file", "empty.txt"], ["empty.txt"]),
        (["--file", "other.csv"], ["other.csv", "prompt", "name"]),
        (["--file", "broken.jsonl"], ["broken.jsonl", "2"]),
        (["--file", "lists.jsonl"], ["lists.jsonl", "2"]),
        (["--file", "numbers.jsonl"], ["numbers.jsonl", "1"]),
        (["Once", "--temprature", "1"], ["--temprature", "--temperature"]),
        (["Once", "--max-new-tokens", "many"], ["--max-new-tokens", "many"]),
        (["Once", "--max-new-tokens", "0"], ["max"]),
        (["Once", "--temperature", "-1"], ["temperature"]),
        (["Once", "--num-beams", "2", "--num-return-sequences", "3"], ["num_return_sequences"]),
        (["Once upon a time there was a fox", "--max-length", "3"], ["max_length"]),
        (["山" * 300], ["64"]),
    ],
    ids=lambda w: " ".join(w)[:40] or "nothing",
)  # fmt: skip
def test_generate_refuses_in_one_line(
    ask: Callable, tiny_gpt2: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "other.csv").write_text("name\nfox\n")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    (tmp_path / "lists.jsonl").write_text('{"prompt": "a"}\n["b"]\n')
    (tmp_path / "numbers.jsonl").write_text('{"prompt": 3}\n')
    refused(ask("generate", tiny_gpt2, *words), *said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.csv"], ["missing.csv"]),
        (["other.csv"], ["other.csv", "text", "name"]),
        (["other.csv", "--column", "nane"], ["nane", "name"]),
        (["other.csv", "--column", "texts=name"], ["--column texts", "asks for text; give --column text=YOURS"]),
        (["lists.jsonl"], ["lists.jsonl", "2"]),
        (["a film", "--batch-size", "0"], ["batch"]),
    ],
)
def test_predict_refuses_in_one_line(
    ask: Callable, classifier: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    (tmp_path / "other.csv").write_text("name\nfox\n")
    (tmp_path / "lists.jsonl").write_text('{"text": "a"}\n["b"]\n')
    refused(ask("predict", classifier, *words), *said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "missing.csv"], ["missing.csv"]),
        (["--data", "foreign.jsonl"], ["awful"]),
        (["--data", "test.csv", "--column", "body"], ["--column", "TASK=YOURS"]),
        (["--data", "words.csv"], ["say --column text=NAME, or --names A,B"]),
        (["--data", "torn.jsonl"], ["torn.jsonl line 2", "leave them out with --on-error skip"]),
        ([], ["--data"]),
    ],
)
def test_evaluate_refuses_in_one_line(
    ask: Callable, classifier: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    (tmp_path / "foreign.jsonl").write_text('{"text": "a", "label": "awful"}\n{"text": "b", "label": "good"}\n')
    (tmp_path / "test.csv").write_text("body,label\na,good\nb,bad\n")
    (tmp_path / "words.csv").write_text("words,label\na,good\nb,bad\n")
    (tmp_path / "torn.jsonl").write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": \n')
    refused(ask("evaluate", classifier, *words), *said)


@pytest.mark.parametrize(("verb", "fixture", "right"), [("generate", "tiny_bert", "predict"), ("generate", "classifier", "predict"), ("predict", "tiny_gpt2", "generate")])  # fmt: skip
def test_the_wrong_verb_for_a_model_names_the_right_one(
    ask: Callable, verb: str, fixture: str, right: str, request: pytest.FixtureRequest
) -> None:
    refused(ask(verb, request.getfixturevalue(fixture), "a fine film"), right)


@pytest.mark.parametrize("verb", ["generate", "predict"])
def test_an_out_in_a_folder_that_is_not_there_is_refused_or_made(
    ask: Callable, verb: str, tiny_gpt2: Path, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a fine film\n")
    words = [tiny_gpt2, "--file", "p.txt"] if verb == "generate" else [classifier, "p.txt"]
    answer = ask(verb, *words, "--out", "new/answers.jsonl")
    if answer.code:
        refused(answer, "new/answers.jsonl")
    else:
        assert len(rows(tmp_path / "new" / "answers.jsonl")) == 1
