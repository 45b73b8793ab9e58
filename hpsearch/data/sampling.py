"""Which windows of the text a training batch holds: a pure function of the seed and the sequence's number.

Sequence s = iteration * batch_size + j belongs to pass s // (windows per pass). A pass visits every window of the text once,
in a pseudo-random order that no table stores: a Feistel network over the mixed radix a × b ≥ n, walked until it lands below n
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Each pass shifts its windows by an offset of its
own, so that cuts fall elsewhere. Random bits are splitmix64 (Steele et al., OOPSLA 2014) of a counter: the same on every
machine and with every release of numpy.

Shape suffixes: B sequences, L tokens of a window.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpsearch.errors import DataError

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN_U64, _FIRST_U64, _SECOND_U64 = np.uint64(_GOLDEN), np.uint64(_FIRST), np.uint64(_SECOND)
_11, _27, _30, _31, _32 = (np.uint64(bits) for bits in (11, 27, 30, 31, 32))
_ROUNDS = 6

_LARGE_BYTES = 256 * 2**20
"""A larger map is handed back to the system's page cache on the way, so that a process does not grow to the text's size."""
_SWEEP_WINDOWS = 128
"""How often. A window maps from 64 KiB to 2 MiB around itself, as the page cache holds it; a sweep costs microseconds."""


def mix(values: U64) -> U64:
    """splitmix64's finaliser: 64 well-mixed bits for each value, a bijection."""
    values = (values ^ (values >> _30)) * _FIRST_U64
    values = (values ^ (values >> _27)) * _SECOND_U64
    return values ^ (values >> _31)


@functools.lru_cache(maxsize=256)
def key(*numbers: int) -> int:
    """A 64-bit key made of whole numbers (a seed, and what the key is for)."""
    state = 0
    for number in numbers:
        state = (state + _GOLDEN * (number % 2**64 + 1)) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state


def keys(base: int, numbers_B: U64) -> U64:
    """(B,) a key for each of `numbers_B`."""
    return mix(numbers_B * _GOLDEN_U64 + np.uint64(base))


def uniforms(keys_B: U64, width: int) -> npt.NDArray[np.float64]:
    """(B, width) numbers in [0, 1), the same for the same key and column whatever the width."""
    columns = np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN_U64
    return (mix(keys_B[:, None] + columns) >> _11).astype(np.float64) * 2.0**-53


def permute(places_B: U64, size: int, keys_B: U64) -> U64:
    """(B,) where `places_B`, each below `size`, go under the permutation of range(size) that each key names."""
    if size == 1:
        return places_B
    low = math.isqrt(size - 1) + 1
    high = -(-size // low)
    radix_a, radix_b = np.uint64(high), np.uint64(low)
    left, right = np.divmod(places_B, radix_b)
    key_B = keys_B
    for turn in range(_ROUNDS):
        key_B = key_B + _GOLDEN_U64
        bits = ((right if turn % 2 == 0 else left) ^ key_B) * _FIRST_U64
        bits = (bits ^ (bits >> _32)) * _SECOND_U64
        # The upper half only: added to a number below 2^32 it cannot wrap, which would break the bijection.
        if turn % 2 == 0:
            left = (left + (bits >> _32)) % radix_a
        else:
            right = (right + (bits >> _32)) % radix_b
    there: U64 = left * radix_b + right
    outside = there >= size
    if outside.any():
        there[outside] = permute(there[outside], size, keys_B[outside])
    return there


class Source:
    """The tokens of one training text, memory-mapped.

    tokens: (T,) read-only array of unsigned integers. weight: sampling weight, None for "as long as it is". start: bytes of the
    file before the first token.
    """

    def __init__(
        self, name: str, path: Path, dtype: npt.DTypeLike, count: int, weight: float | None, *, start: int = 0
    ) -> None:
        self.name, self.weight = name, weight
        self.tokens: npt.NDArray[Any] = np.zeros(0, dtype)
        self._map: mmap.mmap | None = None
        self._touched = 0
        size = count * np.dtype(dtype).itemsize
        if size == 0:
            return
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), start + size, access=mmap.ACCESS_READ)
        self.tokens = np.frombuffer(mapped, dtype, count, start)
        if size > _LARGE_BYTES and hasattr(mapped, "madvise"):
            # Windows are far apart: reading ahead would load what no batch asks for.
            mapped.madvise(mmap.MADV_RANDOM)
            self._map = mapped

    def read(self, starts_B: I64, width: int) -> npt.NDArray[Any]:
        """(B, width) the tokens from each start."""
        found_BL: npt.NDArray[Any] = self.tokens[starts_B[:, None] + np.arange(width)]
        if self._map is not None:
            self._touched += len(starts_B)
            if self._touched >= _SWEEP_WINDOWS:
                # The pages stay in the system's page cache; only this process lets go of them.
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched = 0
        return found_BL


