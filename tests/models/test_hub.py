"""Models by a hub's name: fetched once, found again without the hub, refused in one line. A hub of our own serves them
(tests/local_hub.py), to processes of their own, since huggingface_hub reads its environment when it is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_hub import LocalHub

import llmkit

ASK = """
import contextlib, io, json, sys
from llmkit.cli import command, guard
answers = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guard(lambda: command(words))
    answers.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def gpt2_repository(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `gpt2` lies on the hub: weights without the `transformer.` prefix and with the old mask buffers, beside copies
    in six other formats."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("repository") / "gpt2"
    shutil.copytree(tiny_gpt2, folder)
    weights = {k.removeprefix("transformer."): v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(64, 64).tril()[None, None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "onnx").mkdir()
    for name in (
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "64.tflite",
        "onnx/model.onnx",
    ):
        (folder / name).write_bytes(b"no format of ours" * 100)
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "README.md").write_text("# GPT-2")
    return folder


@pytest.fixture(scope="module")
def bert_repository(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `bert-base-uncased` lies on the hub: LayerNorms named gamma and beta, a next-sentence head."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("repository") / "bert"
    shutil.copytree(tiny_bert, folder)
    weights = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v.clone()
               for k, v in load_file(folder / "model.safetensors").items()}  # fmt: skip
    weights["cls.seq_relationship.weight"], weights["cls.seq_relationship.bias"] = torch.zeros(2, 32), torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"no format of ours")
    return folder


