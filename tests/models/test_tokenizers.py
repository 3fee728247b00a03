"""Tokenizers: trained ones keep the text and reload in Transformers; EOS is trained on although it also pads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import REVIEWS, TEXTS
from datasets import Dataset
from safetensors.torch import load_file
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, UsageError, run
from llmkit.collate import IGNORED
from llmkit.models.load import load_model
from llmkit.models.tokenizers import TRAINABLE, get_tokenizer, load_tokenizer, train_tokenizer, with_pad_token
from llmkit.tasks import CausalLM, MaskedLM, Preference, RewardModel, Seq2Seq, TextClassification

STRANGE = [
    "从来没有见过的字：龘", "🦊👩‍👩‍👧 emoji", "é e\u0301 \u2028 \t\r\n  spaces  ", "\x00\ufffd", "naïve – “quotes”",
    "العربية हिन्दी", " ",
]  # fmt: skip
KINDS = [(kind, style) for kind in TRAINABLE for style in ("gpt2", "bert")]


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, str], Any]:
    return {(kind, style): train_tokenizer(kind, 400, iter(TEXTS), style) for kind, style in KINDS}


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("style", ["gpt2", "bert"])
@pytest.mark.parametrize("text", [*TEXTS[:8], *STRANGE])
def test_bpe_keeps_every_text(made: Any, style: str, text: str) -> None:
    tokenizer = made["bpe", style]
    ids = plain(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("style", ["gpt2", "bert"])
def test_char_keeps_known_characters(made: Any, style: str) -> None:
    tokenizer = made["char", style]
    for text in TEXTS[:8]:
        assert tokenizer.decode(plain(tokenizer, text)) == text and len(plain(tokenizer, text)) == len(text)
    assert plain(tokenizer, "龘") == [tokenizer.unk_token_id]


@pytest.mark.parametrize("style", ["gpt2", "bert"])
def test_wordpiece_knows_the_training_texts(made: Any, style: str) -> None:
    tokenizer = made["wordpiece", style]
    for text in TEXTS[:8]:
        assert tokenizer.unk_token_id not in plain(tokenizer, text)
    assert tokenizer.decode(plain(tokenizer, "The crow held a fox")) == "The crow held a fox"
    assert plain(tokenizer, "龘") == [tokenizer.unk_token_id]


MIXED = [
    'He said, "Don\'t go on." (Yes?)\n\nWell-known words  with two spaces; a_b 3.14%.',
    "第3章 iPhone手机，他说：“好。” コーヒー〇",
    "naïve e\u0301 안녕 하세요 🦊👩\u200d👧",
]


@pytest.mark.parametrize("style", ["gpt2", "bert"])
@pytest.mark.parametrize("text", [*TEXTS[:8], *MIXED, *STRANGE])
def test_word_keeps_a_text_of_known_words(style: str, text: str) -> None:
    tokenizer = train_tokenizer("word", 1000, iter([text] * 2), style)
    ids = plain(tokenizer, text)
    assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    stream = DecodeStream(skip_special_tokens=True)
    streamed = "".join(stream.step(tokenizer.backend_tokenizer, i) or "" for i in ids)
    assert streamed == text.rstrip("\ufffd")  # a stream holds back what may be an incomplete character


def test_word_is_one_token_in_any_context(made: Any) -> None:
    tokenizer = made["word", "gpt2"]
    (fox,) = plain(tokenizer, "fox")
    for text in ("The fox", "fox.", "\nfox", '"fox"', "狐fox"):
        assert plain(tokenizer, text).count(fox) == 1, text
    assert tokenizer.convert_ids_to_tokens(plain(tokenizer, "The crow held cheese, 从前，")) == [
        "The", "crow", "held", "cheese", ", ", "从", "前", "，",
    ]  # fmt: skip


def test_most_frequent_words_are_kept_and_others_are_unknown() -> None:
    texts = ["a a a a b b b c c d", "a 山山山水"]
    tokenizer = train_tokenizer("word", 5, iter(texts))
    assert set(tokenizer.get_vocab()) == {"<|endoftext|>", "<unk>", "a", "b", "山"}
    assert tokenizer.decode(plain(tokenizer, "a b c山水")) == "a b<unk>山<unk>"
    once = train_tokenizer("word", 100, iter(texts))  # words that occur once are unknown, to train the unknown token
    assert plain(once, "d") == plain(once, "水") == [once.unk_token_id] and plain(once, "c") != [once.unk_token_id]


@pytest.fixture(scope="module")
def bert_without_chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder with English word pieces only."""
    folder = tmp_path_factory.mktemp("english")
    tokenizer = train_tokenizer("wordpiece", 200, iter(["a good book, a bad book"]), "bert")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_share_of_unknown_words_is_logged(capsys: pytest.CaptureFixture) -> None:
    rows = Dataset.from_list([{"text": "fox fox crow"}, {"text": "fox"}])
    get_tokenizer(ModelConfig(name="lstm", from_scratch=True, tokenizer="word", tokenizer_size=50), CausalLM(), rows)
    assert "word with 3 entries" in (err := capsys.readouterr().err) and "25.0% of their tokens are unknown" in err


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("size", [300, 500])
def test_size_limits_the_vocabulary(kind: str, size: int) -> None:
    assert len(train_tokenizer(kind, size, iter(TEXTS), "gpt2")) <= size


