"""Which parameters decided, and how sure that is."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hpsearch.report import style
from hpsearch.report.plotting import empty, new_figure
from hpsearch.results.view import StudyView
from hpsearch.space.distributions import distribution
from hpsearch.storage.records import TrialState

if TYPE_CHECKING:
    from hpsearch.space.space import SearchSpace

MIN_TRIALS = 10
"""Complete trials below which importances are noise: PED-ANOVA compares the best five with all."""
RESAMPLINGS = 16
DRAWN = 1000
"""Trials of a resampling, at most."""
SHOWN = 20
"""Bars of the figure."""


@dataclass(frozen=True, slots=True)
class Importance:
    share: float
    low: float
    high: float
    """10 % and 90 % quantiles of the share over resampled trials."""


def importance_of(study: optuna.Study, searched: Iterable[str]) -> dict[str, Importance]:
    """Share of each searched parameter, most first, in reaching the best tenth of the complete trials.

    PED-ANOVA (arXiv 2304.10255), in the form for conditional parameters (arXiv 2601.20800): quick, deterministic, and fair
    to a parameter that only some trials have. Its uncertainty is a bootstrap's: the same on trials drawn anew with
    replacement. Of several objectives the first counts. Empty below MIN_TRIALS.
    """
    complete = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
    complete = [trial for trial in complete if trial.values and math.isfinite(trial.values[0])]
    seen = {name for trial in complete for name in trial.distributions}
    names = [name for name in searched if name in seen]
    if len(complete) < MIN_TRIALS or not names:
        return {}
    complete = _told_by_identity(complete)
    shares = _shares(study, names, complete)
    draw = random.Random(0)
    size = min(len(complete), DRAWN)
    drawn = [_shares(study, names, draw.choices(complete, k=size)) for _ in range(RESAMPLINGS)]
    found = {}
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        spread = sorted(each.get(name, 0.0) for each in drawn)
        if size < len(complete):  # Fewer trials spread more, by the root of how many fewer, and each share is a little higher.
            narrower = math.sqrt(size / len(complete))
            spread = [max(0.0, share + narrower * (each - median(spread))) for each in spread]
        tenth = RESAMPLINGS // 10
        found[name] = Importance(share, min(share, spread[tenth]), max(share, spread[-1 - tenth]))
    return found


def importances(view: StudyView, importance: Mapping[str, Importance]) -> go.Figure:
    """Bars of `importance_of` with their uncertainty."""
    top = dict(list(importance.items())[:SHOWN])
    title = _headline(top) if top else "Which parameters matter most is not known yet"
    figure = new_figure(title, x="share of importance (%)", y="")
    if not top:
        complete = len(view.ranked)
        return empty(figure, f"needs {MIN_TRIALS} complete trials; there {'is' if complete == 1 else 'are'} {complete}")
    names, shares = list(top), [100 * each.share for each in top.values()]
    figure.add_trace(
        go.Bar(
            x=shares,
            y=names,
            orientation="h",
            marker={"color": style.BLUE},
            error_x={
                "type": "data",
                "array": [100 * (each.high - each.share) for each in top.values()],
                "arrayminus": [100 * (each.share - each.low) for each in top.values()],
                "color": style.GREY,
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[f"{100 * each.low:.0f} to {100 * each.high:.0f} %" for each in top.values()],
            hovertemplate="%{y}: %{x:.1f} % (%{customdata} on resampled trials)<extra></extra>",
        )
    )
    figure.update_xaxes(range=[0, 105 * max(each.high for each in top.values())])
    figure.update_yaxes(autorange="reversed", ticks="")
    figure.update_layout(height=110 + 26 * len(names), bargap=0.3)
    return figure


def _headline(top: Mapping[str, Importance]) -> str:
    first, *others = top
    rivals = [name for name in others if top[name].high > top[first].low]
    if not rivals:
        return f"{first} decides most whether a trial is among the best"
    return f"{first} seems to decide most; the trials do not tell it from {_listed(rivals)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other{'s' if len(names) > 2 else ''}"


def _shares(study: optuna.Study, names: Sequence[str], trials: Sequence[FrozenTrial]) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # with scikit-learn: a second

    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(trials)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna explains what a target and a rare conditional parameter mean; we say so.
        held = {name for trial in trials for name in trial.distributions}
        return get_param_importances(
            _Drawn(trials, study.directions),
            evaluator=evaluator,
            params=[name for name in names if name in held],
            target=lambda trial: trial.values[0],
        )


def _told_by_identity(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials with one object for each distribution, equal to itself alone.

    Optuna looks up each trial's distribution of each parameter, by all that is in it, which took most of the time.
    """
    kinds: dict[type, type] = {}
    kept: dict[BaseDistribution, BaseDistribution] = {}

    def one(distribution: BaseDistribution) -> BaseDistribution:
        if distribution not in kept:
            kind = type(distribution)
            if kind not in kinds:
                kinds[kind] = type(kind.__name__, (kind,), {"__eq__": object.__eq__, "__hash__": object.__hash__})
            kept[distribution] = copy.copy(distribution)
            kept[distribution].__class__ = kinds[kind]
        return kept[distribution]

    found = []
    for trial in trials:
        found.append(copy.copy(trial))
        found[-1].distributions = {name: one(each) for name, each in trial.distributions.items()}
    return found


def study_of(view: StudyView, space: SearchSpace) -> optuna.Study:
    """Optuna's side of a study as far as importances need it: its complete trials, from our own records of them.

    Optuna's own records of thousands of trials would take seconds and a hundred megabytes to read.
    """
    distributions = {parameter.name: distribution(parameter) for parameter in space.searched}
    trials = []
    for trial in view.trials:
        if trial.state is not TrialState.COMPLETE or not trial.values:
            continue
        params = {name: value for name, value in trial.params.items() if _held(distributions.get(name), value)}
        trials.append(
            FrozenTrial(
                number=trial.number,
                state=OptunaState.COMPLETE,
                value=None,
                values=list(trial.values),
                datetime_start=datetime.fromtimestamp(trial.started_at or 0),
                datetime_complete=datetime.fromtimestamp(trial.ended_at or 0),
                params=params,
                distributions={name: distributions[name] for name in params},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=trial.number,
            )
        )
    return _Drawn(trials, [StudyDirection.MINIMIZE] * len(view.study.objectives))


def _held(distribution: BaseDistribution | None, value: Any) -> bool:
    """Whether a value is one that the distribution can have; a parameter without effect has none."""
    try:
        return distribution is not None and bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


class _Drawn(optuna.Study):
    """A study of complete trials that no storage has to hold."""

    def __init__(self, trials: Sequence[FrozenTrial], directions: list[StudyDirection]) -> None:
        self._trials, self._directions = list(trials), directions

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._trials
