"""Text from a trained model: continuation (decoder), infilling (encoder_decoder), filling of masks (encoder).

Shape suffixes of tensors: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.data.batches import IGNORED, Batch
from hpsearch.data.corruption import first_half, pack_pair
from hpsearch.data.tokenizer import Tokenizer
from hpsearch.errors import BadInput
from hpsearch.model.transformer import Transformer
from hpsearch.training.heartbeat import beat

MASK = "<mask>"
"""How a prompt spells the special token [MASK]."""

Pick = Callable[[Tensor], Tensor]
"""Logits (B, V) of the next token → its ids (B,)."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, and how many."""

    temperature: float = 1.0
    """0 is greedy: always the likeliest token."""
    top_k: int | None = None
    top_p: float | None = None
    num_samples: int = 1
    max_new_tokens: int = 200

    @classmethod
    def of(cls, config: TrialConfig) -> Sampling:
        return cls(config.temperature, config.top_k, config.top_p, config.num_samples, config.max_new_tokens)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    settings: Sampling | None = None,
    seed: int = 0,
    on_token: Callable[[int, str], None] | None = None,
    use_cache: bool = True,
) -> list[str]:
    """`num_samples` texts, each with the prompt in it. The same seed gives the same texts.

    decoder: the prompt (a newline when empty) and max_new_tokens more; past the context the window slides.
    encoder_decoder: the prompt with each `<mask>` replaced by any number of tokens, at most max_new_tokens more than it
    had; a prompt without one is continued. encoder: each `<mask>` is one token, filled from left to right; a prompt
    without one gets one at its end.

    settings: the config's when None. on_token: called with the sample's index and each new piece of text, as it comes.
    use_cache: keys and values of past tokens are kept, which changes the time and not the text.
    Raises BadInput for a prompt that is longer than the context of an encoder.
    """
    settings = settings or Sampling.of(model.config)
    with evaluating(model):
        match model.config.architecture:
            case "decoder":
                return _continue_text(model, tokenizer, prompt, settings, seed, on_token, use_cache)
            case "encoder_decoder":
                return _infill(model, tokenizer, prompt, settings, seed, on_token, use_cache)
            case "encoder":
                return _fill_masks(model, tokenizer, prompt, settings, seed, on_token)


def continuations(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], settings: Sampling, seed: int) -> list[str]:
    """What a decoder writes after each of `prompts`, all in one batch; the prompts are left out.

    They are cut to the shortest one's tokens. An encoder_decoder gives its infilling of each, whole.
    """
    with evaluating(model):
        if model.config.architecture == "encoder_decoder":
            single = Sampling(settings.temperature, settings.top_k, settings.top_p, 1, settings.max_new_tokens)
            return [_infill(model, tokenizer, text, single, seed + index, None, True)[0] for index, text in enumerate(prompts)]
        encoded = [tokenizer.encode(text) for text in prompts]
        length = min(len(ids) for ids in encoded)
        device = _device(model)
        prompt_BT = torch.stack([torch.as_tensor(ids[:length], dtype=torch.long) for ids in encoded]).to(device)
        pick = make_pick(settings, tokenizer, _generator(seed, device))
        new_BT = torch.stack(list(next_tokens(model, prompt_BT, settings.max_new_tokens, pick)), 1)
        return [tokenizer.decode(ids) for ids in new_BT.cpu().numpy()]


