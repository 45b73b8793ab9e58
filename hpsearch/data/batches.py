"""Batches of tensors for the three architectures.

A training batch is a pure function of (seed, iteration): there is no position to save, and a resumed run sees what the
undisturbed one would have seen. A held-out batch depends on neither.

Shape suffixes: B sequences, T tokens (context_length).
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus, window_shape
from hpsearch.data.corruption import (
    MASKED_SHARE,
    first_half,
    infill,
    mask_tokens,
    pack_pair,
    swap_pair,
)
from hpsearch.data.held_out import windows_of
from hpsearch.data.sampling import I64, U64, draw, key, keys, uniforms

IGNORED = -100
"""Target of a place that is not counted."""

HELD_OUT_TOKENS = 2048
"""Tokens of one held-out batch, about: the same whatever the trial's batch size."""

# What random bits are for: keys of one seed must differ from each other, and from those that order the windows.
_CORRUPT, _SWAP, _HELD_OUT = 2**32, 2**32 + 1, 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences to train or evaluate on. All ids are int64."""

    inputs_BT: Tensor
    """What the decoder or the encoder reads. Of an encoder_decoder the corrupted text, which is shorter than T."""
    targets_BT: Tensor
    """The id to predict at each place, IGNORED where none is counted."""
    bytes_BT: Tensor
    """UTF-8 bytes of each counted target, 0 elsewhere."""
    segments_BT: Tensor | None = None
    """Encoder: 0 for [CLS] a [SEP], 1 for b [SEP]; 0 everywhere when type_vocab_size is 1."""
    padding_BT: Tensor | None = None
    """Of `inputs_BT`: True is a real token. None when nothing is padded, and for a decoder, which never looks ahead to it."""
    order_B: Tensor | None = None
    """Encoder in training with a sentence loss: 1 where the segments are swapped, else 0."""
    decoder_inputs_BT: Tensor | None = None
    """Encoder_decoder: [BOS] and the original text."""
    weight_B: Tensor | None = None
    """Float64, in an evaluation on weighted texts: of each target, the same in all of a batch. None: 1."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin(self) -> Batch:
        """The batch in page-locked memory, from which a copy to a GPU does not wait."""
        return self._each(Tensor.pin_memory)

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` micro-batches, in order, whose sizes differ by at most one sequence."""
        parts = min(parts, len(self.inputs_BT))
        pieces = {name: tensor.tensor_split(parts) for name, tensor in self._tensors().items()}
        return [Batch(**{name: tensors[part] for name, tensors in pieces.items()}) for part in range(parts)]

    def _tensors(self) -> dict[str, Tensor]:
        """The fields that are not None."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{name: change(tensor) for name, tensor in self._tensors().items()})


def train_batch(corpus: Corpus, config: TrialConfig, iteration: int) -> Batch:
    """Batch number `iteration` (from 0) of a run: `batch_size` windows of the text, corrupted as the architecture needs.

    Raises DataError when the text is shorter than context_length + 1 tokens, or the context too short for special tokens.
    """
    assert corpus.architecture == config.architecture
    first = iteration * config.batch_size
    sequences_B = np.arange(first, first + config.batch_size, dtype=np.uint64)
    stride, width = window_shape(config.architecture, config.context_length)
    tokens_BN = draw(corpus.train, sequences_B, stride=stride, width=width, seed=config.seed)
    if config.architecture == "decoder":
        return _next_token(corpus, tokens_BN)
    keys_B = keys(key(config.seed, _CORRUPT), sequences_B)
    if config.architecture == "encoder_decoder":
        return _infilling(corpus, tokens_BN, keys_B, end_counts=True)
    chances_BN = uniforms(keys_B, width)
    # A sequence without a target would have no loss: its likeliest token is chosen then.
    likeliest = np.arange(len(chances_BN)), chances_BN.argmin(axis=1)
    chances_BN[likeliest] = np.minimum(chances_BN[likeliest], np.nextafter(MASKED_SHARE, 0))
    swapped_B = None
    if config.sentence_loss_weight > 0:
        swapped_B = uniforms(keys(key(config.seed, _SWAP), sequences_B), 1)[:, 0] < 0.5
    return _masked(corpus, config, tokens_BN, chances_BN, swapped_B)


def held_out_batches(corpus: Corpus, config: TrialConfig) -> list[Batch]:
    """The evaluation batches of a trial, of about HELD_OUT_TOKENS each: windows of context_length over each held-out span.

    Which tokens are scored, once each, and what is read before them: see `held_out.windows_of`. Decoder: every byte of a span
    after its lead-in, whatever the tokenizer and the context length. Encoder_decoder: every token. Encoder: the tokens chosen
    for masking, and what becomes of them, depend on the tokenizer alone; segments are never swapped. Short windows come last,
    padded, and padding is not counted. Where texts are weighted, a batch is of one of them and has the weight that makes their
    shares of all counted bytes what they are asked to be.
    """
    stride, width = window_shape(config.architecture, config.context_length)
    parts: dict[int, list[_Window]] = {}
    for number, span in enumerate(corpus.split.spans(config.eval_iters)):
        # Encoded apart, so that no token is half of the lead-in. Only a decoder reads from one side, and has one.
        border = span.lead if config.architecture == "decoder" else 0
        lead, rest = map(corpus.tokenizer.encode, (span.text[:border], span.text[border:]))
        ids = np.concatenate([lead, rest]).astype(np.int64)
        chances = uniforms(keys(key(_HELD_OUT, _CORRUPT), np.array([number], np.uint64)), len(ids))[0]
        for cut in windows_of(config.architecture, len(ids), len(lead), stride=stride, width=width):
            read, places = slice(cut.start, cut.stop), np.arange(cut.start, cut.stop)
            counted = (places >= cut.first) & (places < cut.last)
            window = _Window(number, cut.start, ids[read], chances[read], counted)
            parts.setdefault(span.part, []).append(window)
    batches = {part: _held_out_part(corpus, config, windows, width) for part, windows in parts.items()}
    weights = corpus.split.validation_weights
    if weights is None:
        return batches[0]
    sizes = {part: sum(int(batch.bytes_BT.sum()) for batch in found) for part, found in batches.items()}
    total = sum(sizes.values())
    weighted = []
    for part, found in batches.items():
        weight = weights[part] * total / sizes[part] if sizes[part] else 0.0
        for batch in found:
            weight_B = torch.full((len(batch.inputs_BT),), weight, dtype=torch.float64)
            weighted.append(dataclasses.replace(batch, weight_B=weight_B))
    return weighted


@dataclasses.dataclass(frozen=True)
class _Window:
    span: int
    start: int
    ids: I64
    chances: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]


def _held_out_part(corpus: Corpus, config: TrialConfig, windows: list[_Window], width: int) -> list[Batch]:
    """The batches of some windows: whole ones first, then those that are shorter than `width`, padded."""
    rows = max(1, HELD_OUT_TOKENS // config.context_length)
    whole = [window for window in windows if len(window.ids) == width]
    batches = [_held_out_batch(corpus, config, whole[first : first + rows]) for first in range(0, len(whole), rows)]
    short = [_held_out_batch(corpus, config, [window]) for window in windows if len(window.ids) < width]
    for first in range(0, len(short), rows):
        batches.append(_stack(short[first : first + rows], corpus.tokenizer.specials.get("[PAD]", 0)))
    return batches


def _held_out_batch(corpus: Corpus, config: TrialConfig, windows: list[_Window]) -> Batch:
    """A batch of windows of one length."""
    tokens_BN = np.stack([window.ids for window in windows])
    counted_BN = np.stack([window.counted for window in windows])
    if config.architecture == "decoder":
        return _next_token(corpus, tokens_BN, counted_BN)
    if config.architecture == "encoder":
        return _masked(corpus, config, tokens_BN, np.stack([window.chances for window in windows]), None, counted_BN)
    places_B = np.array([window.span << 32 | window.start for window in windows], np.uint64)
    # The end token is where a window ends, not text: counting it would cost short contexts more bits.
    return _infilling(corpus, tokens_BN, keys(key(_HELD_OUT, _CORRUPT), places_B), end_counts=False)


def _stack(batches: list[Batch], pad: int) -> Batch:
    """Batches of different lengths as one, padded at the end to the longest."""
    fill = {"targets_BT": IGNORED, "bytes_BT": 0, "segments_BT": 0}
    fields: dict[str, Tensor] = {}
    for name in batches[0]._tensors():
        rows = [row for batch in batches for row in getattr(batch, name)]
        fields[name] = pad_sequence(rows, batch_first=True, padding_value=fill.get(name, pad))
    decoder_only = batches[0].segments_BT is None and batches[0].decoder_inputs_BT is None
    if not decoder_only and len({batch.inputs_BT.shape[1] for batch in batches}) > 1:
        real = [torch.ones(len(row), dtype=torch.bool) for batch in batches for row in batch.inputs_BT]
        fields["padding_BT"] = pad_sequence(real, batch_first=True)
    return Batch(**fields)


def _next_token(corpus: Corpus, tokens_BN: I64, counted_BN: npt.NDArray[np.bool_] | None = None) -> Batch:
    targets_BT, bytes_BT = tokens_BN[:, 1:], corpus.tokenizer.token_bytes[tokens_BN[:, 1:]]
    if counted_BN is not None:
        targets_BT, bytes_BT = np.where(counted_BN[:, 1:], targets_BT, IGNORED), np.where(counted_BN[:, 1:], bytes_BT, 0)
    return _batch(inputs_BT=tokens_BN[:, :-1], targets_BT=targets_BT, bytes_BT=bytes_BT)


def _infilling(corpus: Corpus, tokens_BN: I64, keys_B: U64, *, end_counts: bool) -> Batch:
    specials = corpus.tokenizer.specials
    end = specials["[EOS]"] if end_counts else IGNORED
    column_B1 = tokens_BN[:, :1]
    return _batch(
        inputs_BT=infill(tokens_BN, keys_B, mask=specials["[MASK]"]),
        targets_BT=np.concatenate([tokens_BN, np.full_like(column_B1, end)], axis=1),
        bytes_BT=np.concatenate([corpus.tokenizer.token_bytes[tokens_BN], np.zeros_like(column_B1)], axis=1),
        decoder_inputs_BT=np.concatenate([np.full_like(column_B1, specials["[BOS]"]), tokens_BN], axis=1),
    )


def _masked(
    corpus: Corpus,
    config: TrialConfig,
    tokens_BN: I64,
    chances_BN: npt.NDArray[np.float64],
    swapped_B: npt.NDArray[np.bool_] | None,
    counted_BN: npt.NDArray[np.bool_] | None = None,
) -> Batch:
    tokenizer = corpus.tokenizer
    mask, begin, separator = (tokenizer.specials[name] for name in ("[MASK]", "[CLS]", "[SEP]"))
    inputs_BN, chosen_BN = mask_tokens(tokens_BN, chances_BN, ordinary=tokenizer.ordinary, mask=mask)
    # What is masked is masked in every window that it is read in, and counted in one.
    targets_BN = np.where(chosen_BN if counted_BN is None else chosen_BN & counted_BN, tokens_BN, IGNORED)
    if swapped_B is not None:
        inputs_BN, targets_BN = swap_pair(inputs_BN, swapped_B), swap_pair(targets_BN, swapped_B)
    targets_BT = pack_pair(targets_BN, IGNORED, IGNORED, IGNORED)
    segments_BT = np.zeros_like(targets_BT)
    if config.type_vocab_size > 1:
        segments_BT[:, first_half(tokens_BN.shape[1]) + 2 :] = 1
    order = {} if swapped_B is None else {"order_B": swapped_B}
    return _batch(
        inputs_BT=pack_pair(inputs_BN, begin, separator, separator),
        targets_BT=targets_BT,
        bytes_BT=np.where(targets_BT == IGNORED, 0, tokenizer.token_bytes[np.maximum(targets_BT, 0)]),
        segments_BT=segments_BT,
        **order,
    )


def _batch(**fields: npt.NDArray[Any]) -> Batch:
    return Batch(**{name: torch.from_numpy(np.ascontiguousarray(value, np.int64)) for name, value in fields.items()})


class Prefetcher:
    """Prepares the next training batches in a thread while the device computes, and hands them over on the device.

    Iterating gives `train_batch` of `first`, `first` + 1, … up to and without `stop`. On a GPU batches are made in pinned
    memory and copied without waiting. An error of the thread is raised where its batch would have come. Close it, or use
    it as a context: the thread then ends.
    """

    def __init__(
        self, corpus: Corpus, config: TrialConfig, *, first: int, stop: int, device: torch.device | str = "cpu", depth: int = 2
    ) -> None:
        """depth: batches prepared ahead of the one in use."""
        self._corpus, self._config, self._range = corpus, config, range(first, stop)
        self._device = torch.device(device)
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closed = False
        self._thread = threading.Thread(target=self._prepare, name="prefetcher", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        found = self._ready.get()
        self._room.release()
        if isinstance(found, Batch):
            return found.to(self._device, non_blocking=True)
        self.close()
        if found is None:
            raise StopIteration
        raise found

    def close(self) -> None:
        """End the thread. Further batches are not given."""
        self._closed = True
        self._room.release()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _prepare(self) -> None:
        pinned = self._device.type == "cuda"
        try:
            # Pinning belongs to a device's context: a new thread's would be the first device's.
            with torch.cuda.device(self._device) if pinned else contextlib.nullcontext():
                for iteration in self._range:
                    self._room.acquire()
                    if self._closed:
                        return
                    batch = train_batch(self._corpus, self._config, iteration)
                    self._ready.put(batch.pin() if pinned else batch)
            self._ready.put(None)
        except BaseException as error:  # whatever it is, it belongs to who waits for the batch
            self._ready.put(error)
