"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""The same for terminals that know no blocks."""


def sparkline(values: Sequence[float], width: int = 10, levels: str = BLOCKS) -> str:
    """`values` in at most `width` characters, its own lowest at the bottom; a value that is not finite is `!`.

    Longer curves are shortened to the last value of each of `width` equal parts, so that the end is the end.
    """
    if len(values) > width:
        values = [values[(part + 1) * len(values) // width - 1] for part in range(width)]
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high / 2 - low / 2  # Halves, as the whole may be beyond the largest number.

    def level(value: float) -> str:
        return levels[round((value / 2 - low / 2) / span * (len(levels) - 1)) if span > 0 else 0]

    return "".join(level(value) if math.isfinite(value) else "!" for value in values)


def levels_for(encoding: str | None) -> str:
    """Blocks where the terminal's encoding has them."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return BLOCKS
