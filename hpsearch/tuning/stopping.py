"""When a study has cost enough, and when more trials are not worth it. All limits are totals over all runs of the study."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpsearch.storage.records import TrialRecord, TrialState
from hpsearch.tuning.expected_improvement import MinGain


@dataclass
class Spent:
    """What a study has cost so far, and since when it has found nothing better."""

    flops: float = 0.0
    """Of ended trials."""
    seconds: float = 0.0
    """In slots, of ended trials."""
    wall_s: float = 0.0
    """While at least one trial ran, in earlier runs of the study."""
    whole: int = 0
    """Trials that were trained to their end."""
    whole_flops: float = 0.0
    whole_seconds: float = 0.0
    ended: int = 0
    """Trials."""
    judged: int = 0
    """Times that a trial ended or was set aside."""
    found: bool = False
    """Whether any trial was the best."""
    worse: set[int] = field(default_factory=set)
    """Trials that ended, complete or pruned, or were set aside since the best one."""
    began: float = field(default_factory=time.monotonic)

    def add(self, record: TrialRecord, *, better: bool) -> None:
        """A trial ended."""
        self.ended += 1
        self.judged += 1
        self.flops += record.flops
        self.seconds += record.seconds
        if record.state is TrialState.COMPLETE:
            self.whole += 1
            self.whole_flops += record.flops
            self.whole_seconds += record.seconds
        if better:
            self.found = True
            self.worse.clear()
        elif record.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.worse.add(record.number)

    def set_aside(self, number: int) -> None:
        """A trial was set aside: it may come back, but is no better for now. While there is no best, nothing is."""
        self.judged += 1
        if self.found:
            self.worse.add(number)


@dataclass(frozen=True)
class Cost:
    flops: float
    seconds: float
    """In slots."""
    wall_s: float


@dataclass(frozen=True)
class Reached:
    """A limit of cost that is reached."""

    option: str
    """That set it."""
    reason: str
    """Why nothing goes on, in a sentence."""


@dataclass(frozen=True)
class Limits:
    """What a person is ready to spend; infinite where nothing was said.

    patience: trials that end or are set aside one after another without a better one before no new one starts. min_gain: the
    least expected improvement for which one does. retrainings: how many a confirmation within the same limits will do, in
    `slots` slots: the search leaves them what as many whole trials have cost, but never more than half.
    """

    timeout_s: float = math.inf
    flops: float = math.inf
    slot_hours: float = math.inf
    patience: float = math.inf
    min_gain: MinGain | None = None
    retrainings: int = 0
    slots: int = 1

    def reached(self, spent: Spent, unfinished: Iterable[TrialRecord]) -> Reached | None:
        """The limit of cost that a search has reached; None while none is. unfinished: trials that have not ended."""
        flops, seconds = spent.flops, spent.seconds
        for record in unfinished:
            flops, seconds = flops + record.flops, seconds + record.seconds
        wall_s = spent.wall_s + time.monotonic() - spent.began
        # Trials cost more of the clock than they train: evaluations, checkpoints, the sampler's part.
        pace = max(1.0, wall_s * self.slots / seconds) if seconds else 1.0
        whole = max(1, spent.whole)
        kept = Cost(
            self.retrainings * spent.whole_flops / whole,
            self.retrainings * spent.whole_seconds / whole,
            math.ceil(self.retrainings / self.slots) * spent.whole_seconds / whole * pace,
        )
        return self.reached_by(Cost(flops, seconds, wall_s), kept)

    def reached_by(self, cost: Cost, kept: Cost | None = None) -> Reached | None:
        """The limit that a cost in all has reached. kept: what is not to be spent yet."""
        kept = kept or Cost(0.0, 0.0, 0.0)
        but = ", but for the confirmation's part of it" if kept.seconds else ""
        if cost.wall_s > _less(self.timeout_s, kept.wall_s):
            return Reached("--timeout", f"the time limit was reached{but}")
        if cost.flops >= _less(self.flops, kept.flops):
            return Reached("--budget-flops", f"the compute budget of {self.flops:.3g} FLOPs is spent{but}")
        if cost.seconds >= _less(self.slot_hours * 3600, kept.seconds):
            return Reached("--budget-hours", f"the budget of {self.slot_hours:g} slot-hours is spent{but}")
        return None

    def patience_over(self, spent: Spent) -> str:
        """Why no new trial is worth it; empty while one is."""
        if len(spent.worse) >= self.patience:
            return f"no better trial among the last {len(spent.worse)} (--patience {self.patience:.0f})"
        return ""


def _less(limit: float, kept: float) -> float:
    return max(limit / 2, limit - kept)
