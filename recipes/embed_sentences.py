"""Train sentence embeddings for search: a BERT that finds the text that belongs to a description.

    accelerate launch recipes/embed_sentences.py
    accelerate launch recipes/embed_sentences.py --model sentence-transformers/all-MiniLM-L6-v2 --data pairs.jsonl

Runs offline with the bundled tiny-bert, on names and docstrings from the standard library (`descriptions`). Rows may be
(anchor, positive) or (anchor, positive, negative), trained with in-batch negatives, or (text, text_pair, score).
"""

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, main
from llmkit.tasks import SentenceEmbedding

recipe = Recipe(
    task=SentenceEmbedding(),
    model=ModelConfig(name="tiny-bert"),
    data=DataConfig(
        train="descriptions", validation="descriptions[validation]", test="descriptions[test]", max_length=128
    ),
    training={
        "num_train_epochs": 3,
        "per_device_train_batch_size": 32,  # 31 in-batch negatives for each row; a larger batch gives more
        "learning_rate": 5e-4,  # for 1.4 M parameters; 2e-5 suits a pretrained encoder
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
    },
    run=RunConfig(output="runs/embed-sentences"),
)

if __name__ == "__main__":
    main(recipe)
