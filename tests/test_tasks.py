"""The registry of tasks: their options, read from the source, are those of the classes."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from llmkit.task import Task
from llmkit.tasks import known_tasks, task_options


@pytest.mark.parametrize("task", known_tasks(), ids=lambda task: task.name)
def test_options_without_the_class_are_those_of_the_class(task: type[Task]) -> None:
    options = task_options(task.name)
    assert vars(options()) == vars(task())
    assert typing.get_type_hints(options) == {
        f.name: typing.get_type_hints(task)[f.name] for f in dataclasses.fields(task)
    }
    assert (options.name, options.__module__, options.__name__) == (task.name, task.__module__, task.__name__)
    assert all(options.help[field.name].strip() for field in dataclasses.fields(task))


def test_a_name_that_is_not_registered_has_no_options() -> None:
    assert task_options("casual-lm") is None
