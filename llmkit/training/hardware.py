"""What this machine can do, decided once and printed with the reason: device, bf16, threads, allocator."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from llmkit.console import say


@dataclass(frozen=True)
class Hardware:
    """The decisions, each with its reason."""

    device: str
    bf16: bool
    bf16_reason: str
    threads: int


def cpu_flags() -> set[str]:
    """The processor's features as Linux names them; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split())
    return set()


@functools.cache
def decide() -> Hardware:
    """Look at the machine. Imports torch."""
    import torch

    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware("cuda", able, f"{torch.cuda.get_device_name()} {'has' if able else 'lacks'} it", threads)
    if torch.accelerator.is_available():
        return Hardware(str(torch.accelerator.current_accelerator()), False, "float32 is the safe choice here", threads)
    fast = sorted({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())
    reason = f"this CPU has {', '.join(fast)}" if fast else "this CPU has no bf16 instructions"
    return Hardware("cpu", bool(fast), reason, threads)


def set_up() -> Hardware:
    """Decide, share the cores among the processes of this machine, and keep freed memory (CPU with glibc)."""
    import torch

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    words, given = launcher()
    # `accelerate launch` leaves one thread of all, unless it was given another number
    left_one = words and os.environ.get("OMP_NUM_THREADS") == "1" and "OMP_NUM_THREADS" not in given
    if left_one or ("OMP_NUM_THREADS" not in os.environ and local > 1):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    hardware = decide()
    if hardware.device == "cpu" and platform.libc_ver()[0] == "glibc":
        _keep_freed_memory()
    return replace(hardware, threads=torch.get_num_threads())


def launcher() -> tuple[list[str], dict[str, str]]:
    """The words and the environment that `accelerate launch` was called with; empty where it was not."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return [], {}
    try:
        parent = psutil.Process().parent()
        return (parent.cmdline(), parent.environ()) if parent else ([], {})
    except psutil.Error:
        return [], {}


@functools.cache
def _keep_freed_memory() -> None:
    """glibc gives large blocks back to the kernel at every step, and page faults then eat a third of the time."""
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)
    say("freed memory is kept by the process (glibc's mallopt): faster steps, a higher figure in `top`", "decided")
