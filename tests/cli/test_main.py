"""The llmkit command: one line on stderr for each fault, with exit status 2, before weights are read; and what it
answers without importing torch."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REVIEWS, TEXTS

import llmkit
from llmkit.cli import main as cli
from llmkit.cli.recipes import recipe_folder, recipe_names
from llmkit.models import load

LM = "train causal-lm --model model --output out --data.max_length 32"
CLS = "train text-classification --model bert --output out --data.max_length 32"
ROWS = f"{LM} --data rows.jsonl"
LABELLED = f"{CLS} --data labelled.jsonl"
Call = Callable[[str], tuple[int, str, str]]


def short(value: Any) -> str:
    return value.split(" --data.max_length 32 ")[-1] if isinstance(value, str) else ""


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, tiny_bert: Path) -> Path:
    """A folder with valid and invalid files, two models and a run."""
    folder = tmp_path_factory.mktemp("folder")

    def lines(name: str, rows: list) -> None:
        (folder / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")

    lines("rows.jsonl", [{"text": t} for t in TEXTS])
    lines("labelled.jsonl", REVIEWS)
    lines("one_label.jsonl", [{"text": r["text"], "label": "good"} for r in REVIEWS])
    lines("other_columns.jsonl", [{"headline": t, "stars": 5} for t in TEXTS])
    (folder / "bad.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "thr\n', encoding="utf-8")
    (folder / "ragged.csv").write_text("text,label\nfine,positive\ndull,and long,negative\n", encoding="utf-8")
    (folder / "gbk.txt").write_bytes("从前有一只狐狸。\n".encode("gbk"))
    (folder / "empty.jsonl").touch()
    (folder / "empty.csv").touch()
    (folder / "empty.txt").touch()
    (folder / "story.docx").write_bytes(b"PK\x03\x04")
    (folder / "no_files").mkdir()
    (folder / "no_model").mkdir()
    (folder / "no_model/notes.txt").write_text("nothing")
    (folder / "old_run").mkdir()
    (folder / "old_run/recipe.yaml").write_text("task: {name: causal-lm}\n")
    (folder / "a_recipe.py").write_text("recipe = 1\n")
    (folder / "model").symlink_to(tiny_gpt2)
    (folder / "bert").symlink_to(tiny_bert)
    return folder


@pytest.fixture
def call(user_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    """Run a command line in this process: `(exit status, stdout, stderr)`. Loading a model fails the test."""
    monkeypatch.chdir(user_folder)
    monkeypatch.setattr(load, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))

    def run(line: str) -> tuple[int, str, str]:
        try:
            status = cli.guard(lambda: cli.command(shlex.split(line)))
        except SystemExit as e:  # argparse's own --help
            status = int(e.code or 0)
        return status, *capsys.readouterr()

    return run


def assert_one_fault(result: tuple[int, str, str], words: tuple[str, ...]) -> None:
    """Exit status 2, nothing on stdout, and one fault, the last line of stderr, with all `words` in it."""
    status, out, err = result
    faults = [line for line in err.splitlines() if line.startswith("llmkit: ")]
    assert status == 2, err
    assert out == "" and "Traceback" not in err
    assert len(faults) == 1 and err.endswith(faults[0] + "\n"), err
    assert [word for word in words if word not in faults[0]] == [], faults[0]


@pytest.mark.parametrize(
    "line, words",
    [
        ("trian", ("'trian'", "'train'")),
        ("train finetune_gtp2", ("'finetune_gtp2'", "'finetune_gpt2'")),
        ("train casual-lm", ("'casual-lm'", "'causal-lm'")),
        ("train nowhere.py", ("'nowhere.py'", "finetune_gpt2")),
        ("train a_recipe.py", ("a_recipe.py", "recipe = Recipe(")),
        ("train absent.yaml", ("absent.yaml",)),
        ("train", ("RECIPE", "finetune_gpt2")),
        ("train --model tiny-gpt2", ("RECIPE", "finetune_gpt2")),
        ("init finetune_gtp2", ("'finetune_gtp2'", "'finetune_gpt2'")),
        ("preview finetune_gtp2", ("'finetune_gtp2'", "'finetune_gpt2'")),
        ("preview finetune_gpt2 -n many", ("-n", "whole number")),
        ("train finetune_gpt2 --data.max_lenght 64", ("data.max_lenght", "'max_length'")),
        ("train finetune_gpt2 --max_length 64", ("--max_length", "'--data.max_length'")),
        ("train finetune_gpt2 --learning-rate 1", ("--learning-rate: ", "'--training.learning_rate'")),
        ("train causal_ln", ("'causal_ln'", "'causal-lm'")),
        ("train finetune_gpt2 --training.learning_rat 1", ("training.learning_rat", "'learning_rate'")),
        ("train finetune_gpt2 --training.warmup_ratio 0.1", ("warmup_ratio", "warmup_steps: 0.1")),
        ("train finetune_gpt2 --training.evaluation_strategy epoch", ("evaluation_strategy", "eval_strategy")),
        ("train finetune_gpt2 --training.num_train_epochs three", ("num_train_epochs", "'three'", "a number")),
        ("train finetune_gpt2 --training.bf16 yes", ("bf16", "'yes'", "true or false")),
        ("train finetune_gpt2 --data.max_length long", ("data.max_length", "'long'", "a whole number")),
        ("train finetune_gpt2 stray", ("'stray'", "--part.field")),
        ("generate tiny-gpt2", ("--file", "-i")),
        ("generate tiny-gpt2 hello --temprature 1", ("'--temprature'", "'--temperature'")),
        ("generate tiny-gpt2 hello --top-k many", ("--top-k", "'many'")),
        ("evaluate tiny-bert", ("--data",)),
        ("predict tiny-bert", ("input",)),
    ],
    ids=short,
)
def test_wrong_usage_is_one_fault(call: Call, line: str, words: tuple[str, ...]) -> None:
    assert_one_fault(call(line), words)


@pytest.mark.parametrize(
    "line, words",
    [
        (f"{LM} --data row.jsonl", ("'row.jsonl'", "did you mean 'rows.jsonl'")),
        (f"{LM} --data absent/rows.jsonl", ("'absent/rows.jsonl'", "'absent'", "does not exist")),
        (f"{LM} --data '*.parquet'", ("'*.parquet'",)),
        (f"{LM} --data no_files", ("no_files", ".jsonl")),
        (f"{LM} --data story.docx", ("story.docx", ".docx", ".jsonl")),
        (f"{LM} --data not_a_data_set", ("'not_a_data_set'", "fables", "reviews")),
        (f"{LM} --data 'reviews[dev]'", ("'dev'", "validation")),
        (LM, ("data.train", "--data FILE")),
        (f"{ROWS} --data.test rwos.jsonl", ("data.test", "did you mean 'rows.jsonl'")),
        (f"{LM} --data other_columns.jsonl", ("headline, stars", "text", "--data.columns.text")),
        (f"{ROWS} --data.columns.text story", ("'story'", "data.columns.text", "its columns are text")),
        (f"{ROWS} --data.columns.body text", ("data.columns.body", "it reads text")),
        (f"{LM} --data bad.jsonl", ("bad.jsonl line 3", "not JSON", "--data.on_error skip")),
        (f"{CLS} --data ragged.csv", ("ragged.csv line 3", "3 fields", "2", "--data.on_error skip")),
        (f"{LM} --data gbk.txt", ("gbk.txt", "not UTF-8", "--data.encoding gb18030")),
        (f"{LM} --data empty.jsonl", ("empty.jsonl", "empty")),
        (f"{LM} --data empty.txt", ("empty.txt", "empty")),
        (f"{CLS} --data empty.csv", ("empty.csv", "empty")),
        (f"{CLS} --data one_label.jsonl", ("only one label", "'good'")),
        (f"{CLS} --data rows.jsonl", ("'label'", "its columns are text", "--data.columns.label")),
        (f"{ROWS} --data.validation 1.5", ("data.validation", "1.5", "between 0 and 1")),
        (f"{ROWS} --data.on_error ignore", ("data.on_error", "'ignore'", "skip")),
        (f"{ROWS} --data.document page", ("data.document", "'page'", "paragraph")),
        (f"{LABELLED} --data.packing true", ("data.packing", "leave it out")),
        (f"{ROWS} --data.streaming --data.validation labelled.jsonl", ("data.streaming", "max_steps")),
        (f"{ROWS} --data.streaming --training.max_steps 5", ("data.streaming", "--data.validation")),
    ],
    ids=short,
)
def test_a_data_fault_is_one_line_before_weights_are_read(call: Call, line: str, words: tuple[str, ...]) -> None:
    assert_one_fault(call(line), words)


@pytest.mark.parametrize(
    "line, words",
    [
        ("train causal-lm --data rows.jsonl", ("model.name", "--model", "tiny-gpt2")),
        (f"{ROWS} --model no-such-model", ("'no-such-model'", "no hub", "tiny-gpt2")),
        (f"{ROWS} --model tiny-gtp2", ("'tiny-gtp2'", "did you mean 'tiny-gpt2'")),
        (f"{ROWS} --model ./modle", ("'./modle'", "did you mean 'model'")),
        (f"{ROWS} --model no_model", ("'no_model'", "config.json")),
        (f"{ROWS} --data.max_length 65", ("data.max_length", "65", "the 64 positions")),
        (f"{ROWS} --data.max_length 1", ("data.max_length", "1", "at least 2")),
        (f"{ROWS} --model.config.n_layers 4", ("model.config.n_layers", "'n_layer'")),
        (f"{ROWS} --model.config.n_layer 4", ("n_layer", "shape", "--model.from_scratch")),
        (f"{ROWS} --model.config.n_layer four", ("n_layer", "four")),
        (f"{ROWS} --model.config.resid_pdrop high", ("resid_pdrop", "high")),
        (f"{ROWS} --model.from_scratch --model.config.n_head 5", ("5",)),
        (f"{ROWS} --model gpt2 --model.from_scratch", ("'gpt2'", "--model.tokenizer")),
        (f"{ROWS} --model.tokenizer no-such", ("'no-such'", "bpe")),
        (f"{ROWS} --model.dtype int8", ("model.dtype", "'int8'", "bfloat16")),
        (f"{ROWS} --model.adapter.type lorra", ("'lorra'", "'lora'")),
        (f"{ROWS} --model.adapter.rank 8", ("model.adapter.rank", "LoraConfig")),
        (f"{ROWS} --model.adapter.lora_alhpa 8", ("model.adapter.lora_alhpa", "'lora_alpha'")),
        (f"{ROWS} --task masked-lm", ("gpt2", "masked-lm", "AutoModelForMaskedLM")),
    ],
    ids=short,
)
def test_a_model_fault_is_one_line_before_weights_are_read(call: Call, line: str, words: tuple[str, ...]) -> None:
    assert_one_fault(call(line), words)


@pytest.mark.parametrize(
    "line, words",
    [
        (f"{ROWS} --output old_run", ("'old_run'", "--resume", "--output")),
        (f"{ROWS} --output model", ("'model'", "holds a model", "--output")),
        (f"{ROWS} --output rows.jsonl", ("'rows.jsonl'", "is a file")),
        (f"{ROWS} --resume", ("'out'", "holds no run", "--output")),
        (f"{LABELLED} --training.metric_for_best_model acuracy", ("metric_for_best_model", "'acuracy'", "'accuracy'")),
        (
            f"{ROWS} --training.dataloader_drop_last true --training.per_device_train_batch_size 512",
            ("dataloader_drop_last", "512", "per_device_train_batch_size"),
        ),
        (f"{ROWS} --training.num_train_epochs 0", ("num_train_epochs", "0")),
        (f"{ROWS} --training.lr_scheduler_type cosin", ("cosin ", "'cosine'")),
        (f"{ROWS} --training.optim adamm", ("adamm", "adamw_torch")),
        (f"{ROWS} --training.eval_strategy never", ("never", "epoch")),
        (f"{ROWS} --training.train_sampling_strategy batch_rebalance", ("batch_rebalance", "group_by_length")),
        (f"{ROWS} --run.patience 0", ("run.patience", "0", "at least 1")),
        (f"{ROWS} --run.patience 2 --training.save_strategy no", ("run.patience", "save_strategy")),
    ],
    ids=short,
)
def test_a_training_or_run_fault_is_one_line_before_weights_are_read(
    call: Call, line: str, words: tuple[str, ...]
) -> None:
    assert_one_fault(call(line), words)


def test_each_fault_has_a_line(call: Call) -> None:
    status, _, err = call("train finetune_gpt2 --data.max_lenght 8 --training.lr 1 --run.patience soon")
    names = {line.split()[1] for line in err.splitlines()}
    assert status == 2 and len(err.splitlines()) == 3
    assert names == {"run.patience:", "data.max_lenght:", "training.lr"}


def test_faults_of_model_and_data_come_together(call: Call) -> None:
    status, _, err = call(f"{LM} --data rows.jsonl --data.on_error ignore --model.dtype int8 --model.adapter.rank 8")
    assert status == 2 and len(err.splitlines()) == 3


@pytest.mark.parametrize(
    "options, words",
    [
        ("--training.warmup_steps 5000", ("5000", "training.warmup_steps")),
        ("--training.logging_dir logs", ("training.logging_dir", "TENSORBOARD_LOGGING_DIR")),
        ("--training.save_safetensors true", ("training.save_safetensors", "only format")),
        ("--training.eval_strategy no", ("evaluation is off", "early stopping", "last checkpoint")),
        ("--data.test rows.jsonl", ("35 rows of test also in train",)),
    ],
)
def test_an_option_with_little_or_no_effect_is_warned_of_once(call: Call, options: str, words: tuple[str, ...]) -> None:
    status, out, err = call(f"{ROWS} {options} --plan")
    assert status == 0 and "parameters" in out, err
    assert len([line for line in err.splitlines() if all(word in line for word in words)]) == 1, err


def test_config_lines_are_logged_only_after_all_checks_pass(call: Call) -> None:
    line = (
        "train causal-lm --model model --data rows.jsonl --output out --model.tokenizer bpe --model.tokenizer_size 300"
    )
    status, _, err = call(f"{line} --training.num_train_epochs 0")
    assert status == 2 and [line for line in err.splitlines() if line.startswith("config")] == []


def test_llmkit_debug_raises_the_error(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_DEBUG", "1")
    with pytest.raises(cli.UsageError, match="trian"):
        call("trian")


def test_exit_status_of_failed_and_interrupted_runs(capsys: pytest.CaptureFixture) -> None:
    def fails() -> None:
        raise cli.RunFailed("loss is nan at step 3")

    def breaks() -> None:
        raise KeyError("inside")

    def stops() -> None:
        raise KeyboardInterrupt

    assert [cli.guard(work) for work in (lambda: None, fails, breaks, stops)] == [0, 1, 1, 130]
    err = capsys.readouterr().err
    assert "loss is nan at step 3" in err and "KeyError" in err and "LLMKIT_DEBUG=1" in err and "Traceback" not in err


def test_only_rank_0_logs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert call("trian") == (2, "", "")


@pytest.mark.parametrize("line", ["--help", "-h", "help", ""])
def test_help_names_every_verb_and_recipe(call: Call, line: str) -> None:
    status, out, err = call(line)
    assert (status, err) == (0, "")
    assert [w for w in [*cli.VERBS, *recipe_names()] if w not in out] == [] and recipe_names()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(call: Call, verb: str) -> None:
    status, out, err = call(f"{verb} --help")
    assert (status, err) == (0, "") and f"llmkit {verb}" in out


@pytest.mark.parametrize("line", ["train finetune_gpt2 --help", "train finetune-bert --help", "train mine.yaml --help"])
def test_help_of_a_recipe_lists_its_options(call: Call, user_folder: Path, line: str) -> None:
    (user_folder / "mine.yaml").write_text("task: {name: causal-lm}\nmodel: {name: tiny-gpt2}\ndata: {train: fables}\n")
    status, out, err = call(line)
    assert (status, err) == (0, "")
    assert [
        w for w in ("--model.name", "--data.train", "--run.output", "--training.FIELD", "tiny-") if w not in out
    ] == []


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"llmkit {llmkit.__version__}\n", "")


@pytest.mark.parametrize(
    "code", ["import llmkit", "from llmkit import DataConfig, Recipe, main", "import llmkit.tasks"]
)
def test_torch_is_not_imported_by(code: str) -> None:
    assert_no_torch(code)


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "trian",
        "train finetune_gtp2",
        "train finetune_gpt2 --help",
        "train mine.yaml --help",
        "train causal-lm --help",
        "train finetune_gpt2 --training.learning_rat 1",
        "train finetune_gpt2 --task.smoothing 1",
        "train finetune_gpt2 --task masked-lm --task.mask_probability high",
        "train mine.yaml --run.patience soon",
        "preview causal-lm --dat x",
        *(f"{verb} --help" for verb in cli.VERBS),
        "init finetune_gpt2 there",
        "generate tiny-gpt2",
        "predict tiny-bert a --out",
    ],
)
def test_torch_is_not_imported_for(line: str, user_folder: Path) -> None:
    (user_folder / "mine.yaml").write_text("task: {name: causal-lm}\nmodel: {name: tiny-gpt2}\ndata: {train: fables}\n")
    run = f"cli.guard(lambda: cli.command({shlex.split(line)!r}))"
    assert_no_torch(f"import contextlib\nwith contextlib.suppress(SystemExit): {run}", user_folder)


def assert_no_torch(code: str, folder: Path | None = None) -> None:
    heavy = "{'torch', 'transformers', 'datasets'} & set(sys.modules)"
    whole = f"import sys\nfrom llmkit.cli import main as cli\n{code}\nprint(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", whole], cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@pytest.mark.parametrize(
    "line, words",
    [
        ("trian", ("'trian'", "'train'")),
        ("train finetune_gpt2 --training.warmup_ratio 0.1", ("warmup_ratio", "warmup_steps: 0.1")),
        ("train finetune_gpt2 --model no-such-model", ("'no-such-model'", "tiny-gpt2")),
    ],
)
def test_a_fault_in_a_process_of_its_own(
    llmkit_command: Callable[..., subprocess.CompletedProcess], line: str, words: tuple[str, ...]
) -> None:
    done = llmkit_command(*shlex.split(line))
    assert_one_fault((done.returncode, done.stdout, done.stderr), words)
    assert len(done.stderr.splitlines()) == 1


def test_a_fault_in_a_recipe_file_run_by_python(tmp_path: Path) -> None:
    command = [sys.executable, str(recipe_folder() / "finetune_gpt2.py"), "--data.max_lenght", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_fault((done.returncode, done.stdout, done.stderr), ("data.max_lenght", "'max_length'"))


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    """As in `llmkit … | head -1`, with Python's own buffering."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-m", "llmkit", "--help"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
