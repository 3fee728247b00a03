"""`llmkit doctor`: one line per finding."""

from __future__ import annotations

from collections.abc import Callable

from command_line import call

import llmkit

__all__ = ["call"]  # a fixture


def test_doctor_prints_versions_machine_hub_and_bundled_models(call: Callable) -> None:
    answer = call("doctor")
    rows = dict(line.split(maxsplit=1) for line in answer.lines)
    assert (answer.status, rows["llmkit"]) == (0, llmkit.__version__), answer.err
    assert {"python", "torch", "transformers", "device", "precision", "threads", "hub", "cache"} <= rows.keys()
    assert "offline mode is set" in rows["hub"] and "tiny-gpt2" in rows["bundled"]
