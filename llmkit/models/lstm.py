"""A recurrent language model as a Transformers model: embedding, stacked LSTM (GRU, plain) layers, a linear layer.

Where a Transformer keeps every token it has read, this keeps a state of one size: to generate a token costs the same
however long the text before it is.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@strict
class LSTMConfig(PreTrainedConfig):
    """Of an `LSTMForCausalLM`.

    `cell`: lstm, gru or rnn (plain, tanh). `embedding_size`: as `hidden_size` unless given. `dropout`: after the
    embedding and every layer (Zaremba et al. 2014). `sinusoidal_positions`: of at most `max_len` tokens (Vaswani et al.
    2017); without them a text may have any length. `tie_word_embeddings` needs one size for both.
    """

    model_type = "lstm"

    vocab_size: int = 10_000
    embedding_size: int | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 2
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    dropout: float | int = 0.0
    sinusoidal_positions: bool = False
    max_len: int = 5000
    tie_word_embeddings: bool = False
    initializer_range: float = 0.1
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        self.embedding_size = self.hidden_size if self.embedding_size is None else self.embedding_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise ValueError for sizes that cannot be tied; asked by @strict."""
        if self.tie_word_embeddings and self.embedding_size != self.hidden_size:
            sizes = f"{self.embedding_size} and {self.hidden_size}"
            raise ValueError(f"tie_word_embeddings needs embedding_size and hidden_size to be one, not {sizes}")

    @property
    def max_position_embeddings(self) -> int | None:
        """The longest text, or None where it may have any length."""
        return self.max_len if self.sinusoidal_positions else None


@dataclass
class LSTMOutput(ModelOutput):
    """`loss` (a number, with labels), `logits` (rows, tokens, vocabulary), `state` (with `use_cache`): the layers'
    memory after each row's last token and the number of tokens read; rows are dimension 1 of each. `hidden_states` (with
    `output_hidden_states`): what the first layer reads, then each layer's output, (rows, tokens, width) each."""

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    state: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class SinusoidalPositions(nn.Module):
    """Adds sin(p / 10000^(2i/d)) and cos(p / 10000^(2i/d)) to dimensions 2i and 2i+1 of what stands at place p (Vaswani
    et al. 2017, 3.5)."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("table", self.sinusoids(length, width), persistent=False)

    @staticmethod
    def sinusoids(length: int, width: int) -> torch.Tensor:
        """(length, width), in fp32."""
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angles = torch.arange(length)[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]

    def forward(self, vectors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """vectors: (rows, tokens, width); places: (rows, tokens). Raises IndexError beyond the table's length."""
        return vectors + self.table[places].to(vectors.dtype)


