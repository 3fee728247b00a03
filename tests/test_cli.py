"""The likeliest mistakes: one line on stderr that names the value and the fix, exit status 2, no traceback, no weight read.
And what the command line answers without importing torch."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REVIEWS, TEXTS

from llmkit import cli

LM = "train causal-lm --model model --output out --data.max_length 32"
CLS = "train text-classification --model bert --output out --data.max_length 32"
ROWS = f"{LM} --data rows.jsonl"
LABELLED = f"{CLS} --data labelled.jsonl"


def short(value: Any) -> str:
    return value.split(" --data.max_length 32 ")[-1] if isinstance(value, str) else ""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, tiny_bert: Path) -> Path:
    """A user's folder: good files, spoilt ones, two models, a run."""
    folder = tmp_path_factory.mktemp("shelf")

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
def ask(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[[str], tuple[int, str, str]]:
    """`(exit status, stdout, stderr)` of a command line, in-process. Reading a weight fails the test."""
    from llmkit.models import loading

    monkeypatch.chdir(shelf)
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a model was loaded"))

    def run(line: str) -> tuple[int, str, str]:
        try:
            status = cli.guard(lambda: cli.command(shlex.split(line)))
        except SystemExit as e:  # argparse's own --help
            status = int(e.code or 0)
        return status, *capsys.readouterr()

    return run


def held(answer: tuple[int, str, str], needles: tuple[str, ...]) -> None:
    status, out, err = answer
    said = [line for line in err.splitlines() if line.startswith("llmkit: ")]
    assert status == 2, err
    assert out == "" and "Traceback" not in err
    assert len(said) == 1 and err.endswith(said[0] + "\n"), err
    assert [n for n in needles if n not in said[0]] == [], said[0]


@pytest.mark.parametrize(
    "line, needles",
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
        ("train finetune_gpt2 --max_length 64", ("--max_length", "'data.max_length'")),
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
def test_wrong_words(ask: Any, line: str, needles: tuple[str, ...]) -> None:
    held(ask(line), needles)


@pytest.mark.parametrize(
    "line, needles",
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
        (f"{LM} --data gbk.txt", ("gbk.txt", "not UTF-8", "iconv")),
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
def test_wrong_data(ask: Any, line: str, needles: tuple[str, ...]) -> None:
    held(ask(line), needles)


@pytest.mark.parametrize(
    "line, needles",
    [
        ("train causal-lm --data rows.jsonl", ("model.name", "--model", "tiny-gpt2")),
        (f"{ROWS} --model no-such-model", ("'no-such-model'", "no hub", "tiny-gpt2")),
        (f"{ROWS} --model tiny-gtp2", ("'tiny-gtp2'", "did you mean 'tiny-gpt2'")),
        (f"{ROWS} --model ./modle", ("'./modle'", "did you mean 'model'")),
        (f"{ROWS} --model no_model", ("'no_model'", "config.json")),
        (f"{ROWS} --data.max_length 65", ("data.max_length", "65", "at most 64")),
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
def test_wrong_model(ask: Any, line: str, needles: tuple[str, ...]) -> None:
    held(ask(line), needles)


@pytest.mark.parametrize(
    "line, needles",
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
def test_wrong_run(ask: Any, line: str, needles: tuple[str, ...]) -> None:
    held(ask(line), needles)


def test_every_fault_has_its_line(ask: Any) -> None:
    status, _, err = ask("train finetune_gpt2 --data.max_lenght 8 --training.lr 1 --run.patience soon")
    said = {line.split()[1] for line in err.splitlines()}
    assert status == 2 and len(err.splitlines()) == 3
    assert said == {"run.patience:", "data.max_lenght:", "training.lr"}


def test_faults_of_model_and_data_come_together(ask: Any) -> None:
    status, _, err = ask(f"{LM} --data rows.jsonl --data.on_error ignore --model.dtype int8 --model.adapter.rank 8")
    assert status == 2 and len(err.splitlines()) == 3


@pytest.mark.parametrize(
    "words, needles",
    [
        ("--training.warmup_steps 5000", ("5000", "training.warmup_steps")),
        ("--training.logging_dir logs", ("training.logging_dir", "TENSORBOARD_LOGGING_DIR")),
        ("--training.save_safetensors true", ("training.save_safetensors", "only format")),
        ("--training.eval_strategy no", ("evaluation is off", "early stopping", "best checkpoint")),
        ("--data.test rows.jsonl", ("35 rows of test also stand in train",)),
    ],
)
def test_what_a_run_can_live_with_is_said(ask: Any, words: str, needles: tuple[str, ...]) -> None:
    status, out, err = ask(f"{ROWS} {words} --plan")
    assert status == 0 and "parameters" in out, err
    assert len([line for line in err.splitlines() if all(n in line for n in needles)]) == 1, err


def test_decisions_are_said_after_all_checks(ask: Any) -> None:
    line = (
        "train causal-lm --model model --data rows.jsonl --output out --model.tokenizer bpe --model.tokenizer_size 300"
    )
    status, _, err = ask(f"{line} --training.num_train_epochs 0")
    assert status == 2 and [said for said in err.splitlines() if said.startswith("decided")] == []


def test_a_debugger_sees_the_traceback(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_DEBUG", "1")
    with pytest.raises(cli.RecipeError, match="trian"):
        ask("trian")


def test_other_exits(capsys: pytest.CaptureFixture) -> None:
    def fails() -> None:
        raise cli.RunFailed("loss is nan at step 3")

    def breaks() -> None:
        raise KeyError("inside")

    def stops() -> None:
        raise KeyboardInterrupt

    assert [cli.guard(work) for work in (lambda: None, fails, breaks, stops)] == [0, 1, 1, 130]
    err = capsys.readouterr().err
    assert "loss is nan at step 3" in err and "KeyError" in err and "LLMKIT_DEBUG=1" in err and "Traceback" not in err


def test_only_rank_0_speaks(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert ask("trian") == (2, "", "")


@pytest.mark.parametrize("line", ["--help", "-h", "help", ""])
def test_help_names_every_verb_and_recipe(ask: Any, line: str) -> None:
    status, out, err = ask(line)
    assert (status, err) == (0, "")
    assert [w for w in [*cli.VERBS, *cli.recipe_names()] if w not in out] == [] and cli.recipe_names()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(ask: Any, verb: str) -> None:
    status, out, err = ask(f"{verb} --help")
    assert (status, err) == (0, "") and f"llmkit {verb}" in out


@pytest.mark.parametrize("line", ["train finetune_gpt2 --help", "train finetune-bert --help", "train mine.yaml --help"])
def test_a_recipe_s_help_lists_its_fields(ask: Any, shelf: Path, line: str) -> None:
    (shelf / "mine.yaml").write_text("task: {name: causal-lm}\nmodel: {name: tiny-gpt2}\ndata: {train: fables}\n")
    status, out, err = ask(line)
    assert (status, err) == (0, "")
    assert [
        w for w in ("--model.name", "--data.train", "--run.output", "--training.FIELD", "tiny-") if w not in out
    ] == []


def test_version(ask: Any) -> None:
    import llmkit

    assert ask("--version") == (0, f"llmkit {llmkit.__version__}\n", "")


def test_init_copies_a_recipe_once(ask: Any, tmp_path: Path) -> None:
    status, out, _ = ask(f"init finetune-gpt2 {tmp_path}/mine")
    copy = tmp_path / "mine/finetune_gpt2.py"
    assert status == 0 and out == f"{copy}\n"
    assert copy.read_bytes() == (cli.recipe_folder() / "finetune_gpt2.py").read_bytes()
    copy.write_text("mine now")
    held(ask(f"init finetune_gpt2 {tmp_path}/mine"), (str(copy), "left as it is"))
    assert copy.read_text() == "mine now"


@pytest.mark.parametrize(
    "code",
    [
        "import llmkit",
        "from llmkit import Recipe, DataConfig, ModelConfig, RunConfig, main",
        "from llmkit.tasks import CausalLM, MaskedLM, TextClassification",
        "cli.guard(lambda: cli.command(['--help']))",
        "cli.guard(lambda: cli.command(['trian']))",
        "cli.guard(lambda: cli.command(['train', 'finetune_gtp2']))",
        "cli.guard(lambda: cli.command(['train', 'finetune_gpt2', '--help']))",
        "cli.guard(lambda: cli.command(['train', 'finetune_gpt2', '--training.learning_rat', '1']))",
    ],
)
def test_no_torch_for(code: str) -> None:
    heavy = "{'torch', 'transformers', 'datasets'} & set(sys.modules)"
    whole = f"import sys\nfrom llmkit import cli\n{code}\nprint(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@pytest.mark.parametrize(
    "line, needles",
    [
        ("trian", ("'trian'", "'train'")),
        ("train finetune_gpt2 --training.warmup_ratio 0.1", ("warmup_ratio", "warmup_steps: 0.1")),
        ("train finetune_gpt2 --model no-such-model", ("'no-such-model'", "tiny-gpt2")),
    ],
)
def test_a_real_process_says_it_too(llmkit_command: Any, line: str, needles: tuple[str, ...]) -> None:
    done = llmkit_command(*shlex.split(line))
    held((done.returncode, done.stdout, done.stderr), needles)
    assert len(done.stderr.splitlines()) == 1


def test_a_recipe_file_run_by_python_says_it_too(tmp_path: Path) -> None:
    words = [sys.executable, str(cli.recipe_folder() / "finetune_gpt2.py"), "--data.max_lenght", "8"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    held((done.returncode, done.stdout, done.stderr), ("data.max_lenght", "'max_length'"))
