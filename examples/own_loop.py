"""Train a recipe with a training loop of your own: llmkit reads, checks and encodes; the loop is plain PyTorch.

    python examples/own_loop.py finetune_gpt2
    python examples/own_loop.py finetune_gpt2 --data my.jsonl --training.gradient_accumulation_steps 2

Its losses are those of `llmkit train` (tests/test_examples.py compares them). It leaves out what the Trainer adds:
evaluation, checkpoints and resuming, several processes, streaming.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import get_scheduler, set_seed

from llmkit import Recipe, UsageError
from llmkit.cli.main import guard
from llmkit.cli.recipes import read_recipe
from llmkit.data.sampler import EpochSampler, RowView
from llmkit.log import quiet_libraries
from llmkit.models.load import load_model
from llmkit.pipeline import lay_out, prepare
from llmkit.training import checks
from llmkit.training.precompute import add_precomputed


def train(recipe: Recipe) -> list[float]:
    """Train, save the model to the recipe's output, and return the loss of every step."""
    if recipe.data.streaming:
        raise UsageError("data.streaming: this loop reads features by their position; leave it out")
    prepared = prepare(recipe)  # rows read, labels learned, text encoded: everything but the weights
    task, args, tokenizer = prepared.recipe.task, prepared.args, prepared.tokenizer

    set_seed(args.seed)
    model = load_model(prepared.recipe.model, task, tokenizer)  # a transformers model
    features, layout = lay_out(prepared, model)  # datasets.Dataset by part, packed if this model can separate documents
    features = add_precomputed(task, {"train": features["train"]}, model, tokenizer, layout, args)["train"]
    model.to(args.device).train()
    model.config.use_cache = False  # with a cache, packed documents would see each other

    grouped = args.train_sampling_strategy == "group_by_length"
    sampler = EpochSampler(
        len(features),
        args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        seed=args.seed,
        shuffle=args.train_sampling_strategy != "sequential",
        lengths=[len(ids) for ids in features["input_ids"]] if grouped else None,
    )
    loader = DataLoader(
        RowView(features), batch_sampler=sampler, collate_fn=lambda fs: task.collate(fs, tokenizer, layout)
    )
    _, total = checks.num_steps(args, len(features))

    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [  # matrices decay; biases and norms do not
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon
    )
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(total), total)

    losses = []
    for step in itertools.islice(optimizer_steps(loader, sampler, args.gradient_accumulation_steps), total):
        weight = sum(int(task.weight(batch)) for batch in step)  # tokens or examples of the whole step
        loss = 0.0
        for batch in step:
            batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
                loss_sum, _ = task.loss(model, batch)
            (loss_sum / weight).backward()
            loss += loss_sum.item() / weight
        torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        print(f"step {len(losses)}/{total}  loss {loss:.4f}")

    model.config.use_cache = True
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    return losses


def optimizer_steps(loader: DataLoader, sampler: EpochSampler, accumulation: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the micro-batches of one optimizer step after another, without end; the last step of an epoch may be short."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)  # the order of the rows is a function of (seed, epoch)
        batches = iter(loader)
        while step := list(itertools.islice(batches, accumulation)):
            yield step


def main() -> None:
    quiet_libraries()
    recipe, _ = read_recipe(sys.argv[1:] or ["finetune_gpt2"], "train")
    train(recipe)


if __name__ == "__main__":
    sys.exit(guard(main))
