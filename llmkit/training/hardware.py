"""What this machine can do: device, bf16, threads and memory allocator, each decided once and logged with its reason."""

import contextlib
import ctypes
import functools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from llmkit.log import log


@dataclass(frozen=True)
class Hardware:
    """What was decided, with the reason for bf16."""

    device: str
    bf16: bool
    bf16_reason: str
    threads: int


def cpu_flags() -> set[str]:
    """Return the processor's features as Linux names them; empty on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split())
    return set()


@functools.cache
def detect() -> Hardware:
    """Detect the device and whether it has native bf16."""
    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware("cuda", native, f"{torch.cuda.get_device_name()} {'has' if native else 'lacks'} it", threads)
    if torch.accelerator.is_available():
        return Hardware(str(torch.accelerator.current_accelerator()), False, "float32 is the safe choice here", threads)
    flags = sorted({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())
    reason = f"this CPU has {', '.join(flags)}" if flags else "this CPU has no bf16 instructions"
    return Hardware("cpu", bool(flags), reason, threads)


@contextlib.contextmanager
def restored_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch and the number of threads after the block, which sets them."""
    python, numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads(threads)


def share_cores() -> None:
    """Share the cores among the processes of this machine."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    words, environment = launch_command()
    # `accelerate launch` sets one thread, unless the user set another number
    one_thread = words and os.environ.get("OMP_NUM_THREADS") == "1" and "OMP_NUM_THREADS" not in environment
    if one_thread or ("OMP_NUM_THREADS" not in os.environ and local > 1):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))


def set_up() -> Hardware:
    """Share the cores, and return what was decided."""
    share_cores()
    if keep_freed_memory.cache_info().currsize:
        log("freed memory is kept for reuse (glibc mallopt): steps are faster, and `top` shows more memory", "config")
    return replace(detect(), threads=torch.get_num_threads())


def launch_command() -> tuple[list[str], dict[str, str]]:
    """Return the words and environment that `accelerate launch` was called with; empty without it."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return [], {}
    try:
        parent = psutil.Process().parent()
        return (parent.cmdline(), parent.environ()) if parent else ([], {})
    except psutil.Error:
        return [], {}


@functools.cache
def keep_freed_memory() -> None:
    """Keep glibc from returning large blocks to the kernel at every step: page faults take a third of the time then.

    For the command line only, on a CPU with glibc: it lasts as long as the process. `set_up` logs it.
    """
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)
