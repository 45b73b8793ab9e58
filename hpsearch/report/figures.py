"""The figures of a study, each from a `StudyView` alone (importances also need Optuna's study).

Thousands of trials share a few SVG traces: a curve ends with a gap, and only its end carries text. No figure needs WebGL,
so all of them print, and a page may forbid `eval`. Numbers are numpy arrays, which plotly writes in compact binary form.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.report import style
from hpsearch.report.drawing import (
    by_state,
    empty,
    hover,
    jitter,
    measure,
    new_figure,
    ordered_choices,
    safe,
    with_unit,
    y_range,
)
from hpsearch.report.parallel import parallel_coordinates
from hpsearch.report.view import Scale, StudyView, short
from hpsearch.storage.records import PointRecord, TrialRecord, TrialState

if TYPE_CHECKING:
    import optuna

__all__ = [
    "history",
    "importance_of",
    "importances",
    "learning_curves",
    "parallel_coordinates",
    "slice_panel",
    "slices",
]

MIN_TRIALS = 10
"""Complete trials below which importances are noise: PED-ANOVA compares the best five with all."""
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
                y=np.array(values, np.float32),
                mode="lines",
                line={"color": style.BEST, "width": 2, "shape": "hv"},
                name="best so far",
                hoverinfo="skip",
            )
        )
    figure.update_yaxes(range=y_range(view))
    return figure


def learning_curves(view: StudyView, x: Literal["budget", "flops"] = "budget") -> go.Figure:
    """Held-out loss of every trial along the budget that all of them share, or along the FLOPs they spent."""
    along = "share of the trial's budget (%)" if x == "budget" else "training compute (FLOPs)"
    pruned = view.counts[TrialState.PRUNED]
    title = f"{pruned or 'No'} {'trial was' if pruned == 1 else 'trials were'} pruned on the way"
    figure = new_figure(title, x=along, y=measure(view, view.curve_metric))
    drawn = [trial for trial in view.trials if view.curve(trial.number)]
    if not drawn:
        return empty(figure, "no evaluation yet")
    special = {trial.number for trial in (view.best, view.baseline) if trial is not None}
    limit = max(6, CURVE_POINTS // len(drawn))
    for state in (TrialState.PRUNED, TrialState.FAILED, TrialState.PAUSED, TrialState.RUNNING, TrialState.COMPLETE):
        group = [trial for trial in drawn if trial.state is state and trial.number not in special]
        if group:
            width = 1.4 if state is TrialState.RUNNING else 1
            _add_curves(figure, view, group, x, limit, state.value, style.COLOURS[state], style.SYMBOLS[state], width)
    if view.baseline in drawn and view.baseline is not view.best:
        assert view.baseline is not None
        _add_curves(figure, view, [view.baseline], x, 200, "baseline", style.BASELINE, "diamond", 2.5)
    if view.best in drawn:
        assert view.best is not None
        name = "best, and the baseline" if view.best is view.baseline else "best"
        _add_curves(figure, view, [view.best], x, 200, name, style.BEST, "star", 3)
    if x == "budget":
        figure.update_xaxes(range=[0, 102])
    else:
        figure.update_xaxes(exponentformat="power", rangemode="tozero")
    figure.update_yaxes(range=_curve_range(view, drawn))
    return figure


def importance_of(study: optuna.Study, searched: Iterable[str]) -> dict[str, float]:
    """Share of each searched parameter, most first, in reaching the best tenth of the complete trials.

    PED-ANOVA (arXiv 2304.10255), in the form for conditional parameters (arXiv 2601.20800): quick, deterministic, and fair
    to a parameter that only some trials have. Of several objectives the first counts. Empty below MIN_TRIALS.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState as OptunaState

    complete = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
    complete = [trial for trial in complete if trial.values and math.isfinite(trial.values[0])]
    seen = {name for trial in complete for name in trial.distributions}
    names = [name for name in searched if name in seen]
    if len(complete) < MIN_TRIALS or not names:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(complete)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna explains what a target and a rare conditional parameter mean; we say so.
        shares = get_param_importances(study, evaluator=evaluator, params=names, target=lambda trial: trial.values[0])
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def importances(view: StudyView, importance: Mapping[str, float]) -> go.Figure:
    """Bars of `importance_of`."""
    top = dict(list(importance.items())[:20])
    title = (
        f"{next(iter(top))} decides most whether a trial is among the best"
        if top
        else "Which parameters matter most is not known yet"
    )
    figure = new_figure(title, x="share of importance (%)", y="")
    if not top:
        complete = len(view.ranked)
        return empty(figure, f"needs {MIN_TRIALS} complete trials; there {'is' if complete == 1 else 'are'} {complete}")
    names, shares = list(top), [100 * share for share in top.values()]
    figure.add_trace(
        go.Bar(
            x=shares,
            y=names,
            orientation="h",
            marker={"color": style.BLUE},
            text=[f"{share:.0f}" if share >= 1 else "<1" for share in shares],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_xaxes(range=[0, 1.08 * max(shares)])
    figure.update_yaxes(autorange="reversed", ticks="")
    figure.update_layout(height=110 + 26 * len(names), bargap=0.3)
    return figure


def slice_panel(view: StudyView, name: str, scale: Scale) -> go.Figure:
    """Value of each trial against one searched parameter; the trials that have it only."""
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
        choices = ordered_choices(scale, [trial.params[name] for trial in having])
        places = {trial.number: choices.index(trial.params[name]) + jitter(trial.number, 0.22) for trial in having}
        figure.update_xaxes(
            tickvals=list(range(len(choices))),
            ticktext=[safe(short(choice)) for choice in choices],
            range=[-0.6, len(choices) - 0.4],
        )
    figure.add_traces(by_state(view, places, None, legend=False))
    figure.update_yaxes(range=y_range(view), nticks=5)
    return figure


def slices(view: StudyView, searched: Mapping[str, Scale], columns: int = 3) -> go.Figure:
    """All `slice_panel`s as one figure."""
    names = list(searched)
    figure = new_figure(f"{measure(view)} against each searched parameter", x="", y="")
    if not names or not view.trials:
        return empty(figure, "no trial yet" if names else "nothing was searched")
    rows = math.ceil(len(names) / columns)
    grid = make_subplots(rows=rows, cols=min(columns, len(names)), vertical_spacing=0.36 / rows, horizontal_spacing=0.08)
    for index, name in enumerate(names):
        row, column = index // columns + 1, index % columns + 1
        panel = slice_panel(view, name, searched[name])
        grid.add_traces(panel.data, rows=row, cols=column)
        grid.update_xaxes(panel.layout.xaxis.to_plotly_json(), row=row, col=column)
        grid.update_yaxes(panel.layout.yaxis.to_plotly_json(), row=row, col=column)
        for note in panel.layout.annotations:
            place = {"xref": "x domain", "yref": "y domain", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
            grid.add_annotation(text=f"{name}: {note.text}", showarrow=False, row=row, col=column, **place)
    grid.update_layout(figure.layout.to_plotly_json() | {"xaxis": grid.layout.xaxis, "yaxis": grid.layout.yaxis})
    grid.update_layout(height=80 + 270 * rows, showlegend=False)
    return grid


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
            x=np.array(xs, np.float32),
            y=np.array(ys, np.float32),
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
            x=np.array([xs[end] for end in ends], np.float32),
            y=np.array([ys[end] for end in ends], np.float32),
            text=[hover(view, trial) for trial in trials],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11 if not many else 5 if len(trials) <= 100 else 3.5},
            name=name,
            legendgroup=name,
            hovertemplate="%{text}<extra></extra>",
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
    pad = 0.06 * (top - lowest) or 0.05 * abs(top) or 1.0
    return [lowest - pad, top + pad]