class LSTMForCausalLM(PreTrainedModel, GenerationMixin):
    """See the module's docstring. `generate` hands `state` from token to token."""

    config: LSTMConfig
    config_class = LSTMConfig
    _input_embed_layer = "embedding"
    _tied_weights_keys = {"lm_head.weight": "embedding.weight"}  # noqa: RUF012 - the library's own form
    _is_stateful = True  # a state cannot be taken back to an earlier token: no assisted generation

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        width, layers = config.embedding_size, config.num_hidden_layers
        self.embedding = nn.Embedding(config.vocab_size, width)
        # as input, numbers around 1 learn fastest; as output, small ones: tied ones are small, and scaled when read
        self.scale = math.sqrt(width) if config.tie_word_embeddings else 1.0
        self.positions = SinusoidalPositions(config.max_len, width) if config.sinusoidal_positions else None
        between = config.dropout if layers > 1 else 0.0  # one layer has none between, and torch warns
        self.rnn = CELLS[config.cell](width, config.hidden_size, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1 / self.scale)
        elif isinstance(module, nn.RNNBase):  # torch's own; the library leaves GRU and RNN as they are, perhaps unset
            for parameter in module.parameters():
                init.uniform_(parameter, -1 / math.sqrt(module.hidden_size), 1 / math.sqrt(module.hidden_size))
        elif isinstance(module, SinusoidalPositions):  # not saved, hence empty after from_pretrained
            init.copy_(module.table, module.sinusoids(*module.table.shape))
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        state: tuple[torch.Tensor, ...] | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> LSTMOutput:
        """input_ids: (rows, tokens), read on from `state`. attention_mask: (rows, tokens, or with those read before), 0
        where a token is padding, before or after the text: it is not read. Raises ValueError for a mask of blocks, and if
        attentions are asked for: there are none."""
        if kwargs.get("output_attentions"):
            raise ValueError("a recurrent model has no attentions; leave out output_attentions")
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if attention_mask is not None and attention_mask.dim() != 2:
            given = tuple(attention_mask.shape)
            raise ValueError(f"a recurrent model knows padding (rows, tokens) alone, not a mask of {given}")
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].long()
        mask = None if mask is None or mask.all() else mask  # where none of them is padding
        read = torch.zeros_like(input_ids[None, :, 0]) if state is None else state[-1]
        vectors = self.embedding(input_ids) * self.scale
        if self.positions is not None:
            within = torch.ones_like(input_ids) if mask is None else mask
            vectors = self.positions(vectors, read[0, :, None] + (within.cumsum(1) - 1).clamp(min=0))
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states, memories = (vectors,), []
        for i, rnn in enumerate(self._layers() if wanted else [self.rnn]):
            n = rnn.num_layers
            memory = None if state is None else tuple(part[i * n : (i + 1) * n] for part in state[:-1])
            hidden, memory = self._read(rnn, self.dropout(hidden_states[-1]), mask, memory, use_cache)
            hidden_states, memories = (*hidden_states, hidden), [*memories, memory]
        logits = self.lm_head(self.dropout(hidden[:, -logits_to_keep:]))
        output = LSTMOutput(logits=logits, hidden_states=hidden_states if wanted else None)
        if labels is not None:
            output.loss = self.loss_function(output.logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        if use_cache:
            read = read + (input_ids.shape[1] if mask is None else mask.sum(1))
            output.state = (*map(torch.cat, zip(*memories, strict=True)), read)
        return output

    def _layers(self) -> list[nn.RNNBase]:
        """Each layer as a module of its own, with the same weights: torch returns the output of the last layer only."""
        layers = []
        for i in range(self.config.num_hidden_layers):
            width = self.config.hidden_size if i else self.config.embedding_size
            layers.append(type(self.rnn)(width, self.config.hidden_size, batch_first=True, device="meta"))
            for name, _ in [*layers[i].named_parameters()]:
                setattr(layers[i], name, getattr(self.rnn, f"{name[:-1]}{i}"))
        return layers

    def _read(
        self, rnn: nn.RNNBase, vectors: torch.Tensor, mask: torch.Tensor | None, memory: Any, keep: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The last layer's output (rows, tokens, hidden), and the memory after each row's last token. Padding must not
        enter the memory; after the text it harms nothing but what is kept, and one dense run is faster on a CPU."""
        is_lstm = self.config.cell == "lstm"
        memory = memory if memory is None or is_lstm else memory[0]
        if mask is None or not (keep or (mask[:, 1:] > mask[:, :-1]).any()):
            hidden, memory = rnn(vectors, memory)
            return hidden, memory if is_lstm else (memory,)
        order = mask.argsort(dim=1, descending=True, stable=True)  # each row's text, then its padding
        texts = vectors.gather(1, order[..., None].expand_as(vectors))
        packed = pack_padded_sequence(texts, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        packed, memory = rnn(packed, memory)
        hidden = pad_packed_sequence(packed, batch_first=True, total_length=mask.shape[1])[0]
        return hidden.gather(1, order.argsort(1)[..., None].expand_as(hidden)), memory if is_lstm else (memory,)

    def prepare_inputs_for_generation(
        self, input_ids: torch.LongTensor, state: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole prompt at first, then the last token alone: `state` is what the others left."""
        if state is not None:
            input_ids, attention_mask = input_ids[:, -1:], None
        return {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask, "state": state}

    def _update_model_kwargs_for_generation(
        self, outputs: LSTMOutput, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """Pass `state` to the next step. Transformers itself does so only up to 5.23; 5.24 passes on `cache` alone, and
        without this every step would silently read the whole text again."""
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)
        return model_kwargs if outputs.state is None else {**model_kwargs, "state": outputs.state}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `generate` makes no cache for keys and values

    @staticmethod
    def _reorder_cache(state: tuple[torch.Tensor, ...], beam_idx: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.index_select(1, beam_idx.to(part.device)) for part in state)
