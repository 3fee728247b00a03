"""Train a recurrent language model of words from random weights: embedding, LSTM layers, a linear layer.

    accelerate launch recipes/train_lstm.py
    accelerate launch recipes/train_lstm.py --model.config.cell gru --data corpus/*.txt --model.tokenizer_size 20000
    accelerate launch recipes/train_lstm.py --model.vectors glove.6B.100d.txt --model.config.embedding_size 100

Runs offline, on short fables, English and Chinese. docs/lstm-vs-gpt.md compares it with a GPT.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import CausalLM

recipe = Recipe(
    task=CausalLM(),
    model=ModelConfig(
        name="lstm",
        from_scratch=True,
        config={
            "cell": "lstm",
            "embedding_size": 128,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "dropout": 0.4,  # few texts, each seen often
        },
        tokenizer="word",
        tokenizer_size=4096,
    ),
    data=DataConfig(
        train="fables",
        validation="fables[validation]",
        test="fables[test]",
        max_length=128,
        packing=False,  # the recurrent state would carry over from one text to the next
    ),
    training={
        "num_train_epochs": 10,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-3,  # higher than for a GPT of this size
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/train-lstm", prompts=("Once upon a time", "从前")),
)

if __name__ == "__main__":
    main(recipe)
