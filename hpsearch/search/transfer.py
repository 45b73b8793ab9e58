"""Trials of earlier studies as a sampler sees them beside those of its own study.

Values of the same measure (same text, same budget) stand as they are. Others say only how their configurations compare with
each other: the rank within their study becomes a normal score (a Gaussian copula; Salinas et al., "A Quantile-based Approach
for Hyperparameter Transfer Learning", arXiv:1909.13595), laid over the middle and the spread of the study's own values. The
fewer of these are shown the more trials the study has of its own, for what is best at one budget or on one text is not quite
what is best at another (docs/method.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.special import ndtri

from hpsearch.objectives import OBJECTIVES
from hpsearch.search.earlier import EarlierStudy, EarlierTrial, spread_over_ranks
from hpsearch.storage.records import StudyRecord

RANKED = 64
"""Trials that are shown by rank, of all earlier studies together, while the study has few of its own."""
OWN = 8
"""Trials of its own from which on they become fewer: RANKED * OWN / trials."""
LEAST = 3
"""Trials of a study from which on a rank in it says something."""
SPREAD_WEIGHT = 4
"""Trials that the spread of an earlier study counts for beside the study's own."""
FIRST = 3
"""Best configurations of earlier studies that are trained here right after the baseline; one of a study of the same measure,
whose value is known."""
WITHIN = -0.1
"""How far within a constraint of the study an earlier trial, which was taken because it fits, is said to be."""
QUARTILES = 1.349
"""Standard deviations between the quartiles of a normal distribution."""


class Knowledge:
    """What earlier studies tell the sampler of one study.

    record: the study as it is now; its budget may be measured after the sampler is made.
    """

    def __init__(
        self, studies: Sequence[EarlierStudy], record: Callable[[], StudyRecord], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        self._studies, self._record, self._distributions = studies, record, distributions

    def first(self) -> list[dict[str, Any]]:
        """Configurations to be trained right after the baseline, the best of each study before the second best of one."""
        study: StudyRecord = self._record()
        ranked = [
            sorted(each.trials, key=lambda trial: trial.values[0])[: FIRST if each.differs(study) else 1]
            for each in self._studies
        ]
        chosen: list[dict[str, Any]] = []
        for place in range(FIRST):
            for best in ranked:
                if place < len(best) and best[place].params not in chosen:
                    chosen.append(best[place].params)
        return chosen[:FIRST]

    def trials(self, own: Sequence[FrozenTrial], constraints: Mapping[str, float] | None = None) -> list[FrozenTrial]:
        """Complete trials to show before the study's own, on the scale of their values.

        own: all trials of the study. A configuration that the study has a result of is left to that result. constraints: what
        the trials are to have as theirs, none of them broken.
        """
        study: StudyRecord = self._record()
        complete = [trial for trial in own if trial.state is TrialState.COMPLETE]
        ended = [trial.params for trial in own if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        told = sum(trial.state is not TrialState.WAITING for trial in own)
        ranked = [each for each in self._studies if each.differs(study)]
        share = RANKED * OWN // max(OWN, told) // max(1, len(ranked))
        shown: list[FrozenTrial] = []
        for each in self._studies:
            trials = each.trials
            if each in ranked:
                trials = _scaled(trials, [trial.values for trial in complete], study.objectives) if len(trials) >= LEAST else []
                trials = spread_over_ranks(trials, share) if share else []
            shown += [self._frozen(trial, constraints) for trial in trials if trial.params not in ended]
        return shown

    def _frozen(self, trial: EarlierTrial, constraints: Mapping[str, float] | None) -> FrozenTrial:
        return create_trial(
            state=TrialState.COMPLETE,
            values=trial.values,
            params=trial.params,
            distributions={name: self._distributions[name] for name in trial.params},
            constraints=dict(constraints) if constraints else None,
        )

    def beside(self, study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
        """A study in memory in which Optuna's own samplers see both, and a trial of it to propose for."""
        own = [
            each
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number and each.state is not TrialState.WAITING and each.params
        ]
        derived = optuna.create_study(directions=study.directions, sampler=optuna.samplers.RandomSampler(seed=0))
        # Optuna wants the same constraints of all.
        constraints = dict.fromkeys((name for each in own for name in each.constraints), WITHIN)
        derived.add_trials([*self.trials(own, constraints), *own])
        return derived, derived._storage.get_trial(derived.ask()._trial_id)


def _scaled(trials: Sequence[EarlierTrial], own: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[EarlierTrial]:
    columns = []
    for index, name in enumerate(objectives):
        theirs = [trial.values[index] for trial in trials]
        exact = OBJECTIVES[name].known == "before training"
        columns.append(theirs if exact else by_rank(theirs, [values[index] for values in own]))
    return [EarlierTrial(trial.params, list(values)) for trial, values in zip(trials, zip(*columns, strict=True), strict=True)]


def by_rank(theirs: Sequence[float], own: Sequence[float]) -> list[float]:
    """Values of another measure on the scale of `own`: normal scores of their ranks, around the median of `own`.

    The spread is that of the quartiles of `own`, held for SPREAD_WEIGHT trials to the relative spread of `theirs`. With no
    value in `own` there is no scale to bring them to, and they stay.
    """
    if not own:
        return list(theirs)
    order = np.argsort(np.argsort(theirs, kind="stable"), kind="stable")
    scores = ndtri((order + 0.5) / len(theirs))
    middle, their_middle = statistics.median(own), statistics.median(theirs)
    scale = abs(middle / their_middle) if their_middle else 1.0
    squares = SPREAD_WEIGHT * (scale * _deviation(theirs)) ** 2 + (len(own) - 1) * _deviation(own) ** 2
    spread = (squares / (SPREAD_WEIGHT + len(own) - 1)) ** 0.5
    return [float(middle + spread * score) for score in scores]


def _deviation(values: Sequence[float]) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / QUARTILES
