"""Whether a trial goes on after an evaluation: its pruner is asked first, then its scheduler."""

from __future__ import annotations

from collections.abc import Container, Iterable

from hpsearch.search.ledger import Ledger
from hpsearch.search.scheduling import GO_ON, Point, Release, Scheduler, Verdict
from hpsearch.search.study import Study
from hpsearch.storage.records import DecisionRecord, PointRecord, TrialRecord
from hpsearch.training.events import EvalPoint


class Judge:
    """The pruner and the scheduler of one study. Values that they see are to be minimised."""

    def __init__(self, study: Study, ledger: Ledger, scheduler: Scheduler | None) -> None:
        self._study, self._ledger, self.scheduler = study, ledger, scheduler
        self._watched = study.workload.prunable(study.objective)

    @property
    def paused(self) -> Container[int]:
        """Trials that the scheduler has set aside."""
        return self.scheduler.paused if self.scheduler else ()

    def verdict(self, record: TrialRecord, point: EvalPoint) -> Verdict:
        """What the trial does now. Also reports the evaluation to Optuna, whose samplers learn from it."""
        seen = self._seen(record.number, point.rung, point.metrics)
        if seen is None:
            return GO_ON
        pruned = self._pruned(record, point) if len(self._study.record.objectives) == 1 else ""
        verdict = self.scheduler.observe(*seen) if self.scheduler else GO_ON
        if point.iteration >= self._study.workload.last(record.config):
            return GO_ON  # It has cost all that it can; the scheduler learns from it.
        return Verdict("prune", pruned, self._study.record.pruner) if pruned else verdict

    def promote(self) -> Release | None:
        return self.scheduler.promote() if self.scheduler else None

    def drain(self) -> list[Release]:
        return self.scheduler.drain() if self.scheduler else []

    def ended(self, number: int) -> None:
        if self.scheduler:
            self.scheduler.ended(number)

    def restore(self, points: Iterable[PointRecord], decisions: Iterable[DecisionRecord], ended: Iterable[TrialRecord]) -> None:
        """Bring the scheduler to the state that is stored; decisions in the order in which they were made."""
        if self.scheduler:
            seen = (self._seen(point.trial_number, point.rung, point.metrics) for point in points)
            self.scheduler.restore(
                [point for point in seen if point is not None],
                [(decision.trial_number, decision.rung, decision.action) for decision in decisions],
                [record.number for record in ended],
            )

    def _seen(self, number: int, rung: int, metrics: dict[str, float]) -> Point | None:
        """What a trial is judged by; None where its objective is known only at the end."""
        value = metrics.get(self._study.objective) if self._watched else None
        if value is None:
            return None
        return Point(number, rung, value, metrics.get(f"branch_{self._study.objective}"))

    def _pruned(self, record: TrialRecord, point: EvalPoint) -> str:
        """Why Optuna's pruner ends the trial; empty when it goes on. Optuna reports for one objective only."""
        study, value = self._study, point.metrics[self._study.objective]
        frozen = self._ledger.report(record, point.rung, value)
        if not study.optuna.pruner.prune(study.optuna, frozen):
            return ""
        return f"{study.record.pruner} pruner at rung {point.rung} of {study.record.budget.evaluations}: {value:.4f}"
