"""Train a BERT to give an answer a number, from pairs of answers of which one was chosen.

    accelerate launch recipes/reward_bert.py
    accelerate launch recipes/reward_bert.py --model bert-base-uncased --data pairs.jsonl --output runs/mine

Runs offline as it is: a text and two summaries, its own and another text's.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import RewardModel

recipe = Recipe(
    task=RewardModel(),
    model=ModelConfig(name="tiny-bert"),
    data=DataConfig(
        train="preferences", validation="preferences[validation]", test="preferences[test]", max_length=128
    ),
    training={
        "num_train_epochs": 5,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,  # for 1.3 M parameters; 2e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # little padding: rows of like length meet
    },
    run=RunConfig(output="runs/reward-bert", references=True),
)

if __name__ == "__main__":
    main(recipe)
