"""Tokenizers: loaded, or trained on the training rows. One pad policy.

Padding is told from text by position, never by id (collation makes labels and masks from lengths), so EOS may serve as
the pad token and the real EOS is still trained on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmkit.console import plural, say
from llmkit.data import cache
from llmkit.errors import RecipeError, refusing
from llmkit.models import hub, loading
from llmkit.recipe import ModelConfig
from llmkit.task import Task

TRAINED = ("bpe", "wordpiece", "char", "word")
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
END = "<|endoftext|>"
LETTER = r"[[\p{L}\p{M}\p{N}_]&&[^\p{Han}\p{Hiragana}\p{Katakana}]]"
"""What the word tokenizer makes words of; Chinese and Japanese are not written in words, so each character is one."""
SEAM = "\ufdd0"  # where a word begins or ends, while text is put together; no text may hold this code point
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
T5 = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
STYLES = {
    "bert": (BERT, {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}),
    "t5": (T5, {"single": "$A </s>", "pair": "$A </s> $B </s>"}),
}
"""Special tokens, and where they stand in a text and in a pair."""


def get_tokenizer(config: ModelConfig, task: Task, rows: Dataset) -> PreTrainedTokenizerBase:
    """The tokenizer that the model part asks for: an object, trained, named, or the model's own."""
    wanted = config.tokenizer
    if wanted is not None and not isinstance(wanted, (str, Path)):
        return with_pad(wanted)
    if wanted in TRAINED:
        tokenizer = _trained(str(wanted), config.tokenizer_size, task, rows)
    else:
        tokenizer = load(str(wanted or config.name))
        if config.new_characters:
            _add_characters(tokenizer, task.texts(rows))
    return _suited(tokenizer, config, task)


def _suited(tokenizer: Any, config: ModelConfig, task: Task) -> Any:
    """What a tokenizer of no model's own class does not know of its model, and plain pipelines ask it: how long a row
    may be, and whether the model tells the texts of a pair apart (BERT)."""
    if type(tokenizer) is not PreTrainedTokenizerFast:
        return tokenizer
    named = isinstance(config.name, (str, Path))
    model = loading.architecture(config, task) if named else getattr(config.name, "config", None)
    if model is not None and (limit := loading.positions(model, tokenizer)):
        tokenizer.model_max_length = limit
    if getattr(model, "type_vocab_size", 0) > 1:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    return tokenizer


