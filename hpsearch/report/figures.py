"""The figures of a study's values and curves, each from a `StudyView` alone.

Thousands of trials share a few SVG traces: a curve ends with a gap, and only its end carries text. No figure needs WebGL,
so all of them print, and a page may forbid `eval`. Numbers are numpy arrays, which plotly writes in compact binary form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from hpsearch.report import style
from hpsearch.report.effects import Effect, add_effect
from hpsearch.report.plotting import (
    TICKS,
    Choices,
    by_state,
    compact,
    empty,
    hover,
    jitter,
    measure,
    new_figure,
    padded,
    with_unit,
    y_range,
)
from hpsearch.results.formatting import short
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import PointRecord, TrialRecord, TrialState

CURVE_POINTS = 16_000
"""Points of all learning curves together; more are thinned, evenly, first and last kept."""


def history(view: StudyView) -> go.Figure:
    """Value of each trial by its number, the states apart, with the lowest so far as a step line."""
    best, title = view.best, "No trial is complete yet"
    if best:
        title = f"Trial {best.number} of {len(view.trials)} is best, with {short(best.value)} {view.unit}"
    figure = new_figure(title, x="trial", y=measure(view))
    if not view.trials:
        return empty(figure, "no trial yet")
    texts = {trial.number: hover(view, trial) for trial in view.trials}
    figure.add_traces(by_state(view, {trial.number: trial.number for trial in view.trials}, texts, legend=True))
    last = max(view.by_number)
    figure.update_xaxes(range=[-0.02 * last - 0.4, 1.02 * last + 0.4], tickformat="d", dtick=1 if last < 10 else None)
    steps = view.best_so_far()
    if steps:
        numbers, values = zip(*steps, (last, steps[-1][1]), strict=True)
        figure.add_trace(
            go.Scatter(
                x=np.array(numbers, np.int32),
                y=compact(values),
                mode="lines",
                line={"color": style.BEST, "width": 2, "shape": "hv"},
                name="best so far",
                hoverinfo="skip",
            )
        )
    figure.update_yaxes(range=y_range(view))
    return figure


def learning_curves(
    view: StudyView, x: Literal["budget", "flops"] = "budget", *, points: int = CURVE_POINTS, words: bool = True
) -> go.Figure:
    """Held-out loss of every trial along the budget that all of them share, or along the FLOPs they spent.

    points: of all curves together; more are thinned. words: whether pointing at the end of a curve tells its configuration.
    """
    along = "share of the trial's budget (%)" if x == "budget" else "training compute (FLOPs)"
    pruned = view.counts[TrialState.PRUNED]
    title = f"{pruned or 'No'} {'trial was' if pruned == 1 else 'trials were'} pruned on the way"
    figure = new_figure(title, x=along, y=measure(view, view.curve_metric))
    drawn = [trial for trial in view.trials if view.curve(trial.number)]
    if not drawn:
        return empty(figure, "no evaluation yet")
    special = {trial.number for trial in (view.best, view.baseline) if trial is not None}
    limit = max(6, points // len(drawn))
    for state in (TrialState.PRUNED, TrialState.FAILED, TrialState.PAUSED, TrialState.RUNNING, TrialState.COMPLETE):
        group = [trial for trial in drawn if trial.state is state and trial.number not in special]
        if group:
            width = 1.4 if state is TrialState.RUNNING else 1
            colour, symbol = style.COLOURS[state], style.SYMBOLS[state]
            _add_curves(figure, view, group, x, limit, state.value, colour, symbol, width, words=words)
    if view.baseline in drawn and view.baseline is not view.best:
        assert view.baseline is not None
        _add_curves(figure, view, [view.baseline], x, 200, "baseline", style.BASELINE, "diamond", 2.5)
    if view.best in drawn:
        assert view.best is not None
        name = "best, and the baseline" if view.best is view.baseline else "best"
        _add_curves(figure, view, [view.best], x, 200, name, style.BEST, "star", 3)
    _add_turns(figure, view, x)
    if x == "budget":
        figure.update_xaxes(range=[0, 102])
    else:
        figure.update_xaxes(exponentformat="power", rangemode="tozero")
    figure.update_yaxes(range=_curve_range(view, drawn))
    return figure


def slice_panel(view: StudyView, name: str, scale: Scale, effect: Effect | None = None) -> go.Figure:
    """Value of each trial against one searched parameter, the trials that have it only; and its marginal effect."""
    info = view.study.hyperparameter(name)
    figure = new_figure(f"{name}: {info.doc}" if info else name, x=with_unit(name, info.unit if info else ""), y=view.unit)
    figure.update_layout(height=270, showlegend=False, margin={"t": 56})
    having = [trial for trial in view.trials if trial.params.get(name) is not None]
    if not having:
        return empty(figure, "no trial used it yet")
    if len(having) < len(view.trials):
        share = f"used by {len(having)} of {len(view.trials)} trials"
        figure.add_annotation(
            text=share, showarrow=False, xref="paper", yref="paper", x=0, y=1.02, yanchor="bottom", xanchor="left", font_size=11
        )
    choices = Choices(scale, [trial.params[name] for trial in having])
    if scale.choices is None:
        places = {trial.number: float(trial.params[name]) for trial in having}
        figure.update_xaxes(type="log" if scale.log else "linear", exponentformat="power", nticks=6)
        if scale.log:
            low, high = (math.log10(limit(places.values())) for limit in (min, max))
            decades, pad = high - low > 1.3, 0.06 * (high - low) or 0.1
            figure.update_xaxes(
                range=[low - pad, high + pad],
                **({"dtick": 1, "tickformat": ".0e"} if decades else {"nticks": 4, "tickformat": ".3~g"}),
            )
    else:
        places = {trial.number: choices.place(trial.params[name]) + jitter(trial.number, 0.22) for trial in having}
        where, named = zip(*choices.ticks(most=TICKS // 2), strict=True)
        figure.update_xaxes(tickvals=where, ticktext=named, range=[-0.6, len(choices.all) - 0.4])
    figure.add_traces(by_state(view, places, None, legend=False))
    if effect is not None:
        along = effect.places if scale.choices is None else [choices.place(each) for each in effect.places]
        add_effect(figure, effect, along, apart=scale.choices is not None)
    figure.update_yaxes(range=y_range(view), nticks=5)
    return figure


def _add_curves(
    figure: go.Figure,
    view: StudyView,
    trials: Sequence[TrialRecord],
    x: str,
    limit: int,
    name: str,
    colour: str,
    symbol: str,
    width: float,
    *,
    words: bool = True,
) -> None:
    """The curves of `trials` as one line trace with gaps, and their ends as one marker trace with the words."""
    rungs = max(1, view.study.budget.evaluations)
    xs: list[float] = []
    ys: list[float] = []
    numbers: list[int] = []
    ends: list[int] = []
    for trial in trials:
        for point in _thin(view.curve(trial.number), limit):
            xs.append(100 * point.rung / rungs if x == "budget" else point.flops)
            ys.append(point.metrics.get(view.curve_metric, math.nan))
            numbers.append(trial.number)
        ends.append(len(xs) - 1)
        xs.append(math.nan)
        ys.append(math.nan)
        numbers.append(trial.number)
    many = len(trials) > 1
    figure.add_trace(
        go.Scatter(
            x=compact(xs),
            y=compact(ys),
            customdata=np.array(numbers, np.int32),
            mode="lines",
            line={"color": colour, "width": width if len(trials) <= 100 else 0.5 * width},
            opacity=0.5 if many else 1,
            legendgroup=name,
            showlegend=False,
            hovertemplate="trial %{customdata}: %{y:.4f}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=compact(xs[end] for end in ends),
            y=compact(ys[end] for end in ends),
            text=[hover(view, trial) if words else f"trial {trial.number}" for trial in trials],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11 if not many else 5 if len(trials) <= 100 else 3.5},
            name=name,
            legendgroup=name,
            hovertemplate="%{text}<extra></extra>",
        )
    )


def _add_turns(figure: go.Figure, view: StudyView, x: str) -> None:
    """Where the scheduler set a trial aside, and where it took it back, on the trials' curves."""
    rungs = max(1, view.study.budget.evaluations)
    at = {(point.trial_number, point.rung): point for point in view.points}
    for action, label, marker in style.TURNS:
        turns = [each for each in view.decisions if each.action == action and (each.trial_number, each.rung) in at]
        if not turns:
            continue
        points = [at[each.trial_number, each.rung] for each in turns]
        figure.add_trace(
            go.Scatter(
                x=compact(100 * point.rung / rungs if x == "budget" else point.flops for point in points),
                y=compact(point.metrics.get(view.curve_metric, math.nan) for point in points),
                customdata=np.array([point.trial_number for point in points], np.int32),
                mode="markers",
                marker=marker | {"size": 7 if len(turns) <= 100 else 4},
                name=label,
                hovertemplate=f"trial %{{customdata}} {label}<extra></extra>",
            )
        )


def _thin(points: list[PointRecord], limit: int) -> list[PointRecord]:
    if len(points) <= limit:
        return points
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]


def _curve_range(view: StudyView, trials: Sequence[TrialRecord]) -> list[float] | None:
    """From the lowest value to where most trials are after a fifth of the budget: what comes before tells them little apart."""
    early: list[float] = []
    lowest = math.inf
    fifth = math.ceil(view.study.budget.evaluations / 5) if len(trials) >= 10 else 1
    for trial in trials:
        curve = view.curve(trial.number)
        values = [value for point in curve if math.isfinite(value := point.metrics.get(view.curve_metric, math.nan))]
        if values:
            early.append(values[min(fifth, len(values)) - 1])
            lowest = min(lowest, *values)
    if not early:
        return None
    top = sorted(early)[int(0.9 * (len(early) - 1)) if len(trials) >= 10 else -1]
    return padded(lowest, top, 0.06)
