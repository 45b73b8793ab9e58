"""Which trials go on at a rung, which are set aside, and which of those come back.

A scheduler decides from values alone: it knows neither Optuna nor SQL nor the clock, so the same values and decisions give the
same state again. It never kills: a trial that is not in the top part of its rung is set aside with its checkpoint, and is
promoted once enough trials that reached the rung turn out worse. What a median or a percentile has thrown away for good
while few trials were known, it can still find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hpsearch.scheduling.pareto import in_front, ranked_by_fronts
from hpsearch.scheduling.protocol import GO_ON, Action, Point, Release, Verdict
from hpsearch.scheduling.pruners import first_rung
from hpsearch.text import measured

REDUCTION = 6
"""One in so many of a rung's trials goes on while new ones are to come: one more look at a quarter of the budget is worth more
than to go on with what is not among the best (measured: docs/method.md)."""

LAST_REDUCTION = 3
"""One in so many, when no new trial will come: then a second look costs no first one."""

SPACING = 2
"""The next decision falls at so many times the rung. Rankings are still much better at twice the rung, and a second look there
is cheaper than letting all that passed the first one run on to the whole (measured: docs/method.md)."""

BASELINE = 0
"""The trial that runs whole in the end, however it stands: people want to know what the search has gained."""


class Halving:
    """Asynchronous successive halving (ASHA, arXiv:1810.05934) that sets aside and promotes.

    Decisions fall at `rungs`. There a trial goes on at once when it is among the best 1/reduction of all that have reached the
    rung so far, and is set aside otherwise; as more arrive, whoever has come to be among the best part is promoted, from the
    highest rung first. At the first rung that is nobody before `reduction` trials have reached it: what comes first is no
    better for it. At the later ones it is at least the best, or with costs all that no other one is as good as. When no new
    trial will come, it is that at every rung, and at least one in LAST_REDUCTION. Of equal values the lower number is better.

    evaluations: rungs of a whole run. whole: trials that go on in the end, when no new one will come.
    """

    def __init__(self, evaluations: int, *, reduction: int = REDUCTION, whole: Iterable[int] = (BASELINE,)) -> None:
        self._evaluations, self._reduction = evaluations, reduction
        self._whole = frozenset(whole)
        self.rungs = decision_rungs(evaluations)
        self._values: dict[int, dict[int, tuple[float, ...]]] = {rung: {} for rung in self.rungs}
        """By rung, then by trial: what it is judged by, then its costs."""
        self._passed: dict[int, int] = {}
        """The highest rung at which each trial was let through."""
        self._paused: dict[int, int] = {}

    @property
    def paused(self) -> Mapping[int, int]:
        return self._paused

    def observe(
        self, number: int, rung: int, value: float, branch: float | None = None, costs: tuple[float, ...] = ()
    ) -> Verdict:
        if not math.isfinite(value):
            return Verdict("prune", f"diverged: {value} at {place(rung, self._evaluations)}", "divergence", diverged=True)
        due = self._due(number, rung)
        if due is None:
            return GO_ON
        rung = due
        self._values[rung][number] = (_judged(value, branch), *costs)
        if rung <= self._passed.get(number, 0):
            return GO_ON
        verdict = self._judge(number, rung)
        if verdict.action == "pause":
            self._paused[number] = rung
        else:
            self._pass(number, rung)
        return verdict

    def ended(self, number: int) -> None:
        self._paused.pop(number, None)

    def promote(self, *, last: bool = False) -> Release | None:
        for rung in reversed(self.rungs):
            for number in self._top(rung, last):  # best first
                if self._paused.get(number) == rung:
                    standing = self._standing(number, rung, last)
                    self._pass(number, rung)
                    return Release(number, rung, f"promoted: {standing}")
        for number in sorted(self._whole & self._paused.keys()) if last else ():
            rung = self._paused[number]
            standing = self._standing(number, rung, last)
            self._pass(number, rung)
            return Release(number, rung, f"promoted: {standing}; this trial runs whole in the end")
        return None

    def drain(self) -> list[Release]:
        left = [
            Release(number, rung, f"paused at rung {rung}, never promoted: {self._standing(number, rung, last=True)}")
            for number, rung in sorted(self._paused.items())
        ]
        for release in left:
            self.ended(release.number)
        return left

    def restore(self, points: Iterable[Point], decisions: Iterable[tuple[int, int, str]], ended: Iterable[int]) -> None:
        for number, rung, action in decisions:
            if action == "pause":
                self._paused[number] = rung
            elif action in ("continue", "promote"):
                self._pass(number, rung)
        for number, rung, value, branch, costs in sorted(points, key=lambda point: point[:2]):
            if math.isfinite(value) and (due := self._due(number, rung)) is not None:
                self._values[due][number] = (_judged(value, branch), *costs)
            if rung > self._paused.get(number, rung):  # It went on, whatever was or was not stored about it.
                self._pass(number, rung - 1)
        for number in ended:
            self.ended(number)

    # How trials stand

    def _due(self, number: int, rung: int) -> int | None:
        """The rung that an evaluation is for: its own, or the last one before it where a short run had no evaluation there."""
        last = max((each for each in self.rungs if each <= rung), default=None)
        if last is None or (last != rung and (number in self._values[last] or rung == self._evaluations)):
            return None
        return last

    def _judge(self, number: int, rung: int) -> Verdict:
        action: Action = "continue" if number in self._top(rung) else "pause"
        return Verdict(action, self._standing(number, rung), "halving")

    def _ranked(self, rung: int) -> Sequence[int]:
        """The trials that reached a rung, best first."""
        return ranked_by_fronts(self._values[rung])

    def _top(self, rung: int, last: bool = False) -> Sequence[int]:
        """The trials that go on, best first."""
        values = self._values[rung]
        least = in_front(values) if last or rung != self.rungs[0] else 0
        reduction = min(self._reduction, LAST_REDUCTION) if last else self._reduction
        return self._ranked(rung)[: max(least, len(values) // reduction)]

    def _standing(self, number: int, rung: int, last: bool = False) -> str:
        """`3rd of 7 at rung 3 (25 % of the budget): 2.3140; the top 2 go on`."""
        ranked = self._ranked(rung)
        match len(self._top(rung, last)):
            case 0:
                goes = f"nobody goes on among fewer than {self._reduction}"
            case 1:
                goes = "the best goes on"
            case top:
                goes = f"the top {top} go on"
        rank = ordinal(ranked.index(number) + 1)
        return f"{rank} of {len(ranked)} at {place(rung, self._evaluations)}: {measured(self._values[rung][number][0])}; {goes}"

    def _pass(self, number: int, rung: int) -> None:
        self._paused.pop(number, None)
        self._passed[number] = max(rung, self._passed.get(number, 0))


def decision_rungs(evaluations: int, spacing: int = SPACING) -> tuple[int, ...]:
    """Rungs at which decisions fall: from FIRST_DECISION of the budget, `spacing` times as far each, short of the whole.

    12 evaluations: 3 and 6. None where a whole run has but one rung from there on.
    """
    rungs = []
    rung = first_rung(evaluations)
    while rung < evaluations:
        rungs.append(rung)
        rung *= spacing
    return tuple(rungs)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def place(rung: int, evaluations: int) -> str:
    """`rung 3 (25 % of the budget)`."""
    return f"rung {rung} ({100 * rung / evaluations:.0f} % of the budget)"


def _judged(value: float, branch: float | None) -> float:
    """What a trial is ranked by; a branch that diverged is worse than all."""
    return value if branch is None else branch if math.isfinite(branch) else math.inf
