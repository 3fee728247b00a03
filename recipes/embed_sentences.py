"""Teach a BERT to find the text that belongs to a description: sentence embeddings for search.

    accelerate launch recipes/embed_sentences.py
    accelerate launch recipes/embed_sentences.py --model sentence-transformers/all-MiniLM-L6-v2 --data pairs.jsonl

Runs offline as it is, on names and docstrings that every Python carries (`descriptions`). Rows of (anchor, positive) or
(anchor, positive, negative) learn to find each other; rows of (text, text_pair, score) learn the score.
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
        "per_device_train_batch_size": 32,  # each row is told from the 31 others: a larger batch teaches more
        "learning_rate": 5e-4,  # for 1.3 M parameters; 2e-5 suits a pretrained encoder
        "warmup_steps": 0.1,
        "train_sampling_strategy": "group_by_length",
    },
    run=RunConfig(output="runs/embed-sentences"),
)

if __name__ == "__main__":
    main(recipe)
