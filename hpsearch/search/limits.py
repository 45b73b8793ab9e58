"""When a study has cost enough, and when more trials are not worth it. All limits are totals over all runs of the study."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpsearch.search.gain import MinGain
from hpsearch.storage.records import TrialRecord, TrialState


@dataclass
class Spent:
    """What a study has cost so far, and since when it has found nothing better."""

    flops: float = 0.0
    """Of ended trials."""
    seconds: float = 0.0
    """In slots, of ended trials."""
    wall_s: float = 0.0
    """While at least one trial ran, in earlier runs of the study."""
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
    least expected improvement for which one does.
    """

    timeout_s: float = math.inf
    flops: float = math.inf
    slot_hours: float = math.inf
    patience: float = math.inf
    min_gain: MinGain | None = None

    def reached(self, spent: Spent, unfinished: Iterable[TrialRecord]) -> Reached | None:
        """The limit of cost that is reached; None while none is. unfinished: trials that have not ended."""
        if spent.wall_s + time.monotonic() - spent.began > self.timeout_s:
            return Reached("--timeout", "the time limit was reached")
        flops, seconds = spent.flops, spent.seconds
        for record in unfinished:
            flops, seconds = flops + record.flops, seconds + record.seconds
        if flops >= self.flops:
            return Reached("--budget-flops", f"the compute budget of {self.flops:.3g} FLOPs is spent")
        if seconds >= self.slot_hours * 3600:
            return Reached("--budget-hours", f"the budget of {self.slot_hours:g} slot-hours is spent")
        return None

    def patience_over(self, spent: Spent) -> str:
        """Why no new trial is worth it; empty while one is."""
        if len(spent.worse) >= self.patience:
            return f"no better trial among the last {len(spent.worse)} (--patience {self.patience:.0f})"
        return ""