@pytest.mark.parametrize("kind, style", KINDS)
def test_special_tokens_of_each_style(made: Any, kind: str, style: str) -> None:
    tokenizer = made[kind, style]
    ids = tokenizer("The fox")["input_ids"]
    if style == "bert":
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert len({tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id, ids[0], ids[-1]}) == 5
        pair = [*ids, *plain(tokenizer, "the crow"), tokenizer.sep_token_id]
        assert tokenizer("The fox", "the crow")["input_ids"] == pair
    else:
        assert ids == plain(tokenizer, "The fox") and tokenizer.eos_token == "<|endoftext|>"
        assert tokenizer.pad_token_id is not None
        assert tokenizer("a<|endoftext|>")["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind, style", KINDS)
def test_saved_tokenizer_reloads_with_transformers(made: Any, kind: str, style: str, tmp_path: Path) -> None:
    made[kind, style].save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.special_tokens_map == made[kind, style].special_tokens_map and len(again) == len(made[kind, style])
    for text in [*TEXTS[:8], *STRANGE]:
        ids = made[kind, style](text)["input_ids"]
        assert again(text)["input_ids"] == ids and again.decode(ids) == made[kind, style].decode(ids)


@pytest.mark.parametrize("kind, style", KINDS)
def test_training_is_deterministic(made: Any, kind: str, style: str) -> None:
    again = train_tokenizer(kind, 400, iter(TEXTS), style)
    assert again.get_vocab() == made[kind, style].get_vocab()


@pytest.mark.parametrize("task", [CausalLM(), MaskedLM(), TextClassification()], ids=lambda t: t.name)
@pytest.mark.parametrize("kind", TRAINABLE)
def test_tokenizer_of_a_recipe_is_trained_on_its_rows_once(kind: str, task: Any) -> None:
    columns = ("text", "label") if "label" in task.columns else ("text",)
    rows = Dataset.from_list([{c: row[c] for c in columns} for row in REVIEWS])
    model_type = "gpt2" if task.name == "causal-lm" else "bert"
    config = ModelConfig(name=model_type, from_scratch=True, tokenizer=kind, tokenizer_size=350)
    first, again = get_tokenizer(config, task, rows), get_tokenizer(config, task, rows)
    assert first.get_vocab() == again.get_vocab() and 30 < len(first) <= 350
    assert not [t for t in rows["text"] if first.unk_token_id in plain(first, t)]
    assert (first.mask_token is None) == (model_type == "gpt2") and first.pad_token_id is not None


