"""The one Trainer: transformers' own, with the overrides that make it right, each with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from llmkit.data import Loaded
from llmkit.data.sampling import FILLER, EpochLoader, EpochSampler, RowView
from llmkit.data.streaming import Stream
from llmkit.recipe import Recipe
from llmkit.task import Task
from llmkit.training import preflight

Parts = dict[str, Dataset]
LOADING = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")  # a DataLoader's, as dataloader_…


class Trainer(transformers.Trainer):
    """A transformers.Trainer whose loss, batches and metrics are the task's.

    `features` and `rows` are the encoded and raw parts (train, validation, test) that belong together.
    """

    recipe: Recipe
    loaded: Loaded
    started: float
    """when the run began, in seconds of the epoch"""
    examples: np.ndarray
    """what the last evaluation's scores were made of, see `Task.per_example`"""

    loss_is_scaled_for_ga = True  # compute_loss divides by the whole global batch itself

    def __init__(
        self,
        task: Task,
        model: Any,
        args: Any,
        tokenizer: Any,
        features: Parts,
        rows: Parts,
        layout: str,
        **kwargs: Any,
    ):
        self.task, self.features, self.rows, self.layout = task, features, rows, layout
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            data_collator=lambda fs: task.collate(fs, tokenizer, layout),
            train_dataset=features.get("train"),
            eval_dataset=features.get("validation"),
            compute_metrics=self._score,
            **kwargs,
        )
        if self.label_names == []:
            self.label_names = ["labels"]

    # -- batches: a function of (seed, epoch), the same however they are cut; the stock order depends on global random
    #    state, on the number of processes, and trains filler rows twice

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
            lengths=preflight.lengths(dataset) if grouped else None,
            drop_last=args.dataloader_drop_last,
        )
        return self._loader(dataset, sampler, collate)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> EpochLoader:
        args, dataset = self.args, self.eval_dataset if eval_dataset is None else eval_dataset
        self._evaluated = dataset
        processes = {"rank": args.process_index, "processes": args.world_size}
        sampler = EpochSampler(len(dataset), args.per_device_eval_batch_size, shuffle=False, **processes)
        return self._loader(dataset, sampler, self._collate_evaluation)

    get_test_dataloader = get_eval_dataloader

    def _loader(self, dataset: Any, sampler: EpochSampler, collate: Any) -> EpochLoader:
        options = {name: getattr(self.args, f"dataloader_{name}") for name in LOADING}
        return EpochLoader(RowView(dataset), batch_sampler=sampler, collate_fn=collate, **options)

    def _collate_training(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Fillers are left out; where nothing else is there, one stands in so that ranks stay in step, and weighs 0."""
        real = [f for f in features if f["row"] != FILLER]
        return {**self.data_collator(real or features[:1]), "is_filler": not real}

    def _collate_evaluation(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.data_collator(features), "rows": torch.tensor([f["row"] for f in features])}

    # -- loss: a sum over tokens or examples, divided once by the global count (the stock heads' losses are means of
    #    micro-batches, multiplied by accumulation and processes where they ignore num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        weights = [0 if b.get("is_filler") else self.task.weight(b) for b in batch_samples]
        exact = torch.float32 if device.type == "mps" else torch.float64
        total = torch.as_tensor(sum(weights), dtype=exact, device=device)
        return self.accelerator.gather(total.reshape(1)).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        is_filler = inputs.pop("is_filler", False)
        loss_sum, outputs = self.task.loss(model, inputs)
        total = float(num_items_in_batch if num_items_in_batch is not None else self.task.weight(inputs))
        # DDP averages gradients, and the log averages losses, over processes: their number undoes that
        loss = loss_sum * (0.0 if is_filler else self.args.world_size / (total or 1.0))
        return (loss, outputs) if return_outputs else loss

    # -- evaluation: every row's share, reduced on the device, so that memory does not grow with vocabulary or split

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple:
        inputs = self._prepare_inputs(inputs)
        rows = inputs.pop("rows")
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.task.predict_step(model, inputs)
        return None, outputs.float(), rows

    def _score(self, prediction: transformers.EvalPrediction) -> dict[str, float]:
        self.examples = self._per_example(prediction)
        return self.task.score(self.examples)

    def _per_example(self, prediction: Any) -> np.ndarray:
        positions = prediction.label_ids
        real = positions != FILLER
        outputs = prediction.predictions[real][np.argsort(positions[real], kind="stable")]
        part = next((p for p, f in self.features.items() if f is self._evaluated), None)
        return self.task.per_example(outputs, self._evaluated, self.rows.get(part), self.processing_class)

    def per_example(self, part: str) -> np.ndarray:
        """What the task's `score` sees of a part: (examples, numbers)."""
        loader = self.get_eval_dataloader(self.features[part])
        return self._per_example(self.evaluation_loop(loader, "Prediction", prediction_loss_only=False))

    # -- files: training_args.bin is a pickle that holds the hub token in clear

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        pickle = folder / "training_args.bin"
        if self.args.should_save and pickle.exists():
            pickle.unlink()
            readable = {k: v for k, v in json.loads(self.args.to_json_string()).items() if "token" not in k}
            (folder / "training_args.json").write_text(json.dumps(readable, indent=2) + "\n", encoding="utf-8")