@pytest.fixture(scope="module")
def repositories(
    gpt2_repository: Path, bert_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    old = tmp_path_factory.mktemp("repository") / "old"
    shutil.copytree(gpt2_repository, old, ignore=shutil.ignore_patterns("*.safetensors", "onnx"))
    return {"gpt2": gpt2_repository, "bert-base-uncased": bert_repository, "someone/only-bin": old}


@pytest.fixture(scope="module")
def hub(repositories: dict[str, Path]) -> Iterator[LocalHub]:
    with LocalHub(repositories) as hub:
        yield hub


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    """This process's, but for the hub: `url`, with a cache of its own and no proxy. One thread is enough for tiny models."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and not k.lower().endswith("_proxy")
    }
    return {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def llmkit_generate(words: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "llmkit", "generate", *words]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def ask_all(questions: list[list[str]], cwd: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    """Several commands answered by one process, each with its exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(questions),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def fetched(repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`llmkit generate gpt2` once with a hub, and once more when that hub is gone."""
    folder = tmp_path_factory.mktemp("fetched")
    words = ["gpt2", "Once upon a time", "--max-new-tokens", "12"]
    with LocalHub(repositories) as hub:
        first = llmkit_generate(words, folder, environment(folder / "home", hub.url))
    again = llmkit_generate(words, folder, environment(folder / "home", hub.url, HF_HUB_OFFLINE="1"))
    return {"first": first, "again": again, "served": hub.served("gpt2"), "home": folder / "home", "url": hub.url}


def test_a_model_is_generated_from_by_its_hub_name(fetched: dict[str, Any], tiny_gpt2: Path) -> None:
    first = fetched["first"]
    assert (first.returncode, first.stdout) == (0, expected(tiny_gpt2)), first.stderr


def test_the_second_time_no_hub_is_needed(fetched: dict[str, Any], tiny_gpt2: Path) -> None:
    again = fetched["again"]
    assert (again.returncode, again.stdout) == (0, expected(tiny_gpt2)), again.stderr


def expected(folder: Path) -> str:
    return llmkit.load(str(folder)).generate("Once upon a time", max_new_tokens=12) + "\n"


@pytest.mark.parametrize("which", ["first", "again"])
def test_fetching_and_finding_again_say_nothing_but_the_figures(fetched: dict[str, Any], which: str) -> None:
    lines = fetched[which].stderr.splitlines()
    assert len(lines) == 1 and "token" in lines[0], lines


def test_safetensors_and_the_tokenizer_alone_are_fetched(fetched: dict[str, Any]) -> None:
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert fetched["served"] == wanted


@pytest.fixture(scope="module")
def asked_online(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("online")
    rows = [
        {"text": f"{word} film number {i}", "label": label}
        for i in range(12)
        for word, label in (("good", "yes"), ("bad", "no"))
    ]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = ["train", "finetune_bert", "--model", "bert-base-uncased", "--training.max_steps", "2", "--data", "reviews.jsonl",
             "--data.max_length", "32", "--output", "run", "--run.references", "false"]  # fmt: skip
    questions = {
        "train": train,
        "without safetensors": ["generate", "someone/only-bin", "Once"],
        "mistyped": ["generate", "gtp2", "Once"],
        "mistyped, with an owner": ["predict", "someone/nothing", "a film"],
        "mistyped, to train": [
            "train",
            "finetune_bert",
            "--model",
            "bert-base-uncasd",
            "--data",
            "reviews.jsonl",
            "--output",
            "no",
        ],
        "no name at all": ["generate", "Once upon a time", "gpt2"],
    }
    answers = ask_all(list(questions.values()), folder, environment(folder / "home", hub.url))
    return {"folder": folder, **dict(zip(questions, answers, strict=True))}


def test_a_model_is_trained_by_its_hub_name(asked_online: dict[str, Any]) -> None:
    from transformers import AutoModelForSequenceClassification

    answer = asked_online["train"]
    assert answer["code"] == 0, answer["err"]
    run = asked_online["folder"] / "run"
    assert json.loads((run / "metrics.json").read_text())["steps"] == 2
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert set(model.config.label2id) == {"yes", "no"}


def test_training_starts_from_the_hubs_weights(asked_online: dict[str, Any], tiny_bert: Path) -> None:
    """The trained embeddings are those of the repository, but for two small steps."""
    from safetensors.torch import load_file

    name = "bert.embeddings.word_embeddings.weight"
    before = load_file(tiny_bert / "model.safetensors")[name]
    after = load_file(asked_online["folder"] / "run" / "model.safetensors")[name]
    assert 0 < (after - before).abs().max() < 0.01 < before.abs().max()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("without safetensors", ["'someone/only-bin'", "safetensors"]),
        ("mistyped", ["'gtp2'", "folder", "HF_ENDPOINT", "tiny-gpt2"]),
        ("mistyped, with an owner", ["'someone/nothing'", "folder", "HF_ENDPOINT", "tiny-bert"]),
        ("mistyped, to train", ["'bert-base-uncasd'", "folder", "HF_ENDPOINT", "tiny-bert"]),
        ("no name at all", ["'Once upon a time'", "folder", "HF_ENDPOINT", "tiny-gpt2"]),
    ],
)
def test_what_the_hub_does_not_have_is_one_line_and_status_2(
    asked_online: dict[str, Any], question: str, words: list[str]
) -> None:
    one_line(asked_online[question], words)


def test_a_refused_run_leaves_no_folder(asked_online: dict[str, Any]) -> None:
    assert not (asked_online["folder"] / "no").exists()


def one_line(answer: dict[str, Any], words: list[str]) -> None:
    assert answer["code"] == 2 and answer["out"] == "", answer
    (line,) = answer["err"].splitlines()
    assert line.startswith("llmkit: ") and "Traceback" not in line
    assert [w for w in words if w not in line] == []


@pytest.fixture(scope="module")
def asked_offline(fetched: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Offline by setting, with a cache that holds gpt2 and nothing else."""
    folder = tmp_path_factory.mktemp("offline")
    env = environment(fetched["home"], fetched["url"], HF_HUB_OFFLINE="1")
    names = ["gpt3", "openai-community/gpt2", "tiny-gpt"]
    return dict(zip(names, ask_all([["generate", n, "Once"] for n in names], folder, env), strict=True))


@pytest.fixture(scope="module")
def asked_unplugged(fetched: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Nothing set, and nobody answers at the hub's address."""
    folder = tmp_path_factory.mktemp("unplugged")
    return ask_all([["generate", "gpt3", "Once"]], folder, environment(folder / "home", fetched["url"]))[0]


@pytest.mark.parametrize("name", ["gpt3", "openai-community/gpt2", "tiny-gpt"])
def test_offline_an_unknown_name_is_told_folder_mirror_and_bundled_model(
    asked_offline: dict[str, Any], name: str
) -> None:
    one_line(asked_offline[name], [repr(name), "folder", "HF_ENDPOINT", "mirror", "tiny-gpt2"])


def test_offline_a_bundled_name_mistyped_is_recognised(asked_offline: dict[str, Any]) -> None:
    one_line(asked_offline["tiny-gpt"], ["did you mean 'tiny-gpt2'"])


def test_without_a_network_an_unknown_name_is_told_the_same(asked_unplugged: dict[str, Any]) -> None:
    one_line(asked_unplugged, ["'gpt3'", "folder", "HF_ENDPOINT", "mirror", "tiny-gpt2"])


def test_a_mirror_that_the_proxy_is_not_for_is_reached(hub: LocalHub, tmp_path: Path) -> None:
    """A proxy is set, as in many a company, and NO_PROXY names the mirror: the proxy (here: nobody) is none of its way."""
    env = environment(tmp_path / "home", hub.url, https_proxy="http://127.0.0.1:9", NO_PROXY="127.0.0.1,localhost")
    code = "from llmkit.models import hub; print((hub.find_model('gpt2') / 'config.json').exists())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "True\n", done.stderr.splitlines()[-1:]
