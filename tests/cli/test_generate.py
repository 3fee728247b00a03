"""`llmkit generate`: only text on stdout; files in order and resumable; conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import assert_one_fault, call, classifier, read_jsonl
from transformers import AutoTokenizer, GPT2LMHeadModel

import llmkit

__all__ = ["call", "classifier"]  # fixtures
PROMPTS = ["Once upon a time", "The", "从前，有一只", "a", "The quick brown fox jumps over the lazy dog"]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def chat_model(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.chat_template = TEMPLATE
    GPT2LMHeadModel.from_pretrained(tiny_gpt2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prompt", PROMPTS[:3])
@pytest.mark.parametrize(("flags", "options"), [([], {}), (["--num-beams", 2], {"num_beams": 2}), (["--temperature", "0.8", "--seed", 1], {"temperature": 0.8, "seed": 1}), (["--stop", "e", "--stop", "7"], {"stop": ["e", "7"]})])  # fmt: skip
def test_stdout_holds_only_prompt_and_continuation(
    call: Callable, tiny_gpt2: Path, prompt: str, flags: list, options: dict
) -> None:
    answer = call("generate", tiny_gpt2, prompt, "--max-new-tokens", 8, *flags)
    expected = llmkit.load(str(tiny_gpt2)).generate(prompt, max_new_tokens=8, **options)
    assert (answer.status, answer.out) == (0, expected + "\n")
    assert len(answer.err.splitlines()) == 1 and "token" in answer.err


def test_json_is_one_line_with_prompt_and_text(call: Callable, tiny_gpt2: Path) -> None:
    (row,) = call("generate", tiny_gpt2, PROMPTS[2], "--json").json
    assert row == {"prompt": PROMPTS[2], "text": llmkit.load(str(tiny_gpt2)).generate(PROMPTS[2])}


def test_json_of_several_sequences_is_one_line_each(call: Callable, tiny_gpt2: Path) -> None:
    options = ["--num-return-sequences", 3, "--seed", 4, "--max-new-tokens", 9, "--json"]
    answer = call("generate", tiny_gpt2, "Once", *options)
    expected = llmkit.load(str(tiny_gpt2)).generate("Once", num_return_sequences=3, seed=4, max_new_tokens=9)
    assert answer.json == [{"prompt": "Once", "text": t} for t in expected]


def test_several_sequences_are_all_printed(call: Callable, tiny_gpt2: Path) -> None:
    answer = call("generate", tiny_gpt2, "Once", "--num-return-sequences", 3, "--seed", 4, "--max-new-tokens", 9)
    expected = llmkit.load(str(tiny_gpt2)).generate("Once", num_return_sequences=3, seed=4, max_new_tokens=9)
    assert answer.out == "\n\n".join(expected) + "\n"


@pytest.mark.parametrize("flags", [[], ["--json"], ["--num-return-sequences", "2", "--num-beams", "2"]])
def test_only_new_tokens_are_counted(call: Callable, tiny_gpt2: Path, flags: list[str]) -> None:
    """The tokens of the prompt are not generated."""
    err = call("generate", tiny_gpt2, PROMPTS[4], "--max-new-tokens", 6, *flags).err
    assert int(err.split()[0]) <= 6 * (2 if "--num-beams" in flags else 1)


@pytest.mark.parametrize("prompt", ["Once upon a time", "从前\n有一只"])
def test_a_dash_reads_the_prompt_from_stdin(call: Callable, tiny_gpt2: Path, prompt: str) -> None:
    piped = call("generate", tiny_gpt2, "-", "--max-new-tokens", 5, stdin=prompt)
    assert piped.out == call("generate", tiny_gpt2, prompt, "--max-new-tokens", 5).out


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_chat_model_prints_only_its_answer(call: Callable, chat_model: Path, flags: list[str]) -> None:
    expected = llmkit.load(str(chat_model)).generate("Who?", max_new_tokens=6)
    answer = call("generate", chat_model, "Who?", "--max-new-tokens", 6, *flags)
    assert (answer.json == [{"prompt": "Who?", "text": expected}]) if flags else (answer.out == expected + "\n")


def test_no_chat_continues_the_prompt_of_a_chat_model(call: Callable, chat_model: Path, tiny_gpt2: Path) -> None:
    expected = llmkit.load(str(tiny_gpt2)).generate("Who?", max_new_tokens=6)
    assert call("generate", chat_model, "Who?", "--max-new-tokens", 6, "--no-chat").out == expected + "\n"


def test_an_empty_answer_is_an_empty_line(call: Callable, chat_model: Path) -> None:
    first = llmkit.load(str(chat_model)).generate("Who?", max_new_tokens=6)
    answer = call("generate", chat_model, "Who?", "--max-new-tokens", 6, "--stop", first[0])
    assert answer.out == "\n"


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*PROMPTS, "", *PROMPTS[::-1]]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_prompts_of_a_file_are_answered_in_order(
    call: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path, batch_size: int
) -> None:
    flags = ["--max-new-tokens", 7, "--batch-size", batch_size]
    answer = call("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl", *flags)
    model = llmkit.load(str(tiny_gpt2))
    expected = [{"prompt": p, "text": model.generate(p, max_new_tokens=7)} for p in [*PROMPTS, *PROMPTS[::-1]]]
    assert (answer.status, answer.out, read_jsonl(tmp_path / "answers.jsonl")) == (0, "", expected), answer.err
    assert call("generate", tiny_gpt2, "--file", prompts_file, *flags).json == expected


@pytest.mark.parametrize(("name", "content"), [("p.jsonl", '{"prompt": "Once"}\n{"prompt": "从前"}\n'), ("p.jsonl", '{"text": "Once", "id": 1}\n{"text": "从前", "id": 2}\n'), ("p.csv", "id,prompt\n1,Once\n2,从前\n"), ("p.md", "Once\n\n从前\n")])  # fmt: skip
def test_prompts_are_read_from_lines_or_rows(
    call: Callable, tiny_gpt2: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    rows = call("generate", tiny_gpt2, "--file", name, "--max-new-tokens", 3).json
    assert [row["prompt"] for row in rows] == ["Once", "从前"]


def test_file_dash_reads_prompts_from_stdin(call: Callable, tiny_gpt2: Path) -> None:
    answer = call("generate", tiny_gpt2, "--file", "-", "--max-new-tokens", 3, stdin="Once\n\n从前\n")
    assert [row["prompt"] for row in answer.json] == ["Once", "从前"]
    assert "1 empty line of the input skipped" in answer.err


@pytest.mark.parametrize(
    "written", ["", "1 line", "2 lines and half a line", "half a line", "2 lines and half a character", "all"]
)
def test_a_stopped_file_is_resumed_with_the_same_result(
    call: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path, written: str
) -> None:
    options = ["--out", "answers.jsonl", "--max-new-tokens", 5, "--batch-size", 4]
    words = ["generate", tiny_gpt2, "--file", prompts_file, *options]
    assert call(*words).status == 0
    file = tmp_path / "answers.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes({
        "": b"", "1 line": lines[0], "2 lines and half a line": lines[0] + lines[1] + lines[2][:-5], "half a line": lines[0][:9],
        "2 lines and half a character": lines[0] + lines[1] + lines[2][: lines[2].index("从".encode()) + 1], "all": whole,
    }[written])  # fmt: skip
    again = call(*words)
    assert (again.status, again.out, file.read_bytes()) == (0, "", whole), again.err


def test_resuming_logs_the_number_of_answers(
    call: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path
) -> None:
    answers = [json.dumps({"prompt": prompt, "text": "b"}) + "\n" for prompt in PROMPTS[:2]]
    (tmp_path / "answers.jsonl").write_text("".join(answers))
    err = call("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl", "--max-new-tokens", 2).err
    assert "2 answers" in err and "8 prompts" in err


def test_a_file_with_answers_to_other_prompts_is_not_resumed(
    call: Callable, tiny_gpt2: Path, prompts_file: Path, tmp_path: Path
) -> None:
    for others in ('{"prompt": "a", "text": "b"}\n', '{"prompt": "a", "text": "b"}\n' * 30, '{"text": "b"}\n', "b\n"):
        (tmp_path / "answers.jsonl").write_text(others)
        answer = call("generate", tiny_gpt2, "--file", prompts_file, "--out", "answers.jsonl")
        assert_one_fault(answer, "answers.jsonl", "choose another")
        assert (tmp_path / "answers.jsonl").read_text() == others


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_prompt_that_is_too_long_is_named_and_the_others_are_answered(
    call: Callable, tiny_gpt2: Path, tmp_path: Path, batch_size: int
) -> None:
    long = "山" * 300
    (tmp_path / "p.txt").write_text(f"Once\n{long}\n\nThe crow\n{long}\n", encoding="utf-8")
    words = ["generate", tiny_gpt2, "--file", "p.txt", "--max-new-tokens", 3, "--batch-size", batch_size]
    answer, model = call(*words, "--out", "answers.jsonl"), llmkit.load(str(tiny_gpt2))
    rows = read_jsonl(tmp_path / "answers.jsonl")
    assert [row["prompt"] for row in rows] == ["Once", long, "The crow", long]
    assert [row["text"] for row in rows[::2]] == [model.generate(p, max_new_tokens=3) for p in ("Once", "The crow")]
    why = "the prompt has 300 tokens, the model takes 64 with the answer; shorten it"
    errors = [f"p.txt line {line}: {why}" for line in (2, 5)]
    assert [(row["text"], row["error"]) for row in rows[1::2]] == [(None, error) for error in errors]
    faults = [f"llmkit: {error}" for error in errors]
    assert answer.status == 2 and answer.err.splitlines()[-2:] == faults
    again = call(*words, "--out", "answers.jsonl")
    assert (
        again.status == 2 and again.err.splitlines()[-2:] == faults and read_jsonl(tmp_path / "answers.jsonl") == rows
    )
    printed = call(*words)
    assert printed.status == 2 and printed.json == rows


@pytest.mark.parametrize("end", ["", "\n", "   \nnot read\n"])
def test_each_line_is_continued_until_an_empty_line_or_end_of_file(call: Callable, tiny_gpt2: Path, end: str) -> None:
    answer = call("generate", tiny_gpt2, "-i", "--max-new-tokens", 5, stdin="Once upon\nThe crow\n" + end)
    model = llmkit.load(str(tiny_gpt2))
    expected = [model.generate(p, max_new_tokens=5, return_full_text=False) + "\n" for p in ("Once upon", "The crow")]
    assert (answer.status, answer.out) == (0, "".join(expected))


def test_earlier_turns_are_part_of_the_prompt(call: Callable, chat_model: Path) -> None:
    model = llmkit.load(str(chat_model))
    turns = [{"role": "user", "content": "Who?"}]
    turns.append({"role": "assistant", "content": model.generate(turns, max_new_tokens=5)})
    turns.append({"role": "user", "content": "A fox"})
    expected = [turns[1]["content"], model.generate(turns, max_new_tokens=5)]
    answer = call("generate", chat_model, "-i", "--max-new-tokens", 5, stdin="Who?\nA fox\n")
    assert (answer.status, answer.out) == (0, "".join(e + "\n" for e in expected))


@pytest.mark.parametrize(
    ("words", "faults"),
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
def test_wrong_usage_is_one_fault(
    call: Callable, tiny_gpt2: Path, tmp_path: Path, words: list[str], faults: list[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "other.csv").write_text("name\nfox\n")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    (tmp_path / "lists.jsonl").write_text('{"prompt": "a"}\n["b"]\n')
    (tmp_path / "numbers.jsonl").write_text('{"prompt": 3}\n')
    assert_one_fault(call("generate", tiny_gpt2, *words), *faults)


@pytest.mark.parametrize("fixture", ["tiny_bert", "classifier"])
def test_a_model_that_does_not_generate_is_a_fault_that_names_predict(
    call: Callable, fixture: str, request: pytest.FixtureRequest
) -> None:
    assert_one_fault(call("generate", request.getfixturevalue(fixture), "a fine film"), "predict")


def test_the_folder_of_out_is_created(call: Callable, tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a fine film\n")
    assert call("generate", tiny_gpt2, "--file", "p.txt", "--out", "new/answers.jsonl").status == 0
    assert len(read_jsonl(tmp_path / "new" / "answers.jsonl")) == 1


def test_a_file_of_prompts_is_read_as_the_message_says(call: Callable, tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("从前，有一只小猫。\n".encode("gb18030"))
    words = ["generate", tiny_gpt2, "--max-new-tokens", 2, "--file"]
    assert_one_fault(call(*words, "p.txt"), "p.txt: byte 0 is not UTF-8", "; --encoding gb18030 reads it as")
    assert call(*words, "p.txt", "--encoding", "gb18030").json[0]["prompt"] == "从前，有一只小猫。"
    (tmp_path / "p.json").write_text('{"a": [{"prompt": "Once"}], "b": [{"prompt": "Twice"}]}')
    assert_one_fault(call(*words, "p.json"), "'p.json[a]', 'p.json[b]'")
    assert call(*words, "p.json[b]").json[0]["prompt"] == "Twice"
