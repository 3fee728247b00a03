"""Pretrain a small GPT-2 from random weights, with a tokenizer of its own.

    accelerate launch recipes/pretrain_gpt2.py
    accelerate launch recipes/pretrain_gpt2.py --data corpus/*.txt --model.config.n_layer 12 --model.config.n_embd 768

Runs offline, on the prose that comes with Python (`demo`).
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import CausalLM

recipe = Recipe(
    task=CausalLM(),
    model=ModelConfig(
        name="gpt2",
        from_scratch=True,
        # small enough for two CPU cores and two minutes; no dropout, since each text is seen about twice
        config={
            "n_layer": 4,
            "n_head": 4,
            "n_embd": 128,
            "n_positions": 256,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        tokenizer="bpe",
        tokenizer_size=4096,
    ),
    data=DataConfig(train="demo", validation=0.05, max_length=256),
    training={
        "num_train_epochs": 1.9,
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "adam_beta2": 0.95,  # as for GPT-3; a short run benefits from a shorter average
    },
    run=RunConfig(output="runs/pretrain-gpt2", prompts=("The ", "Return ")),
)

if __name__ == "__main__":
    main(recipe)
