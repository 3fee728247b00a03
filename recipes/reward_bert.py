"""Train a BERT as a reward model: it scores answers, and learns from pairs of a chosen and a rejected answer.

    accelerate launch recipes/reward_bert.py
    accelerate launch recipes/reward_bert.py --model bert-base-uncased --data pairs.jsonl --output runs/mine

Runs offline with the bundled tiny-bert; the answers are the summary of the text in the prompt (chosen) and that of
another text (rejected).
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
        "learning_rate": 5e-4,  # for 1.4 M parameters; 2e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/reward-bert", references=True),
)

if __name__ == "__main__":
    main(recipe)
