"""Hardware: the device, bf16, threads of each process, and freed memory, decided once and logged with a reason."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from llmkit.training import hardware

SET_UP = "from llmkit.training import hardware; h = hardware.set_up(); print(h.threads, h.device)"
KEPT = SET_UP.replace("h = ", "hardware.keep_freed_memory(); h = ")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
CORES = os.cpu_count() or 1
on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="the device is not the CPU here")


def set_up(command: list[str], **variables: str) -> tuple[list[str], str]:
    """The words that SET_UP prints in a process of its own, and its stderr."""
    names = ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")
    env = {name: value for name, value in os.environ.items() if name not in names} | variables
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split(), done.stderr


@on_cpu
@pytest.mark.parametrize(
    ("flags", "bf16", "reason"),
    [
        ({"avx2", "avx512_bf16", "amx_bf16"}, True, "this CPU has amx_bf16, avx512_bf16"),
        ({"asimd", "bf16"}, True, "this CPU has bf16"),
        ({"avx2", "avx512f"}, False, "this CPU has no bf16 instructions"),
        (set(), False, "this CPU has no bf16 instructions"),
    ],
)
def test_bf16_of_a_cpu_depends_on_its_instructions(
    flags: set[str], bf16: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    found = hardware.detect.__wrapped__()
    assert (found.device, found.bf16, found.bf16_reason) == ("cpu", bf16, reason)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux names the features of a CPU there")
def test_cpu_flags_are_those_of_the_kernel() -> None:
    flags = hardware.cpu_flags()
    assert {"sse2"} <= flags or {"asimd"} <= flags, flags


@on_cpu
@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, max(1, CORES // 2)),
        ({"LOCAL_WORLD_SIZE": str(4 * CORES)}, 1),
        ({"LOCAL_WORLD_SIZE": str(4 * CORES), "OMP_NUM_THREADS": str(CORES)}, CORES),
    ],
)
def test_processes_share_the_cores_unless_the_user_sets_threads(variables: dict[str, str], threads: int) -> None:
    words, stderr = set_up([sys.executable, "-c", SET_UP], **variables)
    assert words == [str(threads), "cpu"]
    assert "freed memory" not in stderr


@on_cpu
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_kept_only_when_asked_for_and_then_logged() -> None:
    words, stderr = set_up([sys.executable, "-c", KEPT], OMP_NUM_THREADS="1")
    assert words == ["1", "cpu"] and stderr.count("freed memory is kept for reuse") == 1


def test_restored_state_restores_random_states_and_threads_after_an_exception() -> None:
    def state() -> tuple:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads()

    before = state()
    with pytest.raises(KeyboardInterrupt), hardware.restored_state():
        set_seed(1)
        torch.set_num_threads(torch.get_num_threads() + 1)
        assert all(now != then for now, then in zip(state(), before, strict=True))
        raise KeyboardInterrupt
    assert state() == before


@on_cpu
@pytest.mark.parametrize(("variables", "threads"), [({}, CORES), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_one_thread_of_accelerate_launch_is_undone_unless_the_user_set_it(
    variables: dict[str, str], threads: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SET_UP)
    words, _ = set_up([*LAUNCH, "--mixed_precision", "no", "--dynamo_backend", "no", str(script)], **variables)
    assert words == [str(threads), "cpu"]


def test_without_accelerate_launch_there_is_no_launch_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert hardware.launch_command() == ([], {})
