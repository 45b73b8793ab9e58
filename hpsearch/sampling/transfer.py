"""Trials of earlier studies as a sampler sees them beside those of its own study.

Values of the same measure (same text, same budget) stand as they are. Others say only how their configurations compare with
each other. The rank within their study becomes a normal score (Salinas et al., "A Quantile-based Approach for Hyperparameter
Transfer Learning", arXiv:1909.13595), and the scores are brought to the study's own scale by what they predict for its own
trials: where they predict badly, they are not shown. The fewer of them are the more trials the study has of its own, for what
is best at one budget or on one text is not quite what is best at another (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.objectives import OBJECTIVES
from hpsearch.sampling.gp import F64, Surrogate, winsorised
from hpsearch.sampling.warm_start import EarlierStudy, EarlierTrial, spread_over_ranks
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import StudyRecord

RANKED = 64
"""Trials that are shown by rank, of all earlier studies together, while the study has few of its own."""
OWN = 8
"""Trials of its own from which on they become fewer: RANKED * OWN / trials."""
LEAST = 3
"""Trials of a study from which on a rank in it says something."""
SLOPE_WEIGHT = 4
"""Own trials that the earlier study's relative spread counts for in the scale of its scores."""
JUDGED = 6
"""Own trials from which on an earlier study is judged by what it predicts for them."""
AGREEMENT = 0.2
"""Correlation of what it predicts with what came, below which it is not shown."""
FIRST = 3
"""Best configurations of earlier studies that are trained here right after the baseline; one of a study of the same measure,
whose value is known."""
WITHIN = -0.1
"""How far within a constraint of the study an earlier trial, which was taken because it fits, is said to be."""


class Knowledge:
    """What earlier studies tell the sampler of one study.

    record: the study as it is now; its budget may be measured after the sampler is made.
    """

    def __init__(self, studies: Sequence[EarlierStudy], record: Callable[[], StudyRecord], space: SearchSpace) -> None:
        self._studies, self._record, self._space = studies, record, space
        self._distributions = space.distributions()
        self._predictions: dict[str, Surrogate] = {}

    def first(self) -> list[dict[str, Any]]:
        """Configurations to be trained right after the baseline, the best of each study before the second best of one."""
        study: StudyRecord = self._record()
        ranked = [
            sorted((trial for trial in each.trials if trial.complete), key=lambda trial: trial.values[0])[
                : FIRST if each.differs(study) else 1
            ]
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
                trials = self._scaled(each, complete) if share and len(trials) >= LEAST else []
                trials = spread_over_ranks(trials, share) if trials else []
            shown += [self._frozen(trial, constraints) for trial in trials if trial.params not in ended]
        return shown

    def _scaled(self, earlier: EarlierStudy, complete: Sequence[FrozenTrial]) -> list[EarlierTrial]:
        """Its trials on the scale of the study's own; none where they do not agree with these."""
        columns: list[Sequence[float]] = []
        for index, name in enumerate(self._record().objectives):
            theirs = [trial.values[index] for trial in earlier.trials]
            if OBJECTIVES[name].known == "before training" or not complete:
                columns.append(theirs)
                continue
            scores = normal_scores(theirs)
            model = self._prediction(earlier, index, scores)
            predicted_N, _ = model.predict([trial.params for trial in complete])
            line = fitted_line(predicted_N, [trial.values[index] for trial in complete], relative_spread(theirs))
            if line is None:
                return []
            columns.append(list(line[0] + line[1] * scores))
        return [
            replace(trial, values=[float(value) for value in values])
            for trial, *values in zip(earlier.trials, *columns, strict=True)
        ]

    def _prediction(self, earlier: EarlierStudy, index: int, scores: F64) -> Surrogate:
        key = f"{index} {earlier.digest} {earlier.label}"
        if key not in self._predictions:
            self._predictions[key] = Surrogate(self._space, [trial.params for trial in earlier.trials], list(scores))
        return self._predictions[key]

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


def normal_scores(values: Sequence[float]) -> F64:
    """The quantile of each value among all of them, as that of a standard normal distribution."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    quantile = NormalDist().inv_cdf
    return np.array([quantile((place + 0.5) / len(values)) for place in order])


def relative_spread(values: Sequence[float]) -> float:
    """Standard deviation as a share of the middle, from the quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float((high - low) / 1.349 / abs(middle)) if middle else 0.0


def fitted_line(predicted_N: F64, values: Sequence[float], spread: float) -> tuple[float, float] | None:
    """Offset and slope that bring scores to the scale of `values`; None where the two do not agree.

    predicted_N: scores that an earlier study predicts for the trials with these values. spread: relative one of its own
    values, which the slope is held to while there are few.
    """
    y_N = winsorised(values)
    off_N, up_N = predicted_N - predicted_N.mean(), y_N - y_N.mean()
    squares, product = float(off_N @ off_N), float(off_N @ up_N)
    if len(y_N) >= JUDGED:
        size = math.sqrt(squares * float(up_N @ up_N))
        if size > 0 and product / size < AGREEMENT:
            return None
    slope = max(0.0, (product + SLOPE_WEIGHT * spread * abs(float(np.median(y_N)))) / (squares + SLOPE_WEIGHT))
    return float(y_N.mean() - slope * predicted_N.mean()), slope
