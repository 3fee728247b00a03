"""How long the command line takes to answer without work to do, against a Python that does nothing.

    python benchmarks/startup.py

Medians of ten, the commands taking turns, as machines are never quiet. Ratios to `python -c pass` are what to compare.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LLMKIT = [sys.executable, "-m", "llmkit"]
COMMANDS = {
    "`python -c pass`": ([sys.executable, "-c", "pass"], 0),
    "`llmkit --help`": ([*LLMKIT, "--help"], 0),
    "`llmkit train finetune_gpt2 --help` (every field)": ([*LLMKIT, "train", "finetune_gpt2", "--help"], 0),
    "a wrong verb: `llmkit trian`": ([*LLMKIT, "trian"], 2),
    "a wrong field name: `--training.lerning_rate 1`": (
        [*LLMKIT, "train", "finetune_gpt2", "--training.lerning_rate", "1"],
        2,
    ),
    "for scale: `python -c 'import torch'`": ([sys.executable, "-c", "import torch"], 0),
}


def seconds(command: list[str], status: int) -> float:
    """Wall time of one run. Raises where its exit status is not the expected one."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    passed = time.perf_counter() - started
    if done.returncode != status:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}, expected {status}\n{done.stderr}")
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    for command in COMMANDS.values():
        seconds(*command)  # files into the page cache, bytecode written
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(times):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(*command))
    medians = {name: statistics.median(t) for name, t in taken.items()}
    nothing = medians["`python -c pass`"]
    print("| command | median s | × `python -c pass` |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / nothing:.1f} |")


if __name__ == "__main__":
    main()
