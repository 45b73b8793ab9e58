from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.data.sampling import Source, draw, key, keys, mix, permute, uniforms, windows
from hpsearch.errors import DataError

GOLDEN_ORDER = [4, 6, 8, 7, 0, 9, 5, 3, 1, 2]
GOLDEN_KEY = 5737291379245837990


def source(folder: Path, tokens: int, name: str = "s", weight: float | None = None, base: int = 0) -> Source:
    """A source whose token at place i is base + i."""
    path = folder / f"{name}.bin"
    path.write_bytes((np.arange(tokens, dtype=np.uint32) + base).tobytes())
    return Source(name, path, np.uint32, tokens, weight)


def sequences(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint64)


def test_random_bits_are_splitmix64() -> None:
    # The first outputs of the reference implementation for the seed 1234567.
    state = np.array([1234567 + place * 0x9E3779B97F4A7C15 & 2**64 - 1 for place in (1, 2, 3)], np.uint64)
    assert mix(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_visits_every_place_once(size: int, seed: int) -> None:
    found = permute(sequences(0, size), size, np.full(size, seed, np.uint64))
    assert sorted(found.tolist()) == list(range(size))


def test_the_order_is_the_one_that_older_runs_had() -> None:
    # A change here changes what every resumed run and every exported config trains on.
    assert permute(sequences(0, 10), 10, np.full(10, key(0, 0), np.uint64)).tolist() == GOLDEN_ORDER
    assert key(3, 1, 4) == GOLDEN_KEY


@pytest.mark.parametrize("size", [10**9 + 7, 2**40, 2**40 + 1])
def test_a_permutation_of_a_large_range_stays_in_it_and_never_repeats(size: int) -> None:
    some = permute(sequences(size - 100_000, 100_000), size, np.full(100_000, 5, np.uint64))
    assert int(some.max()) < size
    assert len(np.unique(some)) == 100_000
    assert abs(float(some.astype(np.float64).mean()) / size - 0.5) < 0.005


def test_permutations_of_three_are_all_about_equally_frequent() -> None:
    seeds = keys(key(1), sequences(0, 12_000))
    rows = np.stack([permute(np.full(12_000, place, np.uint64), 3, seeds) for place in range(3)], axis=1)
    counts = Counter(map(tuple, rows.tolist()))
    assert len(counts) == 6
    # Chi-square with 5 degrees of freedom: above 30 once in 70,000 good permutations.
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 30


def test_every_place_goes_everywhere_equally_often() -> None:
    size, trials = 37, 20_000
    seeds = keys(key(2), sequences(0, trials))
    for place in (0, 1, 17, 36):
        counts = np.bincount(permute(np.full(trials, place, np.uint64), size, seeds).astype(int), minlength=size)
        # 36 degrees of freedom: above 90 less than once in 500,000.
        assert ((counts - trials / size) ** 2 / (trials / size)).sum() < 90


def test_neighbours_are_not_kept_together() -> None:
    order = permute(sequences(0, 10_000), 10_000, np.full(10_000, 3, np.uint64)).astype(int)
    assert (np.abs(np.diff(order)) == 1).sum() < 15
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_uniforms_do_not_depend_on_the_width_and_fill_the_interval() -> None:
    some = keys(key(3), sequences(0, 400))
    wide = uniforms(some, 500)
    assert np.array_equal(uniforms(some, 7), wide[:, :7])
    assert 0 <= wide.min() < wide.max() < 1
    histogram = np.histogram(wide, 20, (0, 1))[0] / wide.size
    assert np.abs(histogram - 0.05).max() < 0.003
    assert abs(np.corrcoef(wide[:-1].ravel(), wide[1:].ravel())[0, 1]) < 0.01


@given(tokens=st.integers(9, 400), stride=st.integers(2, 8), extra=st.integers(0, 1), batch=st.integers(1, 13))
def test_a_pass_visits_every_window_once_at_one_offset(
    tmp_path_factory: pytest.TempPathFactory, tokens: int, stride: int, extra: int, batch: int
) -> None:
    one = source(tmp_path_factory.getbasetemp(), tokens)
    cut = windows(one, stride, stride + extra)
    rows = np.concatenate(
        [
            draw([one], sequences(first, batch), stride=stride, width=stride + extra, seed=7)
            for first in range(0, 3 * cut.count + batch, batch)
        ]
    )
    assert (np.diff(rows, axis=1) == 1).all()
    for number in range(3):
        starts = np.sort(rows[number * cut.count : (number + 1) * cut.count, 0])
        assert (np.diff(starts) == stride).all()
        assert 0 <= starts[0] < cut.offsets
        assert starts[-1] + stride + extra <= tokens


def test_each_pass_has_an_order_and_an_offset_of_its_own(tmp_path: Path) -> None:
    one = source(tmp_path, 100_000)
    count = windows(one, 64, 65).count
    passes = [draw([one], sequences(number * count, count), stride=64, width=65, seed=0)[:, 0] for number in range(12)]
    assert len({int(starts.min()) for starts in passes}) > 6
    assert not np.array_equal(passes[0] // 64, passes[1] // 64)
    # Over the passes every phase can come: the first window starts below two strides, not at 0 only.
    assert max(int(starts.min()) for starts in passes) < 128


def test_seeds_order_the_windows_differently(tmp_path: Path) -> None:
    one = source(tmp_path, 50_000)
    first, second, again = (draw([one], sequences(0, 64), stride=32, width=33, seed=seed) for seed in (0, 1, 0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_a_batch_is_the_same_whatever_was_drawn_before(tmp_path: Path) -> None:
    one = source(tmp_path, 50_000)
    whole = draw([one], sequences(0, 4096), stride=32, width=33, seed=9)
    for first in (4000, 0, 17):
        assert np.array_equal(draw([one], sequences(first, 50), stride=32, width=33, seed=9), whole[first : first + 50])


def test_sources_without_weights_are_visited_whole_in_every_pass(tmp_path: Path) -> None:
    sources = [source(tmp_path, 3000, "a"), source(tmp_path, 700, "b", base=10_000)]
    counts = [windows(one, 10, 11).count for one in sources]
    for number in range(3):
        starts = np.sort(draw(sources, sequences(number * sum(counts), sum(counts)), stride=10, width=11, seed=1)[:, 0])
        assert (starts < 10_000).sum() == counts[0]
        assert set(np.diff(starts[: counts[0]])) == {10}
        assert set(np.diff(starts[counts[0] :])) == {10}


def test_weights_decide_how_often_a_source_comes_and_its_windows_come_in_turn(tmp_path: Path) -> None:
    sources = [source(tmp_path, 20_000, "large", 0.25), source(tmp_path, 205, "small", 0.75, base=1_000_000)]
    counts = [windows(one, 10, 10).count for one in sources]
    total = round(0.25 * sum(counts)) + round(0.75 * sum(counts))
    rows = draw(sources, sequences(0, total), stride=10, width=10, seed=1)
    from_small = rows[:, 0] >= 1_000_000
    assert from_small.sum() == round(0.75 * sum(counts))
    assert (rows[~from_small, 0] < 20_000).all()
    assert len(np.unique(rows[~from_small, 0])) == (~from_small).sum()
    # 75 visits of each of the small source's windows, give or take the pass that is under way.
    visits = Counter(((rows[from_small, 0] - 1_000_000) // 10).tolist())
    expected = from_small.sum() / counts[1]
    assert all(abs(count - expected) < expected for count in visits.values())
    # The mixture is spread over the pass, not one source after the other.
    assert abs(from_small[: total // 4].mean() - 0.75) < 0.1


def test_a_source_that_is_too_short_names_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="s: the training part has 64 tokens and a sequence needs 65"):
        windows(source(tmp_path, 64), 64, 65)
    assert windows(source(tmp_path, 65), 64, 65).count == 1


def test_an_empty_source_can_be_opened(tmp_path: Path) -> None:
    assert len(source(tmp_path, 0).tokens) == 0


def test_the_tokens_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        source(tmp_path, 10).tokens[0] = 1


def test_a_large_source_is_handed_back_to_the_page_cache(tmp_path: Path) -> None:
    import psutil

    path = tmp_path / "large.bin"
    size = 600 * 2**20
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"\1\2\3\4\5")
    large = Source("large", path, np.uint8, size, None)
    before = psutil.Process().memory_info().rss
    for first in range(0, size - 4096 * 1024, 4096 * 1024):
        large.read(np.arange(first, first + 4096 * 1024, 4096), 64)
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    assert large.read(np.array([size - 5]), 5).tolist() == [[1, 2, 3, 4, 5]]
