"""Where the compute went and what it bought: the best value against the compute of the study, and the slots over time."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from hpsearch.report import style
from hpsearch.report.plotting import compact, empty, measure, new_figure, safe, y_range
from hpsearch.results.formatting import short
from hpsearch.results.view import StudyView, succeeded
from hpsearch.storage.records import AttemptRecord, TrialState

MOST_SLOTS = 40
"""Rows of the timeline."""
HALTED = "went on later"
_LABELS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.PAUSED: "paused",
    TrialState.RUNNING: "running",
    TrialState.FAILED: "failed",
}


def quality(view: StudyView) -> go.Figure:
    """The lowest value so far against the training compute that all trials had taken until then, in the order of their ends."""
    counted = sum(trial.flops for trial in view.trials) > 0
    unit = "training compute of all trials (FLOPs)" if counted else "training time of all trials (s)"
    figure = new_figure("What the compute bought", x=unit, y=measure(view))
    ended = sorted((trial for trial in view.trials if trial.state.ended), key=lambda trial: (trial.ended_at or 0, trial.number))
    spent, best = 0.0, float("inf")
    xs: list[float] = []
    ys: list[float] = []
    numbers: list[int] = []
    for trial in ended:
        spent += trial.flops if counted else trial.seconds
        if succeeded(trial) and trial.value is not None and trial.value < best:
            best = trial.value
            xs.append(spent)
            ys.append(best)
            numbers.append(trial.number)
    if not xs:
        return empty(figure, "no trial is complete yet")
    figure.update_layout(title={"text": safe(_bought(view, xs, ys, spent))})
    figure.add_trace(
        go.Scatter(
            x=np.array([*xs, spent], np.float64),
            y=compact([*ys, best]),
            mode="lines",
            line={"color": style.BEST, "width": 2, "shape": "hv"},
            name="best so far",
            showlegend=False,
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=np.array(xs, np.float64),
            y=compact(ys),
            customdata=np.array(numbers, np.int32),
            mode="markers",
            marker={"color": style.BEST, "size": 8},
            name="a better trial",
            showlegend=False,
            hovertemplate="trial %{customdata}: %{y:.4f} after %{x:.3s}<extra></extra>",
        )
    )
    if view.baseline is not None and succeeded(view.baseline):
        figure.add_hline(y=view.baseline.value, line={"color": style.BASELINE, "width": 1.5, "dash": "dot"})
        figure.add_annotation(
            text="the baseline", x=1, xref="paper", xanchor="right", y=view.baseline.value, yanchor="bottom", showarrow=False
        )
    low, high = y_range(view)
    top = max(ys) if len(ys) > 1 else high
    figure.update_yaxes(range=[low, min(high, top + 0.08 * (top - min(ys)))] if top > min(ys) else [low, high])
    figure.update_xaxes(rangemode="tozero", exponentformat="power" if counted else "none")
    return figure


def _bought(view: StudyView, xs: list[float], ys: list[float], spent: float) -> str:
    if len(ys) == 1 or not spent:
        return "The first value was never improved on" if len(view.ranked) > 1 else "One trial is complete"
    goal = 0.1 * ys[0] + 0.9 * ys[-1]
    reached = next((x for x, y in zip(xs, ys, strict=True) if y <= goal), xs[-1])
    return f"{short(round(100 * reached / spent))} % of the compute bought nine tenths of the improvement"


def timeline(view: StudyView) -> go.Figure:
    """Every stay of a trial in a slot. Time in which no slot worked is left out and marked by a line."""
    figure = new_figure("No slot has worked yet", x="", y="")
    attempts = sorted(view.attempts, key=lambda attempt: attempt.started_at)
    if not attempts:
        return empty(figure, "no trial was in a slot yet")
    now = max(attempt.ended_at or attempt.started_at for attempt in attempts)
    names = _slot_names(attempts)
    rows = {slot: row for row, slot in enumerate(dict.fromkeys(names))}
    starts, cuts, total = _worked(attempts, now)
    unit, scale = ("s", 1.0) if total < 300 else ("min", 60.0) if total < 4 * 3600 else ("h", 3600.0)
    groups: dict[str, list[int]] = {}
    for index, attempt in enumerate(attempts):
        if rows[names[index]] < MOST_SLOTS:
            groups.setdefault(_fate(view, attempt), []).append(index)
    for label, colour in ((text, style.COLOURS[state]) for state, text in _LABELS.items()):
        _add_bars(figure, view, attempts, groups.get(label, []), (starts, names, now, scale), label, colour)
    _add_bars(figure, view, attempts, groups.get(HALTED, []), (starts, names, now, scale), HALTED, style.VERMILLION)
    for cut in cuts[:50]:
        figure.add_vline(x=cut / scale, line={"color": style.GREY, "width": 1, "dash": "dot"})
    busy = sum((attempt.ended_at or now) - attempt.started_at for attempt in attempts)
    share = f"{100 * busy / (total * len(rows)):.0f} %" if total else "all"
    many = f" (the first {MOST_SLOTS} of them)" if len(rows) > MOST_SLOTS else ""
    pauses = f"; {len(cuts)} interruption{'s' if len(cuts) > 1 else ''} left out" if cuts else ""
    slots = f"{len(rows)} slots{many} were" if len(rows) > 1 else "The slot was"
    figure.update_layout(
        title={"text": f"{slots} busy {share} of the time"},
        xaxis={"title": {"text": f"time in which slots worked ({unit}){pauses}"}, "range": [0, max(total / scale, 1e-3)]},
        yaxis={"autorange": "reversed", "ticks": "", "showgrid": False, "type": "category"},
        barmode="overlay",
        height=130 + 30 * min(len(rows), MOST_SLOTS),
        bargap=0.25,
    )
    return figure


def _add_bars(
    figure: go.Figure,
    view: StudyView,
    attempts: list[AttemptRecord],
    members: list[int],
    where: tuple[list[float], list[str], float, float],
    label: str,
    colour: str,
) -> None:
    if not members:
        return
    starts, names, now, scale = where
    lengths = [(attempts[each].ended_at or now) - attempts[each].started_at for each in members]
    figure.add_trace(
        go.Bar(
            base=compact(starts[each] / scale for each in members),
            x=compact(length / scale for length in lengths),
            y=[names[each] for each in members],
            orientation="h",
            marker={"color": colour, "line": {"color": "rgba(128,128,128,0.6)", "width": 0.5 if len(attempts) <= 300 else 0}},
            customdata=[_told(view, attempts[each]) for each in members],
            name=label,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )


def _told(view: StudyView, attempt: AttemptRecord) -> str:
    again = f", attempt {attempt.attempt}" if attempt.attempt > 1 else ""
    return safe(f"trial {attempt.trial_number}{again}: {attempt.outcome or 'running'}")


def _fate(view: StudyView, attempt: AttemptRecord) -> str:
    """How the stay ended: as its trial did where it was the trial's last one."""
    trial = view.by_number.get(attempt.trial_number)
    if trial is not None and attempt.attempt >= trial.attempts:
        return _LABELS[trial.state]
    return _LABELS[TrialState.PAUSED] if attempt.outcome == "paused" else HALTED


def _slot_names(attempts: list[AttemptRecord]) -> list[str]:
    """The slots as rows: with their hosts where there are several."""
    hosts = {attempt.host for attempt in attempts}
    return [attempt.slot if len(hosts) == 1 else f"{attempt.host} {attempt.slot}" for attempt in attempts]


def _worked(attempts: list[AttemptRecord], now: float) -> tuple[list[float], list[float], float]:
    """When each attempt began in time that leaves out what no slot worked in; where that was cut; the whole of it."""
    starts: list[float] = []
    cuts: list[float] = []
    idle, until = attempts[0].started_at, attempts[0].started_at
    gap = max(60.0, 0.02 * sum((attempt.ended_at or now) - attempt.started_at for attempt in attempts))
    for attempt in attempts:
        if attempt.started_at - until > gap:
            idle += attempt.started_at - until
            cuts.append(attempt.started_at - idle)
        starts.append(attempt.started_at - idle)
        until = max(until, attempt.ended_at or now)
    return starts, cuts, until - idle
