"""Models: pretrained, from scratch, with an adapter; safetensors only, never a repository's own code."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from llmkit.console import say
from llmkit.errors import RecipeError, raise_faults, refusing, suggest
from llmkit.models import hub, vectors
from llmkit.recipe import ModelConfig
from llmkit.task import Task

PEFT_TASKS = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModel": "FEATURE_EXTRACTION",
}
COUNTS_FROM_PAD = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "mpnet")
"""models whose first position is the one after the pad token's id"""
DTYPES = ("auto", "float32", "bfloat16")  # to train; float16 is for inference


def check(config: ModelConfig, task: Task) -> list[str]:
    """Faults of the model part that show before any weight is read."""
    if config.name is None:
        return [f"model.name: not given; give --model FOLDER, a hub id, or {', '.join(hub.bundled.MODELS)}"]
    faults = []
    if config.dtype not in DTYPES:
        fix = f"choose from {', '.join(DTYPES)}; float16 does not train: say --training.fp16 on a GPU instead"
        faults.append(f"model.dtype: {config.dtype!r}; {fix}")
    if config.tokenizer_size < 1:
        faults.append(f"model.tokenizer_size: {config.tokenizer_size}; at least 1")
    try:
        if config.adapter:
            adapter_config(config.adapter, task)
        if isinstance(config.name, (str, Path)):
            architecture(config, task)
        if config.vectors:
            _check_vectors(config, task)
    except RecipeError as e:
        faults.extend(e.faults)
    return faults


def architecture(config: ModelConfig, task: Task) -> PretrainedConfig:
    """The model's config with the recipe's own fields laid over it. Raises RecipeError for a field it does not have,
    a model the task cannot use, or a field that would change the shape of pretrained weights."""
    name, types = str(config.name), transformers.CONFIG_MAPPING
    of_type = config.from_scratch and name in types and not Path(name).is_dir()
    try:
        base = types[name]() if of_type else read_config(name, config.from_scratch)
    except RecipeError as e:
        more = "; or give it new weights with --model.from_scratch" if name in types else ""
        raise RecipeError(*(f"{fault}{more}" for fault in e.faults)) from None
    _known("model.config", config.config, type(base), {*base.to_dict(), *base.attribute_map})
    given = {base.attribute_map.get(k, k): v for k, v in config.config.items()}
    kept = {} if of_type else base.to_dict()
    if "num_hidden_layers" in given:
        kept.pop("layer_types", None)  # one entry a layer
    shown = ", ".join(f"{k}: {v!r}" for k, v in config.config.items())
    refuses = f"model.config: {type(base).__name__} refuses {shown}"
    with refusing(refuses, ValueError, TypeError, StrictDataclassError):
        wanted = type(base).from_dict({**kept, **given})  # what it derives from its fields is derived anew
    if type(wanted) not in getattr(transformers, task.auto_class)._model_mapping:
        why = f"{task.auto_class} does not know it"
        raise RecipeError(f"model {name!r}: a {wanted.model_type} model cannot do {task.name} ({why})")
    if given:
        with refusing(f"model.config: no {wanted.model_type} model can have {shown}", Exception):  # it may be any
            shapes = _shapes(wanted, task)
        if not config.from_scratch and _shapes(base, task) != shapes:
            why = "would change the shape of pretrained weights; only with --model.from_scratch"
            raise RecipeError(f"model.config: {shown} {why}")
    return wanted


def read_config(name: str, from_scratch: bool = False) -> PretrainedConfig:
    """The config of a folder, .gguf file, hub id or bundled model; an adapter gives its base model's."""
    path = hub.find_model(name, weights=not from_scratch)
    if (path / "adapter_config.json").exists():
        path = hub.find_model(base_of(path))
    with refusing(f"model {name!r}: its config cannot be read", OSError, ValueError, KeyError, ImportError):
        return transformers.AutoConfig.from_pretrained(**hub.place(path), trust_remote_code=False)


def of_checkpoint(config: ModelConfig, task: Task) -> Task:
    """The task, with what the pretrained folder that a recipe starts from says beside its config."""
    if config.from_scratch or not isinstance(config.name, (str, Path)):
        return task
    return task.with_checkpoint(hub.find_model(str(config.name)))


