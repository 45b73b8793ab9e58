"""Which trials go on at a rung, which are set aside, and which of those come back.

A scheduler decides from values alone: it knows neither Optuna nor SQL nor the clock, so the same values and decisions give the
same state again. It never kills: a trial that is not in the top part of its rung is set aside with its checkpoint, and is
promoted once enough trials that reached the rung turn out worse. What a median or a percentile has thrown away for good
while few trials were known, it can still find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.search.curves import LEAST_POINTS, Curve, chance_to_beat, predict
from hpsearch.search.fronts import in_front, no_dearer, ranked_by_fronts
from hpsearch.search.pruning import STARTUP_TRIALS, first_rung

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

LEAST_CHANCE = 0.05
"""A trial with less chance than this to beat the best may be stopped by its curve."""

Action = Literal["continue", "pause", "prune"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a running trial does after an evaluation.

    reason: one line for a person; empty where nothing was decided, which is not worth storing. decided_by: `halving`, `curve`,
    `divergence`.
    """

    action: Action
    reason: str = ""
    decided_by: str = ""

    @property
    def decided(self) -> bool:
        return bool(self.reason)


GO_ON = Verdict("continue")


@dataclass(frozen=True, slots=True)
class Release:
    """A trial that was set aside at `rung` and no longer is: it goes on, or its study ends without it."""

    number: int
    rung: int
    reason: str
    decided_by: str = "halving"


class Point(NamedTuple):
    """A stored evaluation, as `Scheduler.observe` takes it."""

    number: int
    rung: int
    value: float
    branch: float | None = None
    costs: tuple[float, ...] = ()
    """The other objectives as they are known at this evaluation, always the same ones."""


class Scheduler(Protocol):
    """Values are minimised; rungs are evaluations 1, 2, … of the same part of the budget for every trial.

    All calls come from one thread. A trial is running from its first `observe` (or from nothing at all), set aside after the
    verdict `pause` until `promote` or `drain` gives it back, and over after `ended`.
    """

    @property
    def paused(self) -> Mapping[int, int]:
        """The rung of each trial that is set aside. Only `promote` and `drain` bring it back, whoever asks."""

    def observe(
        self, number: int, rung: int, value: float, branch: float | None = None, costs: tuple[float, ...] = ()
    ) -> Verdict:
        """A running trial was evaluated: `value` on its way, `branch` after a short decay from there, if there was one.

        Trials are ranked by the branch where there is one, and with `costs` by fronts of both. Said again (a run repeats an
        evaluation after a crash), it decides no second time about a trial that was let through.
        """

    def ended(self, number: int) -> None:
        """The trial is complete, pruned or failed. What it reached still counts at its rungs."""

    def promote(self, *, last: bool = False) -> Release | None:
        """The trial that deserves a free slot before a new one starts; it is running from now on. last: no new one will."""

    def drain(self) -> list[Release]:
        """End all trials that are set aside: no new trial will come, nothing runs, and `promote` gives nothing."""

    def restore(self, points: Iterable[Point], decisions: Iterable[tuple[int, int, str]], ended: Iterable[int]) -> None:
        """Bring a new scheduler to the state that is stored.

        points: in any order. decisions: (number, rung, action) in the order they were made, `continue`,
        `pause` and `promote`; others are passed over. ended: numbers of trials that are over.
        """


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
            return Verdict("prune", f"diverged: {value} at {place(rung, self._evaluations)}", "divergence")
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
        return f"{rank} of {len(ranked)} at {place(rung, self._evaluations)}: {self._values[rung][number][0]:.4f}; {goes}"

    def _pass(self, number: int, rung: int) -> None:
        self._paused.pop(number, None)
        self._passed[number] = max(rung, self._passed.get(number, 0))


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
            f"{100 * chance:.1f} % chance to beat the best ({least:.4f}, trial {best}): "
            f"{mean:.4f} ± {sd:.4f} expected of {value:.4f} at {place(rung, self._evaluations)}"
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


SCHEDULERS = ("none", "halving", "halving_only")
"""`halving_only` has no curve model."""


def check_scheduler(name: str) -> None:
    """Raises BadInput with the nearest name."""
    if name not in SCHEDULERS:
        raise BadInput(f"unknown scheduler '{name}'{did_you_mean(name, SCHEDULERS)} ({', '.join(SCHEDULERS)})")


def make_scheduler(name: str, evaluations: int) -> Scheduler | None:
    """The scheduler of `--scheduler NAME` for trials of `evaluations` rungs; None where trials just run."""
    check_scheduler(name)
    if name == "none":
        return None
    halving = Halving(evaluations)
    return CurveStopper(halving, evaluations) if name == "halving" else halving
