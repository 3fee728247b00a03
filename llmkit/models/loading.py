"""Models: pretrained, from scratch, with an adapter; safetensors only, never a repository's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.console import say
from llmkit.errors import RecipeError, raise_faults, suggest
from llmkit.models import hub, vectors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
DTYPES = ("auto", "float32", "bfloat16", "float16")


def check(config: ModelConfig, task: Task) -> list[str]:
    """Faults of the model part that show before any weight is read."""
    faults = []
    if config.name is None:
        return [f"model.name: not given; give --model FOLDER, a hub id, or {', '.join(hub.bundled.MODELS)}"]
    if config.dtype not in DTYPES:
        faults.append(f"model.dtype: {config.dtype!r}; choose from {', '.join(DTYPES)}")
    if config.dtype == "float16":
        faults.append("model.dtype: weights of float16 do not train; leave it out, and say --training.fp16 on a GPU")
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
    from transformers import CONFIG_MAPPING

    name = str(config.name)
    if config.from_scratch and name in CONFIG_MAPPING and not Path(name).is_dir():
        base = CONFIG_MAPPING[name]()
    else:
        try:
            base = read_config(name, config.from_scratch)
        except RecipeError as e:
            if name not in CONFIG_MAPPING:
                raise
            raise RecipeError(
                *(f"{fault}; or give it new weights with --model.from_scratch" for fault in e.faults)
            ) from None
    known = {*base.to_dict(), *getattr(base, "attribute_map", {})}
    faults = [
        f"model.config.{k}: {type(base).__name__} has no such field; {suggest(k, known)}"
        for k in config.config
        if k not in known
    ]
    raise_faults(faults)
    wanted = _with_fields(base, _own_names(base, config.config), name in CONFIG_MAPPING and config.from_scratch)
    _check_use(wanted, task, name)
    if config.config:
        _check_shapes(base, wanted, config, task)
    return wanted


def read_config(name: str, from_scratch: bool = False) -> PretrainedConfig:
    """The config of a folder, .gguf file, hub id or bundled model; an adapter gives its base model's."""
    from transformers import AutoConfig

    path = hub.find_model(name, weights=not from_scratch)
    if (path / "adapter_config.json").exists():
        path = hub.find_model(base_of(path))
    try:
        if path.suffix == ".gguf":
            return AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        return AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise RecipeError(f"model {name!r}: its config cannot be read ({str(e).splitlines()[0]})") from None


def of_checkpoint(config: ModelConfig, task: Task) -> Task:
    """The task, with what the pretrained folder that a recipe starts from says beside its config."""
    if config.from_scratch or not isinstance(config.name, (str, Path)):
        return task
    return task.with_checkpoint(hub.find_model(str(config.name)))


def base_of(adapter: Path) -> str:
    """The model an adapter was trained on; a bundled one is found wherever llmkit lies now."""
    import json

    base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    moved = not Path(base).exists() and Path(base).name in hub.bundled.MODELS
    return Path(base).name if moved else base


def _with_fields(base: Any, given: dict[str, Any], fresh: bool) -> Any:
    """`base` with fields replaced, what it derives from them derived anew. Raises RecipeError for a value it refuses."""
    from huggingface_hub.errors import StrictDataclassError

    kept = {} if fresh else base.to_dict()
    if "num_hidden_layers" in given:
        kept.pop("layer_types", None)  # one entry a layer
    try:
        return type(base)(**given) if fresh else type(base).from_dict({**kept, **given})
    except (ValueError, TypeError, StrictDataclassError) as e:
        values = ", ".join(f"{k}: {v!r}" for k, v in given.items())
        raise RecipeError(
            f"model.config: {type(base).__name__} refuses {values} ({' '.join(str(e.__cause__ or e).split())[:160]})"
        ) from None