@pytest.mark.parametrize("task, model_type, last", [
    (CausalLM(), "gpt2", None), (Preference(), "gpt2", None), (MaskedLM(), "bert", "[SEP]"),
    (RewardModel(), "bert", "[SEP]"), (Seq2Seq(), "t5", "</s>"),
], ids=lambda v: getattr(v, "name", v))  # fmt: skip
def test_special_tokens_follow_the_auto_class(task: Any, model_type: str, last: str | None) -> None:
    row = dict.fromkeys(("text", "source", "prompt", "chosen", "rejected"), "a fox")
    rows = Dataset.from_list([row | {"target": ["a crow"]}])
    config = ModelConfig(name=model_type, from_scratch=True, tokenizer="bpe", tokenizer_size=300)
    tokenizer = get_tokenizer(config, task, rows)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a fox")["input_ids"])
    assert tokens[-1] == last if last else not set(tokens) & set(tokenizer.all_special_tokens)
    assert "token_type_ids" not in tokenizer("a", "b") or last == "[SEP]"


def test_other_rows_or_size_train_another_tokenizer() -> None:
    def vocabulary(texts: list[str], size: int) -> dict[str, int]:
        config = ModelConfig(name="gpt2", from_scratch=True, tokenizer="bpe", tokenizer_size=size)
        return get_tokenizer(config, CausalLM(), Dataset.from_list([{"text": t} for t in texts])).get_vocab()

    first = vocabulary(TEXTS, 330)
    assert first != vocabulary(TEXTS[::2] + ["quite another text, quite another"] * 9, 330)
    assert len(first) < len(vocabulary(TEXTS, 340))


# -- EOS and the pad token


def test_eos_is_added_once(tiny_gpt2: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt2))
    texts = ["A fox.", "A crow." + tokenizer.eos_token]
    ids = CausalLM().encode({"text": texts}, tokenizer, 32)["input_ids"]
    assert [row.count(tokenizer.eos_token_id) for row in ids] == [1, 1]
    assert [row[-1] for row in ids] == [tokenizer.eos_token_id] * 2


@pytest.mark.parametrize("layout", ["padded", "positions", "blocks"])
def test_eos_is_trained_on_although_it_pads(tiny_gpt2: Path, layout: str) -> None:
    tokenizer, task = load_tokenizer(str(tiny_gpt2)), CausalLM()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = task.encode({"text": ["A fox.", "A crow held a piece of cheese."]}, tokenizer, 32)["input_ids"]
    batch = task.collate([{"input_ids": ids, "row": i, "epoch": 0} for i, ids in enumerate(encoded)], tokenizer, layout)
    for labels, ids in zip(batch["labels"].tolist(), encoded, strict=True):
        assert labels == [IGNORED, *ids[1:], *[IGNORED] * (batch["labels"].shape[1] - len(ids))]
        assert labels[len(ids) - 1] == tokenizer.eos_token_id


def test_eos_of_every_packed_document_is_trained_on(tiny_gpt2: Path) -> None:
    tokenizer, task = load_tokenizer(str(tiny_gpt2)), CausalLM()
    first, second = task.encode({"text": ["A fox.", "A crow."]}, tokenizer, 32)["input_ids"]
    feature = {"input_ids": first + second, "segments": [len(first), len(second)], "row": 0, "epoch": 0}
    labels = task.collate([feature], tokenizer, "positions")["labels"][0].tolist()
    assert labels == [IGNORED, *first[1:], IGNORED, *second[1:]]


def test_tokenizer_without_a_pad_token_pads_with_eos() -> None:
    backend = train_tokenizer("bpe", 300, iter(TEXTS)).backend_tokenizer
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    assert bare.pad_token_id is None
    assert with_pad_token(bare).pad_token == "<|endoftext|>"


def test_existing_pad_token_is_kept(tiny_bert: Path) -> None:
    assert load_tokenizer(str(tiny_bert)).pad_token == "[PAD]"


# -- the tokenizer of a recipe


