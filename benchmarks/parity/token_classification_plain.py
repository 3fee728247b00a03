"""Fine-tune a token classifier with transformers alone, as in its `run_ner` example.

    python benchmarks/parity/token_classification_plain.py --model_name_or_path DIR --train_file train.jsonl \
        --validation_file validation.jsonl --test_file test.jsonl --output_dir out --learning_rate 2e-4 …

Files hold `tokens` and `tags` (IOB2). Any TrainingArguments field is an option. Writes the model, `results.json` and
`predictions.jsonl` (the tags of one sentence per line) into the output folder. This is the script of a user without
llmkit; it does not import llmkit.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from seqeval.metrics import f1_score
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class DataArguments:
    train_file: str
    test_file: str
    validation_file: str | None = None
    max_seq_length: int = 128


@dataclass
class ModelArguments:
    model_name_or_path: str
    dropout: float | None = field(default=None, metadata={"help": "replaces the model's own"})


def main() -> None:
    data_args, model_args, args = HfArgumentParser(
        (DataArguments, ModelArguments, TrainingArguments)
    ).parse_args_into_dataclasses()
    transformers.logging.set_verbosity_error()
    set_seed(args.seed)

    files = {"train": data_args.train_file, "validation": data_args.validation_file, "test": data_args.test_file}
    raw = datasets.load_dataset("json", data_files={k: v for k, v in files.items() if v})
    names = sorted({tag for tags in raw["train"]["tags"] for tag in tags})
    ids = {name: i for i, name in enumerate(names)}

    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path, num_labels=len(names), label2id=ids, id2label=dict(enumerate(names))
    )
    if model_args.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = model_args.dropout
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForTokenClassification.from_pretrained(
        model_args.model_name_or_path, config=config, dtype=torch.float32
    )

    def preprocess(rows: dict) -> dict:
        encoded = tokenizer(
            rows["tokens"], truncation=True, max_length=data_args.max_seq_length, is_split_into_words=True
        )
        encoded["labels"] = []
        for i, tags in enumerate(rows["tags"]):
            before, labels = None, []
            for word in encoded.word_ids(i):
                labels.append(-100 if word is None or word == before else ids[tags[word]])
                before = word
            encoded["labels"].append(labels)
        return encoded

    def decode(labels: np.ndarray, predictions: np.ndarray) -> list[list[str]]:
        """Return the names of the predicted labels at the words of each sentence."""
        return [
            [names[p] for p, y in zip(*row, strict=True) if y != -100] for row in zip(predictions, labels, strict=True)
        ]

    def compute_metrics(p: transformers.EvalPrediction) -> dict:
        return {"f1": f1_score(decode(p.label_ids, p.label_ids), decode(p.label_ids, p.predictions.argmax(-1)))}

    encoded = raw.map(preprocess, batched=True, remove_columns=raw["train"].column_names)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )
    started = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    args.train_sampling_strategy = "sequential"  # grouped by length, predictions would not be in the order of the rows
    prediction = trainer.predict(encoded["test"])
    trainer.save_model()

    folder = Path(args.output_dir)
    tags = decode(prediction.label_ids, prediction.predictions.argmax(-1))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tags), encoding="utf-8")
    results = {
        "f1": prediction.metrics["test_f1"],
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "seconds_train": trained - started,
        "steps": trainer.state.global_step,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
