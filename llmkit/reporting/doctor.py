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
    from llmkit.reporting.files import PACKAGES, _version
    from llmkit.training import hardware

    machine = hardware.decide()
    net = (
        "offline by setting"
        if hub.offline()
        else "reached"
        if hub.reachable()
        else "not reached (local folders and bundled models work)"
    )
    rows = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{p: _version(p) for p in PACKAGES},
        "device": machine.device + (f", {torch.cuda.device_count()} of them" if machine.device == "cuda" else ""),
        "training in": f"{'bfloat16 autocast over float32 weights' if machine.bf16 else 'float32'}: {machine.bf16_reason}",
        "threads": f"{machine.threads} of {os.cpu_count()} cores",
        "hub": f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')} {net}",
        "cache": str(cache_root()),
        "bundled": f"texts {', '.join(bundled.TEXTS)}; models {', '.join(m for m in bundled.MODELS if (bundled.FOLDER / m).exists())}",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())
