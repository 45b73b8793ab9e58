"""What a scheduler sees and answers: points, verdicts, promotions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Action = Literal["continue", "pause", "prune"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a running trial does after an evaluation.

    reason: one line for a person; empty where nothing was decided, which is not worth storing. decided_by: `halving`, `curve`,
    `divergence`. diverged: it is pruned because a value was not finite.
    """

    action: Action
    reason: str = ""
    decided_by: str = ""
    diverged: bool = False

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
