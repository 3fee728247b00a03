"""Columns that the model itself gives the features, before it is trained: computed once, kept like the features."""

import functools
import hashlib
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from llmkit.console import say
from llmkit.data import cache, preparation
from llmkit.data.preparation import Noted, Parts
from llmkit.data.sampling import EpochSampler, RowView
from llmkit.task import Task


def annotate(task: Task, features: Parts, model: Any, tokenizer: Any, layout: str, args: TrainingArguments) -> Parts:
    """`features` with the task's `annotations`: reused where the same rows met the same weights before. Computed in the
    precision that training computes in, so that the untrained model agrees with what is written down of it."""
    if not task.annotations:
        return features
    found, precision = {}, (args.bf16, args.fp16)
    known = (weights_digest(model), preparation.code_key(task), layout, precision)  # and no knob: see Task.annotations
    for part, dataset in features.items():
        build = functools.partial(_build, task, dataset, model, tokenizer, layout, args)
        found[part], _, reused = cache.kept("annotated", cache.digest(cache.rows_digest(dataset), *known), build)
        names = ", ".join(task.annotations)
        say(f"{part}: {names} from the untrained model" + (" (prepared before)" if reused else ""), "data")
    return found


def _build(task: Task, features: Dataset, model: Any, tokenizer: Any, layout: str, args: TrainingArguments) -> Noted:
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    columns: dict[str, list[Any]] = {name: [] for name in task.annotations}
    view, in_order = RowView(features), EpochSampler(len(features), args.per_device_eval_batch_size, shuffle=False)
    was_training, device = model.training, args.device
    model.to(device).eval()
    try:
        for keys in in_order:
            batch = task.collate(view.__getitems__(keys), tokenizer, layout)
            batch = {k: v.to(device) for k, v in batch.items()}
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                for name, values in task.annotate(model, batch).items():
                    columns[name] += values
    finally:
        model.train(was_training)
    for name, values in columns.items():
        features = features.add_column(name, values)
    return features, {}


def weights_digest(model: Any) -> str:
    """A key of every weight, the adapter's included, and of the config, which says what is done with them."""
    state = hashlib.blake2b(model.config.to_json_string().encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()
