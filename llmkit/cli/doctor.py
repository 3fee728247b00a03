"""`llmkit doctor`: versions, what this machine can do, and what llmkit makes of it."""

import os
import platform
from argparse import ArgumentParser, Namespace

from llmkit.log import quiet_libraries


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: the verb has no options."""


def run(args: Namespace) -> None:
    quiet_libraries()
    import torch

    from llmkit import hub
    from llmkit.data import bundled, cache
    from llmkit.training import finish, hardware

    machine = hardware.detect()
    gpus = f" × {torch.cuda.device_count()}" if machine.device == "cuda" else ""
    precision = "bfloat16 autocast over float32 weights" if machine.bf16 else "float32"
    offline = "offline mode is set" if hub.offline() else "not reachable; local folders and bundled models work"
    rows = {
        **finish.versions(),
        "platform": platform.platform(),
        "device": machine.device + gpus,
        "precision": f"{precision}: {machine.bf16_reason}",
        "threads": f"{machine.threads} of {os.cpu_count()} cores",
        "hub": f"{hub.constants.ENDPOINT}: {'reachable' if hub.reachable() else offline}",
        "cache": str(cache.cache_root()),
        "bundled": f"texts {', '.join(bundled.TEXTS)}; models {', '.join(hub.MODELS)}",
    }
    print("\n".join(f"{name:<13} {value}" for name, value in rows.items()))
