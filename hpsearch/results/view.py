"""One study as every reader sees it: the terminal, the page, the exports. Records in, plain values out.

`hpsearch status` answers from here in a blink, so nothing heavier than the records is imported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from operator import le
from typing import TYPE_CHECKING, Any, Protocol

from hpsearch.errors import BadInput
from hpsearch.results.formatting import finite, in_few_words, jsonable, told_range
from hpsearch.results.verdict import Verdict, judge, verdict_dict
from hpsearch.storage.records import (
    AttemptRecord,
    ConfirmationRecord,
    DecisionRecord,
    PointRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
)

if TYPE_CHECKING:
    from hpsearch.space.space import SearchSpace

_CURVE_METRICS = ("val_bpb", "val_masked_bpb", "val_loss")


class Reads(Protocol):
    """What a view needs of the store."""

    def trials(self, study_id: int, /) -> Sequence[TrialRecord]: ...
    def points(self, study_id: int, /) -> Sequence[PointRecord]: ...
    def attempts(self, study_id: int, /) -> Sequence[AttemptRecord]: ...
    def decisions(self, study_id: int, /) -> Sequence[DecisionRecord]: ...
    def confirmations(self, study_id: int, /) -> Sequence[ConfirmationRecord]: ...


class Outlines(Protocol):
    """What the view of a summary needs of the store."""

    def outlines(self, study_id: int, /) -> list[TrialRecord]: ...
    def trial(self, study_id: int, number: int, /) -> TrialRecord: ...
    def confirmations(self, study_id: int, /) -> Sequence[ConfirmationRecord]: ...


@dataclass(frozen=True, slots=True)
class Scale:
    """How a searched parameter was searched."""

    log: bool = False
    choices: tuple[Any, ...] | None = None
    """In the order of the space; None where it is a range of numbers."""
    told: str = ""
    """The range or the choices, for people."""
    when: str = ""
    """The condition on which a configuration has it; empty where all have."""


@dataclass(frozen=True)
class StudyView:
    """A study and all that is known of its trials, at one moment."""

    study: StudyRecord
    trials: list[TrialRecord]
    points: list[PointRecord] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    confirmations: list[ConfirmationRecord] = field(default_factory=list)

    @classmethod
    def load(cls, store: Reads, study: StudyRecord, *, curves: bool = True) -> StudyView:
        """The study as the store has it now. Without `curves` only what a summary needs is read: trials and confirmations."""
        trials = sorted(store.trials(study.id), key=lambda trial: trial.number)
        confirmed = list(store.confirmations(study.id))
        if not curves:
            return cls(study, trials, confirmations=confirmed)
        points, attempts, decisions = store.points(study.id), store.attempts(study.id), store.decisions(study.id)
        return cls(study, trials, list(points), list(attempts), list(decisions), confirmed)

    @classmethod
    def summary(cls, store: Outlines, study: StudyRecord) -> StudyView:
        """Counts, values and costs of all trials, and the whole of the best and of trial 0: in a blink for thousands too."""
        outline = cls(study, store.outlines(study.id), confirmations=list(store.confirmations(study.id)))
        whole = {trial.number: store.trial(study.id, trial.number) for trial in (outline.best, outline.baseline) if trial}
        return replace(outline, trials=[whole.get(trial.number, trial) for trial in outline.trials])

    @property
    def objective(self) -> str:
        """The first objective: the one that trials are ranked by."""
        return self.study.objectives[0]

    @property
    def unit(self) -> str:
        return self.study.unit(self.objective)

    @cached_property
    def by_number(self) -> dict[int, TrialRecord]:
        return {trial.number: trial for trial in self.trials}

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The trials that may be best, best first: complete, feasible, with a finite value. Ties go to the earlier one."""
        return sorted(filter(succeeded, self.trials), key=lambda trial: (trial.value, trial.number))

    @property
    def best(self) -> TrialRecord | None:
        return self.ranked[0] if self.ranked else None

    @cached_property
    def front(self) -> list[TrialRecord]:
        """The Pareto front, best first objective first: no other trial that may be best is as good in all objectives and better
        in one. With one objective, the best."""
        whole = [trial for trial in self.ranked if trial.values and all(map(math.isfinite, trial.values))]
        return undominated(whole, lambda trial: trial.values or ())

    @cached_property
    def verdict(self) -> Verdict | None:
        """What fresh seeds say of the best; None where nothing was confirmed."""
        if self.best is None:
            return None
        return judge(self.by_number, self.confirmations, self.objective, self.best.number)

    @property
    def baseline(self) -> TrialRecord | None:
        """Trial 0: the priors' configuration."""
        return self.by_number.get(0)

    @property
    def gain(self) -> float | None:
        """How much lower the best value is than the baseline's, as a share of it; None while one is unknown."""
        if self.best is None or self.baseline is None or not succeeded(self.baseline):
            return None
        best, baseline = self.best.value, self.baseline.value
        return (baseline - best) / abs(baseline) if best is not None and baseline else None

    @cached_property
    def counts(self) -> dict[TrialState, int]:
        """Trials by state, every state present."""
        counted = Counter(trial.state for trial in self.trials)
        return {state: counted[state] for state in TrialState}

    @cached_property
    def few_words(self) -> dict[int, list[str]]:
        """`in_few_words` of each trial."""
        return {trial.number: in_few_words(trial, self.baseline) for trial in self.trials}

    @cached_property
    def curve_metric(self) -> str:
        """The metric of the learning curves: the objective where it is known while training, else the nearest loss."""
        measured = {name for point in self.points for name in point.metrics}
        return next((name for name in (self.objective, *_CURVE_METRICS) if name in measured), self.objective)

    @cached_property
    def _curves(self) -> dict[int, list[PointRecord]]:
        curves: dict[int, list[PointRecord]] = {}
        for point in sorted(self.points, key=lambda point: (point.trial_number, point.rung)):
            curves.setdefault(point.trial_number, []).append(point)
        return curves

    def curve(self, number: int) -> list[PointRecord]:
        """The evaluations of one trial in the order of their rungs; empty while there is none."""
        return self._curves.get(number, [])

    def reached(self, trial: TrialRecord) -> float | None:
        """The trial's finite value, else its last finite one on the learning curve, else None."""
        return self._reached[trial.number]

    @cached_property
    def _reached(self) -> dict[int, float | None]:
        return {trial.number: self._last(trial) for trial in self.trials}

    def _last(self, trial: TrialRecord) -> float | None:
        if finite(trial.value):
            return trial.value
        if self.curve_metric != self.objective:
            return None
        values = [point.metrics.get(self.objective) for point in self.curve(trial.number)]
        return next((value for value in reversed(values) if finite(value)), None)

    def best_so_far(self) -> list[tuple[int, float]]:
        """(trial number, lowest value up to it) at each trial that may be best, in the order of the numbers."""
        steps: list[tuple[int, float]] = []
        for trial in sorted(self.ranked, key=lambda trial: trial.number):
            assert trial.value is not None
            steps.append((trial.number, min(trial.value, steps[-1][1]) if steps else trial.value))
        return steps

    def pick(self, number: int | None = None) -> TrialRecord:
        """Trial `number`, or the best one. Raises BadInput where there is no such trial."""
        name = self.study.name
        if number is None:
            if self.best is None:
                raise BadInput(f"study '{name}' has no complete trial yet; see `hpsearch trials --study {name}`")
            return self.best
        if number not in self.by_number:
            held = f"its trials are 0 to {max(self.by_number)}" if self.by_number else "it has none yet"
            raise BadInput(f"study '{name}' has no trial {number}; {held}")
        return self.by_number[number]