def _own_names(base: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {getattr(base, "attribute_map", {}).get(k, k): v for k, v in given.items()}


def _check_use(config: Any, task: Task, name: str) -> None:
    import transformers

    if type(config) not in getattr(transformers, task.auto_class)._model_mapping:
        raise RecipeError(
            f"model {name!r}: a {config.model_type} model cannot do {task.name} ({task.auto_class} does not know it)"
        )


def _check_vectors(config: ModelConfig, task: Task) -> None:
    import torch
    import transformers

    if not (config.from_scratch and isinstance(config.name, (str, Path))):
        raise RecipeError(
            "model.vectors: they would replace what a pretrained model knows; only with --model.from_scratch"
        )
    given, wanted = vectors.width(str(config.vectors)), architecture(config, task)
    with torch.device("meta"):
        model = getattr(transformers, task.auto_class).from_config(wanted)
    own = model.get_input_embeddings().embedding_dim
    if own != given:
        field = "embedding_size" if hasattr(wanted, "embedding_size") else "hidden_size"
        raise RecipeError(
            f"model.vectors: {config.vectors} has {given} numbers a word, the model's embeddings {own}; give --model.config.{field} {given}"
        )


def _check_shapes(base: Any, wanted: Any, config: ModelConfig, task: Task) -> None:
    """Build it without memory: fields that no model can have, or that would change the shape of pretrained weights."""
    import torch
    import transformers

    auto = getattr(transformers, task.auto_class)

    def shapes(of: Any) -> dict[str, Any]:
        with torch.device("meta"):
            return {k: v.shape for k, v in auto.from_config(of).state_dict().items()}

    given = ", ".join(f"{k}: {v!r}" for k, v in config.config.items())
    try:
        new = shapes(wanted)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AttributeError, KeyError) as e:
        raise RecipeError(
            f"model.config: no {wanted.model_type} model can have {given} ({' '.join(str(e).split())[:160]})"
        ) from None
    if not config.from_scratch and shapes(base) != new:
        raise RecipeError(
            f"model.config: {given} would change the shape of pretrained weights; only with --model.from_scratch"
        )


def load(config: ModelConfig, task: Task, tokenizer: PreTrainedTokenizerBase, training: bool = True) -> PreTrainedModel:
    """The model that a recipe asks for: the task's head, its labels, the adapter, the dtype. Weights are read as
    float32 to train (bf16 is then autocast's business); under an adapter, and for inference, as they are stored."""
    model = _load(config, task, tokenizer, training)
    task.ready_model(model, tokenizer)
    return model


def _load(config: ModelConfig, task: Task, tokenizer: Any, training: bool) -> PreTrainedModel:
    import transformers

    if not isinstance(config.name, (str, Path)):
        return adapt(config.name, config, task)
    auto = getattr(transformers, task.auto_class)
    wanted = architecture(config, task)
    for key, value in task.model_kwargs().items():
        setattr(wanted, key, value)
    if wanted.pad_token_id is None or config.from_scratch:
        wanted.pad_token_id = tokenizer.pad_token_id
    if config.from_scratch:
        wanted.vocab_size = len(tokenizer)
        for token in ("bos", "eos", "sep", "cls", "mask"):
            setattr(wanted, f"{token}_token_id", getattr(tokenizer, f"{token}_token_id", None))
        if wanted.is_encoder_decoder:
            _begin_and_end(wanted, tokenizer)
        model = auto.from_config(wanted, dtype=_dtype(config, True))
        if config.vectors:
            vectors.fill(model.get_input_embeddings().weight, tokenizer, str(config.vectors))
        if model.can_generate() and tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):
            model.generation_config.suppress_tokens = [tokenizer.unk_token_id]  # it says nothing, and is not printed
        return adapt(model, config, task)
    path = hub.find_model(str(config.name))
    model, new = _pretrained(auto, path, wanted, _dtype(config, training and not config.adapter), task.unused)
    own = model.get_input_embeddings().num_embeddings
    if own < len(tokenizer):
        say(f"embeddings grown from {own:,} to the tokenizer's {len(tokenizer):,}", "decided")
        model.resize_token_embeddings(len(tokenizer))
        grown = model.get_input_embeddings()
        new += [f"{name}.weight" for name, module in model.named_modules() if module is grown]
    return adapt(model, config, task, training, new)


def _begin_and_end(config: Any, tokenizer: Any) -> None:
    """A new decoder begins with the pad token, as those of T5 and Marian do, and ends as the tokenizer ends a text; what
    its architecture says of them are ids of another vocabulary."""
    config.decoder_start_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.sep_token_id if config.eos_token_id is None else config.eos_token_id
    config.forced_bos_token_id = config.forced_eos_token_id = None
    if hasattr(config, "decoder_vocab_size"):
        config.decoder_vocab_size = len(tokenizer)


