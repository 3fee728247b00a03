"""Start-up time of the command line, compared with a Python that does nothing.

    python benchmarks/startup.py

Prints medians of ten; the commands run in turns to even out the load of the machine. Compare the ratios to
`python -c pass`.
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
    "for comparison: `python -c 'import torch'`": ([sys.executable, "-c", "import torch"], 0),
}


def seconds(command: list[str], status: int) -> float:
    """Return the wall time of a command. Raises SystemExit if its exit status is not the expected one."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    elapsed = time.perf_counter() - started
    if done.returncode != status:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}, expected {status}\n{done.stderr}")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    for command in COMMANDS.values():
        seconds(*command)  # fills the page cache and writes bytecode
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(times):
        for name, command in COMMANDS.items():
            measured[name].append(seconds(*command))
    medians = {name: statistics.median(t) for name, t in measured.items()}
    reference = medians["`python -c pass`"]
    print("| command | median s | × `python -c pass` |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / reference:.1f} |")


if __name__ == "__main__":
    main()
