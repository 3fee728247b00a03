"""Tokenizers: loaded, or trained on the training rows. A tokenizer without a pad token pads with EOS.

Padding is told from text by position and never by id: collation makes labels and masks from lengths. The real EOS is
therefore trained on, although it also pads.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from datasets import Dataset
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmkit import hub
from llmkit.data import cache
from llmkit.errors import UsageError, as_usage_error
from llmkit.log import log, plural
from llmkit.models.load import architecture, max_positions
from llmkit.recipe import ModelConfig
from llmkit.task import Task, Tokenizer

TRAINABLE = ("bpe", "wordpiece", "char", "word")
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
END = "<|endoftext|>"
LETTER = r"[[\p{L}\p{M}\p{N}_]&&[^\p{Han}\p{Hiragana}\p{Katakana}]]"
"""Characters of which words consist; Chinese and Japanese are written without spaces, so each character is a word."""
BOUNDARY = "\ufdd0"
"""Marks the ends of words while a text is decoded; Unicode reserves it, so no text holds it."""
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
T5 = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
STYLES = {
    "bert": (BERT, {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}),
    "t5": (T5, {"single": "$A </s>", "pair": "$A </s> $B </s>"}),
}
"""Special tokens, and their places in a text and in a pair of texts. The style gpt2 has none but END."""
AUTO_CLASS_STYLES = {"AutoModelForCausalLM": "gpt2", "AutoModelForSeq2SeqLM": "t5"}
"""The style of a new tokenizer for models of an Auto class; bert for all others."""


def get_tokenizer(config: ModelConfig, task: Task, rows: Dataset) -> Tokenizer:
    """Return the tokenizer of a recipe: an object, one trained on `rows`, a named one, or the model's own."""
    name = config.tokenizer
    if name is not None and not isinstance(name, (str, Path)):
        return with_pad_token(name)
    if name in TRAINABLE:
        tokenizer = _train_cached(str(name), config.tokenizer_size, task, rows)
    else:
        tokenizer = load_tokenizer(str(name or config.name))
        if config.new_characters:
            _add_characters(tokenizer, task.texts(rows))
    if type(tokenizer) is PreTrainedTokenizerFast:
        _fit_to_model(tokenizer, config, task)
    return tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a folder, .gguf file, hub id or bundled model. Raises UsageError if it has none."""
    train_one = f"or train one with --model.tokenizer {'|'.join(TRAINABLE)}"
    fix = f"give one with --model.tokenizer FOLDER, {train_one}"
    try:
        path = hub.find_model(name, weights=False)
    except UsageError as e:
        raise UsageError(*(f"tokenizer of {fault}, {train_one}" for fault in e.faults)) from None
    if path.is_dir() and not any((path / f).exists() for f in FILES):  # Transformers would create an empty one
        raise UsageError(f"tokenizer {name!r}: the folder has no tokenizer; {fix}")
    with as_usage_error(f"tokenizer {name!r}: cannot be read; {fix}", OSError, ValueError, KeyError, ImportError):
        return with_pad_token(AutoTokenizer.from_pretrained(**hub.load_args(path), trust_remote_code=False))


def with_pad_token(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer; one without a pad token pads with EOS."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def train_tokenizer(kind: str, size: int, texts: Iterable[str], style: str = "gpt2") -> Tokenizer:
    """Return a new tokenizer of at most `size` entries (char: all characters).

    `kind`: bpe (of bytes, so that nothing is unknown), wordpiece, char, or word (words that occur twice). `style`: gpt2
    (`… <|endoftext|>`), bert (`[CLS] … [SEP]`) or t5 (`… </s>`).
    """
    names, template = STYLES.get(style, ({}, {}))
    unknown = names.get("unk_token", BERT["unk_token"] if kind == "wordpiece" else "<unk>")
    special = list(names.values()) or ([END] if kind == "bpe" else [END, unknown])
    characters = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    model, split, decoder = {
        "bpe": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
        "wordpiece": (models.WordPiece(unk_token=unknown), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()),
        "char": (models.WordLevel(unk_token=unknown), characters, decoders.Fuse()),
        "word": (models.WordLevel(unk_token=unknown), *_word_splitting()),
    }[kind]
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = split, decoder
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if kind == "bpe":
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    elif kind == "wordpiece":
        backend.normalizer, texts = normalizers.BertNormalizer(lowercase=False, strip_accents=False), list(texts)
        # the trainer adds `##c` of each character in the order of a hash; special tokens come in the order given
        words = (w for t in texts for w, _ in split.pre_tokenize_str(backend.normalizer.normalize_str(t)))
        options["special_tokens"] = special + [f"##{c}" for c in sorted({c for word in words for c in word[1:]})]
        trainer = trainers.WordPieceTrainer(**options)
    elif kind == "word":  # words that occur once are left out, so that the unknown token is trained too
        trainer = trainers.WordLevelTrainer(min_frequency=2, **options)
    else:
        trainer = trainers.WordLevelTrainer(**{**options, "vocab_size": 10**6})
    backend.train_from_iterator(texts, trainer)
    if kind == "wordpiece":  # the same vocabulary, in which `##c` is not special
        parts = backend.normalizer, split, decoder
        backend = tokenizers.Tokenizer(models.WordPiece(backend.get_vocab(), unk_token=unknown))
        backend.normalizer, backend.pre_tokenizer, backend.decoder = parts
        backend.add_special_tokens(special)
    if not template:
        names = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END if kind == "bpe" else unknown}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]", "</s>") if token in template["pair"]]
    backend.post_processor = processors.TemplateProcessing(**template, special_tokens=ids)
    # encoder-decoder models do not accept token types
    inputs = {"model_input_names": ["input_ids", "attention_mask"]} if style == "t5" else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **inputs, **names)


def _train_cached(kind: str, size: int, task: Task, rows: Dataset) -> Tokenizer:
    """Train once per content, in one process of a machine; afterwards load from the cache."""
    style = AUTO_CLASS_STYLES.get(task.auto_class, "bert")

    def build(folder: Path) -> cache.Notes:
        tokenizer = train_tokenizer(kind, size, task.texts(rows), style)
        tokenizer.save_pretrained(folder)
        if kind != "word":
            return {}
        ids = tokenizer(list(task.texts(rows)), add_special_tokens=False, verbose=False)["input_ids"]
        return {"unknown": sum(row.count(tokenizer.unk_token_id) for row in ids) / max(1, sum(map(len, ids)))}

    key = cache.digest(kind, size, style, cache.rows_digest(rows))
    folder, notes, _ = cache.load_or_build_folder("tokenizer", key, build)
    tokenizer = with_pad_token(AutoTokenizer.from_pretrained(str(folder)))
    unknown = f"; {notes['unknown']:.1%} of their tokens are unknown" if "unknown" in notes else ""
    log(f"tokenizer: {kind} with {len(tokenizer):,} entries, trained on the training rows{unknown}", "config")
    return tokenizer


def _add_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Add each character that is unknown on its own; the model's embeddings are resized later."""
    characters = sorted(set().union(*texts))
    ids = tokenizer(characters, add_special_tokens=False)["input_ids"]
    unknown = [c for c, row in zip(characters, ids, strict=True) if tokenizer.unk_token_id in row]
    tokenizer.add_tokens(unknown)
    log(f"tokenizer: {plural(len(unknown), 'character')} of the training rows added", "config")