def _pretrained(auto: Any, path: Path, config: Any, dtype: Any, unused: Sequence[str] = ()) -> tuple[Any, list[str]]:
    """The model, and the names of the parameters in use that its checkpoint did not hold."""
    from safetensors import SafetensorError

    folder, adapter = path, None
    if (path / "adapter_config.json").exists():
        adapter, folder = path, hub.find_model(base_of(path))
    options: dict[str, Any] = {"config": config, "dtype": dtype, "trust_remote_code": False}
    if folder.suffix == ".gguf":
        options["gguf_file"] = folder.name
    else:
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        model, loading = auto.from_pretrained(
            str(folder.parent if folder.is_file() else folder), output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, SafetensorError) as e:
        raise RecipeError(f"model {str(path)!r}: cannot be loaded ({str(e).splitlines()[0]})") from None
    if folder.suffix == ".gguf":
        _as_plain_weights(model, folder)
    new = sorted({*loading["missing_keys"], *(m[0] for m in loading["mismatched_keys"])})
    new = [name for name in new if not set(name.split(".")) & set(unused)]
    if new and adapter is None:
        say(
            f"new weights, to be trained: {', '.join(new[:4])}" + (f" and {len(new) - 4} more" if len(new) > 4 else ""),
            "decided",
        )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    return model, new


def _as_plain_weights(model: Any, file: Path) -> None:
    """A .gguf file's weights were unpacked to full precision: the model is not quantised, though it says so, and an
    adapter must name the file."""
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.name_or_path = str(file.resolve())


def _dtype(config: ModelConfig, fp32: bool) -> Any:
    import torch

    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    return torch.float32 if fp32 else "auto"


def adapter_config(adapter: Mapping[str, Any], task: Task) -> Any:
    """PEFT's own config from the recipe's mapping. Raises RecipeError for a method or field that PEFT does not have."""
    import dataclasses

    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    methods = {str(k.value).lower(): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    fields = dict(adapter)
    method = str(fields.pop("type", "lora")).lower()
    if method not in methods:
        raise RecipeError(f"model.adapter.type: {method!r} is no PEFT method; {suggest(method, methods)}")
    known = {f.name for f in dataclasses.fields(methods[method])}
    raise_faults(
        [
            f"model.adapter.{k}: {methods[method].__name__} has no such field; {suggest(k, known)}"
            for k in fields
            if k not in known
        ]
    )
    for name, value in fields.items():  # PEFT looks at it only when the model is built
        if name in ("r", "lora_alpha") and (not isinstance(value, (int, float)) or value <= 0):
            raise RecipeError(f"model.adapter.{name}: {value!r} is not a number above 0")
    try:
        wanted = methods[method](**{"task_type": PEFT_TASKS.get(task.auto_class), **fields})
    except (TypeError, ValueError) as e:
        raise RecipeError(f"model.adapter: {str(e).splitlines()[0]}") from None
    if isinstance(wanted, PromptLearningConfig):
        raise RecipeError(
            f"model.adapter.type: {method} puts tokens of its own into each row, which no task here expects; choose lora"
        )
    return wanted


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
    from transformers.pytorch_utils import Conv1D

    wanted = adapter_config(config.adapter, task)
    if hasattr(wanted, "fan_in_fan_out") and any(isinstance(m, Conv1D) for m in model.modules()):
        wanted.fan_in_fan_out = True
    if new and hasattr(wanted, "modules_to_save"):
        wanted.modules_to_save = sorted({*(wanted.modules_to_save or []), *(name.rpartition(".")[0] for name in new)})
    try:
        model = get_peft_model(model, wanted)
    except ValueError as e:
        raise RecipeError(f"model.adapter: {str(e).splitlines()[0]}") from None
    trainable, total = model.get_nb_trainable_parameters()
    say(f"adapter {config.adapter.get('type', 'lora')}: {trainable:,} of {total:,} parameters train", "decided")
    return model


def positions(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest row the model takes, or None where it has no limit."""
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None)
    if own and text.model_type in COUNTS_FROM_PAD:
        own -= tokenizer.pad_token_id + 1
    limits = [own, tokenizer.model_max_length]
    return min((n for n in limits if n and n < 10**9), default=None)
