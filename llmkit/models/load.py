"""Loads models: pretrained or from scratch, with or without a PEFT adapter. Safetensors only, and no remote code."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig, PeftModel, PromptLearningConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from llmkit import hub
from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest
from llmkit.log import log
from llmkit.models import vectors
from llmkit.recipe import ModelConfig
from llmkit.task import Model, Task, Tokenizer

PEFT_TASKS = {
    "AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM", "AutoModel": "FEATURE_EXTRACTION",
    "AutoModelForSequenceClassification": "SEQ_CLS", "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}  # fmt: skip
UNUSED_MODULES = {"AutoModel": ("pooler",)}
"""Modules of a model that no task of an Auto class uses."""
OFFSET_BY_PAD = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "mpnet")
"""Model types whose position ids start after the id of the pad token."""
TRAINING_DTYPES = ("auto", "float32", "bfloat16")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turn off the warnings and progress bars of Transformers within the block."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# -- before the weights are read


def check(config: ModelConfig, task: Task, max_length: int | None = None) -> list[str]:
    """Return the faults of the model part, and of `data.max_length`, that can be seen before data or weights are read."""
    if config.name is None:
        return [f"model.name: not given; give --model FOLDER, a hub id, or {', '.join(hub.MODELS)}"]
    faults = []
    if config.dtype not in TRAINING_DTYPES:
        fix = f"choose from {', '.join(TRAINING_DTYPES)}; for float16, set --training.fp16 on a GPU instead"
        faults.append(f"model.dtype: {config.dtype!r} cannot be trained; {fix}")
    if config.tokenizer_size < 1:
        faults.append(f"model.tokenizer_size: {config.tokenizer_size} is less than 1")
    try:
        if config.adapter:
            adapter_config(config.adapter, task)
        if isinstance(config.name, (str, Path)):
            decoder = architecture(config, task).get_text_config(decoder=True)
            limit, tokens = max_positions(decoder), getattr(task, "generation", {}).get("max_new_tokens")
            if limit and max_length and max_length > limit:
                faults.append(f"data.max_length: {max_length} is more than the {limit} positions of {config.name}")
            if limit and isinstance(tokens, int) and tokens > limit:
                faults.append(f"task.generation.max_new_tokens: {tokens} is more than the model's {limit} positions")
        if config.vectors:
            _check_vectors(config, task)
    except UsageError as e:
        faults.extend(e.faults)
    return faults


def architecture(config: ModelConfig, task: Task) -> PretrainedConfig:
    """Return the model's config with the fields of `model.config`.

    Raises UsageError for an unknown field, for a model that does not support the task, and for a field that would
    change the shape of pretrained weights.
    """
    name, types = str(config.name), transformers.CONFIG_MAPPING
    is_type = config.from_scratch and name in types and not Path(name).is_dir()
    try:
        base = types[name]() if is_type else read_config(name, config.from_scratch)
    except UsageError as e:
        fix = "; or start from random weights with --model.from_scratch" if name in types else ""
        raise UsageError(*(fault + fix for fault in e.faults)) from None
    _check_fields("model.config", config.config, type(base), {*base.to_dict(), *base.attribute_map})
    fields = {base.attribute_map.get(k, k): v for k, v in config.config.items()}
    kept = {} if is_type else base.to_dict()
    if "num_hidden_layers" in fields:
        kept.pop("layer_types", None)  # one entry per layer
    shown = ", ".join(f"{k}: {v!r}" for k, v in config.config.items())
    invalid = f"model.config: {type(base).__name__} does not accept {shown}"
    with as_usage_error(invalid, ValueError, TypeError, StrictDataclassError):
        new = type(base).from_dict({**kept, **fields})  # from_dict recomputes the fields that depend on others
    if type(new) not in getattr(transformers, task.auto_class)._model_mapping:
        raise UsageError(f"model {name!r}: a {new.model_type} model does not support {task.name} ({task.auto_class})")
    if fields:
        with as_usage_error(f"model.config: a {new.model_type} model cannot have {shown}", Exception):  # of any class
            shapes = _shapes(new, task)
        if not config.from_scratch and _shapes(base, task) != shapes:
            raise UsageError(f"model.config: {shown} changes pretrained shapes; only valid with --model.from_scratch")
    return new


def read_config(name: str, from_scratch: bool = False) -> PretrainedConfig:
    """Return the config of a folder, .gguf file, hub id or bundled model; for an adapter, that of its base model."""
    path = _base_folder(hub.find_model(name, weights=not from_scratch))
    with as_usage_error(f"model {name!r}: its config cannot be read", OSError, ValueError, KeyError, ImportError):
        return transformers.AutoConfig.from_pretrained(**hub.load_args(path), trust_remote_code=False)


def task_for_checkpoint(config: ModelConfig, task: Task) -> Task:
    """Return the task with what the pretrained folder says beside its weights, see `Task.with_checkpoint`."""
    if config.from_scratch or not isinstance(config.name, (str, Path)):
        return task
    return task.with_checkpoint(hub.find_model(str(config.name)), None)


def base_model_of(adapter: Path) -> str:
    """Return the folder or name of an adapter's base model; a bundled one is found in this installation."""
    base = Path(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    return base.name if not base.exists() and base.name in hub.MODELS else str(base)


def max_positions(config: PretrainedConfig, tokenizer: Tokenizer | None = None) -> int | None:
    """Return the model's limit of tokens per row (with a tokenizer, at most that of the tokenizer), or None."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if limit and text.model_type in OFFSET_BY_PAD:
        limit -= (text if tokenizer is None else tokenizer).pad_token_id + 1
    limits = (limit, getattr(tokenizer, "model_max_length", None))
    return min((n for n in limits if n and n < 10**9), default=None)  # Transformers writes "no limit" as 1e30


def _check_fields(part: str, fields: Iterable[str], owner: type, known: Iterable[str]) -> None:
    missing = f"{owner.__name__} has no such field"
    raise_faults([f"{part}.{name}: {missing}; {suggest(name, known)}" for name in fields if name not in known])


def _check_vectors(config: ModelConfig, task: Task) -> None:
    if not (config.from_scratch and isinstance(config.name, (str, Path))):
        raise UsageError("model.vectors: pretrained embeddings would be lost; only possible with --model.from_scratch")
    width, model_config = vectors.width(str(config.vectors)), architecture(config, task)
    embedding_dim = _empty_model(model_config, task).get_input_embeddings().embedding_dim
    if embedding_dim != width:
        field = "embedding_size" if hasattr(model_config, "embedding_size") else "hidden_size"
        sizes = f"{config.vectors} has {width} numbers per word, the model's embeddings {embedding_dim}"
        raise UsageError(f"model.vectors: {sizes}; set --model.config.{field} {width}")


def _shapes(config: PretrainedConfig, task: Task) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in _empty_model(config, task).state_dict().items()}


def _empty_model(config: PretrainedConfig, task: Task) -> Model:
    """A model on the meta device, which takes no memory."""
    with torch.device("meta"):
        return getattr(transformers, task.auto_class).from_config(config)


# -- weights


def load_model(config: ModelConfig, task: Task, tokenizer: Tokenizer, training: bool = True) -> Model:
    """Return the model of a recipe, with the task's head and labels and, for training, the adapter.

    Weights to train are float32, with bf16 left to autocast; those under an adapter and for inference stay as they are
    stored. Raises UsageError if the model cannot be loaded.
    """
    if not isinstance(config.name, (str, Path)):
        model, new = config.name, []
    else:
        model_config = architecture(config, task)
        known = {"num_labels", *model_config.to_dict(), *model_config.attribute_map}
        unknown = [name for name in task.config_fields if not hasattr(model_config, name)]
        part = f"task {task.name}: config_fields"
        raise_faults([f"{part}: {type(model_config).__name__} has no {n!r}; {suggest(n, known)}" for n in unknown])
        for name, value in task.config_fields.items():
            setattr(model_config, name, value)
        if model_config.pad_token_id is None or config.from_scratch:
            model_config.pad_token_id = tokenizer.pad_token_id
        dtype: Any = torch.float32 if config.from_scratch or (training and not config.adapter) else "auto"
        args = {"config": model_config, "dtype": dtype if config.dtype == "auto" else getattr(torch, config.dtype)}
        load = _new_model if config.from_scratch else _pretrained_model
        model, new = load(config, task, tokenizer, args)
    model = add_adapter(model, config, task, training, new)
    task.configure(tokenizer, model)
    return model


def _new_model(config: ModelConfig, task: Task, tokenizer: Tokenizer, args: dict[str, Any]) -> tuple[Model, list[str]]:
    model_config = args["config"]
    model_config.vocab_size = len(tokenizer)
    for token in ("bos", "eos", "sep", "cls", "mask"):
        setattr(model_config, f"{token}_token_id", getattr(tokenizer, f"{token}_token_id", None))
    if model_config.is_encoder_decoder:
        # the config's own ids are those of another vocabulary; like T5 and Marian, a new decoder starts with the pad
        # token, and it ends a text as the tokenizer does
        model_config.decoder_start_token_id = tokenizer.pad_token_id
        if model_config.eos_token_id is None:
            model_config.eos_token_id = tokenizer.sep_token_id
        model_config.forced_bos_token_id = model_config.forced_eos_token_id = None
        if hasattr(model_config, "decoder_vocab_size"):
            model_config.decoder_vocab_size = len(tokenizer)
    model = getattr(transformers, task.auto_class).from_config(**args)
    if config.vectors:
        vectors.fill_embeddings(model.get_input_embeddings().weight, tokenizer, str(config.vectors))
    if model.can_generate() and tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):
        model.generation_config.suppress_tokens = [tokenizer.unk_token_id]  # it stands for no text
    return model, []


def _pretrained_model(
    config: ModelConfig, task: Task, tokenizer: Tokenizer, args: dict[str, Any]
) -> tuple[Model, list[str]]:
    """The model, and the names of the parameters that its checkpoint does not hold."""
    path = hub.find_model(str(config.name))
    base = _base_folder(path)
    args |= hub.load_args(base)
    if "gguf_file" not in args:
        args |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
    with as_usage_error(f"model {str(path)!r}: cannot be loaded", OSError, ValueError, ImportError, SafetensorError):
        auto_class = getattr(transformers, task.auto_class)
        model, info = auto_class.from_pretrained(**args, trust_remote_code=False, output_loading_info=True)
    if "gguf_file" in args:
        _clear_quantization(model, base)
    names = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    new = sorted(name for name in names if not _is_unused(name, task))
    if base != path:
        model = PeftModel.from_pretrained(model, str(path), is_trainable=True)
    elif new:
        more = f" and {len(new) - 4} more" if len(new) > 4 else ""
        log(f"new weights, to be trained: {', '.join(new[:4])}{more}", "config")
    size = model.get_input_embeddings().num_embeddings
    if size < len(tokenizer):
        if config.adapter:
            fault = f"the tokenizer has {len(tokenizer):,} entries, the model {size:,}"
            raise UsageError(f"model.adapter: {fault}, and an adapter cannot add embeddings; train all weights instead")
        log(f"embeddings resized from {size:,} to {len(tokenizer):,}, the size of the tokenizer", "config")
        model.resize_token_embeddings(len(tokenizer))
    return model, new


def _base_folder(path: Path) -> Path:
    """The folder of an adapter's base model, or `path` if it is not an adapter."""
    return hub.find_model(base_model_of(path)) if (path / "adapter_config.json").exists() else path


def _clear_quantization(model: Model, file: Path) -> None:
    """Transformers unpacks a .gguf file to full precision, but still marks the model as quantized. An adapter is saved
    with the name of the file."""
    for owner, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        vars(owner).pop(name, None)
    model.is_quantized = False
    model.name_or_path = str(file.resolve())


def _is_unused(parameter: str, task: Task) -> bool:
    return bool({*parameter.split(".")} & {*UNUSED_MODULES.get(task.auto_class, ())})


# -- adapters


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
    _check_fields("model.adapter", fields, cls, {f.name for f in dataclasses.fields(cls)})
    for name, value in fields.items():  # PEFT checks these only when the model is built
        if name in ("r", "lora_alpha") and (not isinstance(value, (int, float)) or value <= 0):
            raise UsageError(f"model.adapter.{name}: {value!r} is not a number above 0")
    with as_usage_error("model.adapter: not accepted by PEFT", TypeError, ValueError):
        return cls(**{"task_type": PEFT_TASKS.get(task.auto_class), **fields})


def add_adapter(model: Model, config: ModelConfig, task: Task, training: bool = True, new: Sequence[str] = ()) -> Model:
    """Return `model` with the adapter of `config`, if there is one and it is for training.

    Parameters in `new` are trained and saved beside the adapter; PEFT would leave all but the head random, frozen and
    unsaved. Unused modules are frozen, since several processes would wait for their gradients.
    """
    for name, parameter in model.named_parameters():
        if _is_unused(name, task):
            parameter.requires_grad_(False)
    if not config.adapter or not training:
        return model
    peft_config = adapter_config(config.adapter, task)
    if hasattr(peft_config, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in model.modules()):
        peft_config.fan_in_fan_out = True
    if new and hasattr(peft_config, "modules_to_save"):
        modules = {name.rpartition(".")[0] for name in new}
        peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or []), *modules})
    with as_usage_error("model.adapter: does not fit this model", ValueError):
        model = get_peft_model(model, peft_config)
    trainable, total = model.get_nb_trainable_parameters()
    log(f"adapter {config.adapter.get('type', 'lora')}: {trainable:,} of {total:,} parameters are trained", "config")
    return model
