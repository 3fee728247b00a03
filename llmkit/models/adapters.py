"""PEFT adapters: a new one, or that of a folder, and the base model under it.

An adapter is worth nothing without its base model. A folder with an adapter therefore names the base by its absolute
path, or by its name on the hub, and holds the sha256 of its weights (`base_model.json`), which loading checks.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import (
    PeftConfig,
    PromptLearningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from llmkit import hub
from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest
from llmkit.log import log
from llmkit.recipe import ModelConfig
from llmkit.task import Model, Task

PEFT_TASKS = {
    "AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM", "AutoModel": "FEATURE_EXTRACTION",
    "AutoModelForSequenceClassification": "SEQ_CLS", "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}  # fmt: skip
BASE_FILE = "base_model.json"
"""In the folder of an adapter: `{"sha256": …}` of its base model's weights, see `weights_sha256`."""


# -- the folder of an adapter, and its base model


def adapter_folder(config: ModelConfig) -> Path | None:
    """Return the folder of `model.name` if it holds an adapter, and the recipe wants its weights."""
    is_pretrained = not config.from_scratch and isinstance(config.name, (str, Path))
    path = hub.find_model(str(config.name)) if is_pretrained else None
    return path if path and (path / "adapter_config.json").exists() else None


def base_model_of(adapter: Path) -> str:
    """Return the folder or name of an adapter's base model; a bundled one is found in this installation."""
    file = adapter / "adapter_config.json"
    with as_usage_error(f"{file}: cannot be read", OSError, ValueError):
        name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{file}: names no base model; write its folder or hub id into base_model_name_or_path")
    base = Path(name)
    return base.name if not base.exists() and base.name in hub.MODELS else str(base)


def base_folder(path: Path) -> Path:
    """Return the folder of an adapter's base model, or `path` if it is not an adapter.

    Raises UsageError if the base is not found, or if its weights are not those that the adapter was trained on.
    """
    file = path / "adapter_config.json"
    if not file.exists():
        return path
    name, record = base_model_of(path), path / BASE_FILE
    fix = f"if the base model is elsewhere, write its path into base_model_name_or_path in {file}"
    try:
        base = hub.find_model(name)
    except UsageError as e:
        raise UsageError(*(f"model {str(path)!r}: base model of its adapter: {f}; {fix}" for f in e.faults)) from None
    with as_usage_error(f"{record}: cannot be read", OSError, ValueError, KeyError):
        trained_on = json.loads(record.read_text(encoding="utf-8"))["sha256"] if record.exists() else None
    if trained_on and trained_on != (sha256 := weights_sha256(base)):
        what = f"its adapter was trained on weights with sha256 {trained_on[:12]}…, those of {name} have {sha256[:12]}…"
        raise UsageError(f"model {str(path)!r}: {what}; {fix}; to use it with these weights, delete {record}")
    return base


