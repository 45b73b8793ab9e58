"""Whether a trial goes on after an evaluation: its constraints and its pruner are asked first, then its scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from statistics import median
from typing import Any

from optuna.trial import TrialState

from hpsearch.scheduling.halving import decision_rungs
from hpsearch.scheduling.protocol import GO_ON, Point, Release, Scheduler, Verdict
from hpsearch.space.parameters import Fixed
from hpsearch.storage.records import DecisionRecord, EndReason, PointRecord, TrialRecord
from hpsearch.text import measured
from hpsearch.training.events import EvalPoint
from hpsearch.tuning.study import Study
from hpsearch.tuning.trial_store import Ledger
from hpsearch.workload.feasibility import broken


class Judge:
    """The pruner and the scheduler of one study. Values that they see are to be minimised."""

    def __init__(self, study: Study, ledger: Ledger, scheduler: Scheduler | None) -> None:
        self._study, self._ledger, self.scheduler = study, ledger, scheduler
        self._watched, self._costs = study.workload.judged_by(study.record.objectives)

    @property
    def paused(self) -> Container[int]:
        """Trials that the scheduler has set aside."""
        return self.scheduler.paused if self.scheduler else ()

    def verdict(self, record: TrialRecord, point: EvalPoint) -> tuple[Verdict, EndReason | None]:
        """What the trial does now, and why it ends where it is pruned. Also reports the evaluation to Optuna, whose samplers
        learn from it."""
        whole = point.iteration >= self._study.workload.last(record.config)
        slow = None if whole else broken(self._study.space, {"train_seconds": point.seconds})
        if slow is not None and slow.side == "max":  # It may yet reach a minimum.
            return Verdict("prune", f"infeasible: {slow.sentence()}", "constraint"), EndReason.INFEASIBLE
        seen = self._seen(record, point.rung, point.seconds, point.metrics)
        if seen is None:
            return GO_ON, None
        if len(self._study.record.objectives) == 1:
            pruned = self._pruned(record, point, seen.rung)
        else:
            pruned = ""
            self._remember(record, seen)
        verdict = self.scheduler.observe(*seen) if self.scheduler else GO_ON
        if whole:
            return GO_ON, None  # It has cost all that it can; the scheduler learns from it.
        if pruned:
            return Verdict("prune", pruned, self._study.record.pruner), EndReason.PRUNED_BY_PRUNER
        if verdict.action != "prune":
            return verdict, None
        return verdict, EndReason.DIVERGED if verdict.diverged else EndReason.PRUNED_BY_SCHEDULER

    def branch_rungs(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """A trial's own rungs at which it is decided about: there a WSD run is also measured after a decay."""
        # Where the schedule is searched, some trials have no trunk to branch from, and ranks would mix the two.
        if self.scheduler is None or not isinstance(self._study.space.parameters.get("lr_schedule"), Fixed):
            return ()
        evaluations, first = self._study.record.budget.evaluations, dict[int, int]()
        for own in itertools.takewhile(lambda own: self.rung(config, own) < evaluations, itertools.count(1)):
            for decided in decision_rungs(evaluations):
                if decided <= self.rung(config, own):
                    first.setdefault(decided, own)
        return tuple(first.values())

    def promote(self, *, last: bool) -> Release | None:
        return self.scheduler.promote(last=last) if self.scheduler else None

    def drain(self) -> list[Release]:
        return self.scheduler.drain() if self.scheduler else []

    def ended(self, number: int) -> None:
        if self.scheduler:
            self.scheduler.ended(number)

    def restore(
        self,
        points: Iterable[PointRecord],
        decisions: Iterable[DecisionRecord],
        ended: Iterable[TrialRecord],
        unfinished: Iterable[TrialRecord],
    ) -> None:
        """Bring the scheduler to the state that is stored; decisions in the order in which they were made."""
        if not self.scheduler:
            return
        ended = list(ended)
        records = {record.number: record for record in (*ended, *unfinished)}
        seen = (
            self._seen(records[point.trial_number], point.rung, point.seconds, point.metrics)
            for point in points
            if point.trial_number in records
        )
        self.scheduler.restore(
            [point for point in seen if point is not None],
            [(decision.trial_number, decision.rung, decision.action) for decision in decisions],
            [record.number for record in ended],
        )

    def _seen(self, record: TrialRecord, rung: int, seconds: float, metrics: Mapping[str, float]) -> Point | None:
        """What a trial is judged by; None where its objectives are known only at the end."""
        value = metrics.get(self._watched)
        if value is None:
            return None
        known = {**metrics, "train_seconds": seconds, "num_parameters": float(record.num_parameters)}
        workload = self._study.workload
        costs = tuple(known[name] if name in known else workload.flops_per_token(record.config) for name in self._costs)
        return Point(record.number, self.rung(record.config, rung), value, metrics.get(f"branch_{self._watched}"), costs)

    def _remember(self, record: TrialRecord, seen: Point) -> None:
        """What the sampler would read in Optuna's reports, which are for one objective only."""
        objectives, part = self._study.record.objectives, seen.rung / self._study.record.budget.evaluations
        whole = {
            name: value / part if name == "train_seconds" else value
            for name, value in zip(self._costs, seen.costs, strict=True)
        }
        others = {str(objectives.index(name)): value for name, value in whole.items()}
        self._ledger.remember(record, objectives.index(self._watched), seen.rung, seen.value, others)

    def rung(self, config: Mapping[str, Any], rung: int) -> int:
        """The study's rung of a trial's own."""
        return self._study.workload.rung(config, rung, self._study.record.budget.evaluations)

    def _pruned(self, record: TrialRecord, point: EvalPoint, rung: int) -> str:
        """Why Optuna's pruner ends the trial; empty when it goes on. Optuna reports for one objective only."""
        study, value = self._study, point.metrics[self._study.objective]
        frozen = self._ledger.report(record, rung, value)
        if not study.optuna.pruner.prune(study.optuna, frozen):
            return ""
        complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        there = [trial.intermediate_values[rung] for trial in complete if rung in trial.intermediate_values]
        against = f", where the median of {len(there)} complete trials is {measured(median(there))}" if there else ""
        return f"{study.record.pruner} pruner at rung {rung} of {study.record.budget.evaluations}: {measured(value)}{against}"
