"""What the figures share: an empty figure in our style, markers by state, axis limits, and words made safe for plotly."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpsearch.errors import BadInput, HpsearchError, StoppedForNow
from hpsearch.files import BROKEN, DISK_FULL, trouble
from hpsearch.report import style
from hpsearch.results.formatting import brief, short
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import TrialRecord, TrialState

TICKS = 24
"""Names along an axis of choices; more cannot be read."""
LARGEST, SMALLEST = 1e30, 1e-30
"""Sizes that four bytes of a figure hold with all seven digits; beyond them they overflow, or become 0."""
_ABOVE = "off the axis"
_MANY = 300
_MARKERS: dict[str, dict[str, Any]] = {
    **{
        state.value: {"color": style.COLOURS[state], "symbol": style.SYMBOLS[state], "size": 6, "opacity": 0.85}
        for state in (TrialState.PRUNED, TrialState.FAILED, TrialState.PAUSED, TrialState.RUNNING, TrialState.COMPLETE)
    },
    _ABOVE: {"symbol": "triangle-up", "size": 8},
    "baseline": {"color": style.BASELINE, "symbol": "diamond", "size": 12},
    "best": {"color": style.BEST, "symbol": "star", "size": 13},
}
"""By what a trial is, in the order of drawing: the last lies on top."""


def new_figure(title: str, *, x: str, y: str) -> go.Figure:
    axes = {"xaxis": {"title": {"text": safe(x) or None}}, "yaxis": {"title": {"text": safe(y) or None}}}
    return go.Figure(layout={"title": {"text": safe(title)}, "template": style.LIGHT, "height": 400, **axes})


def empty(figure: go.Figure, why: str) -> go.Figure:
    """A figure that says why there is nothing in it."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=why, showarrow=False, xref="paper", yref="paper", x=0, xanchor="left", y=0.5, font_size=14)
    figure.update_layout(height=160)
    return figure


def by_state(view: StudyView, xs: Mapping[int, float], texts: Mapping[int, str] | None, *, legend: bool) -> list[go.Scatter]:
    """Markers of the trials in `xs`, a trace per state; those above the axis stand on its upper edge, in their own trace."""
    _, ceiling = limits(view)
    heights: dict[int, float] = {}
    groups: dict[str, list[int]] = {}
    for number in xs:
        reached = view.reached(view.by_number[number])
        above = reached is None or reached > ceiling
        heights[number] = ceiling if reached is None else min(reached, ceiling)
        groups.setdefault(_ABOVE if above else _role(view, number), []).append(number)
    traces = []
    for label, marker in _MARKERS.items():
        members = groups.get(label, [])
        if not members:
            continue
        own = marker | {"color": [style.COLOURS[view.by_number[n].state] for n in members]} if label == _ABOVE else marker
        if len(xs) > _MANY and len(members) > 1:
            own = own | {"size": 4, "opacity": 0.6}
        value = "no value, or above the axis" if label == _ABOVE else f"{safe(view.objective)} %{{y:.4f}}"
        traces.append(
            go.Scatter(
                x=compact(xs[number] for number in members),
                y=compact(heights[number] for number in members),
                customdata=np.array(members, np.int32),
                text=[texts[number] for number in members] if texts else None,
                mode="markers",
                marker=own,
                name=label,
                showlegend=legend,
                hovertemplate=f"{'%{text}' if texts else f'trial %{{customdata}}<br>{value}'}<extra></extra>",
            )
        )
    return traces


def _role(view: StudyView, number: int) -> str:
    if view.best is not None and number == view.best.number:
        return "best"
    return "baseline" if number == 0 else view.by_number[number].state.value


def ceiling_of(values: Sequence[float]) -> float:
    """The value above which points stand on the upper edge, so that one diverged trial does not flatten the others."""
    ordered = sorted(values)
    quarter = ordered[int(0.75 * (len(ordered) - 1))]
    return min(ordered[-1], quarter + 1.5 * (quarter - ordered[0])) if quarter > ordered[0] else ordered[-1]


