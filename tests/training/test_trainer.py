"""The Trainer: its losses are those of a bare loop in fp32, fillers have no weight, predictions keep the order of rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmkit import build_trainer, run
from llmkit.data.sampler import FILLER
from llmkit.training import checks
from llmkit.training.trainer import Trainer


def losses_of_training(trainer: Trainer) -> list[float]:
    """Train, and give the model the weights that it started from again."""
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    trainer.model.load_state_dict(weights)
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


# -- the loss


def test_losses_equal_those_of_a_bare_loop(causal_recipe: Callable[..., Any]) -> None:
    """Forward pass, mean over predicted tokens, clipping, AdamW, linear decay; in torch alone, without a batch."""
    trainer = build_trainer(
        causal_recipe(packing=False, training={"num_train_epochs": 2, "per_device_train_batch_size": 8})
    )
    logged = losses_of_training(trainer)
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    sampler = trainer.get_train_dataloader().batch_sampler
    total, losses = len(sampler) * 2, []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for keys in sampler:
            rows = [trainer.train_dataset[position]["input_ids"] for position, _, _ in keys]
            nll, count = torch.zeros(()), 0
            for ids in rows:  # one document at a time: no padding, no mask
                ids = torch.tensor([ids])
                logits = model(ids, use_cache=False).logits
                nll = nll + F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
                count += ids.shape[1] - 1
            loss = nll / count
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - len(losses) / total)
            optimizer.step()
            losses.append(loss.item())
    assert logged[0] == pytest.approx(losses[0], abs=1e-6)
    assert logged == pytest.approx(losses, abs=1e-4)


def test_loss_of_accumulated_batches_equals_the_mean_over_their_rows(review_recipe: Callable[..., Any]) -> None:
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    trainer = build_trainer(review_recipe(training=settings))
    logged = losses_of_training(trainer)
    model = trainer.model.eval()
    sampler, losses = trainer.get_train_dataloader().batch_sampler, []
    sampler.set_epoch(0)
    for position, _, _ in itertools.chain(*list(sampler)[:2]):
        row = trainer.train_dataset[position]
        logits = model(torch.tensor([row["input_ids"]])).logits
        losses.append(-logits.log_softmax(-1)[0, row["labels"]].item())
    assert logged[0] == pytest.approx(sum(losses) / len(losses), abs=1e-6)


# -- fillers


def with_fillers(trainer: Trainer, kinds: str) -> list[dict[str, Any]]:
    """Training features as a rank gets them: f for a filler, r for a row."""
    positions = [(i, 0, kind == "f") for i, kind in enumerate(kinds)]
    return trainer.get_train_dataloader().dataset.__getitems__(positions)


def test_fillers_are_left_out_of_a_training_batch(review_recipe: Callable[..., Any]) -> None:
    trainer = build_trainer(review_recipe())
    batch = trainer._collate_training(with_fillers(trainer, "rrff"))
    rows = trainer._collate_training(with_fillers(trainer, "rr"))
    assert batch.pop("is_filler") is False and rows.pop("is_filler") is False
    assert batch.keys() == rows.keys() and all(torch.equal(batch[name], rows[name]) for name in rows)


def test_batch_of_fillers_has_one_row_without_weight_or_gradient(review_recipe: Callable[..., Any]) -> None:
    """A rank without rows takes part in the step, but changes neither the loss nor its divisor."""
    trainer = build_trainer(review_recipe())
    fillers = trainer._collate_training(with_fillers(trainer, "fff"))
    rows = trainer._collate_training(with_fillers(trainer, "rrr"))
    assert fillers["is_filler"] is True and len(fillers["input_ids"]) == 1
    device = torch.device("cpu")
    assert trainer._get_num_items_in_batch([rows, fillers], device) == 3
    assert trainer._get_num_items_in_batch([fillers], device) == 0
    for total in (None, torch.tensor(3.0)):
        loss = trainer.compute_loss(trainer.model, fillers, num_items_in_batch=total)
        loss.backward()
        assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_fillers_do_not_count_in_metrics(review_recipe: Callable[..., Any]) -> None:
    trainer = build_trainer(review_recipe())
    expected = trainer.evaluate()
    loader, view = trainer.get_eval_dataloader(), trainer.part("validation")
    keys = [(i, 0, False) for i in range(len(view))] + [(0, 0, True)] * 3
    batches = [keys[i : i + 4] for i in range(0, len(keys), 4)]

    class Batches:
        batch_size = 4

        def __iter__(self) -> Any:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    loader = type(loader)(view, batch_sampler=Batches(), collate_fn=trainer._collate_evaluation)
    out = trainer.evaluation_loop(loader, "with fillers")
    assert len(out.predictions) == len(view)
    for metric in trainer.task.metrics:
        assert out.metrics[f"eval_{metric}"] == pytest.approx(expected[f"eval_{metric}"], rel=1e-5)
    assert loader.collate_fn(view.__getitems__(keys[-1:]))["rows"].tolist() == [FILLER]


# -- evaluation


@pytest.mark.parametrize("size", [1, 4, 64])
def test_predictions_are_example_stats_in_the_order_of_the_rows(review_recipe: Callable[..., Any], size: int) -> None:
    trainer = build_trainer(review_recipe(training={"per_device_eval_batch_size": size}))
    task, tokenizer, model = trainer.task, trainer.processing_class, trainer.model.eval()
    with torch.no_grad():
        model.classifier.weight *= 100  # the logits of random weights differ too little between rows
    features, rows = trainer.features["validation"], trainer.rows["validation"]
    alone = []
    for row in features:
        batch = task.collate([row], tokenizer, "padded")
        with torch.no_grad():
            alone.append(task.predict_step(model, batch)[0].numpy())
    expected = task.example_stats(np.stack(alone), features, rows, tokenizer)
    output = trainer.predict(trainer.part("validation"))
    assert output.predictions == pytest.approx(expected, abs=1e-5)
    assert len(np.unique(expected.round(3), axis=0)) > 5
    assert trainer.stats("validation") == pytest.approx(expected, abs=1e-5)


def test_metrics_are_the_score_of_the_stats(review_recipe: Callable[..., Any]) -> None:
    test = [{"text": "a fine film", "label": "negative"}, {"text": "a waste", "label": "negative"}]
    trainer = build_trainer(review_recipe(test=test))
    for part, prefix in (("validation", "eval"), ("test", "test")):
        metrics = trainer.evaluate(trainer.part(part), metric_key_prefix=prefix)
        scores = trainer.task.score(trainer.stats(part))
        assert {name: metrics[f"{prefix}_{name}"] for name in scores} == pytest.approx(scores)
        assert len(trainer.stats(part)) == len(trainer.rows[part])


def test_evaluate_without_a_part_uses_validation(review_recipe: Callable[..., Any]) -> None:
    trainer = build_trainer(review_recipe(test=[{"text": "a fine film", "label": "negative"}]))
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate(trainer.part("validation"))["eval_loss"]


# -- the order of training rows


@pytest.mark.parametrize(
    ("strategy", "check"),
    [
        ("sequential", lambda order, lengths: order == sorted(order)),
        ("random", lambda order, lengths: order != sorted(order)),
        ("group_by_length", lambda order, lengths: lengths[order[0]] == max(lengths)),
    ],
)
def test_sampling_strategy_sets_the_order(strategy: str, check: Callable, review_recipe: Callable[..., Any]) -> None:
    trainer = build_trainer(review_recipe(training={"train_sampling_strategy": strategy}))
    order = [position for keys in trainer.get_train_dataloader().batch_sampler for position, _, _ in keys]
    assert sorted(order) == list(range(len(trainer.train_dataset)))
    assert check(order, checks.lengths(trainer.train_dataset))


def test_data_seed_sets_the_order_and_defaults_to_the_seed(review_recipe: Callable[..., Any]) -> None:
    def order(**training: int) -> list[Any]:
        return [*build_trainer(review_recipe(training=training)).get_train_dataloader().batch_sampler]

    assert order(seed=3) == order(seed=5, data_seed=3) != order(seed=5)


# -- files


def test_no_pickle_of_the_arguments_is_written(causal_recipe: Callable[..., Any]) -> None:
    """It would hold the hub token in clear text."""
    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "hub_token": "hf_secret"}
    folder = run(causal_recipe(training=settings)).output
    assert list(folder.rglob("training_args.bin")) == []
    for path in (folder, folder / "checkpoint-1"):
        arguments = json.loads((path / "training_args.json").read_text())
        assert arguments["max_steps"] == 1 and [name for name in arguments if "token" in name] == []
    assert list(folder.glob("*.bin")) == list(folder.glob("*.pt")) == []
