"""Text generation: `stream` yields pieces of text as tokens come, `generate` returns whole texts.

The tokens are those of `model.generate`. Added are left padding of several prompts, checked limits, pieces that never
end within a character, stop strings that are cut off, the chat template if the tokenizer has one, and random numbers
of its own for a seed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch.overrides import TorchFunctionMode
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from llmkit.errors import PromptTooLong, UsageError, as_usage_error, raise_faults
from llmkit.log import log, quiet_thread
from llmkit.models.generation_config import field_faults
from llmkit.models.load import max_positions
from llmkit.recipe import in_memory
from llmkit.task import Json, Model, Tokenizer

DEFAULT_NEW_TOKENS = 50
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
READS_PROMPT = (
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "min_length", "sequence_bias", "bad_words_ids", "watermarking_config", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
"""Fields of GenerationConfig for which the padding before a prompt would count as text, or as length."""
Prompt = str | Sequence[Mapping[str, str]]
"""A text, or a conversation as messages: [{"role": "user", "content": "…"}]."""


def stream(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, stop: str | Iterable[str] = (),
    seed: int | None = None, chat: bool | None = None, **options: Any,
) -> Iterator[tuple[int, str]]:  # fmt: skip
    """Yield `(row, piece of text)` as tokens come. Rows count sequences: those of prompt 0, then of prompt 1, and so on.

    `options` are fields of GenerationConfig. A sampling field turns sampling on, and so does `num_return_sequences`
    above `num_beams`. `stop` holds strings before which a text ends. `chat` says whether a text becomes a user's turn
    (default: if the tokenizer has a chat template). The default limit is 50 new tokens. `seed` neither reads nor
    changes torch's global random state. Raises UsageError for an invalid option, and PromptTooLong.
    """
    ids = [_encode(tokenizer, prompt, chat) for prompt in prompts]
    lengths = [len(row) for row in ids]
    with quiet_thread("transformers"):
        config, new_tokens = _generation_config(model, tokenizer, options, lengths)
    copies, limit = config.num_return_sequences or 1, max_positions(model.config, tokenizer)
    stops = [s for s in ([stop] if isinstance(stop, str) else stop) if s]
    # padding takes room from the answers to shorter prompts, and is text to some options; beams compare whole answers
    takes_room = bool(limit) and max(lengths) + max(new_tokens) > limit
    is_read = any(getattr(config, name, None) for name in READS_PROMPT)
    unequal_beams = (config.num_beams or 1) > 1 and len({*new_tokens}) > 1
    if len({*lengths}) > 1 and (takes_room or is_read or unequal_beams):
        for length in dict.fromkeys(lengths):
            rows = [i for i, n in enumerate(lengths) if n == length]
            given = [prompts[i] for i in rows]
            pieces = stream(model, tokenizer, given, stop=stops, seed=seed, chat=chat, **options)
            yield from ((rows[row // copies] * copies + row % copies, piece) for row, piece in pieces)
        return
    texts = [_Row(tokenizer, *row, stops) for row in zip(ids, new_tokens, strict=True) for _ in range(copies)]
    streamer = _Streamer(texts, config.eos_token_id)
    thread = threading.Thread(target=_run_model, args=(model, ids, config, streamer, seed), daemon=True)
    thread.start()
    try:
        yield from streamer.pieces()
    finally:
        streamer.cancelled = True  # if the caller leaves early, the model stops at the next token
        thread.join()


def generate(
    model: Model, tokenizer: Tokenizer, prompts: Prompt | Iterable[Prompt], *,
    return_full_text: bool | None = None, **options: Any,
) -> Any:  # fmt: skip
    """Return the text of one prompt, or a list for a list; with `num_return_sequences` above 1, a list per prompt.

    `return_full_text` puts the prompt before its continuation (default: yes, unless a chat template is used). For the
    other options see `stream`.
    """
    prompts = in_memory(prompts)
    single = isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], Mapping))
    batch = [prompts] if single else prompts
    if not batch:
        return []
    copies, chat, full = options.get("num_return_sequences") or 1, options.get("chat"), return_full_text
    keep = [isinstance(p, str) and (not is_chat(tokenizer, chat, p) if full is None else full) for p in batch]
    texts = [prompt if kept else "" for prompt, kept in zip(batch, keep, strict=True) for _ in range(copies)]
    for row, piece in stream(model, tokenizer, batch, **options):
        texts[row] += piece
    grouped = [texts[i : i + copies] if copies > 1 else texts[i] for i in range(0, len(texts), copies)]
    return grouped[0] if single else grouped


def is_chat(tokenizer: Tokenizer, chat: bool | None, prompt: Prompt = "") -> bool:
    """Whether a prompt is put into the chat template: messages always, a text as a user's turn."""
    if (chat or not isinstance(prompt, str)) and not tokenizer.chat_template:
        raise UsageError("chat: this tokenizer has no chat template; give a text, which is then continued")
    return not isinstance(prompt, str) or (bool(tokenizer.chat_template) if chat is None else chat)


