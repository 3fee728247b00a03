"""The field names of `transformers.TrainingArguments`, read from its source without importing torch, and their checks."""

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmkit.errors import suggest
from llmkit.log import log
from llmkit.recipe import coerce, parse_values

TYPES = {"int": int, "float": float, "bool": bool, "None": type(None)}
REPLACED = {
    "warmup_ratio": "write `warmup_steps: 0.1` (a fraction of the run)",
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "overwrite_output_dir": "choose another --output, or --resume the run that is there",
    "no_cuda": "write `use_cpu: true`",
    "jit_mode_eval": "write `torch_compile: true`",
    "output_dir": "write --output (run.output)",
    "resume_from_checkpoint": "write --resume (run.resume) with the run's own --output",
    "label_smoothing_factor": "use --task.label_smoothing; tasks without that option have no label smoothing",
    "batch_size": "write `per_device_train_batch_size`",
    "epochs": "write `num_train_epochs`",
    "lr": "write `learning_rate`",
}
"""Fields that were removed, belong elsewhere or have another name, with what to write instead."""
WITHOUT_EFFECT = {
    "logging_dir": "every run writes log.jsonl into its output folder; for TensorBoard set TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "safetensors is the only format written",
}
"""Fields that were removed and change nothing: ignored with a warning, since most older scripts set them."""


@functools.cache
def training_fields() -> dict[str, str]:
    """Return every TrainingArguments field with its annotation."""
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    tree = ast.parse((Path(package) / "training_args.py").read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments").body
    return {n.target.id: ast.unparse(n.annotation) for n in body if isinstance(n, ast.AnnAssign)}


def check_training(values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return `values` as TrainingArguments expects them; append unknown names and wrong types to `faults`."""
    known, checked = training_fields(), {}
    for key, value in parse_values(values).items():
        allowed = [TYPES.get(part.strip()) for part in known.get(key, "").split("|")]
        if key in WITHOUT_EFFECT:
            log(f"training.{key} is ignored; {WITHOUT_EFFECT[key]}", "warning")
        elif key in REPLACED:
            faults.append(f"training.{key} is not used; {REPLACED[key]}")
        elif key not in known:
            faults.append(f"training.{key}: TrainingArguments has no such field; {suggest(key, known)}")
        else:
            checked[key] = value if None in allowed else coerce(value, allowed, f"training.{key}", faults)
    return checked
