"""The one generation helper. `stream` is its core; `generate` joins what it yields.

The tokens are `model.generate`'s own. What is added: ragged prompts padded on the left, limits checked, characters
never torn, stop strings cut off, a chat template where the tokenizer has one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from llmkit.console import quiet_transformers, say
from llmkit.errors import RecipeError, raise_faults, refusing
from llmkit.models import generating
from llmkit.models.loading import positions

DEFAULT_NEW_TOKENS = 50
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
Prompt = str | Sequence[dict[str, str]]
"""A text, or a conversation as messages: [{"role": "user", "content": "…"}]."""


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    chat: bool | None = None,
    **options: Any,
) -> Iterator[tuple[int, str]]:
    """Yield `(row, piece of text)` as tokens come; row counts sequences: prompt 0's `num_return_sequences`, then 1's.

    `options` are transformers' GenerationConfig fields; a sampling field switches sampling on, and so do several return
    sequences without as many beams. `chat` says whether a text becomes a user's turn (default: where the tokenizer has
    a chat template). Without max_new_tokens or max_length, 50 tokens. Raises RecipeError for unknown options and
    prompts that leave no room.
    """
    ids = [_encode(tokenizer, p, chat) for p in prompts]
    with quiet_transformers():
        config, room = _settings(model, tokenizer, options, [len(row) for row in ids])
    copies = config.num_return_sequences or 1
    limit = positions(model.config, tokenizer)
    if len(ids) > 1 and limit and max(map(len, ids)) + max(room) > limit:
        # together, the longest prompt would end the others early: each alone gets the room it has
        for i, prompt in enumerate(prompts):
            alone = stream(model, tokenizer, [prompt], stop=stop, seed=seed, chat=chat, **options)
            yield from ((i * copies + row, piece) for row, piece in alone)
        return
    stops = [stop] if isinstance(stop, str) else list(stop)
    rows = [(row, most) for row, most in zip(ids, room, strict=True) for _ in range(copies)]
    writer = _Writer(tokenizer, rows, config.eos_token_id, stops, model.device)
    width = max(map(len, ids))
    padded = torch.tensor([[config.pad_token_id] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    beams = (config.num_beams or 1) > 1

    def work() -> None:
        was_training = model.training
        try:
            model.eval()
            with quiet_transformers(), torch.random.fork_rng(enabled=seed is not None):
                if seed is not None:
                    torch.manual_seed(seed)
                how = {"generation_config": config, "attention_mask": mask}
                if not beams:
                    how |= {"streamer": writer, "stopping_criteria": StoppingCriteriaList([writer])}
                with refusing("generate: transformers refuses it", ValueError):
                    out = model.generate(padded, **how)
            if beams:  # nothing is certain before the end
                writer.put(padded)
                for column in getattr(out, "sequences", out)[:, width:].T:
                    writer.put(column)
            writer.close(None)
        except BaseException as error:  # handed to the reader
            writer.close(error)
        finally:
            model.train(was_training)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from writer.pieces()
    finally:
        writer.cancelled = True  # the reader left: stop at the next token
        thread.join()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompt | list[Prompt],
    *,
    return_full_text: bool | None = None,
    **options: Any,
) -> Any:
    """Text for a prompt (str), or a list for a list of prompts; with `num_return_sequences` above 1 a list each.

    `return_full_text` puts the prompt before its continuation (default: yes, but for conversations and chat models, of
    which the answer alone is given). Other options: see `stream`.
    """
    single = isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], dict))
    batch = [prompts] if single else list(prompts)
    if not batch:
        return []
    copies = options.get("num_return_sequences") or 1
    texts = [""] * (len(batch) * copies)
    for row, piece in stream(model, tokenizer, batch, **options):
        texts[row] += piece
    for row in range(len(texts)):
        prompt = batch[row // copies]
        alone = is_chat(tokenizer, options.get("chat"), prompt) if return_full_text is None else not return_full_text
        if isinstance(prompt, str) and not alone:
            texts[row] = prompt + texts[row]
    grouped = [texts[i : i + copies] if copies > 1 else texts[i] for i in range(0, len(texts), copies)]
    return grouped[0] if single else grouped


def is_chat(tokenizer: Any, chat: bool | None, prompt: Prompt = "") -> bool:
    """Whether a prompt goes through the chat template: messages always, a text as a user's turn."""
    if (chat or not isinstance(prompt, str)) and not tokenizer.chat_template:
        raise RecipeError("chat: this tokenizer has no chat template; give a text, to be continued as it is")
    return not isinstance(prompt, str) or (bool(tokenizer.chat_template) if chat is None else chat)


def _encode(tokenizer: Any, prompt: Prompt, chat: bool | None) -> list[int]:
    if is_chat(tokenizer, chat, prompt):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start if start is not None else 0]


