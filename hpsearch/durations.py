"""Lengths of time as people write them: `90`, `90m`, `1h30m`, `8h`, `2d`."""

from __future__ import annotations

import math
import re

from hpsearch.errors import BadInput

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PARTS = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,12}}(?:\.[0-9]{{1,12}})?){unit})?" for unit in _UNITS), re.IGNORECASE)
_EXAMPLES = "as in 90m, 1h30m, 8h or 2d"


def duration_in(option: str, given: str | float, unit: str = "s") -> float:
    """A length of time in `unit`s (s, m, h, d, w); a number without a unit is in them already.

    option: how it was given, for the message. Raises BadInput for what is no length above 0.
    """
    length = math.nan
    if isinstance(given, str):
        word = given.strip()
        try:
            length = float(word) if "_" not in word else math.nan
        except ValueError:
            parts = _PARTS.fullmatch(word) if word else None
            if parts:
                seconds = sum(float(parts[each]) * size for each, size in _UNITS.items() if parts[each])
                length = seconds / _UNITS[unit]
    elif not isinstance(given, bool):
        try:
            length = float(given)
        except (TypeError, ValueError, OverflowError):
            length = math.nan
    if not 0 < length < math.inf:
        what = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[unit]
        raise BadInput(f"{option} {given}: give a number of {what} above 0, or a length of time {_EXAMPLES}")
    return length