def _fit_to_model(tokenizer: Tokenizer, config: ModelConfig, task: Task) -> None:
    """Set what a tokenizer without a model's own class does not know, and plain pipelines need: the model's limit, and
    whether it takes token types (BERT)."""
    is_name = isinstance(config.name, (str, Path))
    model = architecture(config, task) if is_name else getattr(config.name, "config", None)
    if model is not None and (limit := max_positions(model, tokenizer)):
        tokenizer.model_max_length = limit
    if getattr(model, "type_vocab_size", 0) > 1:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # this is what is saved


def _word_splitting() -> tuple[pre_tokenizers.PreTokenizer, decoders.Decoder]:
    """The pre-tokenizer and decoder of `word`: known tokens decode to exactly the text that they came from.

    A single space between two words is not a token. A punctuation mark keeps the spaces around it (`, ` or ` "`).
    """
    word, mark = rf"{LETTER}+(?:['’]{LETTER}+)*", r" ?[^\s\p{L}\p{M}\p{N}_] ?"
    space, token = rf"(?<={LETTER}) (?={LETTER})", rf"{word}|\p{{L}}|{mark}|\s"
    boundaries = decoders.Replace(Regex(rf"^(?={LETTER})|(?<={LETTER})$"), BOUNDARY)
    split = [pre_tokenizers.Split(Regex(space), "removed"), pre_tokenizers.Split(Regex(token), "isolated")]
    join = [boundaries, decoders.Fuse(), decoders.Replace(BOUNDARY * 2, " "), decoders.Replace(BOUNDARY, "")]
    return pre_tokenizers.Sequence(split), decoders.Sequence(join)
