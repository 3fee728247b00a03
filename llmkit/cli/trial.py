"""The stages of `llmkit check-task`, from the preview of a row to predictions of the saved model."""

import math
import traceback
from dataclasses import replace

from llmkit import pipeline, predictor
from llmkit.cli.preview import format_features
from llmkit.data import rows, sampler, sources
from llmkit.errors import UsageError
from llmkit.log import plural
from llmkit.recipe import Recipe
from llmkit.task import Task, is_causal

STAGES = ("preview", "batch", "loss", "evaluate", "train", "reload", "predict")
"""Methods of `Trial`, in order."""
TRAINING = {"max_steps": 1, "per_device_train_batch_size": 4, "bf16": False, "eval_strategy": "no"}
TOLERANCE = 1e-4
"""Largest relative difference between the loss of a batch and the sum of the losses of its halves, in fp32."""


class Trial:
    """A run of a task on the rows of `recipe.data.train`. Each stage returns a line, or raises what the task raises."""

    def __init__(self, recipe: Recipe):
        self.raw_rows = sources.read(sources.find(recipe.data.train, "train", recipe.data))[:4]
        self.recipe = replace(recipe, training=TRAINING)

    def preview(self) -> str:
        model = self.recipe.model.name or ("tiny-gpt2" if is_causal(self.recipe.task) else "tiny-bert")
        self.recipe = replace(self.recipe, model=replace(self.recipe.model, name=model))
        self.prepared = pipeline.prepare(self.recipe)
        return "  ".join(format_features(self.prepared, 1)[0].splitlines())

    def batch(self) -> str:
        self.trainer = trainer = pipeline.build(self.prepared)
        count = min(4, len(trainer.train_dataset))
        if count < 2:
            raise UsageError(f"the training part (three quarters) has {plural(count, 'row')} of features; 2 are needed")
        features = sampler.RowView(trainer.train_dataset).__getitems__([(i, 0, False) for i in range(count)])
        batches = map(trainer.data_collator, (features, features[: count // 2], features[count // 2 :]))
        self.batches = [trainer._prepare_inputs(batch) for batch in batches]
        return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.batches[0].items())

    def loss(self) -> str:
        task, model = self.trainer.task, self.trainer.model.eval()
        weights = [int(task.weight(batch)) for batch in self.batches]
        losses = [task.loss(model, batch)[0].item() for batch in self.batches]
        weight, loss = ("{:.6g} of one batch, {:.6g} + {:.6g} of its halves".format(*v) for v in (weights, losses))
        if weights[0] != weights[1] + weights[2] or weights[0] < 1:
            raise UsageError(f"weight is {weight}; it must count what loss sums over")
        in_batch_negatives = task.auto_class == "AutoModel"
        if abs(losses[0] - losses[1] - losses[2]) > TOLERANCE * abs(losses[0]) and not in_batch_negatives:
            raise UsageError(f"loss is {loss}; it must be a sum over rows, each independent of the others in its batch")
        return f"{loss}; weight {weight}"

    def evaluate(self) -> str:
        task, part = self.trainer.task, self.trainer.part("validation")
        scores = task.score(self.trainer.predict(part).predictions)
        if set(scores) != set(task.metrics):
            raise UsageError(f"score returns {', '.join(scores)}; metrics names {', '.join(task.metrics)}")
        if wrong := [name for name, value in scores.items() if not math.isfinite(value)]:
            raise UsageError(f"score returns {wrong[0]} {scores[wrong[0]]}; expected a finite number")
        return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())

    def train(self) -> str:
        self.result = pipeline.run(self.recipe)
        return f"1 step; saved {', '.join(sorted(path.name for path in self.result.output.iterdir()))}"

    def reload(self) -> str:
        self.saved, task = predictor.load(self.result.output), self.result.trainer.task
        if self.saved.task != task:
            raise UsageError(f"the saved task is {self.saved.task}; the trained one is {task}")
        return str(task)

    def predict(self) -> str:
        task = self.saved.task
        if type(task).predict is Task.predict and is_causal(task):
            return f"not defined; generates {self.saved.generate('The', max_new_tokens=5)!r}"
        columns = [rows.question_columns(row, task, self.recipe.data.columns) for _, row in self.raw_rows]
        inputs = [value for row in columns for value in task.read_question(row)]
        answers = self.saved.predict(inputs)
        if len(answers) != len(inputs):
            raise UsageError(f"predict returns {len(answers)} answers for {len(inputs)} inputs")
        return task.format_prediction(answers[0], inputs[0])


def describe_failure(error: Exception, task: Task) -> list[str]:
    """Return one line for each fault: the member of the task that raised `error`, if any, and the message."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [f.f_code.co_name for f in frames if isinstance(f.f_locals.get("self"), type(task))]
    members = [f"{type(task).__name__}.{name}: " for name in names if hasattr(Task, name) and not name.startswith("_")]
    if isinstance(error, UsageError):
        return [f"{''.join(members[-1:])}{fault}" for fault in error.faults]
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return [f"{''.join(members[-1:])}{message} (LLMKIT_DEBUG=1 shows the traceback)"]
