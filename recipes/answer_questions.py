"""Fine-tune a BERT for extractive question answering, English and Chinese, with unanswerable questions.

    accelerate launch recipes/answer_questions.py
    accelerate launch recipes/answer_questions.py --model bert-base-uncased --data train-v2.0.json --data.test dev-v2.0.json

Runs offline with the bundled tiny-bert; with access to the hub, use `--model bert-base-uncased` instead.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import QuestionAnswering

recipe = Recipe(
    task=QuestionAnswering(),
    model=ModelConfig(
        name="tiny-bert",
        config={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3},  # only 300 rows, each seen often
    ),
    data=DataConfig(train="questions", validation="questions[validation]", test="questions[test]"),
    training={
        "num_train_epochs": 20,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,  # for 1.4 M parameters; 3e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # rows of similar length share a batch, with little padding
    },
    run=RunConfig(output="runs/answer-questions"),
)

if __name__ == "__main__":
    main(recipe)
