"""Models by their name on the hub: downloaded once, found again offline, and one line for a name that is not found.

A local hub (tests/local_hub.py) serves them to separate processes, since huggingface_hub reads its environment when it
is imported.
"""

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
import torch
from local_hub import LocalHub
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import llmkit
from llmkit import UsageError
from llmkit.hub import BUNDLED, MODELS, find_model, load_args, model_folder

COMMANDS = """
import contextlib, io, json, sys
from llmkit.cli.main import command, guard
results = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guard(lambda: command(words))
    results.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def gpt2_repository(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `gpt2` on the hub: weights without the `transformer.` prefix and with old mask buffers, and six other
    formats."""
    folder = tmp_path_factory.mktemp("repository") / "gpt2"
    shutil.copytree(tiny_gpt2, folder)
    weights = {k.removeprefix("transformer."): v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(64, 64).tril()[None, None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "onnx").mkdir()
    others = "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "64.tflite", "onnx/model.onnx"
    for name in others:
        (folder / name).write_bytes(b"another format" * 100)
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "README.md").write_text("# GPT-2")
    return folder


@pytest.fixture(scope="module")
def bert_repository(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `bert-base-uncased` on the hub: LayerNorms named gamma and beta, and a next-sentence head."""
    folder = tmp_path_factory.mktemp("repository") / "bert"
    shutil.copytree(tiny_bert, folder)
    weights = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v.clone()
               for k, v in load_file(folder / "model.safetensors").items()}  # fmt: skip
    weights["cls.seq_relationship.weight"], weights["cls.seq_relationship.bias"] = torch.zeros(2, 32), torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"another format")
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
    """This process's environment with the hub at `url`, a cache of its own, no proxy and one thread."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "_proxy" not in k.lower()}
    return {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def llmkit_generate(words: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "llmkit", "generate", *words]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def run_commands(commands: list[list[str]], cwd: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    """Run several commands in one process; returns the exit status, stdout and stderr of each."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps(commands), cwd=cwd, env=env, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def fetched(repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`llmkit generate gpt2` with a hub, and again without one."""
    folder = tmp_path_factory.mktemp("fetched")
    words = ["gpt2", "Once upon a time", "--max-new-tokens", "12"]
    with LocalHub(repositories) as hub:
        first = llmkit_generate(words, folder, environment(folder / "home", hub.url))
    again = llmkit_generate(words, folder, environment(folder / "home", hub.url, HF_HUB_OFFLINE="1"))
    return {"first": first, "again": again, "served": hub.served("gpt2"), "home": folder / "home", "url": hub.url}


@pytest.mark.parametrize("call", ["first", "again"])
def test_generate_downloads_a_model_by_name_and_then_finds_it_offline(
    fetched: dict[str, Any], tiny_gpt2: Path, call: str
) -> None:
    expected = llmkit.load(str(tiny_gpt2)).generate("Once upon a time", max_new_tokens=12) + "\n"
    done = fetched[call]
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize("call", ["first", "again"])
def test_download_logs_nothing_but_the_speed(fetched: dict[str, Any], call: str) -> None:
    lines = fetched[call].stderr.splitlines()
    assert len(lines) == 1 and "token" in lines[0], lines


def test_only_safetensors_and_tokenizer_files_are_downloaded(fetched: dict[str, Any]) -> None:
    files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert fetched["served"] == files


@pytest.fixture(scope="module")
def online(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("online")
    labels = (("good", "yes"), ("bad", "no"))
    rows = [{"text": f"{word} film number {i}", "label": label} for i in range(12) for word, label in labels]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = ["train", "finetune_bert", "--model", "bert-base-uncased", "--training.max_steps", "2", "--data", "reviews.jsonl",
             "--data.max_length", "32", "--output", "run", "--run.references", "false"]  # fmt: skip
    commands = {
        "train": train,
        "train an adapter": [*train, "--model.adapter.type", "lora", "--output", "adapter"],
        "use the adapter": ["predict", "adapter", "good film number 3", "--json"],
        "without safetensors": ["generate", "someone/only-bin", "Once"],
        "mistyped": ["generate", "gtp2", "Once"],
        "mistyped, with an owner": ["predict", "someone/nothing", "a film"],
        "mistyped, to train": ["train", "finetune_bert", "--model", "bert-base-uncasd", "--data", "reviews.jsonl",
                               "--output", "no"],
        "not a name": ["generate", "Once upon a time", "gpt2"],
    }  # fmt: skip
    results = run_commands(list(commands.values()), folder, environment(folder / "home", hub.url))
    return {"folder": folder, **dict(zip(commands, results, strict=True))}


def test_train_starts_from_a_model_by_name(online: dict[str, Any]) -> None:
    result = online["train"]
    assert result["code"] == 0, result["err"]
    run = online["folder"] / "run"
    assert json.loads((run / "metrics.json").read_text())["steps"] == 2
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert set(model.config.label2id) == {"yes", "no"}


def test_adapter_keeps_the_name_of_its_base_model(online: dict[str, Any]) -> None:
    """With the hash of the weights that were downloaded."""
    config = json.loads((online["folder"] / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "bert-base-uncased"
    assert len(json.loads((online["folder"] / "adapter" / "base_model.json").read_text())["sha256"]) == 64
    assert online["use the adapter"]["code"] == 0 and "label" in online["use the adapter"]["out"]


def test_train_starts_from_the_downloaded_weights(online: dict[str, Any], tiny_bert: Path) -> None:
    """After two small steps the embeddings are close to those of the repository."""
    name = "bert.embeddings.word_embeddings.weight"
    before = load_file(tiny_bert / "model.safetensors")[name]
    after = load_file(online["folder"] / "run" / "model.safetensors")[name]
    assert 0 < (after - before).abs().max() < 0.01 < before.abs().max()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("without safetensors", ["'someone/only-bin'", "safetensors"]),
        ("mistyped", ["'gtp2'", "folder", "HF_ENDPOINT", "tiny-gpt2"]),
        ("mistyped, with an owner", ["'someone/nothing'", "folder", "HF_ENDPOINT", "tiny-bert"]),
        ("mistyped, to train", ["'bert-base-uncasd'", "folder", "HF_ENDPOINT", "tiny-bert"]),
        ("not a name", ["'Once upon a time'", "folder", "HF_ENDPOINT", "tiny-gpt2"]),
    ],
)
def test_model_that_is_not_on_the_hub_is_one_line_and_status_2(
    online: dict[str, Any], command: str, words: list[str]
) -> None:
    check_error(online[command], words)


def test_run_with_an_unknown_model_leaves_no_folder(online: dict[str, Any]) -> None:
    assert not (online["folder"] / "no").exists()


def check_error(result: dict[str, Any], words: list[str]) -> None:
    assert result["code"] == 2 and result["out"] == "", result
    (line,) = result["err"].splitlines()
    assert line.startswith("llmkit: ") and "Traceback" not in line
    assert [w for w in words if w not in line] == []


@pytest.fixture(scope="module")
def offline(fetched: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Commands with HF_HUB_OFFLINE=1 and a cache that holds gpt2 only."""
    folder = tmp_path_factory.mktemp("offline")
    env = environment(fetched["home"], fetched["url"], HF_HUB_OFFLINE="1")
    names = ["gpt3", "openai-community/gpt2", "tiny-gpt"]
    return dict(zip(names, run_commands([["generate", n, "Once"] for n in names], folder, env), strict=True))


@pytest.fixture(scope="module")
def unreachable(fetched: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A command without HF_HUB_OFFLINE, and no hub at its address."""
    folder = tmp_path_factory.mktemp("unplugged")
    return run_commands([["generate", "gpt3", "Once"]], folder, environment(folder / "home", fetched["url"]))[0]


@pytest.mark.parametrize("name", ["gpt3", "openai-community/gpt2", "tiny-gpt"])
def test_unknown_name_offline_suggests_folder_mirror_and_bundled_model(offline: dict[str, Any], name: str) -> None:
    check_error(offline[name], [repr(name), "folder", "HF_ENDPOINT", "mirror", "tiny-gpt2"])


def test_mistyped_bundled_name_offline_suggests_it(offline: dict[str, Any]) -> None:
    check_error(offline["tiny-gpt"], ["did you mean 'tiny-gpt2'"])


def test_unknown_name_without_a_network_suggests_the_same(unreachable: dict[str, Any]) -> None:
    check_error(unreachable, ["'gpt3'", "folder", "HF_ENDPOINT", "mirror", "tiny-gpt2"])


def test_mirror_in_no_proxy_is_reached_without_the_proxy(hub: LocalHub, tmp_path: Path) -> None:
    """The proxy is one that does not answer."""
    env = environment(tmp_path / "home", hub.url, https_proxy="http://127.0.0.1:9", NO_PROXY="127.0.0.1,localhost")
    code = "from llmkit import hub; print((hub.find_model('gpt2') / 'config.json').exists())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr.splitlines()[-1:]


# -- folders and bundled models


@pytest.mark.parametrize("name", MODELS)
def test_bundled_model_is_found_in_its_folder(name: str) -> None:
    assert find_model(name) == model_folder(name) == BUNDLED / name and (BUNDLED / name / "config.json").exists()
    assert model_folder(f"my-{name}") is None


def test_folder_of_a_model_is_found(tiny_gpt2: Path) -> None:
    assert find_model(str(tiny_gpt2)) == tiny_gpt2
    assert load_args(tiny_gpt2) == {"pretrained_model_name_or_path": str(tiny_gpt2)}


def test_gguf_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert find_model(str(file)) == file
    assert load_args(file) == {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": "model.gguf"}


def test_folder_without_a_model_suggests_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json.*--resume"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name, hint", [("runs/frist", "did you mean"), ("rnus/first", "does not exist either")])
def test_missing_folder_suggests_a_similar_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no such folder") as error:
        find_model(f"./{name}")
    assert hint in str(error.value)
