"""Figures of what a person decides by: the front of loss against size or time, and the values over fresh seeds."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from hpsearch.report import style
from hpsearch.report.plotting import compact, empty, hover, measure, new_figure, y_range
from hpsearch.results.formatting import finite, short
from hpsearch.results.verdict import Confirmed, Verdict
from hpsearch.results.view import StudyView, undominated
from hpsearch.storage.records import TrialRecord

SIZE = "num_parameters"
"""What the first objective is drawn against where there is no second one."""
SECONDS = "seconds"
"""The same where nobody knows the size."""


def trade_off(view: StudyView, chosen: TrialRecord | None = None) -> go.Figure:
    """The first objective of the complete trials against the second one (else the parameters), with the front as a step line.

    chosen: the trial that is taken, marked; by default the best.
    """
    name = second_measure(view)
    chosen = chosen or view.best
    points = {trial.number: value for trial in view.ranked if finite(value := second_value(trial, name))}
    front = undominated([view.by_number[number] for number in points], lambda trial: (trial.value or 0.0, points[trial.number]))
    title = f"{len(front)} of {len(points)} trials are on the front of {view.objective} and {name}"
    figure = new_figure(title, x=measure(view, name), y=measure(view))
    if len(set(points.values())) < 2:
        return empty(figure, f"needs complete trials of different {name}")
    best = {trial.number for trial in front}
    others = [view.by_number[number] for number in points if number not in best]
    figure.add_trace(_markers(view, points, others, "dominated", {"color": style.GREY, "size": 6, "opacity": 0.7}))
    ordered = sorted(front, key=lambda trial: points[trial.number])
    figure.add_trace(
        go.Scatter(
            x=np.array([points[trial.number] for trial in ordered], np.float64),
            y=compact(trial.value for trial in ordered),
            mode="lines",
            line={"color": style.BLUE, "width": 1.5, "shape": "hv"},
            showlegend=False,
            hoverinfo="skip",
        )
    )
    figure.add_trace(_markers(view, points, ordered, "front", {"color": style.BLUE, "symbol": "circle", "size": 9}))
    baseline = [view.baseline] if view.baseline is not None and view.baseline.number in points else []
    figure.add_trace(_markers(view, points, baseline, "baseline", {"color": style.BASELINE, "symbol": "diamond", "size": 12}))
    if chosen is not None and chosen.number in points:
        marker = {"color": style.BEST, "symbol": "star", "size": 14}
        figure.add_trace(_markers(view, points, [chosen], "chosen", marker))
    spread = max(points.values()) / max(min(points.values()), 1e-12)
    figure.update_xaxes(type="log" if spread > 8 else "linear", exponentformat="SI")
    figure.update_yaxes(range=y_range(view))
    return figure


def second_measure(view: StudyView) -> str:
    if len(view.study.objectives) > 1:
        return view.study.objectives[1]
    return SECONDS if view.study.own else SIZE


def second_value(trial: TrialRecord, name: str) -> float:
    known = {SIZE: float(trial.num_parameters), SECONDS: trial.seconds}
    return trial.metrics.get(name, known.get(name, math.nan))


def confirmation(view: StudyView) -> go.Figure:
    """Each confirmed trial's values over fresh seeds, their mean with its interval, and the value of the search."""
    verdict = view.verdict
    figure = new_figure(_headline(verdict), x="", y=measure(view))
    if verdict is None:
        how = "hpsearch run … --confirm" if view.study.own else f"hpsearch confirm --study {view.study.name}"
        return empty(figure, f"not confirmed yet; `{how}` retrains the best few")
    rows = verdict.confirmed
    seeds = [(place, value) for place, each in enumerate(rows) for value in each.values.values()]
    figure.add_trace(
        go.Scatter(
            x=[place for place, _ in seeds],
            y=[value for _, value in seeds],
            mode="markers",
            marker={"color": style.BLUE, "size": 7, "opacity": 0.6},
            name="fresh seed",
            hovertemplate="%{y:.4f}<extra></extra>",
        )
    )
    means = [(place, each.estimate) for place, each in enumerate(rows) if each.estimate is not None]
    figure.add_trace(
        go.Scatter(
            x=[place + 0.16 for place, _ in means],
            y=[found.mean for _, found in means],
            error_y={"type": "data", "array": [found.half or 0.0 for _, found in means], "color": style.VERMILLION},
            mode="markers",
            marker={"color": style.VERMILLION, "symbol": "diamond", "size": 10},
            name="mean, 95 % interval",
            hovertemplate="mean %{y:.4f}<extra></extra>",
        )
    )
    searched = [(place, each.search_value) for place, each in enumerate(rows) if finite(each.search_value)]
    figure.add_trace(
        go.Scatter(
            x=[place - 0.16 for place, _ in searched],
            y=[value for _, value in searched],
            mode="markers",
            marker={"color": style.GREY, "symbol": "x", "size": 9},
            name="value in the search",
            hovertemplate="search %{y:.4f}<extra></extra>",
        )
    )
    names = [_name(verdict, each) for each in rows]
    figure.update_xaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4])
    return figure


def _headline(verdict: Verdict | None) -> str:
    if verdict is None:
        return "The best is not confirmed"
    mine = verdict.of(verdict.first)
    difference = mine.against_default if mine else None
    if verdict.first == verdict.default:
        return "The search found nothing better than the default"
    if difference is None or difference.word == "unknown":
        return "Whether the best beats the default is not told yet"
    size = f" by {short(abs(difference.estimate.mean))}" if difference.estimate else ""
    return {
        "better": f"The best beats the default{size} on fresh seeds",
        "worse": f"The default beats the search's best{size} on fresh seeds",
    }.get(difference.word, "On fresh seeds the best and the default are a tie")


def _name(verdict: Verdict, each: Confirmed) -> str:
    what = "default" if each.trial == verdict.default else "search's best" if each.trial == verdict.first else ""
    return f"trial {each.trial}" + (f"<br>{what}" if what else "")


def _markers(
    view: StudyView, points: dict[int, float], trials: list[TrialRecord], name: str, marker: dict[str, object]
) -> go.Scatter:
    return go.Scatter(
        x=np.array([points[trial.number] for trial in trials], np.float64),
        y=compact(trial.value for trial in trials),
        text=[hover(view, trial) for trial in trials],
        mode="markers",
        marker=marker,
        name=name,
        showlegend=bool(trials),
        hovertemplate="%{text}<extra></extra>",
    )
