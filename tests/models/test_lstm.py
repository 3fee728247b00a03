"""The recurrent model: what it computes is torch's own, padding never enters its state, and to go on from the state is
to read everything again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EXACT, TEXTS
from test_libraries import no_deprecations  # noqa: F401 - an autouse fixture
from transformers import AutoConfig, AutoModelForCausalLM

import llmkit
import llmkit.models
from llmkit import DataConfig, ModelConfig, Recipe, RunConfig, build_trainer, run
from llmkit.cli.main import command
from llmkit.data.packing import find_layout
from llmkit.errors import UsageError
from llmkit.generation import generate, stream
from llmkit.models import load
from llmkit.models.tokenizers import train_tokenizer
from llmkit.pipeline import evaluate
from llmkit.tasks import CausalLM, TextClassification

pytestmark = pytest.mark.libraries

CELLS = ("lstm", "gru", "rnn")
TORCHS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
VOCABULARY = 40
ROWS = [{"text": t} for t in TEXTS]
IDS = torch.randint(2, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0, 1, 1, 1, 1, 1, 1, 1, 1]])
SHAPES = [(cell, options) for cell in CELLS for options in ({}, {"sinusoidal_positions": True})]


def make(cell: str = "lstm", **options: Any) -> Any:
    """A model of two layers, 12 and 16 wide, whose weights are large enough that every token shows in what follows."""
    sizes = {"vocab_size": VOCABULARY, "embedding_size": 12, "hidden_size": 16, **options}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("lstm", cell=cell, pad_token_id=0, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(params=SHAPES, ids=lambda s: "-".join([s[0], *s[1]]))
def model(request: Any) -> Any:
    cell, options = request.param
    return make(cell, **options)


# -- what it computes


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_an_embedding_torch_s_layers_and_a_linear_layer(cell: str, tied: bool) -> None:
    model = make(cell, tie_word_embeddings=tied, embedding_size=16)
    layers = TORCHS[cell](16, 16, 2, batch_first=True)
    layers.load_state_dict(model.rnn.state_dict())
    table = model.embedding.weight
    hidden, memory = layers(table[IDS] * model.scale)
    out = model(IDS)
    assert torch.allclose(out.logits, hidden @ model.lm_head.weight.T + model.lm_head.bias, atol=1e-6)
    assert (model.lm_head.weight is table) == tied
    for part, expected in zip(out.state, memory if cell == "lstm" else [memory], strict=False):
        assert torch.equal(part, expected)
    assert out.state[-1].tolist() == [[9, 9, 9]]


def test_its_gates_are_those_of_the_paper() -> None:
    """i, f, o = sigmoid, g = tanh of W x + U h + b; c = f c + i g; h = o tanh c (Hochreiter and Schmidhuber 1997, Gers 2000)."""
    model = make("lstm", num_hidden_layers=1)
    w = dict(model.rnn.named_parameters())
    h, c = torch.zeros(3, 16), torch.zeros(3, 16)
    for token in IDS.T:
        x = model.embedding.weight[token]
        gates = x @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    assert torch.allclose(model(IDS).logits[:, -1], model.lm_head(h), atol=1e-5)


@pytest.mark.parametrize("width", [6, 7])
def test_positions_are_the_formula_s(width: int) -> None:
    plain, placed = make(embedding_size=width), make(embedding_size=width, sinusoidal_positions=True, max_len=11)
    assert placed.positions.table.shape == (11, width)
    for p in range(11):
        for j in range(width):
            angle = p / 10_000 ** ((j - j % 2) / width)
            assert placed.positions.table[p, j] == pytest.approx(
                math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6
            )
    vectors = plain.embedding(IDS) + placed.positions.table[:9]
    assert torch.allclose(placed(IDS).logits, plain.lm_head(plain.rnn(vectors)[0]), atol=1e-5)


def test_positions_end_where_the_config_says() -> None:
    model = make(sinusoidal_positions=True, max_len=8)
    assert model(IDS[:, :8]).logits.shape == (3, 8, VOCABULARY)
    with pytest.raises(IndexError):
        model(IDS)
    assert model.config.max_position_embeddings == 8
    assert make().config.max_position_embeddings is None and AutoConfig.for_model("lstm").max_len == 5000


def test_a_later_token_never_changes_an_earlier_logit(model: Any) -> None:
    changed = IDS.clone()
    changed[:, 5] = 1
    before, after = model(IDS).logits, model(changed).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_dropout_is_for_training_alone() -> None:
    model = make(dropout=0.5)
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    model.train()
    assert not torch.allclose(model(IDS).logits, model(IDS).logits)


def test_the_loss_is_the_mean_over_the_tokens_that_count() -> None:
    model, labels = make(), IDS.masked_fill(MASK == 0, -100)
    out = model(IDS, attention_mask=MASK, labels=labels)
    expected = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(out.loss, expected)
    halved = model(IDS, attention_mask=MASK, labels=labels, num_items_in_batch=torch.tensor(2.0)).loss
    assert torch.allclose(halved * 2, expected * (labels[:, 1:] != -100).sum())


# -- hidden states, as Transformers' own model tests ask for them (../test_lstm_mixins.py)


@pytest.mark.parametrize("mask", [None, MASK])
def test_hidden_states_are_the_outputs_of_each_layer_and_change_nothing_else(model: Any, mask: Any) -> None:
    plain, outputs = model(IDS, mask), model(IDS, mask, output_hidden_states=True)
    assert plain.hidden_states is None and torch.allclose(outputs.logits, plain.logits, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(outputs.state, plain.state, strict=True))
    vectors, first, last = outputs.hidden_states
    assert torch.allclose(model.lm_head(last), plain.logits, atol=1e-6)
    if mask is None:
        layer = type(model.rnn)(12, 16, batch_first=True)
        layer.load_state_dict({name: w for name, w in model.rnn.state_dict().items() if name.endswith("_l0")})
        assert torch.allclose(first, layer(vectors)[0], atol=1e-6)


def test_hidden_states_go_on_from_the_state(model: Any) -> None:
    model.config.output_hidden_states = True
    start, whole = model(IDS[:, :5]), model(IDS)
    for part, expected in zip(model(IDS[:, 5:], state=start.state).hidden_states, whole.hidden_states, strict=True):
        assert torch.allclose(part, expected[:, 5:], atol=1e-5)


def test_hidden_states_have_the_gradients_of_the_model(model: Any) -> None:
    gradients = {}
    for asked in (False, True):
        model.zero_grad()
        outputs = model(IDS, labels=IDS, output_hidden_states=asked)
        outputs.loss.backward()
        gradients[asked] = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(torch.allclose(g, gradients[True][name], atol=1e-5) for name, g in gradients[False].items())


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_returns_the_hidden_states_of_each_token(model: Any, beams: int) -> None:
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "num_beams": beams, "return_dict_in_generate": True}
    steps = model.generate(IDS, output_hidden_states=True, do_sample=False, **options).hidden_states
    assert [[tuple(h.shape[:2]) for h in step] for step in steps] == [[(3 * beams, n)] * 3 for n in (9, 1, 1)]


def test_attentions_are_refused_and_not_ignored(model: Any) -> None:
    with pytest.raises(ValueError, match="no attentions"):
        model(IDS, output_attentions=True)


def test_arguments_of_generate_reach_the_model(model: Any) -> None:
    inputs = model.prepare_inputs_for_generation(IDS, use_cache=True, output_hidden_states=True, another=3)
    assert {k: inputs[k] for k in ("use_cache", "output_hidden_states", "another")} == {
        "use_cache": True, "output_hidden_states": True, "another": 3,
    }  # fmt: skip
    assert inputs["input_ids"] is IDS


# -- the state, and padding


@pytest.mark.parametrize("cut", [1, 5, 8])
def test_to_go_on_from_the_state_is_to_read_all(model: Any, cut: int) -> None:
    first = model(IDS[:, :cut])
    assert torch.allclose(model(IDS[:, cut:], state=first.state).logits, model(IDS).logits[:, cut:], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "both", "within"])
def test_padding_never_enters_the_state(model: Any, side: str) -> None:
    place = {"left": 0, "right": 6, "both": 2, "within": None}[side]
    text = IDS[:1, :5]
    at = [0, 2, 3, 5, 8] if place is None else list(range(place, min(place + 5, 9)))
    text = text[:, : len(at)]
    padded, mask = torch.full((1, 9), 7), torch.zeros(1, 9, dtype=torch.long)
    padded[:, at], mask[:, at] = text, 1
    alone, together = model(text), model(torch.cat([padded, IDS[:1]]), torch.cat([mask, torch.ones(1, 9).long()]))
    assert torch.allclose(together.logits[0, at], alone.logits[0], atol=1e-5)
    for part, expected in zip(together.state, alone.state, strict=True):
        assert torch.allclose(part[:, 0], expected[:, 0], atol=1e-5)
    onward = model(IDS[:1, -2:], state=tuple(p[:, :1] for p in together.state)).logits
    assert torch.allclose(onward, model(IDS[:1, -2:], state=alone.state).logits, atol=1e-5)


def test_padding_after_the_text_costs_training_nothing() -> None:
    """Without a state to keep, rows padded on the right go through in one dense run, and what counts is the same."""
    model = make()
    mask = MASK.flip(1)
    dense, packed = model(IDS, mask, use_cache=False), model(IDS, mask, use_cache=True)
    assert dense.state is None and packed.state is not None
    assert torch.allclose(dense.logits[mask == 1], packed.logits[mask == 1], atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_it_cannot_keep_packed_documents_apart_and_that_is_found(cell: str) -> None:
    assert find_layout(make(cell), CausalLM(), packed=True) is None
    with pytest.raises(ValueError, match="mask"):
        make(cell)(IDS, attention_mask=torch.ones(3, 1, 9, 9))


# -- generation


OPTIONS: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": True, "top_k": 0},
    {"num_beams": 3, "do_sample": False},
    {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    {"do_sample": True, "num_return_sequences": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_state_says_what_the_whole_text_says(model: Any, options: dict[str, Any]) -> None:
    def log(use_cache: bool) -> torch.Tensor:
        torch.manual_seed(3)
        return model.generate(IDS, attention_mask=MASK, max_new_tokens=12, use_cache=use_cache, **options)

    assert torch.equal(log(True), log(False))


def test_each_token_is_read_once(model: Any) -> None:
    """What a token costs does not grow with the text: after the prompt, the layers see one at a time."""
    seen: list[int] = []
    model.embedding.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    for beams in (1, 3):
        seen.clear()
        model.generate(IDS, attention_mask=MASK, max_new_tokens=6, do_sample=False, num_beams=beams)
        assert seen == [9, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_are_the_most_probable_ways_on(model: Any, beams: int) -> None:
    """A beam search by hand that reads everything again at each step."""
    prompt, length = IDS[:1], 7
    kept = [(0.0, prompt[0].tolist())]
    for _ in range(length):
        rows = torch.tensor([ids for _, ids in kept])
        scores = model(rows).logits[:, -1].log_softmax(-1)
        ways = [(s + scores[i, t].item(), [*ids, t]) for i, (s, ids) in enumerate(kept) for t in range(VOCABULARY)]
        kept = sorted(ways, reverse=True)[:beams]
    found = model.generate(
        prompt, num_beams=beams, num_return_sequences=beams, max_new_tokens=length, do_sample=False, length_penalty=0.0
    )
    assert found.tolist() == [ids for _, ids in kept]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("word", 300, iter(TEXTS))


PROMPTS = ["The crow", "从前", "A lion slept under a tree while", "fox"]


def talker(tokenizer: Any, cell: str = "lstm", **options: Any) -> Any:
    model = make(cell, vocab_size=len(tokenizer), **options)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("cell, positions", [("lstm", False), ("gru", True)])
def test_a_ragged_batch_says_what_each_says_alone(cell: str, positions: bool, options: Any, tokenizer: Any) -> None:
    model = talker(tokenizer, cell, sinusoidal_positions=positions)
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=10, **options)
    assert together == [generate(model, tokenizer, p, max_new_tokens=10, **options) for p in PROMPTS]
    assert len({str(t) for t in together}) == len(PROMPTS)


def test_it_streams_word_by_word(tokenizer: Any) -> None:
    model = talker(tokenizer)
    pieces = [piece for _, piece in stream(model, tokenizer, ["The crow"], max_new_tokens=12)]
    assert len(pieces) > 6 and "The crow" + "".join(pieces) == generate(model, tokenizer, "The crow", max_new_tokens=12)


def test_positions_bound_what_is_generated(tokenizer: Any) -> None:
    model = talker(tokenizer, sinusoidal_positions=True, max_len=6)
    with pytest.raises(UsageError, match="takes 6"):
        generate(model, tokenizer, "A lion slept under a tree while a mouse", max_new_tokens=3)
    assert load.max_positions(talker(tokenizer).config, tokenizer) is None


# -- files, and the way through llmkit


@pytest.mark.parametrize(
    "options", [{}, {"sinusoidal_positions": True}, {"tie_word_embeddings": True, "embedding_size": 16}]
)
def test_a_saved_one_is_read_by_the_auto_class(options: dict[str, Any], tmp_path: Path) -> None:
    model = make("gru", **options)
    model.save_pretrained(tmp_path)
    code = f"""
