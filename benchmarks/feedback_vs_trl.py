"""Chat tuning, the reward model and DPO compared with trl's trainers: the first losses on the same rows and model.

    pip install "trl==1.16.0"
    python benchmarks/feedback_vs_trl.py              # about two minutes on two cores, offline

`tiny-gpt2` in fp32, batches of four in the order of the rows, AdamW with a constant learning rate of 1e-3. trl gets the
raw rows in its own formats with llmkit's chat template (for chat tuning with the `generation` markers that trl needs to
find the assistant's turns), and does everything else itself. Only rows that fit are used, since the two differ on
purpose for the others: trl cuts the end of an answer, llmkit the beginning of a prompt.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer
from llmkit.data.bundled import read_rows
from llmkit.data.chat import PLAIN_TEMPLATE
from llmkit.hub import model_folder
from llmkit.log import quiet_libraries
from llmkit.task import Batch, Task
from llmkit.tasks import CausalLM, Preference, RewardModel

STEPS, LENGTH = 20, 256
SETTINGS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "seed": 0,
}
ASSISTANT = "{{ 'Assistant: ' + m['content'] + eos_token }}"
MARKED_ASSISTANT = "{{ 'Assistant:' }}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}"
MARKED_TEMPLATE = PLAIN_TEMPLATE.replace(ASSISTANT, MARKED_ASSISTANT)


def short_rows(name: str, count: int, max_characters: int) -> list[dict[str, Any]]:
    return [row for row in read_rows(name, "train") if len(json.dumps(row)) < max_characters][:count]


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """Return a preference in trl's conversational format."""
    turn = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **turn}


def by_llmkit(task: Task, rows: list[dict[str, Any]], folder: Path, model: str) -> tuple[Batch, list[float]]:
    data = DataConfig(train=rows, validation=rows[:4], max_length=LENGTH, packing=False)
    training = {**SETTINGS, "eval_strategy": "no"}
    trainer = build_trainer(Recipe(task, ModelConfig(name=model), data, training, RunConfig(str(folder))))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return batch, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def by_trl(kind: str, rows: list[dict[str, Any]], folder: Path, model: str) -> tuple[Batch, list[float]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = MARKED_TEMPLATE if kind == "SFT" else PLAIN_TEMPLATE
    more = {"SFT": {"assistant_only_loss": True}, "DPO": {"beta": 0.1}, "Reward": {}}[kind]
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(folder), max_length=LENGTH, report_to="none", disable_tqdm=True, gradient_checkpointing=False,
        **SETTINGS, **more,
    )  # fmt: skip
    if kind == "Reward":
        transformers.set_seed(SETTINGS["seed"])
        auto_class = transformers.AutoModelForSequenceClassification
        loaded = auto_class.from_pretrained(model, num_labels=1, dtype=torch.float32)
    else:
        args.model_init_kwargs = {"dtype": "float32"}
        loaded = model
    dataset = Dataset.from_list(rows)
    trainer = getattr(trl, f"{kind}Trainer")(model=loaded, args=args, train_dataset=dataset, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return batch, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def same_tokens(ours: Batch, theirs: Batch) -> bool:
    """Whether both batches hold the same tokens and, where labels show it, train on the same ones."""
    width = ours["input_ids"].shape[1]
    same = torch.equal(ours["input_ids"], theirs["input_ids"][:, :width])
    if "completion_mask" in theirs:
        return same and torch.equal(ours["labels"] != -100, theirs["completion_mask"][:, :width] == 1)
    if theirs.get("labels") is not None and theirs["labels"].dim() == 2:
        return same and torch.equal(ours["labels"], theirs["labels"][:, :width])
    return same


def main() -> None:
    quiet_libraries()
    model = str(model_folder("tiny-gpt2"))
    chats, pairs = short_rows("chats", 4 * STEPS, 900), short_rows("preferences", 4 * STEPS, 500)
    jobs = {
        "chat tuning / SFTTrainer": (CausalLM(), "SFT", chats, chats),
        "reward model / RewardTrainer": (RewardModel(), "Reward", pairs, [as_messages(row) for row in pairs]),
        "DPO / DPOTrainer": (Preference(beta=0.1), "DPO", pairs, [as_messages(row) for row in pairs]),
    }
    print(f"| llmkit / trl | same tokens trained on | loss 1 | loss {STEPS} | trl's | largest difference of {STEPS} |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for name, (task, kind, rows, theirs) in jobs.items():
        with tempfile.TemporaryDirectory() as folder:
            batch, losses = by_llmkit(task, rows, Path(folder) / "llmkit", model)
            other, expected = by_trl(kind, theirs, Path(folder) / "trl", model)
        difference = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        worst = max(worst, difference)
        same = "yes" if same_tokens(batch, other) else "NO"
        cells = (name, same, f"{losses[0]:.5f}", f"{losses[-1]:.5f}", f"{expected[-1]:.5f}", f"{difference:.1e}")
        print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
