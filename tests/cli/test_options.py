"""Options and YAML files applied to a recipe: their order, what new data or a new model clears, faults, and --help."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError
from llmkit.cli.options import apply, build_recipe, describe, field_help
from llmkit.tasks import CausalLM, MaskedLM, TextClassification, known_tasks

BASE = Recipe(
    task=CausalLM(),
    model=ModelConfig(name="tiny-gpt2", config={"attn_pdrop": 0.2}),
    data=DataConfig(train="fables", validation="fables[validation]", test="fables[test]", columns={"text": "body"}),
    training={"num_train_epochs": 6, "learning_rate": 1e-3},
    run=RunConfig(output="runs/base", prompts=("Once",)),
)


def build(*words: str, base: Recipe | None = BASE) -> Recipe:
    return build_recipe(base, words)[0]


def faults(*words: str, base: Recipe | None = BASE) -> list[str]:
    with pytest.raises(UsageError) as caught:
        build_recipe(base, words)
    return caught.value.faults


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str, name: str = "my.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_command_line_wins_over_yaml_over_recipe(config: Any) -> None:
    path = config("training: {learning_rate: 2e-3, weight_decay: 0.1}\ndata: {max_length: 64}")
    recipe = build("--training.learning_rate", "3e-3", "--config", path)
    assert recipe.training == {"num_train_epochs": 6, "learning_rate": 3e-3, "weight_decay": 0.1}
    assert recipe.data.max_length == 64 and recipe.data.train == "fables"


def test_the_later_yaml_wins(config: Any) -> None:
    first, second = config("data: {max_length: 64, seed: 1}", "1.yaml"), config("data: {max_length: 32}", "2.yaml")
    data = build("--config", first, "--config", second).data
    assert (data.max_length, data.seed) == (32, 1)


def test_a_yaml_file_alone_is_a_recipe(config: Any) -> None:
    path = config(
        "task: {name: text-classification, label_smoothing: 0.1}\nmodel: {name: tiny-bert}\ndata: {train: reviews}"
    )
    recipe = build("--config", path, base=None)
    assert recipe.task == TextClassification(label_smoothing=0.1)
    assert (recipe.model.name, recipe.data.train) == ("tiny-bert", "reviews")


@pytest.mark.parametrize(
    "words",
    [("--data.max_length", "64"), ("--data.max-length", "64"), ("--data.max_length=64",), ("--data.max-length=64",)],
    ids=" ".join,
)
def test_dashes_underscores_and_equals_signs_are_equivalent(words: tuple[str, ...]) -> None:
    assert build(*words).data.max_length == 64


def test_a_value_may_hold_an_equals_sign() -> None:
    assert build("--run.output=runs/lr=1e-4").run.output == "runs/lr=1e-4"


@pytest.mark.parametrize(
    "short, part, field, value",
    [
        (("--model", "x"), "model", "name", "x"),
        (("--model=x",), "model", "name", "x"),
        (("--data", "x.jsonl"), "data", "train", "x.jsonl"),
        (("--output", "runs/x"), "run", "output", "runs/x"),
        (("--resume",), "run", "resume", True),
    ],
)
def test_short_forms(short: tuple[str, ...], part: str, field: str, value: Any) -> None:
    assert getattr(getattr(build(*short), part), field) == value


@pytest.mark.parametrize("task", known_tasks())
def test_task_by_name_and_by_import_path(task: type) -> None:
    path = f"{task.__module__}:{task.__name__}"
    assert build("--task", task.name).task == build("--task", path).task == task()


def test_a_task_of_another_module_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers_task.py").write_text(
        "from dataclasses import dataclass\nfrom llmkit.tasks import CausalLM\n"
        "@dataclass(frozen=True)\nclass Mine(CausalLM):\n    factor: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = build("--task", "strangers_task:Mine", "--task.factor", "3")
    assert type(recipe.task).__name__ == "Mine" and recipe.task.factor == 3
    assert apply(None, recipe.to_dict()) == recipe
    assert "--task.factor" in describe(recipe, "") and "--task.label_smoothing" in describe(recipe, "")
    sys.modules.pop("strangers_task")


@pytest.mark.parametrize("path", ["no.such.module:Mine", "llmkit.tasks:Nothing", "llmkit.recipe:Recipe"])
def test_an_import_path_without_a_task_is_a_fault(path: str) -> None:
    (fault,) = faults("--task", path)
    assert path in fault


def test_a_config_file_is_yaml_1_2(config: Any) -> None:
    path = config(
        "training: {learning_rate: 1e-4, eval_strategy: no, num_train_epochs: 3}\nmodel: {config: {note: on}}"
    )
    recipe = build("--config", path)
    assert recipe.training == {"num_train_epochs": 3.0, "learning_rate": 1e-4, "eval_strategy": "no"}
    assert recipe.model.config["note"] == "on"


@pytest.mark.parametrize(
    "words, value",
    [
        (("--data.packing", "false"), False),
        (("--data.packing",), True),
        (("--data.packing", "null"), None),
        (("--data.validation", "0.2"), 0.2),
        (("--data.validation", "held.jsonl"), "held.jsonl"),
        (
            ("--data.train", "[a.jsonl, {source: b.jsonl, weight: 0.5}]"),
            ["a.jsonl", {"source": "b.jsonl", "weight": 0.5}],
        ),
        (("--model.from-scratch", "--model.name", "gpt2"), True),
        (("--model.from_scratch", "false"), False),
        (("--run.references",), True),
        (("--run.output", "2024"), "2024"),
        (("--data.train", "2024"), "2024"),
        (("--data.train", "007"), "007"),
        (("--data.train", "1e3"), "1e3"),
        (("--data.test", "2024"), "2024"),
        (("--data.test", "null"), None),
        (("--model.name", "2024"), "2024"),
        (("--model.tokenizer", "2024"), "2024"),
        (("--run.output", "no"), "no"),
        (("--run.patience", "3"), 3),
        (("--run.prompts", "[Once upon, 从前]"), ("Once upon", "从前")),
        (("--run.prompts", "Once upon a time"), ("Once upon a time",)),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_a_value_gets_the_type_of_its_field(words: tuple[str, ...], value: Any) -> None:
    part, field = words[0].removeprefix("--").replace("-", "_").split(".")
    found = getattr(getattr(build(*words), part), field)
    assert found == value and type(found) is type(value)


def test_a_number_in_yaml_is_text_in_a_field_of_names(config: Any) -> None:
    data = build("--config", config("data: {train: 2024, validation: 0.5}")).data
    assert (data.train, data.validation) == ("2024", 0.5)


@pytest.mark.parametrize("prompt", ["He said: hi", "Chapter #1", "1984"])
def test_a_prompt_is_not_parsed_as_yaml(prompt: str) -> None:
    assert build("--run.prompts", prompt).run.prompts == (prompt,)


def test_labels_that_are_digits_are_text() -> None:
    task = build("--task", "text-classification", "--task.labels", "[0, 1]").task
    assert task.read_row({"text": "a", "label": 1}) == {"text": "a", "label": "1"}


@pytest.mark.parametrize("word", ["--training.fp16", "--training.bf16=true"])
def test_a_boolean_training_field_needs_no_value(word: str) -> None:
    assert build(word).training[word[2:].split(".")[1].split("=")[0]] is True


def test_open_mappings_merge_key_by_key(config: Any) -> None:
    path = config("model: {config: {resid_pdrop: 0.3}, adapter: {type: lora, r: 4}}\ndata: {columns: {text: story}}")
    words = (
        "--model.config.embd_pdrop",
        "1e-1",
        "--model.adapter.r=8",
        "--training.lr_scheduler_kwargs.min_lr",
        "1e-5",
    )
    recipe = build("--config", path, *words)
    assert recipe.model.config == {"attn_pdrop": 0.2, "resid_pdrop": 0.3, "embd_pdrop": 0.1}
    assert recipe.model.adapter == {"type": "lora", "r": 8}
    assert recipe.data.columns == {"text": "story"}
    assert recipe.training["lr_scheduler_kwargs"] == {"min_lr": 1e-5}


def test_a_mapping_can_be_given_as_one_value_and_field_by_field() -> None:
    recipe = build("--model.config", "{n_layer: 2}", "--model.config.n_head", "4")
    assert {"n_layer": 2, "n_head": 4}.items() <= recipe.model.config.items()


def test_new_training_data_clears_validation_test_and_columns() -> None:
    data = build("--data", "my.jsonl").data
    assert (data.train, data.validation, data.test, data.columns) == ("my.jsonl", None, None, {})


def test_parts_given_with_new_training_data_are_kept() -> None:
    data = build("--data", "my.jsonl", "--data.test", "t.jsonl", "--data.columns.text", "story").data
    assert (data.validation, data.test, data.columns) == (None, "t.jsonl", {"text": "story"})


def test_other_data_fields_keep_the_parts() -> None:
    assert build("--data.max_length", "8").data == dataclasses.replace(BASE.data, max_length=8)


def test_a_new_model_clears_config_fields() -> None:
    assert build("--model", "gpt2-medium").model.config == {}
    assert build("--model", "gpt2-medium", "--model.config.n_ctx", "4").model.config == {"n_ctx": 4}


def test_the_same_model_keeps_config_fields() -> None:
    assert build("--model", "tiny-gpt2").model.config == {"attn_pdrop": 0.2}


def test_a_new_task_does_not_get_the_options_of_the_old_one() -> None:
    base = dataclasses.replace(BASE, task=CausalLM(label_smoothing=0.1))
    assert build("--task", "masked-lm", "--task.mask_probability", "0.3", base=base).task == MaskedLM(
        mask_probability=0.3
    )
    assert build("--task", "causal-lm", base=base).task.label_smoothing == 0.1


@pytest.mark.parametrize(
    "words, needles",
    [
        (("stray",), ("'stray'", "--part.field")),
        (("--data.max_lenght", "8"), ("data.max_lenght", "'max_length'")),
        (("--dat", "x"), ("--dat", "'--data'")),
        (("--learning_rate", "1"), ("--learning_rate", "'--training.learning_rate'")),
        (("--data.max_length",), ("data.max_length", "needs a value")),
        (("--model",), ("--model", "needs a value")),
        (("--config",), ("--config", "needs a value")),
        (("--config", "absent.yaml"), ("absent.yaml",)),
        (("--data.max_length", "long"), ("data.max_length", "'long'", "whole number")),
        (("--data.seed", "1.5"), ("data.seed", "1.5", "whole number")),
        (("--run.resume", "maybe"), ("run.resume", "'maybe'", "true or false")),
        (("--data.columns", "body"), ("data.columns", "'body'", "mapping")),
        (("--data", "x", "--data.train.text", "y"), ("data.train",)),
        (("--training.warmup_ratio", "0.1"), ("warmup_ratio", "warmup_steps: 0.1")),
        (("--training.output_dir", "x"), ("output_dir", "--output")),
        (("--training.num_train_epoch", "1"), ("num_train_epoch", "'num_train_epochs'")),
        (("--training.num_train_epochs", "many"), ("num_train_epochs", "'many'", "number")),
        (("--task", "casual-lm"), ("'casual-lm'", "'causal-lm'")),
        (("--task.smoothing", "0.1"), ("task.smoothing", "label_smoothing")),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_a_wrong_option_is_one_fault(words: tuple[str, ...], needles: tuple[str, ...]) -> None:
    (fault,) = faults(*words)
    assert [n for n in needles if n not in fault] == [] and "\n" not in fault


@pytest.mark.parametrize(
    "text, needles",
    [
        ("model: gpt2", ("model", "'gpt2'")),
        ("data: 5", ("data", "5")),
        ("data: my.jsonl", ("data", "'my.jsonl'")),
        ("training: fast", ("training", "'fast'")),
        ("run: [a]", ("run", "['a']")),
        ("modle: {name: x}", ("modle", "'model'")),
        ("data:\n  train: [a", ("line 2",)),
        ("- a\n- b", ("mapping",)),
        ("", ("mapping",)),
    ],
)
def test_a_wrong_entry_in_yaml_is_one_fault(config: Any, text: str, needles: tuple[str, ...]) -> None:
    (fault,) = faults("--config", config(text))
    assert [n for n in needles if n not in fault] == [] and "\n" not in fault


@pytest.mark.parametrize("field", ["logging_dir", "save_safetensors"])
def test_a_field_without_effect_is_warned_of_and_dropped(field: str, capsys: pytest.CaptureFixture) -> None:
    assert build(f"--training.{field}", "x").training == BASE.training
    (line,) = capsys.readouterr().err.splitlines()
    assert f"training.{field}" in line


def test_all_faults_are_reported_together() -> None:
    assert len(faults("--data.max_lenght", "8", "--training.lr", "1", "--run.patience", "soon")) == 3
    assert len(faults("--dat", "8", "--modle", "x", "stray")) == 3


def test_unknown_options_and_wrong_values_are_reported_together(config: Any) -> None:
    clash = ("--data.columns.text", "a", "--data.columns", "b")
    found = faults("--dat", "8", "--data.max_lenght", "8", "--training.lr", "1", "--run.patience", "soon", *clash)
    assert [fault.split()[0].rstrip(":") for fault in found] == [
        "--dat", "--data.columns", "data.max_lenght", "run.patience", "training.lr",
    ]  # fmt: skip
    assert len(faults("stray", "--config", config("modle: {name: x}"), "--run.patience", "soon")) == 2


def test_help_and_plan_are_switches() -> None:
    assert build_recipe(BASE, ["--plan", "--data.seed", "1"])[1] == ["plan"]
    assert build_recipe(BASE, ["--help"]) == (BASE, ["help"])


@pytest.mark.parametrize("task", known_tasks())
def test_help_lists_every_option_with_its_text(task: type) -> None:
    recipe = dataclasses.replace(BASE, task=task())
    text = describe(recipe, "usage: here")
    assert text.startswith("usage: here")
    for part in ("task", "model", "data", "run"):
        cls = type(getattr(recipe, part))
        texts = field_help(cls)
        for field in dataclasses.fields(cls):
            line = next(line for line in text.splitlines() if line.split()[:1] == [f"--{part}.{field.name}"])
            assert texts[field.name].strip() and texts[field.name] in line
    for word in ("--training.FIELD", "learning_rate=0.001", "--config FILE", "--plan"):
        assert word in text
    for option, field in {
        "model": "model.name",
        "data": "data.train",
        "output": "run.output",
        "resume": "run.resume",
    }.items():
        short, full = (
            next(line for line in text.splitlines() if line.split()[:1] == [f"--{o}"]) for o in (option, field)
        )
        assert short.split()[1:] == full.split()[1:]
