"""`--plan`: parameters, tokens, steps, memory and time of a run, from its prepared data; no weights are read."""

import torch
import transformers
from torch.utils.benchmark import Timer

from llmkit.log import plural
from llmkit.models import adapters, load
from llmkit.pipeline import Prepared, prepare
from llmkit.recipe import Recipe
from llmkit.task import Model
from llmkit.training import checks

UTILIZATION = 0.3
"""Share of the measured speed of a matrix product that training reaches."""


def plan(recipe: Recipe) -> str:
    """Return parameters, tokens, steps, memory and time as text. Memory and time are estimates, with their formula."""
    prepared = prepare(recipe)
    args, train = prepared.args, prepared.features["train"]
    model, layers, width = _empty_model(prepared)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    batch_tokens = batch * prepared.max_length
    if recipe.data.streaming:
        epoch_steps = steps = args.max_steps
        tokens, data = steps * batch_tokens * accumulation * args.world_size, "streamed"
    else:
        epoch_steps, steps = checks.num_steps(args, len(train))
        epoch_tokens = sum(checks.lengths(train))
        tokens = epoch_tokens * steps / epoch_steps
        rows = plural(len(train), "row")
        data = f"{plural(epoch_tokens, 'token')} in {rows} of at most {prepared.max_length}"
    speed, dtype = _matmul_speed(args.bf16, args.device)
    seconds = 6 * total * tokens / (speed * args.world_size * UTILIZATION)
    states = total * 4 + trainable * 12  # in fp32: weights; gradient and two moments of trainable ones
    # 34 bytes per token, hidden unit and layer (Korthikanti et al. 2022, without attention); logits in fp32, three times
    logits = len(prepared.tokenizer) if "LM" in prepared.recipe.task.auto_class else 0
    activations = batch_tokens * (34 * layers * width + 3 * 4 * logits)
    lines = {
        "parameters": f"{total:,}, of which {trainable:,} are trained",
        "data": data,
        "steps": f"{steps:,} ({epoch_steps:,} per epoch), batch {batch} × {accumulation} accumulated × "
        + plural(args.world_size, "process"),
        "tokens": f"{tokens:,.0f} in the whole run",
        "memory": f"about {(states + activations) / 2**30:.1f} GiB per process: {states / 2**30:.1f} weights, gradients "
        f"and moments, {activations / 2**30:.1f} activations and logits",
        "time": f"about {_duration(seconds)} on {args.device.type}: 6 × parameters × tokens at {UTILIZATION:.0%} of the "
        f"{speed / 1e9:,.0f} GFLOP/s of a {dtype} matrix product here",
    }
    return "\n".join(f"{name:<11} {value}" for name, value in lines.items())


def _empty_model(prepared: Prepared) -> tuple[Model, int, int]:
    """Return the model without weights, its number of layers and its width."""
    config, task = prepared.recipe.model, prepared.recipe.task
    if not isinstance(config.name, str):
        model, architecture = config.name, config.name.config
    else:
        architecture = load.architecture(config, task)
        vocabulary = {"vocab_size": len(prepared.tokenizer)} if config.from_scratch else {}
        architecture.update({**task.config_fields, **vocabulary})
        with torch.device("meta"):
            model = getattr(transformers, task.auto_class).from_config(architecture)
            load.freeze_unused(model, task)
            model = adapters.add_adapter(model, config, task)
    return model, getattr(architecture, "num_hidden_layers", 1), getattr(architecture, "hidden_size", 1)


def _matmul_speed(bf16: bool, device: torch.device) -> tuple[float, str]:
    """Return the operations per second of a matrix product, and their data type."""
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