import llmkit.models, torch, json
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, output_loading_info=True)
assert not any(info.values()), info
print(json.dumps([type(model).__name__, model(torch.tensor({IDS.tolist()})).logits.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    name, logits = json.loads(done.stdout.splitlines()[-1])
    assert name == "LSTMForCausalLM" and torch.allclose(torch.tensor(logits), model(IDS).logits, atol=1e-6)


def recipe(output: Path, config: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return Recipe(
        CausalLM(),
        ModelConfig(
            name="lstm",
            from_scratch=True,
            config={"embedding_size": 12, "hidden_size": 16, **(config or {})},
            tokenizer="word",
            tokenizer_size=300,
        ),
        DataConfig(train=ROWS, validation=ROWS[:8], max_length=8),
        {**EXACT, "max_steps": 4, "learning_rate": 1e-2, **training},
        RunConfig(output=str(output)),
    )


def test_a_run_says_that_packing_is_off_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = run(recipe(tmp_path / "run", max_steps=60))
    assert "packing is off: LSTMForCausalLM" in capsys.readouterr().err
    assert "segments" not in result.trainer.features["train"].column_names
    assert result.metrics["after"]["loss"] < result.metrics["before"]["loss"] - 0.5
    again = llmkit.load(str(result.output))
    prompts = ["The crow", "从前，有一只"]
    assert again.generate(prompts, max_new_tokens=8) == generate(
        result.model, result.tokenizer, prompts, max_new_tokens=8
    )
    assert again.model.generation_config.suppress_tokens == [again.tokenizer.unk_token_id]
    measured = evaluate(str(result.output), ROWS, max_length=8)
    assert measured["metrics"]["loss"] < result.metrics["before"]["loss"]


def test_the_card_tells_what_to_import(tmp_path: Path) -> None:
    result = run(recipe(tmp_path / "run"))
    card = (result.output / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert code.startswith("import llmkit.models") and "Output when this card was written" in card
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("cell", CELLS)
def test_the_first_loss_is_a_bare_loop_s(cell: str, tmp_path: Path) -> None:
    trainer = build_trainer(recipe(tmp_path / "run", {"cell": cell}, per_device_train_batch_size=4))
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        logits = trainer.model.train()(batch["input_ids"]).logits[:, :-1]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    trainer.train()
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert logged[0] == pytest.approx(expected.item(), abs=1e-4) and len(logged) == 4


def test_a_batch_may_be_cut_in_any_way(tmp_path: Path) -> None:
    def losses(name: str, batch: int, accumulated: int) -> list[float]:
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        trainer = build_trainer(recipe(tmp_path / name, **sizes))
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    assert losses("whole", 8, 1) == pytest.approx(losses("cut", 4, 2), abs=1e-5)


def test_the_command_line_trains_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [
        "--data",
        "fables",
        "--data.max_length",
        "16",
        "--training.max_steps",
        "2",
        "--training.eval_strategy",
        "no",
    ]
    sizes = [
        "--model.config.hidden_size",
        "16",
        "--model.config.cell",
        "gru",
        "--model.config.sinusoidal_positions",
        "true",
    ]
    architecture = ["--model", "lstm", "--model.from_scratch", "--model.tokenizer", "word", *sizes]
    assert command(["train", "causal-lm", *architecture, *words, "--output", str(tmp_path / "run")]) == 0
    assert "of their tokens are unknown" in capsys.readouterr().err
    assert not command(["generate", str(tmp_path / "run"), "Once upon", "--max-new-tokens", "3"])
    assert capsys.readouterr().out.startswith("Once upon")


@pytest.mark.parametrize(
    "config, needles",
    [
        ({"cell": "lstn"}, ("LSTMConfig", "'lstn'")),
        ({"hiden_size": 8}, ("model.config.hiden_size", "'hidden_size'")),
        ({"tie_word_embeddings": True, "embedding_size": 8}, ("tie_word_embeddings", "8", "256")),
        ({"num_hidden_layers": 0}, ("model.config", "num_hidden_layers: 0")),
    ],
)
def test_a_config_that_no_model_can_have_is_named(config: dict[str, Any], needles: tuple[str, ...]) -> None:
    (fault,) = load.check(ModelConfig(name="lstm", from_scratch=True, config=config), CausalLM())
    assert [n for n in needles if n not in fault] == []


def test_an_architecture_without_weights_is_told_apart() -> None:
    (fault,) = load.check(ModelConfig(name="lstm"), CausalLM())
    assert "'lstm'" in fault and "--model.from_scratch" in fault


def test_it_is_no_classifier() -> None:
    (fault,) = load.check(ModelConfig(name="lstm", from_scratch=True), TextClassification(labels=("a", "b")))
    assert "lstm" in fault and "text-classification" in fault