def axes(space: SearchSpace) -> dict[str, Scale]:
    """How each searched parameter was searched, for the figures' axes."""
    from hpsearch.space.parameters import Choices

    return {
        parameter.name: Scale(
            log=not isinstance(parameter, Choices) and parameter.log,
            choices=parameter.choices if isinstance(parameter, Choices) else None,
            told=told_range(parameter),
            when=parameter.when.text if parameter.when else "",
        )
        for parameter in space.searched
    }


def succeeded(trial: TrialRecord) -> bool:
    """Whether the trial may be best."""
    return trial.state is TrialState.COMPLETE and finite(trial.value) and trial.feasible


def undominated(trials: Iterable[TrialRecord], measures: Callable[[TrialRecord], tuple[float, ...]]) -> list[TrialRecord]:
    """Of `trials` those that no other one matches in all of `measures` (less is better) and beats in one; of equal ones the
    first. In the order of the measures."""
    kept: list[tuple[tuple[float, ...], TrialRecord]] = []
    for trial in sorted(trials, key=lambda trial: (measures(trial), trial.number)):
        # Whatever dominates a trial comes before it in this order.
        values = measures(trial)
        if not any(all(map(le, other, values)) for other, _ in kept):
            kept.append((values, trial))
    return [trial for _, trial in kept]


