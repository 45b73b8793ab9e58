"""Stop a trial whose learning curve is unlikely to end among the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from hpsearch.scheduling.halving import BASELINE, place
from hpsearch.scheduling.learning_curves import LEAST_POINTS, Curve, chance_to_beat, predict
from hpsearch.scheduling.pareto import no_dearer
from hpsearch.scheduling.protocol import Point, Release, Scheduler, Verdict
from hpsearch.scheduling.pruners import STARTUP_TRIALS, first_rung
from hpsearch.text import measured

LEAST_CHANCE = 0.05
"""A trial with less chance than this to beat the best may be stopped by its curve."""


class CurveStopper:
    """A scheduler that also ends a trial whose learning curve leaves it less than `level` chance to beat the best.

    Never before FIRST_DECISION, LEAST_POINTS evaluations of the trial and STARTUP_TRIALS complete ones, whose curves tell what
    the rest of the schedule brings (see `curves`). It only sees values on the trials' way, none of a branch.
    """

    def __init__(
        self, inner: Scheduler, evaluations: int, level: float = LEAST_CHANCE, *, whole: Iterable[int] = (BASELINE,)
    ) -> None:
        self._inner, self._evaluations, self._level, self._whole = inner, evaluations, level, frozenset(whole)
        self._first = max(first_rung(evaluations), LEAST_POINTS)
        self._values: dict[int, dict[int, float]] = {}
        """By trial, then by rung."""
        self._costs: dict[int, dict[int, tuple[float, ...]]] = {}

    @property
    def paused(self) -> Mapping[int, int]:
        return self._inner.paused

    def observe(
        self, number: int, rung: int, value: float, branch: float | None = None, costs: tuple[float, ...] = ()
    ) -> Verdict:
        verdict = self._inner.observe(number, rung, value, branch, costs)
        if verdict.action == "prune":
            return verdict
        self._values.setdefault(number, {})[rung] = value
        self._costs.setdefault(number, {})[rung] = costs
        complete = [other for other, values in self._values.items() if self._evaluations in values]
        if number in self._whole or not self._first <= rung < self._evaluations or len(complete) < STARTUP_TRIALS:
            return verdict
        points = [point for point in self._curve(number) if point[0] <= rung / self._evaluations]
        if len(points) < LEAST_POINTS:
            return verdict
        # With several objectives a larger or slower trial's value says nothing against this one.
        rivals = [other for other in complete if no_dearer(self._costs[other].get(rung), costs)]
        if not rivals:
            return verdict
        best = min(rivals, key=lambda other: (self._values[other][self._evaluations], other))
        least = self._values[best][self._evaluations]
        references = [self._curve(other) for other in complete]
        chance = chance_to_beat(points, least, references=references)
        if chance >= self._level:
            return verdict
        self.ended(number)
        mean, sd = predict(points, references=references)
        reason = (
            f"{100 * chance:.1f} % chance to beat the best ({measured(least)}, trial {best}): "
            f"{measured(mean)} ± {measured(sd)} expected of {measured(value)} at {place(rung, self._evaluations)}"
        )
        return Verdict("prune", reason, "curve")

    def ended(self, number: int) -> None:
        self._inner.ended(number)

    def promote(self, *, last: bool = False) -> Release | None:
        return self._inner.promote(last=last)

    def drain(self) -> list[Release]:
        return self._inner.drain()

    def restore(self, points: Iterable[Point], decisions: Iterable[tuple[int, int, str]], ended: Iterable[int]) -> None:
        points = list(points)
        for number, rung, value, _, costs in points:
            if math.isfinite(value):
                self._values.setdefault(number, {})[rung] = value
                self._costs.setdefault(number, {})[rung] = costs
        self._inner.restore(points, decisions, ended)

    def _curve(self, number: int) -> Curve:
        return [(rung / self._evaluations, value) for rung, value in sorted(self._values[number].items())]
