"""Names of libraries that may change without notice: private, undocumented, or renamed before.

Each row of NAMES says what llmkit uses a name for, and checks that it still works. These tests run on the newest and on
the lowest versions that pyproject.toml admits (.ci/run). In them, a deprecation warning of a library is a failure.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from conftest import ROOT, TEXTS, first_losses
from packaging.requirements import Requirement
from packaging.version import Version
from test_contract import ROWS, models, recipe_for  # noqa: F401 - `models` is a fixture

import llmkit
from llmkit import ModelConfig, build_trainer, run
from llmkit.models.lstm import LSTMConfig, LSTMForCausalLM
from llmkit.training.trainer import Trainer

pytestmark = pytest.mark.libraries

LIBRARIES = (
    *("accelerate", "datasets", "evaluate", "huggingface_hub", "peft", "rouge_score", "ruamel", "sacrebleu"),
    *("tokenizers", "torch", "transformers"),
)
"""Libraries whose deprecation warnings fail a test."""
DEPRECATIONS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
DEPRECATED = re.compile(r"deprecat|will be removed|will no longer", re.IGNORECASE)
ACCEPTED = re.compile(r"`is_gradient_checkpointing` is deprecated")  # peft 0.21 with transformers 5.24
"""Warnings that one library causes in another, which llmkit cannot prevent."""
HELPERS = ("contextlib", "functools", "logging", "typing_extensions", "warnings", __name__)
"""Modules between the code that warns and the function that receives the warning."""


# -- deprecation warnings


@pytest.fixture(autouse=True)
def no_deprecations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test during which one of LIBRARIES issues a deprecation warning, or logs one.

    llmkit hides both from its users, so warning filters and log levels are ignored here.
    """
    reports: list[str] = []
    warn, log = logging.Logger.warning, logging.Logger.log

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        library, caller = _origin()
        if issubclass(category, DEPRECATIONS) and library in (*LIBRARIES, "llmkit"):
            reports.append(f"{caller}: {category.__name__}: {message}")

    def note(name: str, message: object) -> None:
        if name.partition(".")[0] in LIBRARIES and DEPRECATED.search(str(message)):
            reports.append(f"{_origin()[1]}: {name}: {message}")

    def logger_warning(self: logging.Logger, message: object, *args: Any, **kwargs: Any) -> None:
        note(self.name, message)
        warn(self, message, *args, **kwargs)

    def logger_log(self: logging.Logger, level: int, message: object, *args: Any, **kwargs: Any) -> None:
        if level >= logging.WARNING:
            note(self.name, message)
        log(self, level, message, *args, **kwargs)

    transformers.utils.logging.warning_once.cache_clear()  # an earlier test may have logged it
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", show)
        patch.setattr(warnings, "filterwarnings", lambda *_, **__: None)
        patch.setattr(logging.Logger, "warning", logger_warning)
        patch.setattr(logging.Logger, "log", logger_log)
        yield
    reports = [report for report in dict.fromkeys(reports) if not ACCEPTED.search(report)]
    assert not reports, "\n".join(reports)


def _origin() -> tuple[str, str]:
    """Return the package that issues a warning, and the line of llmkit or of a test that led to it."""
    frame: FrameType | None = inspect.currentframe()
    library = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in HELPERS:
            package = module.partition(".")[0]
            library = library or package
            if package in ("llmkit", "tests") or package.startswith("test_"):
                return library, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return library, "outside llmkit"


def test_importing_llmkit_uses_no_deprecated_name() -> None:
    code = f"import importlib\nfor name in {_modules()!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if re.search(r"(Deprecation|Future)Warning", line)] == []


