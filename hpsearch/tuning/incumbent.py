"""How a study stands: its best trials, what all have cost, and whether one more is worth it."""

from __future__ import annotations

import math
from collections.abc import Collection

from hpsearch.sampling.auto import evidence
from hpsearch.scheduling.pareto import no_dearer
from hpsearch.storage.records import TrialRecord, TrialState
from hpsearch.tuning.expected_improvement import IN_A_ROW, not_worth_it
from hpsearch.tuning.stopping import Limits, Spent
from hpsearch.tuning.study import Study
from hpsearch.tuning.trial_store import Recovered


class Standing:
    """Follows one study from trial to trial. The rules that end it early are those of `limits`."""

    def __init__(self, study: Study, limits: Limits) -> None:
        self._study, self._limits = study, limits
        self.spent = Spent()
        self.best: TrialRecord | None = None
        """The best complete trial by the first objective, of equal ones the first."""
        self.enough = ""
        """Why no new trial is worth it; those that run end."""
        self._front: list[tuple[float, ...]] = []
        """What no other complete trial is as good as, in all objectives; with one of them, the best value."""
        self._enough_before = 0
        """Trials that had ended when that was said and a larger total was asked for nevertheless: it is judged anew."""
        self._asked_at = 0

    def count(self, record: TrialRecord) -> None:
        """A trial ended."""
        values = record.values if record.state is TrialState.COMPLETE and record.feasible else None
        better = values is not None and math.isfinite(sum(values)) and not any(no_dearer(each, values) for each in self._front)
        if values is not None and better:
            self._front = [*(each for each in self._front if not no_dearer(values, each)), values]
            if self.best is None or self.best.values is None or values[0] < self.best.values[0]:
                self.best = record
        self.spent.add(record, better=better)

    def restore(self, found: Recovered, aside: Collection[int], enough_before: int) -> None:
        """Count what an earlier coordinator left. aside: trials that the scheduler has paused."""
        self._enough_before = enough_before
        best_at = 0.0
        for record in found.ended:
            self.count(record)
            if not self.spent.worse:
                best_at = record.ended_at or 0.0
            if self.spent.ended == enough_before:
                self.spent.worse.clear()
        paused_at = {decision.trial_number: decision.at for decision in found.decisions if decision.action == "pause"}
        for number in aside:
            if paused_at.get(number, 0.0) > best_at:
                self.spent.set_aside(number)

    def enough_now(self) -> str:
        """Why no new trial is worth it, when that is found out; empty before and after."""
        if self.enough:
            return ""
        self.enough = self._limits.patience_over(self.spent) or self._gain_over()
        return self.enough

    def _gain_over(self) -> str:
        """The same by what is expected of a new trial; asked once after each end or pause."""
        limit, spent = self._limits.min_gain, self.spent
        asked_anew = spent.judged > self._asked_at and spent.ended >= self._enough_before + IN_A_ROW
        if limit is None or self.best is None or not asked_anew:
            return ""
        self._asked_at = spent.judged
        return not_worth_it(evidence(self._study.optuna, None), self._study.space, limit)