@torch.inference_mode()
def next_tokens(
    model: Transformer,
    prompt_BT: Tensor,
    count: int,
    pick: Pick,
    *,
    source_BT: Tensor | None = None,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Yield the next token (B,) of every sequence, `count` times.

    source_BT: what an encoder_decoder reads. The model sees at most context_length tokens, all that it was trained on; when
    they are full, it goes on from the newer half, so that positions need computing anew only now and then.
    """
    limit = context_limit(model)
    window_BT, token_B, cache = prompt_BT[:, -limit:], None, None
    for _ in range(count):
        beat()
        if window_BT.shape[1] > limit:
            window_BT, cache = window_BT[:, -max(1, limit // 2) :], None
        if not use_cache:
            whole = (window_BT,) if source_BT is None else (source_BT, window_BT)
            logits_BV = _logits(model, *whole)[:, -1]
        elif cache is None or token_B is None:
            cache = model.start(len(window_BT), limit, source_BT)
            logits_BV = model.prefill(window_BT, cache)
        else:
            logits_BV = model.decode_step(token_B, cache)
        token_B = pick(logits_BV)
        yield token_B
        window_BT = torch.cat([window_BT, token_B[:, None]], 1)


def make_pick(settings: Sampling, tokenizer: Tokenizer, generator: torch.Generator, end: int | None = None) -> Pick:
    """The rule that draws a token from logits: one that is text, or `end`."""
    banned = [token for token in range(tokenizer.ordinary, tokenizer.vocab_size) if token != end]

    def pick(logits_BV: Tensor) -> Tensor:
        if banned:
            logits_BV = logits_BV.clone()
            logits_BV[:, banned] = -torch.inf
        if settings.temperature == 0:
            return logits_BV.argmax(-1)
        kept_BV = truncate(logits_BV.float() / settings.temperature, settings.top_k, settings.top_p)
        return torch.multinomial(kept_BV.softmax(-1), 1, generator=generator)[:, 0]

    return pick


def truncate(logits_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """`logits_BV` with -inf for the tokens that are never drawn.

    top_k: only the k likeliest stay. top_p: of those, the smallest set of likeliest ones whose probability is at least p
    (nucleus sampling, arXiv:1904.09751); the likeliest always stays.
    """
    if top_k is not None and top_k < logits_BV.shape[-1]:
        smallest_B1 = logits_BV.topk(top_k, -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_B1, -torch.inf)
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(-1, descending=True)
        p_BV = sorted_BV.softmax(-1)
        outside_BV = p_BV.cumsum(-1) - p_BV >= top_p
        outside_BV[:, 0] = False
        logits_BV = logits_BV.masked_fill(outside_BV.scatter(-1, order_BV, outside_BV), -torch.inf)
    return logits_BV


def context_limit(model: Transformer) -> int:
    """Tokens that the model sees at once: no position beyond context_length was ever trained."""
    return min(model.config.context_length, model.max_length)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; the model's mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _continue_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    settings: Sampling,
    seed: int,
    on_token: Callable[[int, str], None] | None,
    use_cache: bool,
) -> list[str]:
    device = _device(model)
    prompt_T = torch.as_tensor(tokenizer.encode(prompt or "\n"), dtype=torch.long, device=device)
    pick = make_pick(settings, tokenizer, _generator(seed, device))
    streams = [_Stream(tokenizer, index, on_token) for index in range(settings.num_samples)]
    prompt_BT = prompt_T.expand(settings.num_samples, -1)
    for token_B in next_tokens(model, prompt_BT, settings.max_new_tokens, pick, use_cache=use_cache):
        for stream, token in zip(streams, token_B.tolist(), strict=True):
            stream.add(token)
    return [prompt + stream.finish() for stream in streams]


def _infill(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    settings: Sampling,
    seed: int,
    on_token: Callable[[int, str], None] | None,
    use_cache: bool,
) -> list[str]:
    device, end = _device(model), tokenizer.specials["[EOS]"]
    source = _encode_masked(tokenizer, prompt if MASK in prompt else prompt + MASK)
    _check_length(source, context_limit(model))
    source_BT = torch.tensor([source] * settings.num_samples, device=device)
    start_BT = torch.full((settings.num_samples, 1), tokenizer.specials["[BOS]"], device=device)
    pick = make_pick(settings, tokenizer, _generator(seed, device), end)
    streams = [_Stream(tokenizer, index, on_token) for index in range(settings.num_samples)]
    count = min(len(source) + settings.max_new_tokens, context_limit(model))
    done = [False] * settings.num_samples
    for token_B in next_tokens(model, start_BT, count, pick, source_BT=source_BT, use_cache=use_cache):
        for index, token in enumerate(token_B.tolist()):
            done[index] = done[index] or token == end
            if not done[index]:
                streams[index].add(token)
        if all(done):
            break
    return [stream.finish() for stream in streams]


def _fill_masks(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    settings: Sampling,
    seed: int,
    on_token: Callable[[int, str], None] | None,
) -> list[str]:
    device, specials = _device(model), tokenizer.specials
    text = np.array([_encode_masked(tokenizer, prompt if MASK in prompt else prompt + MASK)])
    ids = pack_pair(text, specials["[CLS]"], specials["[SEP]"], specials["[SEP]"])
    _check_length(ids[0], context_limit(model))
    ids_BT = torch.from_numpy(ids).repeat(settings.num_samples, 1).to(device)
    segments_BT = torch.zeros_like(ids_BT)
    segments_BT[:, first_half(text.shape[1]) + 2 :] = 1
    pick = make_pick(settings, tokenizer, _generator(seed, device))
    for place in np.flatnonzero(ids[0] == specials["[MASK]"]).tolist():
        ids_BT[:, place] = pick(_logits(model, ids_BT, segments_BT=segments_BT)[:, place])
    texts = [tokenizer.decode(row) for row in ids_BT.cpu().numpy()]
    if on_token is not None:
        for index, filled in enumerate(texts):
            on_token(index, filled)
    return texts


class _Stream:
    """The text of one sample, told piece by piece."""

    def __init__(self, tokenizer: Tokenizer, index: int, on_token: Callable[[int, str], None] | None) -> None:
        self.tokenizer, self.index, self.on_token = tokenizer, index, on_token
        self.ids: list[int] = []
        self.told = 0

    def add(self, token: int) -> None:
        self.ids.append(token)
        # U+FFFD at the end may be the first bytes of a character whose last are still to come.
        self._tell(lambda text: text.removesuffix("\ufffd"))

    def finish(self) -> str:
        self._tell(lambda text: text)
        return self.tokenizer.decode(self.ids)

    def _tell(self, settled: Callable[[str], str]) -> None:
        if self.on_token is None:
            return
        piece = settled(self.tokenizer.decode(self.ids))[self.told :]
        if piece:
            self.told += len(piece)
            self.on_token(self.index, piece)


def _encode_masked(tokenizer: Tokenizer, prompt: str) -> list[int]:
    first, *rest = [tokenizer.encode(part).tolist() for part in prompt.split(MASK)]
    return [*first, *(token for part in rest for token in (tokenizer.specials["[MASK]"], *part))]


def _check_length(ids: Sized, limit: int) -> None:
    if len(ids) > limit:
        raise BadInput(f"the prompt has {len(ids)} tokens and the model reads at most {limit}; shorten it")


def _logits(
    model: Transformer, inputs_BT: Tensor, decoder_inputs_BT: Tensor | None = None, segments_BT: Tensor | None = None
) -> Tensor:
    """(B, T, V) of a whole forward pass."""
    targets_BT = torch.full_like(inputs_BT if decoder_inputs_BT is None else decoder_inputs_BT, IGNORED)
    output = model(
        Batch(
            inputs_BT=inputs_BT,
            targets_BT=targets_BT,
            bytes_BT=torch.zeros_like(targets_BT),
            segments_BT=segments_BT,
            decoder_inputs_BT=decoder_inputs_BT,
        )
    )
    logits_BTV: Tensor = output.logits_BTV
    return logits_BTV


def _device(model: Transformer) -> torch.device:
    return model.tokens.weight.device


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
