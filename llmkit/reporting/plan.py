"""`--plan`: what a run would be, before it is one. Everything is prepared as for the run; no weight is read."""

from __future__ import annotations

from typing import Any

from llmkit import console
from llmkit.console import plural
from llmkit.recipe import Recipe


def plan(recipe: Recipe) -> str:
    """Parameters, tokens, steps, memory and time. Memory and time are estimates, and say how they are made."""
    from llmkit.running import prepare
    from llmkit.training import preflight

    console.hush()
    prepared = prepare(recipe)
    args, train = prepared.args, prepared.features["train"]
    model, layers, width = _empty(prepared)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch, times = args.per_device_train_batch_size, args.gradient_accumulation_steps
    batch_tokens = batch * prepared.max_length
    if recipe.data.streaming:
        per_epoch = steps = args.max_steps
        tokens = steps * batch_tokens * times * args.world_size
        data = "streamed"
    else:
        per_epoch, steps = preflight.steps(args, len(train))
        epoch_tokens = sum(preflight.lengths(train))
        tokens = epoch_tokens * steps / per_epoch
        rows = plural(len(train), "row")
        data = f"{plural(epoch_tokens, 'token')} in {rows} of at most {prepared.max_length}"
    rate, kind = _matmul_rate(args.bf16, args.device)
    time = _duration(6 * total * tokens / rate / args.world_size / 0.3)
    states = total * 4 + trainable * 12  # weights, and gradient and two moments of what trains, in fp32
    # 34 bytes a token, hidden unit and layer (Korthikanti et al. 2022, without attention), and logits in fp32, thrice
    logits = len(prepared.tokenizer) if "LM" in prepared.recipe.task.auto_class else 0
    others = batch_tokens * (34 * layers * width + 3 * 4 * logits)
    lines = {
        "parameters": f"{total:,}, of which {trainable:,} train",
        "data": data,
        "steps": f"{steps:,} ({per_epoch:,} an epoch), batch {batch} × {times} accumulated × "
        + plural(args.world_size, "process"),
        "tokens": f"{tokens:,.0f} in the whole run",
        "memory": f"about {(states + others) / 2**30:.1f} GiB a process: {states / 2**30:.1f} weights, gradients and "
        f"moments, {others / 2**30:.1f} activations and logits",
        "time": f"about {time} on {args.device.type}: 6 × parameters × tokens at 30 % of the {rate / 1e9:,.0f} GFLOP/s "
        f"that a {kind} product reaches here",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _empty(prepared: Any) -> tuple[Any, int, int]:
    """The model without weights, its layers and its width."""
    import torch
    import transformers

    from llmkit.models import loading

    config, task = prepared.recipe.model, prepared.recipe.task
    if not isinstance(config.name, str):
        model, wanted = config.name, config.name.config
    else:
        wanted = loading.architecture(config, task)
        wanted.update(task.model_kwargs() | ({"vocab_size": len(prepared.tokenizer)} if config.from_scratch else {}))
        with torch.device("meta"):
            model = loading.adapt(getattr(transformers, task.auto_class).from_config(wanted), config, task)
    return model, getattr(wanted, "num_hidden_layers", 1), getattr(wanted, "hidden_size", 1)


def _matmul_rate(bf16: bool, device: Any) -> tuple[float, str]:
    """Operations a second, and the type they were done in."""
    import torch
    from torch.utils.benchmark import Timer

    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(768, 768, device=device, dtype=dtype)
    timer = Timer("(a @ a).sum().item()", globals={"a": a}, num_threads=torch.get_num_threads())
    best = min(timer.timeit(1).mean for _ in range(12))
    return 2 * 768**3 / best, str(dtype).removeprefix("torch.")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
