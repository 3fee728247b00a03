"""Fine-tune a BERT to find the answers to questions in a text, English and Chinese, or to say that there is none.

    accelerate launch recipes/answer_questions.py
    accelerate launch recipes/answer_questions.py --model bert-base-uncased --data train-v2.0.json --data.test dev-v2.0.json

Runs offline as it is, from the tiny model that comes with llmkit. With a hub, `--model bert-base-uncased` is the real one.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import QuestionAnswering

recipe = Recipe(
    task=QuestionAnswering(),
    model=ModelConfig(
        name="tiny-bert",
        config={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3},  # 300 rows are few, and seen often
    ),
    data=DataConfig(train="questions", validation="questions[validation]", test="questions[test]"),
    training={
        "num_train_epochs": 20,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,  # for 1.3 M parameters; 3e-5 suits BERT itself
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",  # little padding: rows of like length meet
    },
    run=RunConfig(output="runs/answer-questions"),
)

if __name__ == "__main__":
    main(recipe)
