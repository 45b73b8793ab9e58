"""Ranks among trials that are measured by more than one thing."""

from __future__ import annotations

import math
from collections.abc import Mapping


def ranked_by_fronts(measures: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Trials by (measure, costs), best first; of equal ones the lower number.

    With costs: front by front of those that no other one is as good as in all of them (non-dominated sorting). Within a front
    first the one with the best measure, then always the one that is furthest from those before it, by ranks, so that each part
    of the front is represented (an epsilon-net; multi-objective ASHA, arXiv:2106.12639).
    """
    left = sorted(measures, key=lambda number: (measures[number], number))
    if not left or len(measures[left[0]]) == 1:
        return left
    axes = range(len(measures[left[0]]))
    places = {
        number: tuple(sorted(measures[each][axis] for each in left).index(measures[number][axis]) for axis in axes)
        for number in left
    }
    ranked: list[int] = []
    while left:
        front: list[int] = []
        for number in left:  # Whatever dominates a trial comes before it.
            if not any(no_dearer(measures[other], measures[number]) for other in front):
                front.append(number)
        left = [number for number in left if number not in front]
        chosen = [front.pop(0)]
        while front:
            chosen.append(max(front, key=lambda number: min(math.dist(places[number], places[each]) for each in chosen)))
            front.remove(chosen[-1])
        ranked += chosen
    return ranked


def in_front(measures: Mapping[int, tuple[float, ...]]) -> int:
    """How many of `ranked_by_fronts` belong to the first front: those that no other one is as good as in all; at least one."""
    ranked, front = ranked_by_fronts(measures), 0
    while front < len(ranked) and not any(no_dearer(measures[other], measures[ranked[front]]) for other in ranked[:front]):
        front += 1
    return front


def no_dearer(one: tuple[float, ...] | None, other: tuple[float, ...]) -> bool:
    """Whether `one` is known and nowhere above `other`."""
    return one is not None and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
