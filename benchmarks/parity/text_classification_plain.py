"""Fine-tune a text classifier with transformers alone, as in its `run_classification` example.

    python benchmarks/parity/text_classification_plain.py --model_name_or_path DIR --train_file train.jsonl \
        --validation_file validation.jsonl --test_file test.jsonl --output_dir out --learning_rate 2e-4 …

Files hold `text` and `label`. Any TrainingArguments field is an option. Writes the model, `results.json` and
`predictions.txt` (one label per line) into the output folder. This is the script of a user without llmkit; it does not
import llmkit.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
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
    names = sorted(set(raw["train"]["label"]))
    ids = {name: i for i, name in enumerate(names)}

    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path, num_labels=len(names), label2id=ids, id2label=dict(enumerate(names))
    )
    if model_args.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = model_args.dropout
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config, dtype=torch.float32
    )

    def preprocess(rows: dict) -> dict:
        encoded = tokenizer(rows["text"], max_length=data_args.max_seq_length, truncation=True)
        return {**encoded, "label": [ids[label] for label in rows["label"]]}

    encoded = raw.map(preprocess, batched=True, remove_columns=raw["train"].column_names)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    started = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    args.train_sampling_strategy = "sequential"  # grouped by length, predictions would not be in the order of the rows
    prediction = trainer.predict(encoded["test"])
    trainer.save_model()

    folder = Path(args.output_dir)
    labels = [names[i] for i in np.argmax(prediction.predictions, -1)]
    (folder / "predictions.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    results = {
        "accuracy": prediction.metrics["test_accuracy"],
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "seconds_train": trained - started,
        "steps": trainer.state.global_step,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
