"""The examples: the losses of own_loop.py are those of `run`, and Accelerate reads its configurations."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

import llmkit

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def own_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLES / "own_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("causal", {"num_train_epochs": 2, "per_device_train_batch_size": 4}),
        ("causal", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "weight_decay": 0.1,
                    "lr_scheduler_type": "cosine", "warmup_steps": 0.3}),
        ("review", {"max_steps": 9, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
                    "train_sampling_strategy": "group_by_length"}),
    ],
    ids=["plain", "accumulated", "classification"],
)  # fmt: skip
def test_own_loop_has_the_losses_of_run(
    own_loop: ModuleType, kind: str, training: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    make: Callable[..., Any] = request.getfixturevalue(f"{kind}_recipe")
    logs = llmkit.run(make("run", training=training)).trainer.state.log_history
    expected = [log["loss"] for log in logs if "loss" in log]
    assert len(expected) > 3
    assert own_loop.train(make("loop", training=training)) == pytest.approx(expected, abs=1e-5)


def test_own_loop_saves_a_plain_folder(own_loop: ModuleType, causal_recipe: Callable[..., Any], tmp_path: Path) -> None:
    own_loop.train(causal_recipe("loop", training={"max_steps": 2}))
    assert not (tmp_path / "loop" / "recipe.yaml").exists()
    assert llmkit.load(str(tmp_path / "loop")).generate("Once", max_new_tokens=3).startswith("Once")


CONFIGS = {  # name: distributed type, total number of processes, machines
    "ddp": ("MULTI_GPU", 2, 1),
    "fsdp2": ("FSDP", 2, 1),
    "deepspeed_zero3": ("DEEPSPEED", 2, 1),
    "two_nodes": ("MULTI_GPU", 16, 2),
}


def test_configs_lists_every_accelerate_file() -> None:
    assert {p.stem for p in (EXAMPLES / "accelerate").glob("*.yaml")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_the_config(name: str) -> None:
    config = _load(name)
    kind, processes, machines = CONFIGS[name]
    assert config.distributed_type.value == kind
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.mixed_precision == "no"  # a string, not the YAML value false
    assert config.use_cpu is False


@pytest.mark.parametrize(("name", "part"), [("fsdp2", "fsdp_config"), ("deepspeed_zero3", "deepspeed_config")])
def test_accelerate_launch_has_an_option_for_every_key(name: str, part: str) -> None:
    """The loader accepts any mapping here; the launcher uses only keys that are its options."""
    options = {action.dest for action in launch_command_parser()._actions}
    keys = set(getattr(_load(name), part))
    assert keys <= options, json.dumps(sorted(keys - options))


def test_fsdp_config_is_version_2_and_saves_the_full_model() -> None:
    fsdp = _load("fsdp2").fsdp_config
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def _load(name: str) -> Any:
    return load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))
