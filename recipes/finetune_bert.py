"""Fine-tune a BERT to classify reviews as good or bad, English and Chinese.

    accelerate launch recipes/finetune_bert.py
    accelerate launch recipes/finetune_bert.py --model bert-base-uncased --data train.csv --data.test test.csv

Runs offline with the bundled tiny-bert; with access to the hub, use `--model bert-base-uncased` instead.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import TextClassification

recipe = Recipe(
    task=TextClassification(),
    model=ModelConfig(name="tiny-bert"),
    data=DataConfig(train="reviews", validation="reviews[validation]", test="reviews[test]", max_length=128),
    training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,  # for 1.4 M parameters; 5e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/finetune-bert", references=True),
)

if __name__ == "__main__":
    main(recipe)
