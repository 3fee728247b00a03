"""Train a small Marian to summarize, from random weights and with a tokenizer of its own.

    accelerate launch recipes/summarize.py
    accelerate launch recipes/summarize.py --data train.jsonl.gz --data.validation dev.jsonl --data.test test.jsonl
    accelerate launch recipes/summarize.py --model google-t5/t5-small --model.from_scratch false --task.prefix "summarize: "

Runs offline, on docstrings from the standard library (`summaries`): the target is the first line, the source the rest.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import Seq2Seq

recipe = Recipe(
    task=Seq2Seq(metric="rougeL", generation={"max_new_tokens": 32}),
    model=ModelConfig(
        name="marian",
        from_scratch=True,
        config={
            "d_model": 128,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "max_position_embeddings": 256,
            "scale_embedding": True,
        },
        tokenizer="bpe",
        tokenizer_size=2000,
    ),
    data=DataConfig(train="summaries", validation="summaries[validation]", test="summaries[test]", max_length=48),
    training={
        "num_train_epochs": 20,
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-3,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "bf16": False,
        "train_sampling_strategy": "group_by_length",
        "eval_strategy": "steps",
        "eval_steps": 0.25,
    },
    run=RunConfig(output="runs/summarize"),
)

if __name__ == "__main__":
    main(recipe)
