"""Values at the edge of what was searched: a better one may lie beyond it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from hpsearch.hyperparameter import Hyperparameter
from hpsearch.space.parameters import Choices, Range
from hpsearch.space.space import SearchSpace

NEAR = 0.025
"""Share of a range's width (of its logarithm where it is searched so) that counts as its edge."""

FEW = 3
"""Of fewer values than this each one is at an edge, which says nothing."""

AGAIN = "run again under another name (--study)"


def edges(space: SearchSpace, params: Mapping[str, Any]) -> list[str]:
    """A sentence with the remedy for each of `params` at an edge of its range or of its list of numbers; the last one says what
    to do with all of them.

    Where the hyperparameter itself ends there (dropout 0), and in a list with null, which follows another hyperparameter,
    there is nothing to widen.
    """
    found = []
    for parameter in space.searched:
        value = params.get(parameter.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        told = _of_range(parameter, value) if isinstance(parameter, Range) else _of_choices(parameter, value)
        if told:
            found.append(told)
    return [*found[:-1], f"{found[-1]} and {AGAIN}"] if found else []


def _of_range(parameter: Range, value: float) -> str:
    low, high = float(parameter.low), float(parameter.high)
    if low == high or (parameter.values is not None and len(parameter.values) < FEW):
        return ""
    part = parameter.part(value)
    side = "lower" if part <= NEAR else "upper" if part >= 1 - NEAR else ""
    if not side:
        return ""
    edge = low if side == "lower" else high
    beyond = _beyond(parameter, edge, up=side == "upper")
    if beyond is None:
        return ""
    kind = f"[{_number(low)}, {_number(high)}]"
    return f"{parameter.name} {_number(value)} is at the {side} edge of its range {kind}: widen it to {_number(beyond)}"


def _of_choices(parameter: Choices, value: float) -> str:
    listed = [each for each in parameter.choices if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(listed) != len(parameter.choices) or len(listed) < FEW:
        return ""
    ordered = sorted(listed)
    if listed not in (ordered, ordered[::-1]) or value not in (ordered[0], ordered[-1]):
        return ""
    up = value == ordered[-1]
    edge, inner = (ordered[-1], ordered[-2]) if up else (ordered[0], ordered[1])
    beyond = edge * edge / inner if _geometric(ordered) else 2 * edge - inner
    if not up and beyond <= 0:
        beyond = edge / 2
    if parameter.info.kind == "int":
        beyond = round(beyond)
    if beyond == edge or not _has(parameter.info, beyond):
        return ""
    return (
        f"{parameter.name} {_number(value)} is the {'largest' if up else 'smallest'} of its choices "
        f"({', '.join(map(_number, listed))}): add {_number(beyond)}"
    )


def _geometric(ordered: list[int | float]) -> bool:
    if ordered[0] <= 0:
        return False
    ratios = [after / before for before, after in itertools.pairwise(ordered)]
    return max(ratios) < 1.01 * min(ratios)


def _beyond(parameter: Range, edge: float, *, up: bool) -> float | None:
    """A bound beyond `edge`; None where the hyperparameter ends there."""
    width = float(parameter.high) - float(parameter.low)
    if parameter.log:
        factor = 2 if parameter.whole else 3
        beyond = edge * factor if up else edge / factor
    else:
        beyond = edge + width / 2 if up else edge - width / 2
    info = parameter.info
    limit = info.high if up else info.low
    if limit is not None and not _has(info, beyond):
        if edge == limit:
            return None
        beyond = (edge + limit) / 2 if (info.high_open if up else info.low_open) else limit
    if parameter.whole:
        beyond = math.ceil(beyond) if up else math.floor(beyond)
    else:
        spellings = (float(f"{beyond:.{digits}g}") for digits in ((1, 2, 6) if parameter.log else (2, 6)))
        beyond = next((each for each in spellings if (each > edge) is up and each != edge and _has(info, each)), edge)
    return beyond if _has(info, beyond) and beyond != edge else None


def _has(info: Hyperparameter, value: float) -> bool:
    """Whether the hyperparameter can have this value."""
    above = info.low is None or value > info.low or (value == info.low and not info.low_open)
    below = info.high is None or value < info.high or (value == info.high and not info.high_open)
    return above and below


def _number(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, int) or not float(value).is_integer() else f"{int(value)}"
