"""What the encoder and the encoder-decoder learn to undo.

Masked language model (BERT, arXiv:1810.04805): each token is chosen with probability 15 %; of the chosen 80 % become [MASK],
10 % a random ordinary token, 10 % stay. The two segments are consecutive text, and their order may be swapped (sentence
order prediction of ALBERT, arXiv:1909.11942).

Text infilling (BART, arXiv:1910.13461): 30 % of the tokens in spans of Poisson lengths with mean 3, each span replaced by
one [MASK]; a span of length 0 inserts one. The number of spans is fixed at a third of the masked tokens, so the lengths are
Poisson given their sum, which is a multinomial: every sequence of one length has the same corrupted length.

All functions are pure: random bits come from keys (see `sampling.keys`). Shape suffixes: B sequences, N tokens of text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hpsearch.data.sampling import I64, U64, mix, uniforms

MASKED_SHARE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.80, 0.10
INFILLED_SHARE, MEAN_SPAN = 0.30, 3

PACKING = 3
"""Special tokens of an encoder sequence: [CLS] a [SEP] b [SEP]."""


def mask_tokens(
    tokens_BN: I64, uniforms_BN: npt.NDArray[np.float64], *, ordinary: int, mask: int
) -> tuple[I64, npt.NDArray[np.bool_]]:
    """(B, N) corrupted tokens, and which were chosen. `uniforms_BN`: one number in [0, 1) per token decides everything.

    ordinary: ids that a random token is drawn from. mask: id of [MASK].
    """
    chosen_BN = uniforms_BN < MASKED_SHARE
    kind_BN = uniforms_BN / MASKED_SHARE
    # A chosen number is uniform again inside its share, down to the random token.
    random_BN = ((kind_BN - MASK_SHARE) / RANDOM_SHARE * ordinary).astype(np.int64)
    corrupted_BN = np.where(kind_BN < MASK_SHARE + RANDOM_SHARE, np.minimum(random_BN, ordinary - 1), tokens_BN)
    corrupted_BN = np.where(kind_BN < MASK_SHARE, mask, corrupted_BN)
    return np.where(chosen_BN, corrupted_BN, tokens_BN), chosen_BN


def pack_pair(text_BN: I64, first: int, second: int, third: int) -> I64:
    """(B, N + 3) `first` a `second` b `third`, where a is the longer half of the text's columns."""
    rows, length = text_BN.shape
    half = first_half(length)
    packed = np.empty((rows, length + PACKING), np.int64)
    packed[:, 0], packed[:, half + 1], packed[:, -1] = first, second, third
    packed[:, 1 : half + 1], packed[:, half + 2 : -1] = text_BN[:, :half], text_BN[:, half:]
    return packed


def first_half(length: int) -> int:
    """Tokens of the first segment."""
    return length - length // 2


def swap_pair(text_BN: I64, swapped_B: npt.NDArray[np.bool_]) -> I64:
    """(B, N) the text with its halves exchanged in the swapped rows; the first half stays the longer one."""
    half = text_BN.shape[1] // 2
    swapped_BN = text_BN.copy()
    swapped_BN[swapped_B] = np.concatenate([text_BN[swapped_B, half:], text_BN[swapped_B, :half]], axis=1)
    return swapped_BN


def infilled_counts(length: int) -> tuple[int, int]:
    """Masked tokens, and the spans that hold them, in a text of `length` ≥ 1 tokens."""
    masked = max(1, round(INFILLED_SHARE * length))
    return masked, max(1, round(masked / MEAN_SPAN))


def infilled_length(length: int) -> int:
    """Tokens that are left of a text of `length` tokens: what the encoder reads."""
    masked, spans = infilled_counts(length)
    return length - masked + spans


def infill(tokens_BN: I64, keys_B: U64, *, mask: int) -> I64:
    """(B, infilled_length(N)) the text with spans replaced by `mask`. No two spans touch."""
    rows, length = tokens_BN.shape
    masked, spans = infilled_counts(length)
    kept = length - masked
    row_B1 = np.arange(rows)[:, None]
    # Each masked token goes to a span of its row at random: their sizes are the multinomial.
    span_of = (uniforms(keys_B, masked) * spans).astype(np.int64)
    sizes = np.bincount((row_B1 * spans + span_of).ravel(), minlength=rows * spans).reshape(rows, spans)
    # Before kept token g, or after the last: distinct gaps, so that spans do not touch.
    gaps = np.argpartition(uniforms(mix(keys_B), kept + 1), spans - 1, axis=1)[:, :spans]
    removed, inserted = np.zeros((2, rows, kept + 1), np.int64)
    removed[row_B1, gaps], inserted[row_B1, gaps] = sizes, 1
    ahead = np.cumsum(inserted, axis=1)[:, :kept]
    places = np.arange(kept)
    corrupted = np.full((rows, kept + spans), mask, np.int64)
    corrupted[row_B1, places + ahead] = tokens_BN[row_B1, places + np.cumsum(removed, axis=1)[:, :kept]]
    return corrupted