def limits(view: StudyView) -> tuple[float, float]:
    """Where the value axis starts and ends: around the complete trials where there are enough, as pruned ones lie far above."""
    reached = [value for trial in view.trials if (value := view.reached(trial)) is not None]
    complete = [trial.value for trial in view.ranked if trial.value is not None]
    values = complete if len(complete) >= 5 else reached
    return (min(values), ceiling_of(values)) if values else (0.0, 1.0)


def y_range(view: StudyView) -> list[float]:
    return padded(*limits(view), 0.07)


def padded(low: float, high: float, share: float) -> list[float]:
    """An axis from `low` to `high` with a `share` of that more at each end, whatever the numbers: at ±1e308 too."""
    pad = share * high - share * low or 0.05 * abs(high) or 1.0
    return [max(low - pad, -sys.float_info.max), min(high + pad, sys.float_info.max)]


class Choices:
    """The choices of the space, then any other value that trials have (enqueued by hand), by their places."""

    def __init__(self, scale: Scale, values: Iterable[Any]) -> None:
        known = {_key(choice): choice for choice in scale.choices or ()}
        others = {key: value for value in values if (key := _key(value)) not in known}
        self.all: list[Any] = [*known.values(), *sorted(others.values(), key=str)]
        self._places = {key: place for place, key in enumerate([*known, *(_key(value) for value in self.all[len(known) :])])}

    def place(self, choice: Any) -> int:
        return self._places[_key(choice)]

    def ticks(self, most: int = TICKS) -> list[tuple[int, str]]:
        """Places and names for an axis: all of them up to TICKS, else `most`, evenly spread with the first and the last."""
        last = len(self.all) - 1
        shown = range(last + 1) if last < TICKS else [round(step * last / (most - 1)) for step in range(most)]
        return [(place, safe(brief(self.all[place]))) for place in shown]


def _key(value: Any) -> str:
    """What tells choices apart: true from 1, but not 1 from 1.0; lists too, which cannot be looked up themselves."""
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


def jitter(number: int, width: float) -> float:
    """A fixed offset within ±width for each trial number: golden-ratio steps, so that neighbours lie apart."""
    return width * (2 * (number * 0.6180339887 % 1) - 1)


def hover(view: StudyView, trial: TrialRecord) -> str:
    reached = view.reached(trial)
    lines = [f"<b>trial {trial.number}</b>, {trial.state.value}", f"{view.objective} {short(reached)}"]
    lines += view.few_words[trial.number]
    if trial.reason:
        lines.append(trial.reason if len(trial.reason) < 80 else trial.reason[:77] + "…")
    return "<br>".join([lines[0], *(safe(line) for line in lines[1:])])


def measure(view: StudyView, name: str | None = None) -> str:
    return with_unit(name or view.objective, view.study.unit(name or view.objective))


def with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit and unit != name else name


def compact(values: Iterable[float | None]) -> np.ndarray[Any, np.dtype[Any]]:
    """Numbers for a trace, None as NaN: in four bytes each, or in eight where four have no room or blur them."""
    exact = np.array(list(values), np.float64)
    told = np.abs(exact[np.isfinite(exact) & (exact != 0)])
    if told.size and (told.max() > LARGEST or told.min() < SMALLEST):
        return exact
    return exact.astype(np.float32)


def unwritten(path: Path, what: str, error: OSError) -> HpsearchError:
    """What to raise where `path`, which is a `what` (`report`), was not written: StoppedForNow where that passes."""
    if error.errno in DISK_FULL | BROKEN:
        return StoppedForNow(f"{path}: cannot write the {what}: {trouble(OSError(error.errno, error.strerror))}")
    return BadInput(f"{path}: cannot write the {what}: {error.strerror}")


def safe(text: str) -> str:
    """Plotly reads a little HTML in its texts, links included; what users wrote is shown as it is."""
    return html.escape(text, quote=False)
