"""Fine-tune a BERT for semantic role labelling: the arguments of a verb and their roles, English and Chinese.

    accelerate launch recipes/label_roles.py
    accelerate launch recipes/label_roles.py --model bert-base-cased --data train.conllu --data.test test.conllu

Runs offline with the bundled tiny-bert. Rows have `tokens`, `predicate` and `tags`; CoNLL-U files with predicates
(Universal Propositions) are read without conversion.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import SemanticRoles

recipe = Recipe(
    task=SemanticRoles(),
    model=ModelConfig(
        name="tiny-bert",
        config={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3},  # only 293 rows, each seen often
    ),
    data=DataConfig(train="roles", validation="roles[validation]", test="roles[test]", max_length=128),
    training={
        "num_train_epochs": 20,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,  # for 1.4 M parameters; 5e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/label-roles"),
)

if __name__ == "__main__":
    main(recipe)