def _encode(tokenizer: Tokenizer, prompt: Prompt, chat: bool | None) -> list[int]:
    if is_chat(tokenizer, chat, prompt):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start if start is not None else 0]


def _generation_config(
    model: Model, tokenizer: Tokenizer, options: Mapping[str, Any], lengths: Sequence[int]
) -> tuple[GenerationConfig, list[int]]:
    """The model's generation config with `options`, and the number of new tokens for each prompt."""
    options = {k: v for k, v in options.items() if v is not None}
    if "stop_strings" in options:
        raise UsageError("stop_strings: use stop (--stop), which also cuts the text before the string")
    raise_faults(field_faults(options))
    if options.get("temperature") == 0:
        options = {k: v for k, v in options.items() if k not in SAMPLING} | {"do_sample": False}
    several = (options.get("num_return_sequences") or 1) > (options.get("num_beams") or 1)
    if several or any(k in options for k in SAMPLING):
        options.setdefault("do_sample", True)
    tokens, total = options.pop("max_new_tokens", None), options.pop("max_length", None)
    longest, limit = max(lengths), max_positions(model.config, tokenizer)
    if tokens is None and total is None:
        tokens = model.generation_config.max_new_tokens or DEFAULT_NEW_TOKENS
    new_tokens = [total - n if tokens is None else tokens for n in lengths]
    index, several = lengths.index(longest), len(lengths) > 1
    if limit and longest >= limit:
        reason = f"has {longest} tokens, the model takes {limit} with the answer; shorten it"
        raise PromptTooLong(index, several, reason)
    if min(new_tokens) < 1:
        reason = f"has {longest} tokens, and max_length: {total} leaves no room after it; set max_new_tokens"
        raise PromptTooLong(index, several, reason)
    if limit and len({*lengths}) == 1 and longest + new_tokens[0] > limit:
        room = limit - longest
        log(f"{room} new tokens instead of {new_tokens[0]}: the model takes {limit} with the prompt", "warning")
        new_tokens = [room] * len(lengths)
    with as_usage_error("generate: not accepted by Transformers", ValueError, TypeError):
        config = GenerationConfig(**{**model.generation_config.to_dict(), **options})
    config.max_new_tokens, config.max_length, config.use_cache = max(new_tokens), None, True
    if not config.do_sample:  # sampling fields of the checkpoint have no effect then, and Transformers warns of them
        for name in SAMPLING:
            setattr(config, name, None)
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return config, new_tokens


