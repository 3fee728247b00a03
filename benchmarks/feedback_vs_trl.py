"""Chat tuning, the reward model and DPO beside trl's trainers: the same rows, the same model, the first losses of both.

    pip install "trl==1.16.0"
    python benchmarks/feedback_vs_trl.py              # about two minutes on two cores, offline

`tiny-gpt2` in fp32, batches of four in the order of the rows, AdamW at a constant 1e-3. trl gets the raw rows as its own
formats want them, with llmkit's chat template (for chat tuning with the marks by which trl finds the assistant's words),
and does everything else itself. The rows are those that fit: where one does not, the two differ on purpose (trl cuts an
answer's end, llmkit a prompt's beginning).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, console
from llmkit.data.conversations import PLAIN_TEMPLATE
from llmkit.models.bundled import model_folder, read_text
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
SAID = "{{ 'Assistant: ' + m['content'] + eos_token }}"
MARKED = PLAIN_TEMPLATE.replace(
    SAID, "{{ 'Assistant:' }}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}"
)


def rows_of(name: str, count: int, shortest: int) -> list[dict[str, Any]]:
    return [row for row in read_text(name, "train") if len(json.dumps(row)) < shortest][:count]


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """trl's conversational form of a preference."""
    turn = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **turn}


def by_llmkit(task: Any, rows: list[dict[str, Any]], folder: Path, model: str) -> tuple[Any, list[float]]:
    recipe = Recipe(
        task,
        ModelConfig(name=model),
        DataConfig(train=rows, validation=rows[:4], max_length=LENGTH, packing=False),
        {**SETTINGS, "eval_strategy": "no"},
        RunConfig(str(folder)),
    )
    trainer = build_trainer(recipe)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return batch, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def by_trl(kind: str, rows: list[dict[str, Any]], folder: Path, model: str) -> tuple[Any, list[float]]:
    import trl

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = MARKED if kind == "SFT" else PLAIN_TEMPLATE
    more = {"SFT": {"assistant_only_loss": True}, "DPO": {"beta": 0.1}, "Reward": {}}[kind]
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(folder), max_length=LENGTH, report_to="none", disable_tqdm=True, gradient_checkpointing=False,
        **SETTINGS, **more,
    )  # fmt: skip
    if kind == "Reward":
        transformers.set_seed(SETTINGS["seed"])
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=1, dtype=torch.float32
        )
    else:
        args.model_init_kwargs = {"dtype": "float32"}
        loaded = model
    trainer = getattr(trl, f"{kind}Trainer")(
        model=loaded, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    return batch, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def same_tokens(ours: Any, theirs: Any) -> bool:
    """Whether both put the same tokens into a batch, and learn (where they say) the same ones."""
    width = ours["input_ids"].shape[1]
    same = torch.equal(ours["input_ids"], theirs["input_ids"][:, :width])
    if "completion_mask" in theirs:
        return same and torch.equal(ours["labels"] != -100, theirs["completion_mask"][:, :width] == 1)
    if theirs.get("labels") is not None and theirs["labels"].dim() == 2:
        return same and torch.equal(ours["labels"], theirs["labels"][:, :width])
    return same


def main() -> None:
    console.hush()
    model = str(model_folder("tiny-gpt2"))
    chats, pairs = rows_of("chats", 4 * STEPS, 900), rows_of("preferences", 4 * STEPS, 500)
    jobs = {
        "chat tuning / SFTTrainer": (CausalLM(), "SFT", chats, chats),
        "reward model / RewardTrainer": (RewardModel(), "Reward", pairs, [as_messages(row) for row in pairs]),
        "DPO / DPOTrainer": (Preference(beta=0.1), "DPO", pairs, [as_messages(row) for row in pairs]),
    }
    print(f"| llmkit / trl | same tokens learned | loss 1 | loss {STEPS} | trl's | largest difference of {STEPS} |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for name, (task, kind, rows, theirs) in jobs.items():
        with tempfile.TemporaryDirectory() as folder:
            batch, losses = by_llmkit(task, rows, Path(folder) / "llmkit", model)
            other, expected = by_trl(kind, theirs, Path(folder) / "trl", model)
        apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        worst = max(worst, apart)
        same = "yes" if same_tokens(batch, other) else "NO"
        print(
            f"| {name} | {same} | {losses[0]:.5f} | {losses[-1]:.5f} | {expected[-1]:.5f} | {apart:.1e} |", flush=True
        )
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
