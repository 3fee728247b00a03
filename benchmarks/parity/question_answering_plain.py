"""Fine-tune a model for question answering with transformers alone, as in its `run_qa` example.

    python benchmarks/parity/question_answering_plain.py --model_name_or_path DIR --train_file train.jsonl \
        --test_file test.jsonl --output_dir out --learning_rate 2e-4 …

Files hold `id`, `question`, `context` and `answers` (text and answer_start, lists). Any TrainingArguments field is an
option. Writes the model, `results.json` and `predictions.json` (an answer for each id) into the output folder. This is
the script of a user without llmkit; it does not import llmkit.
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
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
    max_seq_length: int = 384
    doc_stride: int = 128
    n_best_size: int = 20
    max_answer_length: int = 30


@dataclass
class ModelArguments:
    model_name_or_path: str
    dropout: float | None = field(default=None, metadata={"help": "replaces the model's own"})


def best_spans(examples, features, start_logits, end_logits, data_args) -> dict[str, str]:
    """Return the best span of all windows of each question, from the `n_best_size` best starts and ends of a window."""
    windows = defaultdict(list)
    for i, example in enumerate(features["example_id"]):
        windows[example].append(i)
    answers = {}
    for example in examples:
        best, text = -np.inf, ""
        for i in windows[example["id"]]:
            offsets = features["offset_mapping"][i]
            for start in np.argsort(start_logits[i])[: -data_args.n_best_size - 1 : -1]:
                for end in np.argsort(end_logits[i])[: -data_args.n_best_size - 1 : -1]:
                    if start >= len(offsets) or end >= len(offsets) or not offsets[start] or not offsets[end]:
                        continue
                    score = start_logits[i][start] + end_logits[i][end]
                    if 0 <= end - start < data_args.max_answer_length and score > best:
                        best, text = score, example["context"][offsets[start][0] : offsets[end][1]]
        answers[example["id"]] = text
    return answers


def main() -> None:
    data_args, model_args, args = HfArgumentParser(
        (DataArguments, ModelArguments, TrainingArguments)
    ).parse_args_into_dataclasses()
    transformers.logging.set_verbosity_error()
    set_seed(args.seed)

    raw = datasets.load_dataset("json", data_files={"train": data_args.train_file, "test": data_args.test_file})
    config = AutoConfig.from_pretrained(model_args.model_name_or_path)
    if model_args.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = model_args.dropout
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForQuestionAnswering.from_pretrained(
        model_args.model_name_or_path, config=config, dtype=torch.float32
    )

    def tokenize(rows: dict) -> transformers.BatchEncoding:
        return tokenizer(
            [question.lstrip() for question in rows["question"]],
            rows["context"],
            truncation="only_second",
            max_length=data_args.max_seq_length,
            stride=data_args.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def train_features(rows: dict) -> dict:
        encoded = tokenize(rows)
        starts, ends = [], []
        for i, sample in enumerate(encoded.pop("overflow_to_sample_mapping")):
            offsets, sequence = encoded["offset_mapping"][i], encoded.sequence_ids(i)
            answer = rows["answers"][sample]
            start = answer["answer_start"][0]
            end = start + len(answer["text"][0])
            first, last = sequence.index(1), len(sequence) - 1 - sequence[::-1].index(1)
            if not (offsets[first][0] <= start and offsets[last][1] >= end):
                starts.append(0)
                ends.append(0)
                continue
            while first < len(offsets) and offsets[first][0] <= start:
                first += 1
            while offsets[last][1] >= end:
                last -= 1
            starts.append(first - 1)
            ends.append(last + 1)
        encoded.pop("offset_mapping")
        return {**encoded, "start_positions": starts, "end_positions": ends}

    def test_features(rows: dict) -> dict:
        encoded = tokenize(rows)
        samples = encoded.pop("overflow_to_sample_mapping")
        encoded["example_id"] = [rows["id"][sample] for sample in samples]
        encoded["offset_mapping"] = [
            [o if s == 1 else None for o, s in zip(offsets, encoded.sequence_ids(i), strict=True)]
            for i, offsets in enumerate(encoded["offset_mapping"])
        ]
        return dict(encoded)

    columns = raw["train"].column_names
    train = raw["train"].map(train_features, batched=True, remove_columns=columns)
    test = raw["test"].map(test_features, batched=True, remove_columns=columns)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    started = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    args.train_sampling_strategy = "sequential"  # grouped by length, predictions would not be in the order of the rows
    logits = trainer.predict(test.remove_columns(["example_id", "offset_mapping"])).predictions
    trainer.save_model()

    folder = Path(args.output_dir)
    answers = best_spans(raw["test"], test.to_dict(), *logits, data_args)
    (folder / "predictions.json").write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    results = {
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "seconds_train": trained - started,
        "steps": trainer.state.global_step,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