def test_new_characters_are_added_to_a_pretrained_tokenizer(
    bert_without_chinese: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"text": f"a {a} book, {b}", "label": a} for a, b in [("good", "很好"), ("bad", "不好")] * 8]
    model = ModelConfig(name=str(bert_without_chinese))
    recipe = Recipe(
        TextClassification(), model, DataConfig(train=rows, validation=rows, max_length=32),
        {"max_steps": 1, "use_cpu": True, "report_to": "none"}, RunConfig(output=str(tmp_path / "without")),
    )  # fmt: skip
    run(recipe)
    err = capsys.readouterr().err
    assert "tokens are unknown to the tokenizer; use a model that reads this text, or add its characters with" in err
    recipe = replace(recipe, model=replace(model, new_characters=True), run=RunConfig(output=str(tmp_path / "with")))
    run(recipe)
    err = capsys.readouterr().err
    assert "3 characters of the training rows added" in err and "are unknown to the tokenizer" not in err
    before, after = (AutoTokenizer.from_pretrained(f) for f in (bert_without_chinese, tmp_path / "with"))
    assert len(after) == len(before) + 3
    assert after.unk_token_id not in plain(after, "不 很 好") and before.unk_token_id in plain(before, "好")
    weights = load_file(tmp_path / "with" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert len(weights) == len(after)


def test_new_characters_with_an_adapter_are_an_error(bert_without_chinese: Path) -> None:
    rows = Dataset.from_list([{"text": "很好", "label": 0}])
    config = ModelConfig(name=str(bert_without_chinese), new_characters=True, adapter={"r": 2})
    tokenizer = get_tokenizer(config, TextClassification(), rows)
    with pytest.raises(UsageError, match="an adapter cannot add embeddings"):
        load_model(config, TextClassification(), tokenizer)


def test_tokenizer_is_the_models_own_by_default(tiny_gpt2: Path, tiny_bert: Path) -> None:
    rows = Dataset.from_list([{"text": "a"}])
    own = get_tokenizer(ModelConfig(name=str(tiny_gpt2)), CausalLM(), rows)
    other = get_tokenizer(ModelConfig(name=str(tiny_gpt2), tokenizer=str(tiny_bert)), CausalLM(), rows)
    given = get_tokenizer(ModelConfig(name=str(tiny_gpt2), tokenizer=other), CausalLM(), rows)
    assert own.mask_token is None and other.mask_token == "[MASK]" and given is other


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "loaded"])
def test_tokenizer_has_the_limit_and_inputs_of_its_model(kind: str, tiny_bert: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": t} for t in TEXTS])
    model = ModelConfig(name=str(tiny_bert), tokenizer=None if kind == "loaded" else kind, tokenizer_size=300)
    tokenizer = get_tokenizer(model, MaskedLM(), rows)
    tokenizer.save_pretrained(tmp_path)
    for it in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        types = it("The fox", "the crow")["token_type_ids"]
        assert types == sorted(types) and set(types) == {0, 1}
        assert it.model_max_length == 64 == len(it("The fox " * 99, truncation=True)["input_ids"])


@pytest.mark.parametrize("model_type", ["distilbert", "modernbert", "gpt2"])
def test_model_without_token_types_gets_none(model_type: str) -> None:
    task = CausalLM() if model_type == "gpt2" else MaskedLM()
    model = ModelConfig(name=model_type, from_scratch=True, tokenizer="bpe", tokenizer_size=300)
    tokenizer = get_tokenizer(model, task, Dataset.from_list([{"text": t} for t in TEXTS]))
    assert "token_type_ids" not in tokenizer("The fox", "the crow")


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bert"])
def test_bundled_tokenizers_keep_every_text(name: str) -> None:
    tokenizer = load_tokenizer(name)
    for text in [*TEXTS[:8], *STRANGE]:
        assert tokenizer.decode(plain(tokenizer, text)) == text


@pytest.mark.parametrize("folder", ["tiny_gpt2", "tiny_bert"])
def test_folder_without_a_tokenizer_is_named(folder: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Transformers would create one of special tokens only, to which every word is unknown."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((request.getfixturevalue(folder) / name).read_bytes())
    with pytest.raises(UsageError) as error:
        load_tokenizer(str(tmp_path))
    (fault,) = error.value.faults
    assert [w for w in (str(tmp_path), "--model.tokenizer", "bpe") if w not in fault] == []
