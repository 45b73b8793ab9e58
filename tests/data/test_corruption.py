import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.data.corruption import (
    first_half,
    infill,
    infilled_counts,
    infilled_length,
    mask_tokens,
    pack_pair,
    swap_pair,
)
from hpsearch.data.sampling import key, keys, uniforms

MASK = 9999


def some_keys(rows: int, seed: int = 0) -> np.ndarray:
    return keys(key(seed), np.arange(rows, dtype=np.uint64))


def test_masking_follows_berts_proportions() -> None:
    tokens = np.full((400, 500), 77)
    corrupted, chosen = mask_tokens(tokens, uniforms(some_keys(400), 500), ordinary=1000, mask=MASK)
    assert chosen.mean() == pytest.approx(0.15, abs=0.003)
    assert (corrupted[~chosen] == 77).all()
    of_chosen = corrupted[chosen]
    assert (of_chosen == MASK).mean() == pytest.approx(0.8, abs=0.01)
    random = of_chosen[(of_chosen != MASK) & (of_chosen != 77)]
    assert len(random) / len(of_chosen) == pytest.approx(0.1, abs=0.01)
    assert (of_chosen == 77).mean() == pytest.approx(0.1, abs=0.01)
    assert random.min() >= 0
    assert 990 < random.max() < 1000
    assert random.mean() == pytest.approx(500, abs=25)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 5))
def test_masking_never_leaves_the_vocabulary(chance: float, ordinary: int) -> None:
    corrupted, chosen = mask_tokens(np.zeros((1, 1), np.int64), np.array([[chance]]), ordinary=ordinary, mask=MASK)
    assert chosen[0, 0] == (chance < 0.15)
    assert corrupted[0, 0] in (*range(ordinary), MASK)


@given(st.integers(2, 40))
def test_a_pair_is_packed_between_its_special_tokens(length: int) -> None:
    text = np.arange(2 * length).reshape(2, length)
    packed = pack_pair(text, -1, -2, -3)
    half = first_half(length)
    assert packed[1].tolist() == [-1, *text[1, :half], -2, *text[1, half:], -3]
    assert half - length // 2 in (0, 1)


@given(st.integers(2, 40))
def test_a_swapped_pair_has_its_halves_exchanged(length: int) -> None:
    text = np.arange(2 * length).reshape(2, length)
    swapped = swap_pair(text, np.array([False, True]))
    assert swapped[0].tolist() == text[0].tolist()
    assert swapped[1].tolist() == [*text[1, length // 2 :], *text[1, : length // 2]]


@given(st.integers(1, 200), st.integers(0, 1000))
def test_infilling_keeps_the_rest_in_order_and_its_length_is_known(length: int, seed: int) -> None:
    text = np.arange(3 * length).reshape(3, length)
    corrupted = infill(text, some_keys(3, seed), mask=MASK)
    masked, spans = infilled_counts(length)
    assert corrupted.shape == (3, infilled_length(length)) == (3, length - masked + spans)
    assert infilled_length(length) <= length
    for row, original in zip(corrupted.tolist(), text.tolist(), strict=True):
        kept = [token for token in row if token != MASK]
        assert kept == [token for token in original if token in set(kept)]
        assert len(kept) == length - masked
        assert row.count(MASK) == spans
        assert not any(one == other == MASK for one, other in itertools.pairwise(row))


def test_infilled_lengths_never_shrink_with_the_text() -> None:
    lengths = [infilled_length(length) for length in range(1, 3000)]
    assert lengths == sorted(lengths)


def test_spans_have_poisson_lengths_of_mean_three_and_lie_everywhere() -> None:
    rows, length = 2000, 400
    text = np.tile(np.arange(length), (rows, 1))
    corrupted = infill(text, some_keys(rows), mask=MASK)
    masked, spans = infilled_counts(length)
    assert masked / length == pytest.approx(0.3)
    assert masked / spans == pytest.approx(3)
    sizes = []
    for row in corrupted.tolist():
        bounded = [-1, *row, length]
        sizes += [
            after - before - 1 for before, token, after in zip(bounded, bounded[1:], bounded[2:], strict=False) if token == MASK
        ]
    found = np.bincount(sizes, minlength=12)[:12] / len(sizes)
    poisson = [np.exp(-3.0) * 3.0**k / np.prod(np.arange(1.0, k + 1)) for k in range(12)]
    assert np.abs(found - poisson).max() < 0.01
    gone = np.ones(length)
    for row in corrupted.tolist():
        gone[[token for token in row if token != MASK]] -= 1 / rows
    assert gone.mean() == pytest.approx(0.3)
    assert gone[50:-50].std() < 0.02