def weights_sha256(model: Path) -> str:
    """Return the sha256 of a model's weights: the bytes of its .safetensors files one after the other, in the order of
    their names, or of its .gguf file. Each file is read once in a process, unless it changes."""
    files = [model] if model.is_file() else sorted(model.glob("*.safetensors"))
    return _sha256(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@functools.cache
def _sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, *_ in files:
        digest.update(np.memmap(name, mode="r"))
    return digest.hexdigest()


def write_base(model: Model, folder: Path) -> None:
    """Write the sha256 of the base model beside a saved adapter. Does nothing for any other model."""
    if sha256 := vars(model).get("base_sha256"):
        (folder / BASE_FILE).write_text(json.dumps({"sha256": sha256}) + "\n", encoding="utf-8")


# -- the adapter of a recipe


def check(config: ModelConfig, task: Task) -> None:
    """Raise UsageError for an adapter that PEFT does not accept, whose folder could not be loaded, or that is unlike
    the one in the folder of `model.name`."""
    if not config.adapter:
        return
    wanted, folder = adapter_config(config.adapter, task), adapter_folder(config)
    if config.from_scratch:
        fix = "leave out --model.from_scratch, or --model.adapter"
        raise UsageError(f"model.adapter: the random weights under it would not be saved; {fix}")
    if hasattr(config.name, "peft_config"):
        raise UsageError("model.adapter: the model has an adapter already; leave it out to train that one further")
    if folder:
        configs = wanted, PeftConfig.from_pretrained(str(folder))
        new, old = ({**c.to_dict(), "type": str(c.peft_type.value).lower()} for c in configs)
        fields = ("type", *config.adapter) if new["type"] == old["type"] else ("type",)
        what = f"but the adapter in {folder} has"
        fix = f"leave it out to train that adapter further, or {merge_first(folder)}"
        raise_faults([f"model.adapter.{f}: {new[f]!r}, {what} {old[f]!r}; {fix}" for f in fields if new[f] != old[f]])


def merge_first(folder: Path) -> str:
    """Return a hint: the command that merges an adapter into its base model."""
    code = f"import llmkit; m = llmkit.load('{folder}'); m.model.merge_and_unload().save_pretrained('MERGED')"
    return f"merge it first, and give --model MERGED: python -c \"{code}; m.tokenizer.save_pretrained('MERGED')\""


def check_fields(part: str, fields: Iterable[str], owner: type, known: Iterable[str]) -> None:
    """Raise UsageError for each of `fields` that is not a `known` field of the class `owner`."""
    missing = f"{owner.__name__} has no such field"
    raise_faults([f"{part}.{name}: {missing}; {suggest(name, known)}" for name in fields if name not in known])


def adapter_config(adapter: Mapping[str, Any], task: Task) -> PeftConfig:
    """Return PEFT's config of `model.adapter`. Raises UsageError for an unknown method or field."""
    methods = {str(k.value).lower(): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    fields = dict(adapter)
    method = str(fields.pop("type", "lora")).lower()
    if method not in methods:
        raise UsageError(f"model.adapter.type: {method!r} is not a PEFT method; {suggest(method, methods)}")
    cls = methods[method]
    if issubclass(cls, PromptLearningConfig):
        raise UsageError(f"model.adapter.type: {method} adds tokens to each row, which no task supports; choose lora")
    check_fields("model.adapter", fields, cls, {f.name for f in dataclasses.fields(cls)})
    for name, value in fields.items():  # PEFT checks these only when the model is built
        if name in ("r", "lora_alpha") and (not isinstance(value, (int, float)) or value <= 0):
            raise UsageError(f"model.adapter.{name}: {value!r} is not a number above 0")
    with as_usage_error("model.adapter: not accepted by PEFT", TypeError, ValueError):
        return cls(**{"task_type": PEFT_TASKS.get(task.auto_class), **fields})


def add_adapter(model: Model, config: ModelConfig, task: Task, training: bool = True, new: Sequence[str] = ()) -> Model:
    """Return `model` with the adapter of its folder, to be trained further or for inference, or with the new one of
    `config`, which is for training.

    Parameters in `new` are trained and saved beside the adapter; PEFT would leave all but the head random, frozen and
    unsaved. Raises UsageError if the adapter does not fit, or if the model has no place for some of its weights.
    """
    folder = adapter_folder(config)
    if folder is None and not (config.adapter and training):
        return model
    peft_config = PeftConfig.from_pretrained(str(folder)) if folder else adapter_config(config.adapter, task)
    peft_config.inference_mode = not training
    if training:
        peft_config.task_type = PEFT_TASKS.get(task.auto_class)  # the folder's may be that of another head
        if hasattr(peft_config, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in model.modules()):
            peft_config.fan_in_fan_out = True
        if new and hasattr(peft_config, "modules_to_save"):
            modules = {name.rpartition(".")[0] for name in new}
            peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or []), *modules})
    peft_config.base_model_name_or_path, reason = None, ""
    try:
        model = get_peft_model(model, peft_config)
        if folder:
            weights = {**get_peft_model_state_dict(model), **load_peft_weights(str(folder), device="cpu")}
            unplaced = set_peft_model_state_dict(model, weights).unexpected_keys
            if unplaced and not peft_config.is_prompt_learning:
                reason = f"no place for {len(unplaced)} of its weights, such as {unplaced[0]}"
    except (ValueError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:300]
    if reason:
        fault = f"does not fit a {type(model).__name__} for {task.name} ({reason})"
        raise UsageError(
            f"model {str(folder)!r}: {fault}; {merge_first(folder)}" if folder else f"model.adapter: {fault}"
        )
    if training:
        trained, total = model.get_nb_trainable_parameters()
        origin = f" of {folder}, trained further" if folder else ""
        kind = str(peft_config.peft_type.value).lower()
        log(f"adapter {kind}{origin}: {trained:,} of {total:,} parameters are trained", "config")
    return model


def name_base(model: Model, config: ModelConfig) -> None:
    """Set what is saved of an adapter's base model: its absolute path, or its name on the hub, and the sha256 of its
    weights; of an object, whose weights may be other than those in its folder, the path alone."""
    folder = adapter_folder(config)
    base = base_model_of(folder) if folder else config.name
    name = str(getattr(base, "name_or_path", base))
    path = hub.model_folder(name) or Path(name).expanduser()
    model.peft_config["default"].base_model_name_or_path = str(path.resolve()) if name and path.exists() else name
    if isinstance(base, (str, Path)):
        vars(model)["base_sha256"] = weights_sha256(hub.find_model(name))
    elif not name:
        log("the adapter's folder will not say what its base model is: the model object has no name", "warning")
