"""Callbacks: the table on the screen, log.jsonl, samples, signals, and a stop at the first NaN."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import console, progress
from transformers import PrinterCallback, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Args

from llmkit.errors import PromptTooLong, RunFailed, Stopped
from llmkit.generation import generate
from llmkit.log import format_number, is_main_process, log
from llmkit.task import is_causal
from llmkit.training.trainer import Trainer

Logs = dict[str, float]


def add_callbacks(trainer: Trainer, prompts: Sequence[str] = ()) -> None:
    """Give the Trainer llmkit's callbacks in place of its own printer; `prompts` are continued at each evaluation."""
    trainer.remove_callback(PrinterCallback)
    others = (Table(trainer), LogFile(), BeforeTraining(trainer), Samples(trainer, prompts), Signals(trainer))
    for callback in (*others, StopAtNaN()):
        trainer.add_callback(callback)


class TrainerAware(TrainerCallback):
    """A callback that uses its Trainer."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer


class BeforeTraining(TrainerAware):
    """Evaluates the untrained model on the part that the final metrics come from, where `eval_on_start` does not.

    In a callback, since evaluating before `train()` would keep the model from being wrapped for several processes.
    """

    def on_train_begin(self, args: Args, state: State, control: Control, **_: object) -> None:
        if state.global_step == 0 and "test" in self.trainer.features:
            self.trainer.evaluate(self.trainer.part("test"), metric_key_prefix="test")
        elif state.global_step == 0 and not args.eval_on_start:
            self.trainer.evaluate()


class LogFile(TrainerCallback):
    """Writes log.jsonl: one line per log, with the Trainer's own names. A resumed run starts from its checkpoint's log."""

    def on_train_begin(self, args: Args, state: State, control: Control, **_: object) -> None:
        if state.is_world_process_zero:
            self.path = Path(args.output_dir) / "log.jsonl"
            self.path.write_text("".join(json.dumps(line) + "\n" for line in state.log_history), encoding="utf-8")

    def on_log(self, args: Args, state: State, control: Control, logs: Logs, **_: object) -> None:
        if state.is_world_process_zero and hasattr(self, "path"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")


class StopAtNaN(TrainerCallback):
    """Stops the run at a loss or gradient norm that is not finite."""

    def on_log(self, args: Args, state: State, control: Control, logs: Logs, **_: object) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                fix = "lower training.learning_rate, or try --training.bf16 false"
                raise RunFailed(f"{name} is {logs[name]} at step {state.global_step}: {fix}")


class Signals(TrainerAware):
    """On SIGINT or SIGTERM finishes the step, saves and stops; a second signal stops at once."""

    number = 0

    def on_train_begin(self, args: Args, state: State, control: Control, **_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.trainer.cleanup.callback(signal.signal, number, signal.signal(number, self._on_signal))

    def _on_signal(self, number: int, frame: object) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        log(f"{signal.Signals(number).name}: saving after this step", "warning")

    def on_step_end(self, args: Args, state: State, control: Control, **_: object) -> None:
        number = self.number
        if args.world_size > 1:  # all ranks stop at the same step, whichever got the signal
            number = int(self.trainer.accelerator.gather(torch.tensor([number], device=args.device)).max())
        if number:
            self.number, control.should_save, control.should_training_stop = number, True, True

    def on_save(self, args: Args, state: State, control: Control, **_: object) -> None:
        if self.number and state.global_step < state.max_steps:
            raise Stopped(self.number, state.global_step)


class Samples(TrainerAware):
    """Continues `run.prompts` at each evaluation, with a seed of its own: the run's random state does not change."""

    def __init__(self, trainer: Trainer, prompts: Sequence[str]):
        super().__init__(trainer)
        self.prompts, self.last_step = list(prompts), None

    def on_evaluate(self, args: Args, state: State, control: Control, **_: object) -> None:
        trainer = self.trainer
        whole = state.is_world_process_zero and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
        if not (self.prompts and whole and is_causal(trainer.task)) or state.global_step == self.last_step:
            return
        self.last_step, options = state.global_step, {"max_new_tokens": 40, "temperature": 0.8, "top_k": 50, "seed": 0}
        try:
            texts = generate(trainer.model, trainer.processing_class, self.prompts, **options)
        except PromptTooLong as e:  # no reason to lose a run
            log(f"run.prompts: {e}; no samples", "warning")
            return
        for text in texts:
            log(f"         “{' '.join(text.split())}”")

    on_train_end = on_evaluate  # the only samples of a run without evaluation


class Table(TrainerAware):
    """Prints a line for each log and evaluation and, on a terminal, a progress bar with the time left."""

    bar = None

    def on_train_begin(self, args: Args, state: State, control: Control, **_: object) -> None:
        self.started = time.time()
        log(f"{'step':>12}  {'epoch':>6}  {'loss':>8}  {'learning rate':>13}  {'time':>6}")
        if is_main_process() and sys.stderr.isatty():
            times = progress.TimeElapsedColumn(), "left", progress.TimeRemainingColumn()
            columns = "training", progress.BarColumn(), progress.MofNCompleteColumn(), *times
            screen = console.Console(stderr=True)
            bar = progress.Progress(*columns, console=screen, transient=True, redirect_stderr=True)
            self.bar = self.trainer.cleanup.enter_context(bar)
            self.bar_task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Args, state: State, control: Control, **_: object) -> None:
        if self.bar:
            self.bar.update(self.bar_task, completed=state.global_step)

    def on_log(self, args: Args, state: State, control: Control, logs: Logs, **_: object) -> None:
        step = f"{state.global_step:>5}/{state.max_steps:<6}"
        if "loss" in logs:
            elapsed = time.time() - self.started
            log(
                f"{step}  {logs['epoch']:>6.2f}  {logs['loss']:>8.4f}  {logs['learning_rate']:>13.2e}  {elapsed:>5.0f}s"
            )
        for prefix, name in (("eval_", "validation"), ("test_", "test")):
            scores = {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}
            shown = "  ".join(f"{m} {format_number(scores[m])}" for m in self.trainer.task.metrics if m in scores)
            if shown:
                log(f"{step}  {name}  {shown}{'' if state.global_step else '  (untrained)'}")
