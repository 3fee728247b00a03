"""Train a GPT-2 to answer in conversations: the front desk of a small library, English and Chinese.

    accelerate launch recipes/chat_gpt2.py
    accelerate launch recipes/chat_gpt2.py --model gpt2 --data alpaca.json --output runs/mine

The loss is taken on the assistant's turns. Rows may be messages, ShareGPT conversations, prompt and response, or
Alpaca's instruction, input and output. Runs offline with the bundled tiny-gpt2, whose answers are short and often
belong to a similar question.
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import CausalLM

recipe = Recipe(
    task=CausalLM(),
    model=ModelConfig(name="tiny-gpt2"),
    data=DataConfig(train="chats", validation="chats[validation]", test="chats[test]", max_length=256),
    training={
        "num_train_epochs": 20,
        "per_device_train_batch_size": 4,  # a row holds several conversations
        "learning_rate": 1e-3,  # for 1.4 M parameters; 2e-5 suits a model of a billion
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
    },
    run=RunConfig(output="runs/chat-gpt2", prompts=("When do you open on Saturday?", "怎么办借书卡？")),
)

if __name__ == "__main__":
    main(recipe)
