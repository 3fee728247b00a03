"""Fine-tune a GPT-2 on short fables, English and Chinese.

    accelerate launch recipes/finetune_gpt2.py
    accelerate launch recipes/finetune_gpt2.py --model gpt2 --data my.jsonl --output runs/mine

Runs offline with the bundled tiny-gpt2; with access to the hub, use `--model gpt2` instead.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import CausalLM

recipe = Recipe(
    task=CausalLM(),
    model=ModelConfig(name="tiny-gpt2"),
    data=DataConfig(train="fables", validation="fables[validation]", test="fables[test]", max_length=256),
    training={
        "num_train_epochs": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,  # for 1.4 M parameters; 5e-5 suits GPT-2 itself
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
    },
    run=RunConfig(output="runs/finetune-gpt2", prompts=("Once upon a time", "从前")),
)

if __name__ == "__main__":
    main(recipe)