@dataclass(frozen=True)
class Windows:
    """How a text is cut in one pass: `count` windows `stride` apart, of `width` tokens (the extra one is the last target)."""

    count: int
    stride: int
    width: int
    offsets: int
    """How many places the first window can start at; at least `stride` of them where the text has two windows or more."""


def windows(source: Source, stride: int, width: int) -> Windows:
    """The windows of one pass. Raises DataError when the text is shorter than `stride` + 1 tokens."""
    tokens = len(source.tokens)
    if tokens < max(stride + 1, width):
        raise DataError(
            f"{source.name}: the training part has {tokens:,} tokens and a sequence needs {max(stride + 1, width):,}; "
            "use a longer text or a smaller context_length"
        )
    count = max(1, tokens // stride - 1)
    return Windows(count, stride, width, tokens - (width - stride) - count * stride + 1)


def pass_shares(sources: Sequence[Source], cuts: Sequence[Windows]) -> list[int]:
    """Windows of each source in one pass: all of its own, or by weight the share of as many windows as all sources have."""
    total = sum(cut.count for cut in cuts)
    return [
        cut.count if source.weight is None else max(1, round(total * source.weight))
        for source, cut in zip(sources, cuts, strict=True)
    ]


def draw(sources: Sequence[Source], sequences_B: U64, *, stride: int, width: int, seed: int) -> I64:
    """(B, width) token ids of the sequences with these numbers. Raises DataError when a source is too short for a window."""
    cuts = [windows(source, stride, width) for source in sources]
    if len(sources) == 1:
        return sources[0].read(_starts(sequences_B, cuts[0], key(seed, 0)), width).astype(np.int64)
    shares = pass_shares(sources, cuts)
    edges = np.cumsum([0, *shares]).astype(np.uint64)
    passes_B, places_B = np.divmod(sequences_B, edges[-1])
    places_B = permute(places_B, int(edges[-1]), keys(key(seed, -1), passes_B))
    which_B = np.searchsorted(edges, places_B, side="right") - 1
    tokens_BL = np.empty((len(sequences_B), width), np.int64)
    for number in np.unique(which_B).tolist():
        rows = which_B == number
        # A source goes through its own windows pass after pass, however many of them one pass over the mixture takes.
        own = passes_B[rows] * np.uint64(shares[number]) + places_B[rows] - edges[number]
        tokens_BL[rows] = sources[number].read(_starts(own, cuts[number], key(seed, number)), width)
    return tokens_BL


def _starts(sequences_B: U64, cut: Windows, base: int) -> I64:
    passes_B, places_B = np.divmod(sequences_B, np.uint64(cut.count))
    keys_B = keys(base, passes_B)
    offsets_B = mix(keys_B) % np.uint64(cut.offsets)
    starts_B = permute(places_B, cut.count, keys_B) * np.uint64(cut.stride) + offsets_B
    return starts_B.astype(np.int64)