def _run_model(
    model: Model, ids: Sequence[list[int]], config: GenerationConfig, streamer: _Streamer, seed: int | None
) -> None:
    """Run `model.generate` on left-padded prompts and pass tokens, or the exception, to `streamer`."""
    width, was_training = max(map(len, ids)), model.training
    try:
        padded = [[config.pad_token_id] * (width - len(row)) + row for row in ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        inputs, mask = torch.tensor(padded, device=model.device), torch.tensor(mask, device=model.device)
        args: Json = {"generation_config": config, "attention_mask": mask}
        beams = (config.num_beams or 1) > 1
        if not beams:
            args |= {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([streamer])}
        model.eval()
        randomness = contextlib.nullcontext() if seed is None else _OwnRandomNumbers(seed)
        with (
            quiet_thread("transformers"),
            randomness,
            as_usage_error("generate: not accepted by Transformers", ValueError),
        ):
            out = model.generate(inputs, **args)
        if beams:  # the best beam is known only at the end
            streamer.put(inputs)
            for column in getattr(out, "sequences", out)[:, width:].T:
                streamer.put(column)
        streamer.close(None)
    except BaseException as error:  # raised again in the thread that reads
        streamer.close(error)
    finally:
        model.train(was_training)


class _OwnRandomNumbers(TorchFunctionMode):
    """Draws samples within the block, in this thread alone, from a generator of its own.

    The numbers are those of the global generator after `torch.manual_seed(seed)`.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed, self.generators = seed, dict[torch.device, torch.Generator]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Json | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.multinomial, torch.rand_like):  # all that Transformers samples with
            device = args[0].device
            if device not in self.generators:
                self.generators[device] = torch.Generator(device).manual_seed(self.seed)
            kwargs = {**kwargs, "generator": self.generators[device]}
        return func(*args, **kwargs)


class _Row:
    """The text of one sequence: takes tokens, and returns text without a partial character or stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], new_tokens: int, stops: Sequence[str]):
        self.tokenizer, self.remaining, self.stops = tokenizer, new_tokens, stops
        self.decoder = DecodeStream(ids=prompt, skip_special_tokens=True)
        text = tokenizer.decode(prompt, skip_special_tokens=True)
        self.repeated = len(text) if text.endswith("\ufffd") else 0
        """Characters of the prompt that the decoder repeats: it takes this ending for a partial character."""
        self.pending = ""
        """Text that may be the beginning of a stop string."""
        self.partial: list[int] = []
        """Tokens of a character that is not complete."""
        self.done = False

    def add(self, token: int) -> str:
        self.remaining -= 1
        self.done = self.remaining < 1
        piece = self.decoder.step(self.tokenizer.backend_tokenizer, token)  # None within a character
        if not piece:
            self.partial.append(token)
            return ""
        piece, self.repeated, self.partial = piece[self.repeated :], 0, []
        return self._cut(piece)

    def end(self) -> str:
        """Return what is left. The last tokens may hold a whole character before a partial one."""
        rest = self.tokenizer.decode(self.partial, skip_special_tokens=True) if self.partial else ""
        return self._cut(rest.rstrip("\ufffd")) + self.pending

    def _cut(self, piece: str) -> str:
        text = self.pending + piece
        stop = min((at for s in self.stops if (at := text.find(s)) >= 0), default=None)
        if stop is not None:
            self.done, self.partial, self.pending = True, [], ""
            return text[:stop]
        keep = max((n for s in self.stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self.pending = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Streamer(BaseStreamer, StoppingCriteria):
    """Passes text from the thread of the model to the one that reads, and stops rows at EOS, stop strings and limits."""

    def __init__(self, rows: Sequence[_Row], eos: int | list[int] | None):
        self.rows, self.eos = rows, set(eos if isinstance(eos, list) else [eos])
        self.queue: queue.SimpleQueue[tuple[int, str] | BaseException | None] = queue.SimpleQueue()
        self.started = self.cancelled = False

    def put(self, value: torch.Tensor) -> None:
        if not self.started:  # the first call passes the prompt
            self.started = True
            return
        for i, token in enumerate(value.reshape(-1).tolist()):
            number = i if len(self.rows) > 1 else 0  # assisted decoding passes several tokens of one row
            row = self.rows[number]
            if token in self.eos:
                row.done = True
            elif not row.done:
                self._send(number, row.add(token))

    def end(self) -> None:
        pass

    def close(self, error: BaseException | None) -> None:
        for i, row in enumerate(self.rows):
            self._send(i, row.end())
        self.queue.put(error)

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        return torch.tensor([self.cancelled or row.done for row in self.rows], device=input_ids.device)

    def pieces(self) -> Iterator[tuple[int, str]]:
        while isinstance(item := self.queue.get(), tuple):
            yield item
        if item is not None:
            raise item

    def _send(self, row: int, text: str) -> None:
        if text:
            self.queue.put((row, text))
