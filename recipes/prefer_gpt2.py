"""Train a GPT-2 to prefer the chosen of two answers, by direct preference optimization (DPO).

    accelerate launch recipes/prefer_gpt2.py
    accelerate launch recipes/prefer_gpt2.py --model runs/chat-gpt2 --data pairs.jsonl --output runs/mine

Start from a model that answers already (`chat_gpt2`). Runs offline with the bundled tiny-gpt2; the answers are the
summary of the text in the prompt (chosen) and that of another text (rejected).
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import Preference

recipe = Recipe(
    task=Preference(beta=0.1),
    model=ModelConfig(name="tiny-gpt2"),
    data=DataConfig(
        train="preferences", validation="preferences[validation]", test="preferences[test]", max_length=256
    ),
    training={
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-4,  # for 1.4 M parameters; 5e-7 to 5e-6 suits a model of a billion
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
    },
    run=RunConfig(output="runs/prefer-gpt2", references=True),
)

if __name__ == "__main__":
    main(recipe)
