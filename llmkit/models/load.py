"""Loads models: pretrained or from scratch, with or without a PEFT adapter. Safetensors only, and no remote code."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.utils import logging

from llmkit import hub
from llmkit.errors import UsageError, as_usage_error, raise_faults, suggest
from llmkit.log import log
from llmkit.models import adapters, vectors
from llmkit.recipe import ModelConfig, read_yaml
from llmkit.task import Model, Task, Tokenizer

UNUSED_MODULES = {"AutoModel": ("pooler",)}
"""Modules of a model that no task of an Auto class uses."""
OFFSET_BY_PAD = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "mpnet")
"""Model types whose position ids start after the id of the pad token."""
TRAINING_DTYPES = ("auto", "float32", "bfloat16")
LOADING = threading.RLock()
"""Held while a model is loaded: Transformers patches torch meanwhile, and two threads at once would leave it patched."""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turn off the warnings and progress bars of Transformers while a model is loaded, which one thread at a time does."""
    with LOADING:
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
        adapters.check(config, task)
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
    adapters.check_fields("model.config", config.config, type(base), {*base.to_dict(), *base.attribute_map})
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
    path = adapters.base_folder(hub.find_model(name, weights=not from_scratch))
    with as_usage_error(f"model {name!r}: its config cannot be read", OSError, ValueError, KeyError, ImportError):
        return transformers.AutoConfig.from_pretrained(**hub.load_args(path), trust_remote_code=False)


def fit_task(config: ModelConfig, task: Task, rows: Mapping[str, Dataset]) -> Task:
    """Return the task with what the pretrained folder says beside its weights (`Task.with_checkpoint`), fitted to `rows`.

    If the model has a head that was trained for the same labels, they are in the order of its logits; what becomes of a
    head with other labels is logged. Raises UsageError if such a head cannot be replaced.
    """
    by_name = isinstance(config.name, (str, Path))
    if by_name and not config.from_scratch:
        task = task.with_checkpoint(hub.find_model(str(config.name)), None)
    task = task.fit(rows)
    saved, labels = head_labels(config, task), _labels(task)
    if _fits(saved, labels):
        if saved not in ([], labels):
            log(f"the model's head has no names for its labels; it is trained further as {', '.join(labels)}", "config")
        return task
    if {*saved} == {*labels} and hasattr(task, "labels"):
        log(f"labels in the order of the model's head, which is trained further: {', '.join(saved)}", "config")
        return replace(task, labels=tuple(saved))
    keep = f"; to keep it, set --task.labels '{json.dumps(saved, ensure_ascii=False)}'" if {*labels} < {*saved} else ""
    what = f"the model's head was trained for {', '.join(saved)}, the data has {', '.join(labels)}"
    folder = adapters.adapter_folder(config)
    if folder or not by_name:
        fix = adapters.merge_first(folder) if folder else "give a model with a head for these, named in its id2label"
        raise UsageError(f"model {str(folder or type(config.name).__name__)!r}: {what}{keep}; {fix}")
    log(f"{what}: it is replaced by a new head{keep}", "warning")
    return task


def head_labels(config: ModelConfig, task: Task) -> list[str]:
    """Return the labels of the head that a pretrained model has for the task, in the order of its logits, if it has one.

    An adapter's head is described in the recipe.yaml beside it.
    """
    if config.from_scratch or not _labels(task):
        return []
    if folder := adapters.adapter_folder(config):
        recipe = folder / "recipe.yaml"
        return [*(read_yaml(recipe)["task"].get("labels") or ())] if recipe.exists() else []
    if isinstance(config.name, (str, Path)):
        saved = read_config(str(config.name))
        names = saved.architectures or []
    else:
        saved, names = config.name.config, [type(config.name).__name__]
    cls = getattr(transformers, task.auto_class)._model_mapping.get(type(saved), None)
    return [n for _, n in sorted((saved.id2label or {}).items())] if getattr(cls, "__name__", "") in names else []


def _labels(task: Task) -> list[str]:
    return [*task.config_fields.get("id2label", {}).values()]


def _fits(saved: list[str], labels: list[str]) -> bool:
    """Whether a head for the labels `saved` can be trained further for `labels`: none, the same, or one without names."""
    return saved in ([], labels, [f"LABEL_{i}" for i in range(len(labels))])


def max_positions(config: PretrainedConfig, tokenizer: Tokenizer | None = None) -> int | None:
    """Return the model's limit of tokens per row (with a tokenizer, at most that of the tokenizer), or None."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if limit and text.model_type in OFFSET_BY_PAD:
        limit -= (text if tokenizer is None else tokenizer).pad_token_id + 1
    limits = (limit, getattr(tokenizer, "model_max_length", None))
    return min((n for n in limits if n and n < 10**9), default=None)  # Transformers writes "no limit" as 1e30


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
        has_adapter = config.adapter or adapters.adapter_folder(config)
        dtype: Any = torch.float32 if config.from_scratch or (training and not has_adapter) else "auto"
        args = {"config": model_config, "dtype": dtype if config.dtype == "auto" else getattr(torch, config.dtype)}
        load = _new_model if config.from_scratch else _pretrained_model
        with LOADING:
            model, new = load(config, task, tokenizer, args)
        if training and not _fits(head_labels(config, task), _labels(task)):
            new = sorted({*new, *_start_head_again(model)})
        _resize_embeddings(model, tokenizer, frozen=bool(training and has_adapter))
    freeze_unused(model, task)
    model = adapters.add_adapter(model, config, task, training, new)
    if training and hasattr(model, "peft_config"):
        adapters.name_base(model, config)
    task.configure(tokenizer, model)
    return model


def freeze_unused(model: Model, task: Task) -> None:
    """Freeze modules that the task does not use, since several processes would wait for their gradients."""
    for name, parameter in model.named_parameters():
        if _is_unused(name, task):
            parameter.requires_grad_(False)


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
    base = adapters.base_folder(path)
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
    if new and base == path:
        more = f" and {len(new) - 4} more" if len(new) > 4 else ""
        log(f"new weights, to be trained: {', '.join(new[:4])}{more}", "config")
    return model, new


def _start_head_again(model: Model) -> list[str]:
    """Set the weights of a model's head to random ones, and return their names."""
    body = {*model.base_model.modules(), model}
    head = {name: module for name, module in model.named_modules() if module not in body}
    for module in head.values():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return [f"{name}.{parameter}" for name, m in head.items() for parameter, _ in m.named_parameters(recurse=False)]


def _resize_embeddings(model: Model, tokenizer: Tokenizer, frozen: bool) -> None:
    size = model.get_input_embeddings().num_embeddings
    if size >= len(tokenizer):
        return
    if frozen:
        fault = f"the tokenizer has {len(tokenizer):,} entries, the model {size:,}"
        raise UsageError(f"model.adapter: {fault}, and an adapter cannot add embeddings; train all weights instead")
    log(f"embeddings resized from {size:,} to {len(tokenizer):,}, the size of the tokenizer", "config")
    model.resize_token_embeddings(len(tokenizer))


def _clear_quantization(model: Model, file: Path) -> None:
    """Transformers unpacks a .gguf file to full precision, but still marks the model as quantized. An adapter is saved
    with the name of the file."""
    for owner, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        vars(owner).pop(name, None)
    model.is_quantized = False
    model.name_or_path = str(file.resolve())


def _is_unused(parameter: str, task: Task) -> bool:
    return bool({*parameter.split(".")} & {*UNUSED_MODULES.get(task.auto_class, ())})
