"""The Trainer: transformers' own, with the overrides that llmkit needs, each with its reason."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from llmkit.collate import Feature, check_batch
from llmkit.data.sampler import FILLER, EpochLoader, EpochSampler, RowView
from llmkit.data.stream import Stream
from llmkit.models import adapters
from llmkit.task import Batch, Json, Model, Task, Tokenizer
from llmkit.training import checks, hardware

LOADER_OPTIONS = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")
"""Options of a DataLoader that TrainingArguments has as dataloader_…"""


class Trainer(transformers.Trainer):
    """A transformers.Trainer whose loss, batches and metrics are those of a task.

    `features` and `rows` hold the encoded and raw rows by part (train, validation, test); `evaluate` and `predict` take
    `trainer.part("test")`, and `predict` returns `Task.example_stats` as predictions.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole global batch itself

    def __init__(
        self,
        task: Task,
        model: Model,
        args: transformers.TrainingArguments,
        tokenizer: Tokenizer,
        features: Mapping[str, Dataset],
        rows: Mapping[str, Dataset],
        layout: str,
        **kwargs: Any,
    ):
        self.task, self.features, self.rows, self.layout = task, features, rows, layout
        self.cleanup = contextlib.ExitStack()
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            data_collator=lambda fs: check_batch(task.name, task.collate(fs, tokenizer, layout)),
            train_dataset=features.get("train"),
            eval_dataset=self.part("validation") if "validation" in features else None,
            **kwargs,
        )
        if self.label_names == []:
            self.label_names = ["labels"]

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train from the state that `args.seed` gives, and restore the random state and the number of threads.

        Undoes what callbacks put on `cleanup` (signal handlers, a progress bar), also after an exception.
        """
        with self.cleanup, hardware.restored_state():
            hardware.share_cores()
            transformers.set_seed(self.args.seed)
            return super().train(*args, **kwargs)

    def part(self, name: str) -> RowView:
        """Return a part (validation or test) as `evaluate` and `predict` take it."""
        return RowView(self.features[name], self.rows.get(name))

    def stats(self, name: str) -> np.ndarray:
        """Return `Task.example_stats` of a part: (examples, numbers)."""
        return np.asarray(self.predict(self.part(name)).predictions)

    # -- batches: a function of (seed, epoch), the same however they are cut. The stock order depends on the global
    #    random state and on the number of processes, and trains on filler rows twice.

    def get_train_dataloader(self) -> EpochLoader:
        args, dataset, collate = self.args, self.train_dataset, self._collate_training
        if isinstance(dataset, Stream):
            batches = dataset.batches(self._train_batch_size, args.process_index, args.world_size)
            return EpochLoader(batches, batch_size=None, collate_fn=collate, pin_memory=args.dataloader_pin_memory)
        grouped = args.train_sampling_strategy == "group_by_length"
        sampler = EpochSampler(
            len(dataset),
            self._train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            processes=args.world_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            shuffle=args.train_sampling_strategy != "sequential",
            lengths=checks.lengths(dataset) if grouped else None,
            drop_last=args.dataloader_drop_last,
        )
        return self._loader(RowView(dataset), sampler, collate)

    def get_eval_dataloader(self, eval_dataset: RowView | None = None) -> EpochLoader:
        args, dataset = self.args, self.eval_dataset if eval_dataset is None else eval_dataset
        processes = {"rank": args.process_index, "processes": args.world_size}
        sampler = EpochSampler(len(dataset), args.per_device_eval_batch_size, shuffle=False, **processes)
        return self._loader(dataset, sampler, self._collate_evaluation)

    get_test_dataloader = get_eval_dataloader

    def _loader(self, dataset: RowView, sampler: EpochSampler, collate: Callable[..., Any]) -> EpochLoader:
        options = {name: getattr(self.args, f"dataloader_{name}") for name in LOADER_OPTIONS}
        return EpochLoader(dataset, batch_sampler=sampler, collate_fn=collate, **options)

    def _collate_training(self, features: Sequence[Feature]) -> Json:
        """Leave fillers out. A batch of fillers alone keeps one, so that ranks stay in step, with weight 0."""
        real = [f for f in features if f["row"] != FILLER]
        return {**self.data_collator(real or features[:1]), "is_filler": not real}

    def _collate_evaluation(self, features: Sequence[Feature]) -> Batch:
        return {**self.data_collator(features), "rows": torch.tensor([f["row"] for f in features])}

    # -- loss: a sum over tokens or examples, divided once by the global count. The losses of the stock heads are means
    #    of micro-batches, multiplied by accumulation steps and processes where they ignore num_items_in_batch.

    def _get_num_items_in_batch(self, batch_samples: list[Json], device: torch.device) -> torch.Tensor:
        weights = [0 if b.get("is_filler") else self.task.weight(b) for b in batch_samples]
        exact = torch.float32 if device.type == "mps" else torch.float64
        total = torch.as_tensor(sum(weights), dtype=exact, device=device)
        return self.accelerator.gather(total.reshape(1)).sum()

    def compute_loss(
        self, model: Model, inputs: Json, return_outputs: bool = False, num_items_in_batch: torch.Tensor | None = None
    ) -> Any:
        inputs = dict(inputs)
        is_filler = inputs.pop("is_filler", False)
        loss_sum, outputs = self.task.loss(model, inputs)
        total = float(num_items_in_batch if num_items_in_batch is not None else self.task.weight(inputs))
        # DDP averages gradients over processes, and the log averages losses: multiplying by their number undoes that
        loss = loss_sum * (0.0 if is_filler else self.args.world_size / (total or 1.0))
        return (loss, outputs) if return_outputs else loss

    # -- evaluation: each row is reduced on the device, so that memory does not grow with the vocabulary or the part

    def prediction_step(
        self, model: Model, inputs: Json, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        inputs = self._prepare_inputs(inputs)
        rows = inputs.pop("rows")
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.task.predict_step(model, inputs)
        return None, outputs.float(), rows

    def evaluation_loop(
        self,
        dataloader: EpochLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return `Task.example_stats` as predictions, and `Task.score` of them as metrics."""
        out = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        part: RowView = dataloader.dataset
        is_real = out.label_ids != FILLER
        outputs = out.predictions[is_real][np.argsort(out.label_ids[is_real], kind="stable")]
        stats = self.task.example_stats(outputs, part.features, part.rows, self.processing_class)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in self.task.score(stats).items()}
        return EvalLoopOutput(stats, None, metrics | out.metrics, out.num_samples)

    # -- files: training_args.bin is a pickle that holds the hub token in clear text

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        adapters.write_base(self.model, folder)
        pickle = folder / "training_args.bin"
        if self.args.should_save and pickle.exists():
            pickle.unlink()
            readable = {k: v for k, v in json.loads(self.args.to_json_string()).items() if "token" not in k}
            (folder / "training_args.json").write_text(json.dumps(readable, indent=2) + "\n", encoding="utf-8")
