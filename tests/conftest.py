"""Shared fixtures: small rows, tiny models with random weights, and recipes. Tests use a cache of their own, offline."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # these are read when the libraries are imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are slower with more threads

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import llmkit
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig
from llmkit.models.tokenizers import train_tokenizer
from llmkit.tasks import CausalLM, TextClassification

ROOT = Path(__file__).parent.parent

TEXTS = [
    "Once upon a time a fox met a crow by the river.",
    "The crow held a piece of cheese, and the fox was hungry.",
    "从前，有一只狐狸住在山脚下。",
    "The quick brown fox jumps over the lazy dog.",
    "A lion slept under a tree while a mouse ran over its paw.",
    "山里的老虎和河里的鱼从来没有见过面。",
    "The ant worked all summer; the grasshopper sang.",
    "Slow and steady wins the race, said the tortoise.",
] * 5
REVIEWS = [
    {"text": text, "label": label}
    for text, label in [
        ("a fine film", "positive"),
        ("a waste of time", "negative"),
        ("I loved every minute of it", "positive"),
        ("dull, long and loud", "negative"),
        ("太好看了，推荐", "positive"),
        ("难吃，再也不来", "negative"),
        ("warm, funny and wise", "positive"),
        ("the plot makes no sense at all, and the actors know it", "negative"),
    ]
    for _ in range(4)
]
TAGGED = [
    {"tokens": tokens.split(), "tags": tags.split()}
    for tokens, tags in [
        ("Mia lives in New York .", "B-PER O O B-LOC I-LOC O"),
        ("小猫 住 在 北京 。", "B-PER O O B-LOC O"),
        ("The internationalisation of Berlin , said Anna Schmidt", "O O O B-LOC O O B-PER I-PER"),
        ("Nobody came", "O O"),
    ]
    for _ in range(6)
]

_CROW = "The crow held a piece of cheese, and the fox was hungry."
_FOX = "从前，有一只狐狸住在山脚下。"
_RACE = "Slow and steady wins the race"
QUESTIONS = [
    {
        "question": question,
        "context": context,
        "answers": {"text": [a] if a else [], "answer_start": [context.index(a)] if a else []},
    }
    for question, context, a in [
        ("Who held the cheese?", _CROW, "The crow"),
        ("What did the crow hold?", _CROW, "a piece of cheese"),
        ("Who was hungry?", _CROW, "the fox"),
        ("When did the lion come?", _CROW, None),
        ("谁住在山脚下？", _FOX, "一只狐狸"),
        ("狐狸住在哪里？", _FOX, "山脚下"),
        ("老虎吃什么？", _FOX, None),
        ("What said the tortoise?", f"{_RACE}, said the tortoise.", _RACE),
    ]
]
PAIRS = [
    {"prompt": f"{question} {n}", "chosen": chosen, "rejected": rejected}
    for n in range(4)
    for question, chosen, rejected in [
        ("how was it?", "a fine film", "dull"),
        ("and the end?", "warm, wise", "loud and long"),
        ("好看吗？", "太好看了", "不好"),
        ("shall I go?", "yes", "no, it is a waste of time"),
        ("who is in it?", "a fox and a crow", "a cat"),
        ("难吃吗？", "好吃", "难吃，再也不来"),
    ]
]

PHRASES = [
    {"en": en, "zh": zh}
    for en, zh in [
        ("The cat is asleep.", "猫睡着了。"),
        ("Where is the river?", "河在哪里？"),
        ("My brother has a black dog.", "我哥哥有一只黑狗。"),
        ("It is raining.", "下雨了。"),
        ("She reads a book by the window every morning.", "她每天早上在窗边看书。"),
        ("Thank you!", "谢谢！"),
        ("The fish in the river is big.", "河里的鱼很大。"),
        ("He was tired, so he went home.", "他累了，所以回家了。"),
    ]
] * 4


def first_losses(recipe: Callable[..., Recipe], output: str, size: int, accumulation: int) -> list[float]:
    """The losses of the first three steps of `recipe(output, **training)`."""
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    logs = llmkit.run(recipe(output, max_steps=3, **settings)).trainer.state.log_history
    return [log["loss"] for log in logs if "loss" in log]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for this test session, separate from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LLMKIT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 folder of two layers, 32 wide, 64 positions, random weights, dropout 0, byte-level BPE of 320."""
    tokenizer = train_tokenizer("bpe", 320, iter(TEXTS), "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return save(GPT2LMHeadModel(config), tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder (masked-LM head) of two layers, 32 wide, 64 positions, random weights, dropout 0."""
    tokenizer = train_tokenizer("bpe", 320, iter([*TEXTS, *(r["text"] for r in REVIEWS)]), "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(BertForMaskedLM(config), tokenizer, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 folder of two encoder and two decoder layers, 32 wide, random weights, dropout 0, byte-level BPE of 320."""
    tokenizer = train_tokenizer("bpe", 320, (text for row in PHRASES for text in row.values()), "t5")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(T5ForConditionalGeneration(config), tokenizer, tmp_path_factory.mktemp("t5"))


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


EXACT = {
    "bf16": False, "use_cpu": True, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "weight_decay": 0.0,
}  # fmt: skip
"""TrainingArguments under which runs can be compared: fp32, every loss logged, no evaluation or checkpoint."""


@pytest.fixture
def causal_recipe(tiny_gpt2: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Returns a function that makes a small causal-LM recipe over TEXTS.

    Its keywords replace fields of `data`; `training` is added to EXACT.
    """
    data = DataConfig(train=[{"text": t} for t in TEXTS], validation=0.2, max_length=32)
    return _recipe_maker(CausalLM(), tiny_gpt2, data, tmp_path)


@pytest.fixture
def review_recipe(tiny_bert: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Returns a function that makes a small classification recipe over REVIEWS, as `causal_recipe` does."""
    data = DataConfig(train=REVIEWS, validation=REVIEWS[::3], max_length=32)
    return _recipe_maker(TextClassification(), tiny_bert, data, tmp_path)


def _recipe_maker(task: Any, folder: Path, base: DataConfig, output_folder: Path) -> Callable[..., Recipe]:
    def make(
        output: str = "run", model: Any = None, run: dict | None = None, training: dict | None = None, **data: Any
    ) -> Recipe:
        return Recipe(
            task=task,
            model=model or ModelConfig(name=str(folder)),
            data=replace(base, **data),
            training={**EXACT, "num_train_epochs": 1, "learning_rate": 1e-3, **(training or {})},
            run=RunConfig(output=str(output_folder / output), **(run or {})),
        )

    return make


@pytest.fixture
def llmkit_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m llmkit ...` in an empty folder; returns returncode, stdout and stderr."""

    def run(
        *words: str, stdin: str | None = None, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "llmkit", *words], cwd=tmp_path, input=stdin, env={**os.environ, **(env or {})},
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    return run
