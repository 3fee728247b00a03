"""Feature columns that the untrained model computes, such as the reference log-probabilities of DPO."""

import functools
import hashlib
from collections.abc import Mapping

import torch
from datasets import Dataset
from transformers import TrainingArguments

from llmkit.data import cache
from llmkit.data.sampler import EpochSampler, RowView
from llmkit.log import log
from llmkit.task import Columns, Model, Task, Tokenizer


def add_precomputed(
    task: Task,
    features: Mapping[str, Dataset],
    model: Model,
    tokenizer: Tokenizer,
    layout: str,
    args: TrainingArguments,
) -> dict[str, Dataset]:
    """Return `features` with the columns of `task.precompute`, from the cache if rows and weights are unchanged.

    They are computed in the precision of training, so that the untrained model agrees with its own values exactly.
    """
    if type(task).precompute is Task.precompute:
        return dict(features)
    out, precision = {}, (args.bf16, args.fp16)
    known = (weights_digest(model), cache.code_digest(type(task)), layout, precision)  # no task option, see precompute
    for part, dataset in features.items():
        build = functools.partial(_build, task, dataset, model, tokenizer, layout, args)
        key = cache.digest(cache.rows_digest(dataset), *known)
        out[part], notes, cached = cache.load_or_build("precomputed", key, build)
        names = ", ".join(notes["columns"])
        log(f"{part}: {names} computed by the untrained model" + (" (cached)" if cached else ""), "data")
    return out


def _build(
    task: Task, features: Dataset, model: Model, tokenizer: Tokenizer, layout: str, args: TrainingArguments
) -> tuple[Dataset, cache.Notes]:
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    columns: Columns = {}
    view, in_order = RowView(features), EpochSampler(len(features), args.per_device_eval_batch_size, shuffle=False)
    was_training, device = model.training, args.device
    model.to(device).eval()
    try:
        for keys in in_order:
            batch = task.collate(view.__getitems__(keys), tokenizer, layout)
            batch = {k: v.to(device) for k, v in batch.items()}
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                for name, values in task.precompute(model, batch).items():
                    columns.setdefault(name, []).extend(values)
    finally:
        model.train(was_training)
    for name, values in columns.items():
        features = features.add_column(name, values)
    return features, {"columns": list(columns)}


def weights_digest(model: Model) -> str:
    """Return a key of every weight, an adapter's included, and of the config."""
    state = hashlib.blake2b(model.config.to_json_string().encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()
