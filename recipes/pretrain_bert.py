"""Pretrain a small BERT from random weights by masked language modelling, with a tokenizer of its own.

    accelerate launch recipes/pretrain_bert.py
    accelerate launch recipes/pretrain_bert.py --data corpus/*.txt --model.tokenizer wordpiece

Runs offline, on the prose that comes with Python (`demo`).
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import MaskedLM

recipe = Recipe(
    task=MaskedLM(),
    model=ModelConfig(
        name="bert",
        from_scratch=True,
        config={
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "max_position_embeddings": 256,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        tokenizer="bpe",  # of bytes, so that no character is unknown
        tokenizer_size=4096,
    ),
    data=DataConfig(train="demo", validation=0.05, max_length=128),
    training={
        "num_train_epochs": 1.75,  # two minutes on two CPU cores
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-3,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
    },
    run=RunConfig(output="runs/pretrain-bert"),
)

if __name__ == "__main__":
    main(recipe)
