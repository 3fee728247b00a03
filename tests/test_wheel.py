"""The built wheel works outside the checkout: in an empty environment, with its recipes, texts and models."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel installed.

    A path file adds the dependencies of this environment; an editable llmkit is not among them, since path files in a
    folder that was added by one are not read.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin" / "python"


def call(python: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the interpreter in `cwd`, without a path to the checkout."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(python), *words], cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_llmkit_is_imported_from_the_wheel(python: Path, tmp_path: Path) -> None:
    where = call(python, tmp_path, "-c", "import llmkit; print(llmkit.__file__)").stdout
    assert str(python.parent.parent) in where


def test_wheel_holds_recipes_texts_models_and_types(python: Path, tmp_path: Path) -> None:
    code = """
import llmkit, pathlib
from llmkit import hub
from llmkit.cli.recipes import recipe_names
from llmkit.data import bundled
root = pathlib.Path(llmkit.__file__).parent
assert (root / "py.typed").exists() and (root / "recipes").is_dir()
assert {"pretrain_gpt2", "finetune_gpt2", "pretrain_bert", "finetune_bert"} <= set(recipe_names())
for name, splits in bundled.TEXTS.items():
    for split in splits:
        assert bundled.read_rows(name, split)
for name in hub.MODELS:
    size = sum(f.stat().st_size for f in hub.model_folder(name).glob("*.safetensors"))
    assert 2**20 < size <= 3 * 2**20, (name, size)
"""
    call(python, tmp_path, "-c", code)


def test_llmkit_generates_copies_a_recipe_trains_and_predicts(python: Path, tmp_path: Path) -> None:
    def llmkit(*words: str) -> str:
        return call(python, tmp_path, "-m", "llmkit", *words).stdout

    assert llmkit("generate", "tiny-gpt2", "Once upon a time", "--max-new-tokens", "5").startswith("Once upon a time")
    llmkit("init", "finetune_bert")
    call(python, tmp_path, "finetune_bert.py", "--training.max_steps", "1", "--run.references", "false")
    assert llmkit("predict", "runs/finetune-bert", "a fine film").split("\t")[0] in ("positive", "negative")
