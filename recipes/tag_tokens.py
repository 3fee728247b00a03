"""Teach a BERT to find the code in prose: names, expressions, keywords, left unmarked in the sentences of Python's manual.

    accelerate launch recipes/tag_tokens.py
    accelerate launch recipes/tag_tokens.py --model bert-base-cased --data train.conll --data.test test.conll

Runs offline as it is, on sentences that every Python carries (`literals`): in the manual, code stands in double quotes;
here the quotes are taken away. Any CoNLL file, or rows of `tokens` and `tags`, will do.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import TokenClassification

recipe = Recipe(
    task=TokenClassification(),
    model=ModelConfig(
        name="tiny-bert",
        config={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},  # it was pretrained without
    ),
    data=DataConfig(train="literals", validation="literals[validation]", test="literals[test]", max_length=128),
    training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,  # for 1.3 M parameters; 5e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # little padding: rows of like length meet
    },
    run=RunConfig(output="runs/tag-tokens"),
)

if __name__ == "__main__":
    main(recipe)
