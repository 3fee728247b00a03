"""The fields of TrainingArguments, read without importing torch, and the checks of a recipe's `training` part."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from transformers import TrainingArguments

from llmkit.recipe import Typed
from llmkit.training.fields import REPLACED, TYPES, WITHOUT_EFFECT, check_training, training_fields

FIELDS = {field.name: field.type for field in dataclasses.fields(TrainingArguments)}


def checked(**values: Any) -> tuple[dict[str, Any], list[str]]:
    """The values that `check_training` returns, and its faults."""
    faults: list[str] = []
    return check_training(values, faults), faults


def test_fields_are_those_of_training_arguments() -> None:
    assert list(training_fields()) == list(FIELDS)


def test_plain_types_are_those_of_training_arguments() -> None:
    """Only these are checked here; TrainingArguments checks the others."""
    names = {kind: name for name, kind in TYPES.items() if name != "None"}
    plain = {name: names[kind] for name, kind in FIELDS.items() if kind in names}
    assert {name: text for name, text in training_fields().items() if text in names.values()} == plain
    optional = {f"{name} | None": kind | None for kind, name in names.items()}
    for name, text in training_fields().items():
        if text in optional:
            assert FIELDS[name] == optional[text], name


# -- names


@pytest.mark.parametrize("name", REPLACED)
def test_replaced_name_is_a_fault_that_says_what_to_write(name: str) -> None:
    assert checked(**{name: 1}) == ({}, [f"training.{name} is not used; {REPLACED[name]}"])


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_name_without_effect_is_ignored_with_a_warning(name: str, capsys: pytest.CaptureFixture) -> None:
    assert checked(**{name: "logs"}, learning_rate=1.0) == ({"learning_rate": 1.0}, [])
    assert f"training.{name} is ignored; {WITHOUT_EFFECT[name]}" in capsys.readouterr().err


def test_replaced_and_ignored_names_are_no_fields_unless_a_recipe_has_its_own() -> None:
    assert set(REPLACED) & set(FIELDS) == {"output_dir", "resume_from_checkpoint", "label_smoothing_factor"}
    assert not set(WITHOUT_EFFECT) & set(FIELDS)


def test_replacements_are_fields() -> None:
    names = {name for text in REPLACED.values() for name in re.findall(r"`(\w+)", text)}
    assert names and names <= set(FIELDS)


def test_unknown_name_is_a_fault_with_a_suggestion() -> None:
    message = "training.learning_rat: TrainingArguments has no such field; did you mean 'learning_rate'?"
    assert checked(learning_rat=1) == ({}, [message])


def test_all_faults_are_collected() -> None:
    _, faults = checked(lr=1, learning_rat=1, num_train_epochs="three", max_steps=4)
    assert [fault.split()[0] for fault in faults] == [
        "training.lr",
        "training.learning_rat:",
        "training.num_train_epochs:",
    ]


# -- values


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", 1, 1.0),
        ("learning_rate", Typed("3e-4"), 3e-4),
        ("max_steps", Typed("10"), 10),
        ("bf16", Typed("true"), True),
        ("warmup_steps", Typed("0.1"), 0.1),
        ("data_seed", None, None),
        ("data_seed", Typed("null"), None),
        ("optim", "adafactor", "adafactor"),
        ("report_to", ["none"], ["none"]),
        ("lr_scheduler_kwargs", {"min_lr": Typed("1e-5")}, {"min_lr": 1e-5}),
    ],
)
def test_value_takes_the_type_of_its_field(name: str, value: Any, expected: Any) -> None:
    values, faults = checked(**{name: value})
    assert faults == [] and values == {name: expected} and type(values[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_train_epochs", "three", "a number"),
        ("max_steps", 1.5, "a whole number"),
        ("max_steps", True, "a whole number"),
        ("bf16", Typed("yes"), "true or false"),
        ("seed", None, "a whole number"),
    ],
)
def test_value_of_a_wrong_type_is_a_fault(name: str, value: Any, kind: str) -> None:
    _, faults = checked(**{name: value})
    assert len(faults) == 1 and faults[0].startswith(f"training.{name}: ") and faults[0].endswith(f"is not {kind}")
