"""The documentation is executed: every command and Python block of a page runs, in order, in an empty folder.

Blocks with `<!-- not run: … -->` above them, `pip install` and `pytest` are skipped. Trainings stop after two steps.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
ALL_PAGES = [*PAGES, "README.zh-CN.md", "CHANGELOG.md", "examples/accelerate/README.md"]
OPENING = """\
pip install -e . && accelerate launch recipes/finetune_gpt2.py
pip install -e ".[test]" && pytest
"""
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
TRAINS = re.compile(r"(\btrain |\b(recipes|examples)/\w+\.py|^torchrun )(?!.*--(plan|help))")

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["llmkit.pipeline", "llmkit.training.callbacks", "transformers.trainer", "transformers.pipelines"]
    + [f"transformers.models.{m}.modeling_{m}" for m in ("gpt2", "bert")]
    + ["peft", "sklearn.linear_model", "sklearn.feature_extraction.text"]
)


@dataclass(frozen=True)
class Block:
    line: int
    kind: str
    code: str
    skip_reason: str | None


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start("code")), m["kind"], m["code"], m["why"]) for m in BLOCK.finditer(text)]


def commands(code: str) -> Iterator[str]:
    """Yield the commands of a bash block as they are run, each a line or a heredoc."""
    lines = iter(code.splitlines())
    for line in lines:
        if heredoc := re.search(r"<<'(\w+)'", line):
            rest = itertools.takewhile(lambda text, end=heredoc[1]: text != end, lines)
            yield "\n".join([line, *rest, heredoc[1]])
            continue
        line = re.sub(r"^pip install .*?( && |$)", "", line)
        if line and line not in ("pytest", "pre-commit install"):
            yield line + (" --training.max_steps 2" if TRAINS.search(line) else "")


def run_page(page: str, folder: Path) -> str | None:
    """Run every block of a page; return the first failure, or None."""
    folder.mkdir()
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for block in blocks(page):
        if block.skip_reason or block.kind not in ("bash", "python"):
            continue
        lines = list(commands(block.code))
        if block.kind == "python":
            named = re.match(r"# (\w+\.py)\n", block.code)
            file = named[1] if named else f"block_{block.line}.py"
            (folder / file).write_text(block.code, encoding="utf-8")
            lines = [f"python {file}"]
        for command in lines:
            status, output = run_command(command, folder)
            if status:
                return f"{page}:{block.line}\n$ {command}\nended with {status}\n{output[-6000:]}"
    return None


def run_command(command: str, folder: Path) -> tuple[int | None, str]:
    """Return the exit status and the output of a command.

    `llmkit …` and `python …` run in a fork of a process that has already imported torch and transformers, which is most
    of the time of a short command; everything else runs in bash.
    """
    log = folder / "output.txt"
    if command.split()[0] in ("llmkit", "python") and not re.search(r"[|&;<>$`]", command):
        words = shlex.split(command, comments=True)
        process = FORKS.Process(target=in_fork, args=(words, folder, log))
        process.start()
        process.join(600)
        process.kill()  # if it still runs
        process.join()
        return process.exitcode, log.read_text(encoding="utf-8", errors="replace")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout


def in_fork(words: list[str], folder: Path, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)  # several pages run at the same time
    if words[0] == "python":
        sys.path.insert(0, str(folder))
        words = words[1:]
    sys.argv = ["llmkit", *words[2:]] if words[:2] == ["-m", "llmkit"] else words
    if sys.argv[0] == "llmkit":
        from llmkit.cli.main import console_main

        console_main()
    runpy.run_path(words[0], run_name="__main__")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Return the failure of each page, or None; runs as many pages at a time as there are cores."""
    folders = [tmp_path_factory.mktemp("page") / "here" for _ in PAGES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(PAGES, pool.map(run_page, PAGES, folders), strict=True))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[page] is None, outcomes[page]


def test_first_commands_of_readme_install_run_and_test() -> None:
    first = next(block for block in blocks("README.md") if block.kind == "bash")
    assert (first.code, first.skip_reason) == (OPENING, None)


def test_both_readmes_have_the_same_commands() -> None:
    ours, theirs = ([(b.kind, b.code, b.skip_reason) for b in blocks(f"README{x}.md")] for x in ("", ".zh-CN"))
    assert [b for b in ours if b[0] in ("bash", "python")] == [b for b in theirs if b[0] in ("bash", "python")]
    assert [b[0] for b in ours] == [b[0] for b in theirs]


@pytest.mark.parametrize("page", ALL_PAGES)
def test_skipped_blocks_need_a_hub_gpus_or_trl(page: str) -> None:
    assert {b.skip_reason for b in blocks(page)} <= {None, "needs a hub", "needs GPUs", "needs trl"}
    fences = (ROOT / page).read_text(encoding="utf-8").count("\n```")
    assert fences == 2 * len(blocks(page))  # a fence without a language is not found by BLOCK


@pytest.mark.parametrize("page", ALL_PAGES)
def test_relative_links_point_to_files(page: str) -> None:
    folder, text = (ROOT / page).parent, (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


def test_commands_limit_the_steps_of_trainings_only() -> None:
    code = "\n".join(
        [
            "pip install -e . && accelerate launch recipes/finetune_gpt2.py",
            'pip install -e ".[test]" && pytest',
            "cat > a.csv <<'EOF'",
            "train recipes/of.py here",
            "EOF",
            "llmkit train x --plan",
            "llmkit train x --data a.csv",
            "llmkit generate runs/x hello",
        ]
    )
    assert list(commands(code)) == [
        "accelerate launch recipes/finetune_gpt2.py --training.max_steps 2",
        "cat > a.csv <<'EOF'\ntrain recipes/of.py here\nEOF",
        "llmkit train x --plan",
        "llmkit train x --data a.csv --training.max_steps 2",
        "llmkit generate runs/x hello",
    ]