def base_of(adapter: Path) -> str:
    """The model an adapter was trained on; a bundled one is found wherever llmkit lies now."""
    base = Path(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    return base.name if not base.exists() and base.name in hub.bundled.MODELS else str(base)


def _known(part: str, given: Mapping[str, Any], owner: type, known: Iterable[str]) -> None:
    """Raise RecipeError for the fields that their owner does not have."""
    missing = f"{owner.__name__} has no such field"
    raise_faults([f"{part}.{name}: {missing}; {suggest(name, known)}" for name in given if name not in known])


def _shapes(config: Any, task: Task) -> dict[str, Any]:
    """Of every weight of such a model, which is built without memory for them."""
    return {name: weight.shape for name, weight in _outline(config, task).state_dict().items()}


def _outline(config: Any, task: Task) -> Any:
    with torch.device("meta"):
        return getattr(transformers, task.auto_class).from_config(config)


def _check_vectors(config: ModelConfig, task: Task) -> None:
    if not (config.from_scratch and isinstance(config.name, (str, Path))):
        why = "they would replace what a pretrained model knows; only with --model.from_scratch"
        raise RecipeError(f"model.vectors: {why}")
    given, wanted = vectors.width(str(config.vectors)), architecture(config, task)
    own = _outline(wanted, task).get_input_embeddings().embedding_dim
    if own != given:
        fix = f"--model.config.{'embedding' if hasattr(wanted, 'embedding_size') else 'hidden'}_size {given}"
        why = f"{config.vectors} has {given} numbers a word, the model's embeddings {own}"
        raise RecipeError(f"model.vectors: {why}; give {fix}")


def load(config: ModelConfig, task: Task, tokenizer: PreTrainedTokenizerBase, training: bool = True) -> PreTrainedModel:
    """The model that a recipe asks for: the task's head, its labels, the adapter, the dtype. Weights are read as
    float32 to train (bf16 is then autocast's business); under an adapter, and for inference, as they are stored."""
    if not isinstance(config.name, (str, Path)):
        model, new = config.name, []
    else:
        wanted = architecture(config, task)
        for key, value in task.model_kwargs().items():
            setattr(wanted, key, value)
        if wanted.pad_token_id is None or config.from_scratch:
            wanted.pad_token_id = tokenizer.pad_token_id
        dtype: Any = torch.float32 if config.from_scratch or (training and not config.adapter) else "auto"
        dtype = dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        make = _from_scratch if config.from_scratch else _pretrained
        model, new = make(config, wanted, task, tokenizer, dtype)
    model = adapt(model, config, task, training, new)
    task.ready_model(model, tokenizer)
    return model


def _from_scratch(config: ModelConfig, wanted: Any, task: Task, tokenizer: Any, dtype: Any) -> tuple[Any, list[str]]:
    wanted.vocab_size = len(tokenizer)
    for token in ("bos", "eos", "sep", "cls", "mask"):
        setattr(wanted, f"{token}_token_id", getattr(tokenizer, f"{token}_token_id", None))
    if wanted.is_encoder_decoder:
        # a new decoder begins with the pad token, as those of T5 and Marian do, and ends as the tokenizer ends a text;
        # what its architecture says of them are ids of another vocabulary
        wanted.decoder_start_token_id = tokenizer.pad_token_id
        wanted.eos_token_id = tokenizer.sep_token_id if wanted.eos_token_id is None else wanted.eos_token_id
        wanted.forced_bos_token_id = wanted.forced_eos_token_id = None
        if hasattr(wanted, "decoder_vocab_size"):
            wanted.decoder_vocab_size = len(tokenizer)
    model = getattr(transformers, task.auto_class).from_config(wanted, dtype=dtype)
    if config.vectors:
        vectors.fill(model.get_input_embeddings().weight, tokenizer, str(config.vectors))
    if model.can_generate() and tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):
        model.generation_config.suppress_tokens = [tokenizer.unk_token_id]  # it says nothing, and is not printed
    return model, []


