"""Train a translation or summarization model with transformers alone, as in its `run_translation` and
`run_summarization` examples.

    python benchmarks/parity/seq2seq_plain.py --model_name_or_path DIR --train_file train.jsonl \
        --validation_file validation.jsonl --test_file test.jsonl --output_dir out --predict_with_generate …

Files hold `source` and `target`. Any Seq2SeqTrainingArguments field is an option. Writes the model, `results.json` and
`predictions.jsonl` (one text per line) into the output folder. This is the script of a user without llmkit; it does not
import llmkit.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import sacrebleu
import torch
import transformers
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


@dataclass
class DataArguments:
    train_file: str
    validation_file: str
    test_file: str
    metric: str
    max_length: int = 128


@dataclass
class ModelArguments:
    model_name_or_path: str


def bleu(answers: list[str], targets: list[str]) -> float:
    return sacrebleu.corpus_bleu(answers, [targets], tokenize="zh").score


def rouge_l(answers: list[str], targets: list[str]) -> float:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return float(np.mean([scorer.score(t, a)["rougeL"].fmeasure for t, a in zip(targets, answers, strict=True)]))


METRICS = {"bleu": bleu, "rougeL": rouge_l}


def main() -> None:
    data_args, model_args, args = HfArgumentParser(
        (DataArguments, ModelArguments, Seq2SeqTrainingArguments)
    ).parse_args_into_dataclasses()
    transformers.logging.set_verbosity_error()
    set_seed(args.seed)

    files = {"train": data_args.train_file, "validation": data_args.validation_file, "test": data_args.test_file}
    raw = datasets.load_dataset("json", data_files=files)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_args.model_name_or_path, dtype=torch.float32)

    def preprocess(rows: dict) -> dict:
        encoded = tokenizer(rows["source"], max_length=data_args.max_length, truncation=True)
        targets = tokenizer(text_target=rows["target"], max_length=data_args.max_length, truncation=True)
        return {**encoded, "labels": targets["input_ids"]}

    encoded = raw.map(preprocess, batched=True, remove_columns=raw["train"].column_names)

    def texts(ids: np.ndarray) -> list[str]:
        ids = np.where(ids != -100, ids, tokenizer.pad_token_id)
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=lambda p: {
            data_args.metric: METRICS[data_args.metric](texts(p.predictions), texts(p.label_ids))
        },
    )
    started = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    args.train_sampling_strategy = "sequential"  # grouped by length, predictions would not be in the order of the rows
    prediction = trainer.predict(encoded["test"])
    trainer.save_model()

    folder = Path(args.output_dir)
    answers = texts(prediction.predictions)
    lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    results = {
        data_args.metric: METRICS[data_args.metric](answers, [row["target"] for row in raw["test"]]),
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "seconds_train": trained - started,
        "steps": trainer.state.global_step,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