def _settings(
    model: Any, tokenizer: Any, options: dict[str, Any], lengths: list[int]
) -> tuple[GenerationConfig, list[int]]:
    """The model's own generation config with `options` over it, and the new tokens that each prompt has room for."""
    options = {k: v for k, v in options.items() if v is not None}
    if "stop_strings" in options:
        raise RecipeError("stop_strings: write stop (--stop), which cuts the text before the string")
    raise_faults(generating.faults(options))
    if options.get("temperature") == 0:
        options = {k: v for k, v in options.items() if k not in SAMPLING} | {"do_sample": False}
    several = (options.get("num_return_sequences") or 1) > (options.get("num_beams") or 1)
    if any(k in options for k in SAMPLING) or several:
        options.setdefault("do_sample", True)
    wanted, total = options.pop("max_new_tokens", None), options.pop("max_length", None)
    longest, limit = max(lengths), positions(model.config, tokenizer)
    if wanted is None and total is None:
        wanted = model.generation_config.max_new_tokens or DEFAULT_NEW_TOKENS
    room = [total - n if wanted is None else wanted for n in lengths]
    if min(room) < 1:
        raise RecipeError(f"max_length: {total} leaves no room after a prompt of {longest} tokens; give max_new_tokens")
    if limit and longest >= limit:
        raise RecipeError(f"the prompt has {longest} tokens, this model takes {limit} with the answer; shorten it")
    if limit and len(lengths) == 1 and longest + room[0] > limit:
        say(f"{limit - longest} new tokens instead of {room[0]}: the model takes {limit} in all", "warning")
        room = [limit - longest]
    with refusing("generate: transformers refuses it", ValueError, TypeError):
        config = GenerationConfig(**{**model.generation_config.to_dict(), **options})
    config.max_new_tokens, config.max_length, config.use_cache = max(room), None, True
    if not config.do_sample:  # what a checkpoint says of sampling is nothing to a greedy search, and warns
        for name in SAMPLING:
            setattr(config, name, None)
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return config, room


class _Writer(BaseStreamer, StoppingCriteria):
    """Between the thread that generates and the one that reads: tokens in, `(row, text)` out, rows ended at EOS or a
    stop string."""

    def __init__(self, tokenizer: Any, rows: list[tuple[list[int], int]], eos: Any, stops: list[str], device: Any):
        self.tokenizer, self.stops, self.device = tokenizer, [s for s in stops if s], device
        self.decoders = [DecodeStream(ids=ids, skip_special_tokens=True) for ids, _ in rows]
        self.room = [most for _, most in rows]
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self.held = [""] * len(rows)
        self.torn: list[list[int]] = [[] for _ in rows]  # tokens within a character
        self.done = [False] * len(rows)
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.started = self.cancelled = False

    def put(self, value: torch.Tensor) -> None:
        if not self.started:  # the first is the prompt
            self.started = True
            return
        for at, token in enumerate(value.reshape(-1).tolist()):
            row = at if len(self.done) > 1 else 0  # one row may get several at once (assisted decoding)
            if not self.done[row]:
                self._take(row, token)

    def _take(self, row: int, token: int) -> None:
        if token in self.eos:
            self.done[row] = True
            return
        self.room[row] -= 1
        self.done[row] = self.room[row] < 1
        if piece := self.decoders[row].step(self.tokenizer.backend_tokenizer, token):  # None within a character
            self.torn[row] = []
            self._give(row, piece)
        else:
            self.torn[row].append(token)

    def _give(self, row: int, piece: str) -> None:
        text = self.held[row] + piece
        found = min((at for s in self.stops if (at := text.find(s)) >= 0), default=None)
        if found is not None:
            self.done[row], self.torn[row], text, rest = True, [], text[:found], ""
        else:
            text, rest = self._free(text)
        self.held[row] = rest
        if text:
            self.queue.put((row, text))

    def _free(self, text: str) -> tuple[str, str]:
        """What can be given out, and the end that may yet become a stop string."""
        keep = max((n for s in self.stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        return text[: len(text) - keep], text[len(text) - keep :]

    def end(self) -> None:
        pass

    def close(self, error: BaseException | None) -> None:
        for row, ids in enumerate(self.torn):
            whole = self.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd") if ids else ""
            if whole:  # a last token that tears a character may bring a whole one before it
                self._give(row, whole)
            if self.held[row]:
                self.queue.put((row, self.held[row]))
        self.queue.put(error)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([self.cancelled or d for d in self.done], device=self.device)

    def pieces(self) -> Iterator[tuple[int, str]]:
        while isinstance(item := self.queue.get(), tuple):
            yield item
        if item is not None:
            raise item