@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_a_task_uses_no_deprecated_name(task: type, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    result = run(recipe_for(task, models, tmp_path / "run", eval_strategy="steps", eval_steps=2, save_strategy="steps"))
    predictor = llmkit.load(str(result.output))
    row = {"response": TEXTS[0], **ROWS[task][0]}
    if task.auto_class == "AutoModelForCausalLM":
        assert predictor.generate(row.get("text") or row["prompt"], max_new_tokens=3, temperature=0.8)
    else:
        asks = predictor.task.predict_columns
        assert predictor.predict([row.get(asks[0], TEXTS[0]) if len(asks) == 1 else {c: row[c] for c in asks}])


def test_an_adapter_uses_no_deprecated_name(causal_recipe: Any, tiny_gpt2: Path) -> None:
    model = ModelConfig(name=str(tiny_gpt2), adapter={"type": "lora", "r": 4, "target_modules": "all-linear"})
    result = run(causal_recipe(model=model, training={"max_steps": 2}))
    assert llmkit.load(str(result.output)).generate(TEXTS[0], max_new_tokens=3, num_beams=2)


# -- names


class Name(NamedTuple):
    """A name that llmkit uses; `check` takes fixtures and raises if the name has changed."""

    library: str
    name: str
    used_for: str
    check: Callable[..., None]


NAMES: list[Name] = []


def uses(library: str, name: str, used_for: str) -> Callable[[Callable[..., None]], None]:
    """Add a row to NAMES."""
    return lambda check: NAMES.append(Name(library, name, used_for, check))


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Raise TypeError if the signature of `function` does not take these arguments."""
    inspect.signature(function).bind(*args, **kwargs)


@pytest.fixture
def gpt2(tiny_gpt2: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture
def lstm() -> LSTMForCausalLM:
    torch.manual_seed(0)
    return LSTMForCausalLM(LSTMConfig(vocab_size=30, hidden_size=8, tie_word_embeddings=True, pad_token_id=0)).eval()


@pytest.fixture
def trainer(causal_recipe: Any) -> Trainer:
    return build_trainer(causal_recipe(training={"max_steps": 1}))


@uses("transformers", "_model_mapping", "the architectures that a task can load")
def _(tiny_bert: Path) -> None:
    for task in ROWS:
        mapping = getattr(transformers, task.auto_class)._model_mapping
        assert {transformers.BertConfig, transformers.GPT2Config, transformers.T5Config} & set(mapping.keys())
        assert transformers.PretrainedConfig not in mapping
    mapping = transformers.AutoModelForMaskedLM._model_mapping
    assert mapping[transformers.BertConfig] is transformers.BertForMaskedLM
    assert transformers.AutoConfig.from_pretrained(tiny_bert).architectures == ["BertForMaskedLM"]
    assert LSTMConfig in transformers.AutoModelForCausalLM._model_mapping


@uses("transformers", "CONFIG_MAPPING", "architectures by name, for --model.from_scratch")
def _() -> None:
    assert "gpt2" in transformers.CONFIG_MAPPING and transformers.CONFIG_MAPPING["gpt2"] is transformers.GPT2Config


@uses("transformers", "attribute_map", "config fields by their common names, such as hidden_size for GPT-2")
def _() -> None:
    assert transformers.GPT2Config.attribute_map["hidden_size"] == "n_embd"
    assert transformers.GPT2Config.from_dict({"n_embd": 24}).hidden_size == 24


@uses("transformers", "_update_model_kwargs_for_generation", "passing an LSTM's state to the next step of `generate`")
def _(lstm: LSTMForCausalLM) -> None:
    accepts(lstm._update_model_kwargs_for_generation, None, {}, is_encoder_decoder=False)
    _expect_call(lstm, "_update_model_kwargs_for_generation", num_beams=1)
    _expect_call(lstm, "_update_model_kwargs_for_generation", num_beams=3)


@uses("transformers", "_reorder_cache", "reordering an LSTM's state in beam search")
def _(lstm: LSTMForCausalLM) -> None:
    _expect_call(lstm, "_reorder_cache", num_beams=3)


@uses("transformers", "ALL_CACHE_NAMES", "beam search reorders the argument named `state`")
def _() -> None:
    assert "state" in transformers.generation.utils.ALL_CACHE_NAMES


@uses("transformers", "_supports_default_dynamic_cache", "keeping `generate` from making a key-value cache for an LSTM")
def _(lstm: LSTMForCausalLM) -> None:
    assert transformers.GPT2LMHeadModel._supports_default_dynamic_cache()
    _expect_call(lstm, "_supports_default_dynamic_cache", num_beams=1)


@uses("transformers", "_is_stateful", "refusing assisted generation with an LSTM")
def _(lstm: LSTMForCausalLM) -> None:
    assert transformers.GPT2LMHeadModel._is_stateful is False
    with pytest.raises(ValueError, match="stateful"):
        lstm.generate(torch.ones(1, 4, dtype=torch.long), prompt_lookup_num_tokens=2, max_new_tokens=4)


@uses("transformers", "_init_weights", "an LSTM's initial weights")
def _(lstm: LSTMForCausalLM) -> None:
    accepts(transformers.PreTrainedModel._init_weights, lstm, lstm.lm_head)
    assert 0 < lstm.rnn.weight_hh_l0.abs().max() <= 8**-0.5
    assert lstm.embedding.weight.std().item() == pytest.approx(8**-0.5, rel=0.2)


@uses("transformers", "initialization", "initializing only the weights that a checkpoint does not hold")
def _() -> None:
    from transformers import initialization

    accepts(initialization.normal_, torch.zeros(2), std=0.1)
    accepts(initialization.uniform_, torch.zeros(2), -1.0, 1.0)
    accepts(initialization.copy_, torch.zeros(2), torch.ones(2))


@uses("transformers", "_tied_weights_keys", "tying an LSTM's output layer to its embeddings")
def _(lstm: LSTMForCausalLM, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert lstm.lm_head.weight is lstm.embedding.weight
    lstm.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


@uses("transformers", "_input_embed_layer", "`get_input_embeddings` of an LSTM")
def _(lstm: LSTMForCausalLM) -> None:
    assert hasattr(transformers.PreTrainedModel, "_input_embed_layer")
    assert lstm.get_input_embeddings() is lstm.embedding


@uses("transformers", "utils.generic.can_return_tuple", "`return_dict=False` of an LSTM")
def _(lstm: LSTMForCausalLM) -> None:
    from transformers.utils.generic import can_return_tuple

    assert callable(can_return_tuple)
    assert isinstance(lstm(torch.ones(1, 2, dtype=torch.long), return_dict=False), tuple)


@uses("transformers", "training_args.py", "names and types of TrainingArguments, read from the source")
def _() -> None:
    source = Path(transformers.__file__).with_name("training_args.py").read_text(encoding="utf-8")
    (owner,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments")
    fields = [n.target.id for n in owner.body if isinstance(n, ast.AnnAssign)]
    assert fields == [f.name for f in dataclasses.fields(transformers.TrainingArguments)]


@uses("transformers", "_n_gpu", "one GPU per process, without DataParallel")
def _(tmp_path: Path) -> None:
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    args._n_gpu = 7
    assert args.n_gpu == 7


@uses("transformers", "integrations.get_available_reporting_integrations", "checking --training.report_to")
def _() -> None:
    from transformers.integrations import get_available_reporting_integrations

    assert isinstance(get_available_reporting_integrations(), list)


@uses("transformers", "_train_batch_size", "the batch size of the training DataLoader")
def _(trainer: Trainer) -> None:
    assert trainer._train_batch_size == trainer.args.per_device_train_batch_size


@uses("transformers", "_prepare_inputs", "moving an evaluation batch to the device")
def _(trainer: Trainer) -> None:
    accepts(transformers.Trainer._prepare_inputs, trainer, {})
    assert trainer._prepare_inputs({"input_ids": torch.ones(2)})["input_ids"].device == trainer.args.device


@uses("transformers", "_get_num_items_in_batch", "dividing the loss by the tokens or rows of the whole step")
def _(trainer: Trainer) -> None:
    accepts(transformers.Trainer._get_num_items_in_batch, trainer, [], torch.device("cpu"))


@uses("transformers", "loss_is_scaled_for_ga", "keeping the Trainer from dividing the loss by the accumulation steps")
def _(causal_recipe: Any) -> None:
    assert "loss_is_scaled_for_ga" in vars(transformers.Trainer)

    def recipe(output: str, **training: Any) -> Any:
        return causal_recipe(output, training=training)

    assert first_losses(recipe, "whole", 8, 1) == pytest.approx(first_losses(recipe, "parts", 4, 2), abs=1e-4)


@uses("transformers", "_save", "replacing the pickle training_args.bin by training_args.json")
def _(trainer: Trainer, tmp_path: Path) -> None:
    transformers.Trainer._save(trainer, str(tmp_path), None)
    assert (tmp_path / "training_args.bin").exists()
    trainer._save(str(tmp_path / "own"), None)
    files = {path.name for path in (tmp_path / "own").iterdir()}
    assert "training_args.json" in files and "training_args.bin" not in files


@uses("transformers", "is_fsdp_enabled, is_deepspeed_enabled", "no generated samples from sharded weights")
def _(trainer: Trainer) -> None:
    assert trainer.is_fsdp_enabled is False and trainer.is_deepspeed_enabled is False


@uses("transformers", "label_names", "evaluating models that name no labels")
def _(trainer: Trainer) -> None:
    assert trainer.label_names == ["labels"]


@uses("transformers", "trainer_utils.get_last_checkpoint", "finding the checkpoint for --resume")
def _(tmp_path: Path) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


@uses("transformers", "pytorch_utils.Conv1D", "setting fan_in_fan_out for LoRA on GPT-2")
def _(gpt2: Any) -> None:
    from transformers.pytorch_utils import Conv1D

    assert isinstance(gpt2.transformer.h[0].attn.c_attn, Conv1D)


@uses("transformers", "output_loading_info", "finding new weights, which are trained and saved with an adapter")
def _(tiny_bert: Path) -> None:
    from_pretrained = transformers.AutoModelForSequenceClassification.from_pretrained
    _, info = from_pretrained(tiny_bert, output_loading_info=True)
    assert {"classifier.weight", "classifier.bias"} <= set(info["missing_keys"])
    options = {"num_labels": 3, "ignore_mismatched_sizes": True}
    from_pretrained(tiny_bert, num_labels=2).save_pretrained(folder := tiny_bert.parent / "two-labels")
    _, info = from_pretrained(folder, output_loading_info=True, **options)
    assert sorted(entry[0] for entry in info["mismatched_keys"]) == ["classifier.bias", "classifier.weight"]


@uses("transformers", "hf_quantizer, quantization_method", "training a dequantized .gguf model")
def _() -> None:
    source = inspect.getsource(transformers.PreTrainedModel)
    assert '"hf_quantizer"' in source and '"quantization_method"' in source and '"is_quantized"' in source


@uses("transformers", "backend_tokenizer", "the cache key of a tokenizer, and decoding streamed tokens")
def _(tokenizer: Any) -> None:
    assert {"truncation", "padding", "model"} <= json.loads(tokenizer.backend_tokenizer.to_str()).keys()


@uses("transformers", "encodings", "truncation and character offsets of a row")
def _(tokenizer: Any) -> None:
    batch = tokenizer(["a fox", "a"], [TEXTS[0]] * 2, truncation="only_second", max_length=8, stride=2,
                      return_overflowing_tokens=True, padding=True)  # fmt: skip
    assert set(batch["overflow_to_sample_mapping"]) == {0, 1}
    for encoding in batch.encodings:
        lengths = map(len, (encoding.ids, encoding.offsets, encoding.sequence_ids, encoding.type_ids))
        assert set(lengths) == {8}
    assert tokenizer([TEXTS[0]], truncation=True, max_length=3).encodings[0].overflowing
    assert tokenizer([["a", "fox"]], is_split_into_words=True).word_ids(0)[0] == 0


@uses("transformers", "init_kwargs", "saving model_input_names with a trained tokenizer")
def _(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    tokenizer.save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_input_names == ["input_ids"]


@uses("transformers", "PreTrainedTokenizerFast", "recognizing a tokenizer without a class of its own")
def _(tokenizer: Any) -> None:
    assert type(tokenizer) is transformers.PreTrainedTokenizerFast


@uses("transformers", "GenerationConfig.validate", "error messages for contradictory generation options")
def _() -> None:
    config = transformers.GenerationConfig(do_sample=False, temperature=0.5)
    with pytest.raises(ValueError, match=r"^GenerationConfig is invalid: - `temperature`"):
        try:
            config.validate(strict=True)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())) from None


@uses("transformers", "generation.streamers.BaseStreamer", "streaming generated tokens")
def _(gpt2: Any) -> None:
    from transformers.generation.streamers import BaseStreamer

    shapes = []

    class Streamer(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            shapes.append(tuple(value.shape))

        def end(self) -> None:
            shapes.append(())

    prompt = torch.ones(2, 3, dtype=torch.long)
    gpt2.generate(prompt, streamer=Streamer(), max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert shapes == [(2, 3), (2,), (2,), ()]


@uses("transformers", "prepare_decoder_input_ids_from_labels", "decoder inputs of a sequence-to-sequence model")
def _(tiny_t5: Path) -> None:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    start = model.config.decoder_start_token_id
    assert model.prepare_decoder_input_ids_from_labels(labels=torch.tensor([[5, 6]])).tolist() == [[start, 5]]


@uses("transformers", "utils.logging", "silencing notices and progress bars")
def _() -> None:
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    assert library.get_verbosity() == logging.ERROR and not library.is_progress_bar_enabled()
    library.set_verbosity(verbosity)
    (library.enable_progress_bar if bars else library.disable_progress_bar)()


@uses("transformers", "utils.logging.warning_once", "the deprecation check of tests/test_libraries.py")
def _() -> None:
    assert "warning_once" in vars(logging.Logger) and callable(transformers.utils.logging.warning_once.cache_clear)


@uses("accelerate", "ACCELERATE_MIXED_PRECISION", "detecting `accelerate launch` and its flags")
def _(tmp_path: Path) -> None:
    code = "import json, os, psutil; print(json.dumps([[*os.environ], psutil.Process().parent().cmdline()]))"
    (script := tmp_path / "script.py").write_text(code)
    flags = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", *flags, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    variables, parent = json.loads(done.stdout.splitlines()[-1])
    assert "ACCELERATE_MIXED_PRECISION" in variables and "--num_processes 1" in " ".join(parent)


@uses("accelerate", "utils.extract_model_from_parallel", "unwrapping a model from DDP")
def _(gpt2: Any) -> None:
    from accelerate.utils import extract_model_from_parallel

    assert extract_model_from_parallel(gpt2) is gpt2
    assert extract_model_from_parallel(torch.nn.DataParallel(gpt2)) is gpt2


@uses("accelerate", "PartialState.local_main_process_first", "filling the cache from one process per machine")
def _() -> None:
    from accelerate import PartialState

    with PartialState().local_main_process_first():
        pass


@uses("accelerate", "commands.config, commands.launch", "tests of examples/accelerate")
def _() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    assert load_config_from_file(str(ROOT / "examples" / "accelerate" / "ddp.yaml")).num_processes == 2
    assert launch_command_parser().parse_args(["--num_processes", "2", "script.py"]).num_processes == 2


@uses("argparse", "_actions", "tests of examples/accelerate")
def _() -> None:
    from accelerate.commands.launch import launch_command_parser

    assert "num_processes" in {action.dest for action in launch_command_parser()._actions}


@uses("peft", "mapping.PEFT_TYPE_TO_CONFIG_MAPPING", "the methods of --model.adapter.type")
def _() -> None:
    from peft import LoraConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {str(k.value).lower(): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}["lora"] is LoraConfig


@uses("peft", "PromptLearningConfig", "refusing adapters that add tokens to a row")
def _() -> None:
    from peft import LoraConfig, PrefixTuningConfig, PromptLearningConfig, PromptTuningConfig

    assert issubclass(PrefixTuningConfig, PromptLearningConfig) and issubclass(PromptTuningConfig, PromptLearningConfig)
    assert not issubclass(LoraConfig, PromptLearningConfig)


@uses("peft", "fan_in_fan_out, modules_to_save", "LoRA on GPT-2, and saving a new head with the adapter")
def _() -> None:
    from peft import LoraConfig, TaskType

    assert {"r", "lora_alpha", "fan_in_fan_out", "modules_to_save"} <= {f.name for f in dataclasses.fields(LoraConfig)}
    tasks = {"CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"}
    assert tasks <= {t.value for t in TaskType}


@uses("peft", "base_model_name_or_path", "the base model of an adapter, in adapter_config.json")
def _(gpt2: Any, tiny_gpt2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(gpt2, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_gpt2)


@uses("datasets", "Dataset.data", "packing and counting features as an Arrow table")
def _() -> None:
    import datasets
    import pyarrow as pa

    rows = datasets.Dataset(pa.table({"ids": [[1, 2], [3]]}))
    assert rows.data.column("ids").to_pylist() == [[1, 2], [3]] and isinstance(rows.data.table, pa.Table)


@uses("datasets", "ClassLabel.int2str, List.feature", "names of class labels")
def _() -> None:
    import datasets

    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"label": label, "tags": datasets.List(label)})
    rows = datasets.Dataset.from_dict({"label": [1], "tags": [[0]]}, features=features)
    assert rows.features["label"].int2str(1) == "yes" and rows.features["tags"].feature.int2str(0) == "no"


@uses("datasets", "state.json, dataset_dict.json", "recognizing a folder written by `save_to_disk`")
def _(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"]})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "several"))
    assert (tmp_path / "one" / "state.json").exists() and (tmp_path / "several" / "dataset_dict.json").exists()


@uses("evaluate", "_info, _compute", "accuracy and F1 as an `evaluate.Metric`, without the Hub")
def _() -> None:
    import datasets
    import evaluate

    class Count(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            value = datasets.Value("int64")
            features = datasets.Features({"predictions": value, "references": value})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions: Any, references: Any) -> dict[str, int]:
            return {"count": len(predictions)}

    metric = Count(keep_in_memory=True)
    metric.add_batch(predictions=[0, 1], references=[1, 1])
    assert metric.compute() == {"count": 2}


@uses("huggingface_hub", "constants.HF_HOME, constants.ENDPOINT", "the cache folder, and the address of the Hub")
def _() -> None:
    from huggingface_hub import constants

    assert Path(constants.HF_HOME).is_absolute() and constants.ENDPOINT.startswith("http")


@uses("huggingface_hub", "get_session", "checking that the Hub can be reached")
def _() -> None:
    from huggingface_hub import get_session

    accepts(get_session().head, "https://huggingface.co", timeout=3.0)


@uses("huggingface_hub", "is_offline_mode, HF_HUB_OFFLINE", "offline mode")
def _() -> None:
    from huggingface_hub import is_offline_mode

    assert is_offline_mode() == (os.environ["HF_HUB_OFFLINE"] == "1")


@uses("huggingface_hub", "errors", "error messages for a model that cannot be downloaded")
def _() -> None:
    from huggingface_hub import errors, snapshot_download

    assert issubclass(errors.RepositoryNotFoundError, errors.HfHubHTTPError)
    patterns = {"allow_patterns": ["*.json"], "ignore_patterns": ["*/*"], "local_files_only": True}
    with pytest.raises(errors.LocalEntryNotFoundError):
        snapshot_download("nobody/nothing", **patterns)
    with pytest.raises(errors.HFValidationError):
        snapshot_download("not a name", **patterns)


@uses("huggingface_hub", "dataclasses.strict", "validating the fields of an LSTM's config")
def _() -> None:
    from huggingface_hub.errors import StrictDataclassError

    with pytest.raises(StrictDataclassError, match="cell"):
        LSTMConfig(cell="transformer")
    with pytest.raises(StrictDataclassError, match="tie_word_embeddings"):  # validate_architecture is called
        LSTMConfig(tie_word_embeddings=True, embedding_size=8, hidden_size=16)


@uses("tokenizers", "decoders.DecodeStream", "decoding streamed tokens without splitting a character")
def _(tokenizer: Any) -> None:
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=tokenizer("从")["input_ids"], skip_special_tokens=True)
    pieces = [stream.step(tokenizer.backend_tokenizer, i) for i in tokenizer("前，")["input_ids"]]
    assert None in pieces and "".join(filter(None, pieces)) == "前，"


@uses("torch", "__getitems__", "reading the rows of a batch at once in a DataLoader")
def _() -> None:
    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitems__(self, keys: list[int]) -> list[int]:
            return keys

    loader = torch.utils.data.DataLoader(Rows(), batch_sampler=[[3, 1]], collate_fn=list)
    assert list(loader) == [[3, 1]]


@uses("torch", "accelerator, is_bf16_supported", "choosing device and precision")
def _() -> None:
    assert isinstance(torch.accelerator.is_available(), bool) and callable(torch.accelerator.current_accelerator)
    accepts(torch.cuda.is_bf16_supported, including_emulation=False)


@uses("sacrebleu", "_extract_corpus_statistics", "counts per row for BLEU and chrF")
def _() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    for metric, size in ((BLEU(force=True), 10), (CHRF(), None)):
        counts = metric._extract_corpus_statistics(["a red fox", "b"], [["a fox", "b"], ["the fox", None]])
        assert len(counts) == 2 and len(counts[0]) == (size or len(counts[0]))


@uses("sacrebleu", "_compute_score_from_stats", "BLEU and chrF of a bootstrap sample from these counts")
def _() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    texts, references = ["a red fox sat by a river", "the end"], [["a fox sat by a river", "the end"]]
    for metric in (BLEU(force=True), CHRF()):
        totals = [sum(column) for column in zip(*metric._extract_corpus_statistics(texts, references), strict=True)]
        score = metric._compute_score_from_stats(totals).score
        assert score == pytest.approx(metric.corpus_score(texts, references).score)


@uses("sacrebleu", "BLEU.TOKENIZERS, BLEU.tokenizer", "word tokenizers for BLEU and ROUGE")
def _() -> None:
    from sacrebleu.metrics import BLEU

    assert {"13a", "zh", "char", "intl", "none"} <= set(BLEU.TOKENIZERS)
    assert BLEU(tokenize="char").tokenizer("狐狸").split() == ["狐", "狸"]


@uses("rouge-score", "RougeScorer", "ROUGE with another tokenizer, and with several references")
def _() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    class Characters:
        def tokenize(self, text: str) -> list[str]:
            return list(text)

    scorer = RougeScorer(["rouge1"], use_stemmer=True, tokenizer=Characters())
    assert scorer.score_multi(["狐", "狐狸"], "狐狸")["rouge1"].fmeasure == 1.0


@uses("ruamel.yaml", "SafeConstructor.construct_yaml_str", "reading a date in YAML as text")
def _() -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor

    class Core(SafeConstructor):
        pass

    Core.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Core
    assert yaml.load("day: 2026-11-28") == {"day": "2026-11-28"}


@uses("ruamel.yaml", "problem, problem_mark", "error messages with the line of a YAML file")
def _() -> None:
    from ruamel.yaml import YAML, YAMLError

    with pytest.raises(YAMLError) as caught:
        YAML(typ="safe", pure=True).load("a: 1\nb: [")
    assert caught.value.problem and caught.value.problem_mark.line >= 1


@uses("ruamel.yaml", "sort_base_mapping_type_on_output", "the order of the fields in recipe.yaml")
def _(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    assert hasattr(yaml, "sort_base_mapping_type_on_output")
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    with (tmp_path / "recipe.yaml").open("w") as file:
        yaml.dump({"b": 1, "a": 2}, file)
    assert (tmp_path / "recipe.yaml").read_text() == "b: 1\na: 2\n"


@uses("seqeval", "metrics.sequence_labeling.get_entities", "tests of entity spans")
def _() -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    assert get_entities(["B-PER", "I-PER", "O"]) == [("PER", 0, 1)]


@pytest.mark.parametrize("name", NAMES, ids=lambda n: f"{n.library}: {n.name}")
def test_a_library_still_has_the_name(name: Name, request: pytest.FixtureRequest) -> None:
    fixtures = {f: request.getfixturevalue(f) for f in inspect.signature(name.check).parameters}
    try:
        name.check(**fixtures)
    except Exception as error:
        version = sys.version.split()[0] if name.library == "argparse" else importlib.metadata.version(name.library)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"{name.library} {version} changed {name.name}, used for: {name.used_for} ({why})"
        pytest.fail(message, pytrace=False)


def _expect_call(model: Any, method: str, **options: Any) -> None:
    """Raise AssertionError if `generate` does not call this method of llmkit's model class."""
    called: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        _record(type(model), called, patch)
        model.generate(torch.ones(2, 3, dtype=torch.long), max_new_tokens=3, do_sample=False, **options)
    if method not in called:
        raise AssertionError(f"`generate` with {options} does not call it")


def _record(owner: type, called: set[str], patch: pytest.MonkeyPatch) -> None:
    """Add to `called` the name of each method called on `owner`, without those it inherits."""

    def recording(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return function(*args, **kwargs)

        return call

    for name, value in list(vars(owner).items()):
        if isinstance(value, (classmethod, staticmethod)):
            patch.setattr(owner, name, type(value)(recording(name, value.__func__)))
        elif inspect.isfunction(value) and name != "__init__":
            patch.setattr(owner, name, recording(name, value))


# -- overrides


def _modules() -> list[str]:
    found = pkgutil.walk_packages(llmkit.__path__, "llmkit.")
    return ["llmkit", *(m.name for m in found if not m.name.endswith("__main__"))]


def _overrides() -> Iterator[tuple[type, str, Any, Any]]:
    """Yield `(class, name, llmkit's value, the library's value)` for everything that llmkit overrides."""
    not_library = {"llmkit", *sys.stdlib_module_names}
    for module in map(importlib.import_module, _modules()):
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__:
                bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in not_library]
                for name, value in vars(cls).items():
                    base = next((vars(b)[name] for b in bases if name in vars(b)), None)
                    if base is not None and not name.startswith("__"):
                        yield cls, name, value, base


def test_an_override_takes_the_arguments_of_the_library() -> None:
    missing, kinds = [], (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for cls, name, own, base in _overrides():
        if not (inspect.isfunction(own) and inspect.isfunction(base)) or own.__name__ != name:  # an alias
            continue
        own_parameters = inspect.signature(own).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own_parameters.values()):
            continue
        wanted = [p for p, q in inspect.signature(base).parameters.items() if q.kind not in kinds]
        missing += [f"{cls.__name__}.{name}({p})" for p in wanted if p not in own_parameters]
    assert missing == []


def test_the_trainer_calls_what_llmkit_overrides(causal_recipe: Any) -> None:
    """If the Trainer renames a method, an override of the old name is silently ignored."""
    trainer = build_trainer(causal_recipe(training={"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}))
    called: set[str] = set()
    loader = type(trainer.get_train_dataloader())
    with pytest.MonkeyPatch.context() as patch:
        _record(Trainer, called, patch)
        _record(loader, called, patch)
        trainer.train()
        trainer.save_model()
    loaders = {"get_train_dataloader", "get_eval_dataloader", "set_epoch"}
    steps = {"_get_num_items_in_batch", "compute_loss", "prediction_step", "_save"}
    assert (loaders | steps) - called == set()


def test_every_private_name_is_listed() -> None:
    """Every private name of a library in llmkit, its tests and its examples needs a row in NAMES."""
    listed = set(re.findall(r"\w+", " ".join(name.name for name in NAMES)))
    folders = [ROOT / name for name in ("llmkit", "recipes", "examples", "benchmarks", "tests")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    own = {"_replace", "_asdict", "_fields"} | {path.stem for path in files}  # namedtuple's methods, llmkit's modules
    own |= {name for tree in trees.values() for name in _defined(tree)}
    used = {n: f"{path.relative_to(ROOT)}:{line}" for path, tree in trees.items() for n, line in _accessed(tree)}
    used = {name: where for name, where in used.items() if name not in own}
    used |= {name: cls.__name__ for cls, name, _, _ in _overrides() if name.startswith("_") and name != "_abc_impl"}
    assert {name: where for name, where in used.items() if name not in listed} == {}


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _accessed(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each private name that is read as an attribute, by getattr or by an import, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        elif isinstance(node, ast.ImportFrom):
            names = [*str(node.module).split("."), *(a.name for a in node.names)] if node.module else []
        else:
            continue
        yield from ((name, node.lineno) for name in names if re.match(r"_[a-zA-Z]", name))


def test_docs_list_every_name() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    section = text.partition("## Names of libraries that may change\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{n.name}` | {n.library} | {n.used_for} |" for n in NAMES]


# -- versions


def test_lowest_txt_pins_the_lower_bounds_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    admitted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = [line for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines() if line[:1] != "#"]
    assert _versions(pinned, "==") == _versions(admitted, ">=")


def _versions(requirements: list[str], operator: str) -> dict[str, Version | None]:
    """Return the version after `operator` for each requirement."""
    found = {}
    for requirement in map(Requirement, requirements):
        specifiers = {s.operator: Version(s.version) for s in requirement.specifier}
        found[requirement.name] = specifiers.get(operator)
    return found
