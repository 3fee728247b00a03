"""Fine-tune a BERT tagger to find code (names, expressions, keywords) in sentences of Python's manual.

    accelerate launch recipes/tag_tokens.py
    accelerate launch recipes/tag_tokens.py --model bert-base-cased --data train.conll --data.test test.conll

Runs offline with the bundled tiny-bert, on sentences that come with Python (`literals`): the manual puts code in double
quotes, which are removed here. Takes any CoNLL file, or rows of `tokens` and `tags`.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import TokenClassification

recipe = Recipe(
    task=TokenClassification(),
    model=ModelConfig(
        name="tiny-bert",
        config={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},  # tiny-bert was pretrained without
    ),
    data=DataConfig(train="literals", validation="literals[validation]", test="literals[test]", max_length=128),
    training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,  # for 1.4 M parameters; 5e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/tag-tokens"),
)

if __name__ == "__main__":
    main(recipe)