def _pretrained(config: ModelConfig, wanted: Any, task: Task, tokenizer: Any, dtype: Any) -> tuple[Any, list[str]]:
    """The model, and the names of the parameters in use that its checkpoint did not hold."""
    path = hub.find_model(str(config.name))
    is_adapter = (path / "adapter_config.json").exists()
    whole = hub.find_model(base_of(path)) if is_adapter else path
    place = hub.place(whole)
    if "gguf_file" not in place:
        place |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
    place |= {"config": wanted, "dtype": dtype}
    auto = getattr(transformers, task.auto_class)
    with refusing(f"model {str(path)!r}: cannot be loaded", OSError, ValueError, ImportError, SafetensorError):
        model, told = auto.from_pretrained(**place, trust_remote_code=False, output_loading_info=True)
    if "gguf_file" in place:
        _as_plain_weights(model, whole)
    new = sorted({*told["missing_keys"], *(m[0] for m in told["mismatched_keys"])})
    new = [name for name in new if not set(name.split(".")) & set(task.unused)]
    if is_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(path), is_trainable=True)
    elif new:
        more = f" and {len(new) - 4} more" if len(new) > 4 else ""
        say(f"new weights, to be trained: {', '.join(new[:4])}{more}", "decided")
    own = model.get_input_embeddings().num_embeddings
    if own < len(tokenizer):
        if config.adapter:
            grown = f"the tokenizer has {len(tokenizer):,} entries, the model {own:,}"
            raise RecipeError(f"model.adapter: {grown}, and an adapter's base stays as it is; train all weights")
        say(f"embeddings grown from {own:,} to the tokenizer's {len(tokenizer):,}", "decided")
        model.resize_token_embeddings(len(tokenizer))
    return model, new


def _as_plain_weights(model: Any, file: Path) -> None:
    """A .gguf file's weights were unpacked to full precision: the model is not quantised, though it says so, and an
    adapter must name the file."""
    says = ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config"))
    for owner, name in says:
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized = False
    model.name_or_path = str(file.resolve())


def adapter_config(adapter: Mapping[str, Any], task: Task) -> Any:
    """PEFT's own config from the recipe's mapping. Raises RecipeError for a method or field that PEFT does not have."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    methods = {str(k.value).lower(): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    fields = dict(adapter)
    method = str(fields.pop("type", "lora")).lower()
    if method not in methods:
        raise RecipeError(f"model.adapter.type: {method!r} is no PEFT method; {suggest(method, methods)}")
    kind = methods[method]
    if issubclass(kind, PromptLearningConfig):
        why = "puts tokens of its own into each row, which no task here expects; choose lora"
        raise RecipeError(f"model.adapter.type: {method} {why}")
    _known("model.adapter", fields, kind, {f.name for f in dataclasses.fields(kind)})
    for name, value in fields.items():  # PEFT looks at it only when the model is built
        if name in ("r", "lora_alpha") and (not isinstance(value, (int, float)) or value <= 0):
            raise RecipeError(f"model.adapter.{name}: {value!r} is not a number above 0")
    with refusing("model.adapter: PEFT refuses it", TypeError, ValueError):
        return kind(**{"task_type": PEFT_TASKS.get(task.auto_class), **fields})


def adapt(model: Any, config: ModelConfig, task: Task, training: bool = True, new: Sequence[str] = ()) -> Any:
    """`model` under the adapter that the recipe asks for. Weights that are `new` train and are saved beside it: PEFT
    would leave all but the head random, frozen and unsaved. What the task never uses is frozen: several processes would
    wait for its gradients."""
    for name, parameter in model.named_parameters():
        if set(name.split(".")) & set(task.unused):
            parameter.requires_grad_(False)
    if not config.adapter or not training:
        return model
    from peft import get_peft_model

    wanted = adapter_config(config.adapter, task)
    if hasattr(wanted, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in model.modules()):
        wanted.fan_in_fan_out = True
    if new and hasattr(wanted, "modules_to_save"):
        wanted.modules_to_save = sorted({*(wanted.modules_to_save or []), *(name.rpartition(".")[0] for name in new)})
    with refusing("model.adapter: this model does not take it", ValueError):
        model = get_peft_model(model, wanted)
    trainable, total = model.get_nb_trainable_parameters()
    say(f"adapter {config.adapter.get('type', 'lora')}: {trainable:,} of {total:,} parameters train", "decided")
    return model


def positions(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest row the model takes, or None where it has no limit."""
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None)
    if own and text.model_type in COUNTS_FROM_PAD:
        own -= tokenizer.pad_token_id + 1
    return min((n for n in (own, tokenizer.model_max_length) if n and n < 10**9), default=None)
