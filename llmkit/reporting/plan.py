"""`--plan`: what a run would be, before it is one. Everything is prepared as for the run; no weight is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llmkit import console
from llmkit.console import plural

if TYPE_CHECKING:
    from llmkit.recipe import Recipe


def plan(recipe: Recipe) -> str:
    """Parameters, tokens, steps, memory and time. Memory and time are estimates, and say how they are made."""
    from llmkit.running import prepare
    from llmkit.training import preflight

    console.hush()
    prepared = prepare(recipe)
    args, features = prepared.args, prepared.features
    total, trainable = _parameters(prepared)
    batch_tokens = args.per_device_train_batch_size * prepared.max_length
    if recipe.data.streaming:
        per_epoch = steps = args.max_steps
        tokens = steps * batch_tokens * args.gradient_accumulation_steps * args.world_size
        data = "streamed"
    else:
        per_epoch, steps = preflight.steps(args, len(features["train"]))
        epoch_tokens = sum(len(ids) for batch in features["train"].iter(1000) for ids in batch["input_ids"])
        tokens = epoch_tokens * steps / per_epoch
        data = f"{plural(epoch_tokens, 'token')} in {plural(len(features['train']), 'row')} of at most {prepared.max_length}"
    rate, kind = _matmul_rate(args.bf16, args.device)
    seconds = 6 * total * tokens / rate / args.world_size / 0.3
    states = total * 4 + trainable * 12  # weights, and gradient and two moments of what trains, in fp32
    activations = batch_tokens * _activation_bytes(prepared)
    rows = {
        "parameters": f"{total:,}, of which {trainable:,} train",
        "data": data,
        "steps": f"{steps:,} ({per_epoch:,} an epoch), batch {args.per_device_train_batch_size} × {args.gradient_accumulation_steps} accumulated × {plural(args.world_size, 'process')}",
        "tokens": f"{tokens:,.0f} in the whole run",
        "memory": f"about {(states + activations) / 2**30:.1f} GiB a process: {states / 2**30:.1f} weights, gradients and moments, {activations / 2**30:.1f} activations and logits",
        "time": f"about {_duration(seconds)} on {args.device.type}: 6 × parameters × tokens at 30 % of the {rate / 1e9:,.0f} GFLOP/s that a {kind} product reaches here",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def _parameters(prepared: Any) -> tuple[int, int]:
    import torch
    import transformers

    from llmkit.models import loading

    config, task = prepared.recipe.model, prepared.recipe.task
    if not isinstance(config.name, str):
        model = config.name
    else:
        wanted = loading.architecture(config, task)
        for key, value in task.model_kwargs().items():
            setattr(wanted, key, value)
        if config.from_scratch:
            wanted.vocab_size = len(prepared.tokenizer)
        with torch.device("meta"):
            model = loading.adapt(getattr(transformers, task.auto_class).from_config(wanted), config, task)
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def _activation_bytes(prepared: Any) -> int:
    """Bytes a token: 34 a hidden unit and layer (Korthikanti et al. 2022, without the attention matrix), and logits in fp32 twice."""
    from llmkit.models import loading

    name = prepared.recipe.model.name
    config = loading.architecture(prepared.recipe.model, prepared.recipe.task) if isinstance(name, str) else name.config
    layers, width = getattr(config, "num_hidden_layers", 1), getattr(config, "hidden_size", 1)
    logits = len(prepared.tokenizer) if "LM" in prepared.recipe.task.auto_class else 0
    return 34 * layers * width + 3 * 4 * logits


def _matmul_rate(bf16: bool, device: Any) -> tuple[float, str]:
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(768, 768, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * 768**3 / best, str(dtype).removeprefix("torch.")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
