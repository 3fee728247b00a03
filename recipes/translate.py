"""Train a small Marian to translate English to Chinese or back, from random weights and with a tokenizer of its own.

    accelerate launch recipes/translate.py
    accelerate launch recipes/translate.py --task.source zh --task.target en
    accelerate launch recipes/translate.py --data cmn.txt --data.names en,zh,attribution --data.max_length 48
    accelerate launch recipes/translate.py --model Helsinki-NLP/opus-mt-en-zh --model.from_scratch false --data my.jsonl

Runs offline, on 580 short pairs. For beam search, set `--task.generation.num_beams 4` (and `length_penalty`).
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import Seq2Seq

recipe = Recipe(
    task=Seq2Seq(source="en", target="zh", generation={"max_new_tokens": 32}),
    model=ModelConfig(
        name="marian",
        from_scratch=True,
        config={
            "d_model": 128,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512,
            "max_position_embeddings": 128,
            "scale_embedding": True,  # as Marian is trained; without it the position embeddings dominate
        },
        tokenizer="bpe",
        tokenizer_size=1000,  # for so few pairs; 2,000 entries more than halved the score
    ),
    data=DataConfig(train="phrases", validation="phrases[validation]", test="phrases[test]", max_length=64),
    training={
        "num_train_epochs": 25,
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-3,  # for 1 M parameters; 3e-3 diverges
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "bf16": False,  # sentences of ten tokens: autocast costs more than it saves
        "eval_strategy": "steps",
        "eval_steps": 0.2,
    },
    run=RunConfig(output="runs/translate"),
)

if __name__ == "__main__":
    main(recipe)