def trial_dict(trial: TrialRecord) -> dict[str, Any]:
    """One trial as documented JSON. A number that is not finite becomes null, as JSON has no other way."""
    facts: dict[str, Any] = jsonable(
        {
            "number": trial.number,
            "state": trial.state.value,
            "value": trial.value,
            "values": trial.values,
            "metrics": trial.metrics,
            "params": trial.params,
            "config": trial.config,
            "num_parameters": trial.num_parameters,
            "rung": trial.rung,
            "iteration": trial.iteration,
            "tokens": trial.tokens,
            "flops": trial.flops,
            "seconds": trial.seconds,
            "reason": trial.reason,
            "end_reason": trial.end_reason,
            "pause_kind": trial.pause_kind,
            "proposed_by": trial.proposed_by,
            "attempts": trial.attempts,
            "started_at": trial.started_at,
            "ended_at": trial.ended_at,
            "sample": trial.sample,
        }
    )
    return facts


def status_dict(view: StudyView) -> dict[str, Any]:
    """The study as documented JSON: what was asked, how far it is, the best and the baseline."""
    study = view.study
    facts: dict[str, Any] = jsonable(
        {
            "study": study.name,
            "id": study.id,
            "folder": study.folder,
            "objectives": study.objectives,
            "unit": view.unit,
            "finished": bool(study.finished_reason),
            "finished_reason": study.finished_reason,
            "trials": {
                "target": study.trials_target,
                "total": len(view.trials),
                **{state.value: count for state, count in view.counts.items()},
            },
            "best": trial_dict(view.best) if view.best else None,
            "baseline": trial_dict(view.baseline) if view.baseline else None,
            "gain": view.gain,
            "front": [trial.number for trial in view.front],
            "confirmation": verdict_dict(view.verdict) if view.verdict else None,
            "forecast": study.extras.get("forecast"),
            "earlier": [
                {"taken": len(each["trials"])} | {key: value for key, value in each.items() if key != "trials"}
                for each in study.extras.get("earlier", [])
            ],
            "spent": {
                "seconds": sum(trial.seconds for trial in view.trials),
                "tokens": sum(trial.tokens for trial in view.trials),
                "flops": sum(trial.flops for trial in view.trials),
            },
            "budget": asdict(study.budget),
            "data": study.data,
            "data_fingerprint": study.data_fingerprint,
            "space_digest": study.space_digest,
            "sampler": study.sampler,
            "pruner": study.pruner,
            "scheduler": study.scheduler,
            "seed": study.seed,
            "versions": study.versions,
            "host": study.host,
            "device": study.device,
            "threads": study.threads,
            "created_at": study.created_at,
        }
    )
    return facts
