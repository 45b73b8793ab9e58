from __future__ import annotations

from typing import Any

import pytest

from hpsearch.durations import duration_in
from hpsearch.errors import BadInput


@pytest.mark.parametrize(
    ("given", "unit", "length"),
    [
        *[("90", "s", 90), ("90m", "s", 5_400), ("1h30m", "s", 5_400), ("8h", "s", 28_800), ("2d", "s", 172_800)],
        *[("1w", "s", 604_800), ("1.5h", "s", 5_400), (" 10s ", "s", 10), (0.5, "s", 0.5), ("1e3", "s", 1_000)],
        *[("8", "h", 8), ("90m", "h", 1.5), ("2d", "h", 48)],
    ],
)  # fmt: skip
def test_a_length_of_time_is_what_it_says(given: Any, unit: str, length: float) -> None:
    assert duration_in("--timeout", given, unit) == length


@pytest.mark.parametrize(
    "given", ["", "0", "-1", "0h", "8 hours", "nan", "inf", "1_000", "h", "30m1h", "8x", True, None, 10**400, []]
)
def test_what_is_no_length_of_time_is_refused_with_examples(given: Any) -> None:
    with pytest.raises(BadInput, match=r"^--timeout .*as in 90m, 1h30m, 8h or 2d"):
        duration_in("--timeout", given)
