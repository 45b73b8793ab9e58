from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.results.sparkline import ASCII, BLOCKS, levels_for, sparkline


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([2.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], "█▇▆▅▄▃▂▁"),
        ([3.0, math.nan, 1.0], "█!▁"),
        ([math.inf, math.nan], "!!"),
    ],
)
def test_a_curve_is_drawn_from_its_lowest_to_its_highest(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn


@given(st.lists(st.floats(), max_size=300), st.integers(1, 40))
def test_any_curve_fits_and_ends_where_it_ends(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    assert set(drawn) <= set(BLOCKS) | {"!"}
    if values:
        assert (drawn[-1] == "!") == (not math.isfinite(values[-1]))


def test_a_terminal_without_blocks_gets_ascii() -> None:
    assert levels_for("utf-8") == BLOCKS
    for encoding in ("ascii", "latin-1", None, "no such encoding"):
        assert levels_for(encoding) == ASCII
    assert sparkline([2, 1], levels=ASCII) == "#_"