def load(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, .gguf file, hub id or bundled model. Raises RecipeError where there is none."""
    train_one = f"or train one with --model.tokenizer {'|'.join(TRAINED)}"
    give_one = f"give one with --model.tokenizer FOLDER, {train_one}"
    try:
        path = hub.find_model(name, weights=False)
    except RecipeError as e:
        raise RecipeError(*(f"tokenizer of {fault}, {train_one}" for fault in e.faults)) from None
    if path.is_dir() and not any((path / f).exists() for f in FILES):  # transformers would make up an empty one
        raise RecipeError(f"tokenizer {name!r}: the folder holds none; {give_one}")
    with refusing(f"tokenizer {name!r}: cannot be read; {give_one}", OSError, ValueError, KeyError, ImportError):
        return with_pad(AutoTokenizer.from_pretrained(**hub.place(path), trust_remote_code=False))


def with_pad(tokenizer: Any) -> Any:
    """The pad policy: EOS pads where a tokenizer has no pad token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _trained(kind: str, size: int, task: Task, rows: Dataset) -> PreTrainedTokenizerBase:
    """Trained once per content, by one process of a machine, and kept."""

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = train(kind, size, task.texts(rows), task.tokenizer_style)
        tokenizer.save_pretrained(folder)
        if kind != "word":
            return {}
        ids = tokenizer(list(task.texts(rows)), add_special_tokens=False, verbose=False)["input_ids"]
        return {"unknown": sum(row.count(tokenizer.unk_token_id) for row in ids) / max(1, sum(map(len, ids)))}

    key = cache.digest(kind, size, task.tokenizer_style, cache.rows_digest(rows))
    folder, notes, _ = cache.entry("tokenizer", key, build)
    tokenizer = with_pad(AutoTokenizer.from_pretrained(str(folder)))
    unknown = f"; {notes['unknown']:.1%} of their tokens are unknown" if "unknown" in notes else ""
    say(f"tokenizer: {kind} with {len(tokenizer):,} entries, trained on the training rows{unknown}", "decided")
    return tokenizer


def _add_characters(tokenizer: Any, texts: Iterator[str]) -> None:
    """Each character of the texts that is unknown by itself becomes a token; the model's embeddings grow with them."""
    characters = sorted(set().union(*texts))
    ids = tokenizer(characters, add_special_tokens=False)["input_ids"]
    new = [c for c, of in zip(characters, ids, strict=True) if tokenizer.unk_token_id in of]
    tokenizer.add_tokens(new)
    say(f"tokenizer: {plural(len(new), 'character')} of the training rows added", "decided")


def train(kind: str, size: int, texts: Iterator[str], style: str = "gpt2") -> PreTrainedTokenizerBase:
    """A new tokenizer. `kind`: bpe (bytes: nothing is unknown), wordpiece, char, or word (those seen twice). `style`:
    gpt2 (ends with `<|endoftext|>`), bert (`[CLS] … [SEP]`) or t5 (`… </s>`). `size` bounds all but char's.
    """
    names, frames = STYLES.get(style, ({}, {}))
    unknown = names.get("unk_token", BERT["unk_token"] if kind == "wordpiece" else "<unk>")
    special = list(names.values()) or ([END] if kind == "bpe" else [END, unknown])
    characters = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    model, cut, glue = {
        "bpe": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
        "wordpiece": (models.WordPiece(unk_token=unknown), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()),
        "char": (models.WordLevel(unk_token=unknown), characters, decoders.Fuse()),
        "word": (models.WordLevel(unk_token=unknown), *_words()),
    }[kind]
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = cut, glue
    bounds: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if kind == "bpe":
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **bounds)
    elif kind == "wordpiece":
        backend.normalizer, texts = normalizers.BertNormalizer(lowercase=False, strip_accents=False), list(texts)
        # the trainer takes the pieces `##c` in the order of a hash, and two trainings on the same text would differ
        words = (w for t in texts for w, _ in cut.pre_tokenize_str(backend.normalizer.normalize_str(t)))
        bounds["special_tokens"] = special + [f"##{c}" for c in sorted({c for word in words for c in word[1:]})]
        trainer = trainers.WordPieceTrainer(**bounds)
    elif kind == "word":  # what was seen once is left out, so that the unknown is learned too
        trainer = trainers.WordLevelTrainer(min_frequency=2, **bounds)
    else:
        trainer = trainers.WordLevelTrainer(**{**bounds, "vocab_size": 10**6})
    backend.train_from_iterator(texts, trainer)
    if kind == "wordpiece":  # the pieces were called special only to fix their order
        parts = (backend.normalizer, cut, glue)
        backend = Tokenizer(models.WordPiece(backend.get_vocab(), unk_token=unknown))
        backend.normalizer, backend.pre_tokenizer, backend.decoder = parts
        backend.add_special_tokens(special)
    if not frames:
        names = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END if kind == "bpe" else unknown}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]", "</s>") if token in frames["pair"]]
    backend.post_processor = processors.TemplateProcessing(**frames, special_tokens=ends)
    # no token types for t5: an encoder-decoder refuses them
    seen = {"model_input_names": ["input_ids", "attention_mask"]} if style == "t5" else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **seen, **names)


def _words() -> tuple[Any, Any]:
    """What cuts a text into words and what stands between them, and what puts them together: of known tokens the text
    comes back as it was. One space between two words is not a token; where there is anything else, marks keep the
    spaces around them (`, ` or ` "`)."""
    word, mark = rf"{LETTER}+(?:['’]{LETTER}+)*", r" ?[^\s\p{L}\p{M}\p{N}_] ?"
    space, token = rf"(?<={LETTER}) (?={LETTER})", rf"{word}|\p{{L}}|{mark}|\s"
    seams = decoders.Replace(Regex(rf"^(?={LETTER})|(?<={LETTER})$"), SEAM)
    cuts = [pre_tokenizers.Split(Regex(space), "removed"), pre_tokenizers.Split(Regex(token), "isolated")]
    glue = [seams, decoders.Fuse(), decoders.Replace(SEAM * 2, " "), decoders.Replace(SEAM, "")]
    return pre_tokenizers.Sequence(cuts), decoders.Sequence(glue)
