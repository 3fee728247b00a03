"""`llmkit doctor`: what is installed, what this machine can do, and what llmkit decides from it."""

from __future__ import annotations

import os
import platform

from llmkit import console


def examine() -> str:
    """A line for each finding."""
    console.hush()
    import torch

    from llmkit.data.cache import cache_root
    from llmkit.models import bundled, hub
    from llmkit.reporting.files import versions
    from llmkit.training import hardware

    machine = hardware.decide()
    absent = "offline by setting" if hub.offline() else "not reached (local folders and bundled models work)"
    precision = "bfloat16 autocast over float32 weights" if machine.bf16 else "float32"
    models = ", ".join(m for m in bundled.MODELS if (bundled.FOLDER / m).exists())
    rows = {
        **versions(),
        "platform": platform.platform(),
        "device": machine.device + (f", {torch.cuda.device_count()} of them" if machine.device == "cuda" else ""),
        "training in": f"{precision}: {machine.bf16_reason}",
        "threads": f"{machine.threads} of {os.cpu_count()} cores",
        "hub": f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')} {'reached' if hub.reachable() else absent}",
        "cache": str(cache_root()),
        "bundled": f"texts {', '.join(bundled.TEXTS)}; models {models}",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())
