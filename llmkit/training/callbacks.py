"""What happens around the steps: the table on the screen, log.jsonl, samples, signals, and a stop at the first NaN."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from llmkit.console import figure, is_main_process, say
from llmkit.errors import RunFailed, Stopped
from llmkit.generation import generate
from llmkit.training.trainer import Trainer


def add(trainer: Trainer) -> None:
    """Give the Trainer llmkit's callbacks in place of its own printer."""
    trainer.remove_callback(PrinterCallback)
    for callback in (Table(trainer), LogFile(), Untrained(trainer), Samples(trainer), Signals(trainer), Finite()):
        trainer.add_callback(callback)


class Callback(TrainerCallback):
    """A callback that knows its Trainer."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer


class Untrained(Callback):
    """Measure the untrained model on the part that gives the final figures, where `eval_on_start` does not. Here, and
    not before `train`: the model is wrapped by now."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        features = self.trainer.features
        if state.global_step == 0 and "test" in features:
            self.trainer.evaluate(features["test"], metric_key_prefix="test")
        elif state.global_step == 0 and not args.eval_on_start:
            self.trainer.evaluate(features["validation"])


class LogFile(TrainerCallback):
    """log.jsonl: one line for each log, in the Trainer's own names. A resumed run first goes back to its checkpoint."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path = Path(args.output_dir) / "log.jsonl"
            self.path.write_text("".join(json.dumps(line) + "\n" for line in state.log_history), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if state.is_world_process_zero and hasattr(self, "path"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")


class Finite(TrainerCallback):
    """Stop at a loss that is no number: every later step would only spread it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                fix = "lower training.learning_rate, or try --training.bf16 false"
                raise RunFailed(f"{name} is {logs[name]} at step {state.global_step}: {fix}")


class Signals(Callback):
    """SIGINT and SIGTERM: finish the step, save, stop. A second one stops at once."""

    number = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        here = threading.current_thread() is threading.main_thread()
        self.before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM) if here}

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        say(f"{signal.Signals(number).name}: saving after this step", "warning")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        number = self.number
        if args.world_size > 1:  # all ranks stop at the same step, whichever was told
            number = int(self.trainer.accelerator.gather(torch.tensor([number], device=args.device)).max())
        if number:
            self.number, control.should_save, control.should_training_stop = number, True, True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.number and state.global_step < state.max_steps:
            self.on_train_end(args, state, control)
            raise Stopped(self.number, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class Samples(Callback):
    """Continue `run.prompts` at each evaluation, with a seed: nothing is drawn from the run's own random state."""

    shown = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, prompts = self.trainer, list(self.trainer.recipe.run.prompts)
        whole = state.is_world_process_zero and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
        if not (prompts and whole and trainer.task.can_generate) or state.global_step == self.shown:
            return
        self.shown, how = state.global_step, {"max_new_tokens": 40, "temperature": 0.8, "top_k": 50, "seed": 0}
        for text in generate(trainer.model, trainer.processing_class, prompts, **how):
            say(f"         “{' '.join(text.split())}”")


class Table(Callback):
    """One line for each log and evaluation; on a terminal, a bar with the time left below them."""

    bar = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.time()
        say(f"{'step':>12}  {'epoch':>6}  {'loss':>8}  {'learning rate':>13}  {'time':>6}")
        if is_main_process() and sys.stderr.isatty():
            from rich import console, progress

            times = progress.TimeElapsedColumn(), "left", progress.TimeRemainingColumn()
            columns = "training", progress.BarColumn(), progress.MofNCompleteColumn(), *times
            screen = console.Console(stderr=True)
            self.bar = progress.Progress(*columns, console=screen, transient=True, redirect_stderr=True)
            self.row = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar:
            self.bar.update(self.row, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        step = f"{state.global_step:>5}/{state.max_steps:<6}"
        if "loss" in logs:
            passed = time.time() - self.started
            say(f"{step}  {logs['epoch']:>6.2f}  {logs['loss']:>8.4f}  {logs['learning_rate']:>13.2e}  {passed:>5.0f}s")
        for prefix, name in (("eval_", "validation"), ("test_", "test")):
            scores = {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}
            shown = "  ".join(f"{m} {figure(scores[m])}" for m in self.trainer.task.metrics if m in scores)
            if shown:
                say(f"{step}  {name}  {shown}{'' if state.global_step else '  (untrained)'}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None
