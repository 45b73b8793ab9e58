"""Parallel coordinates, drawn as plain lines: plotly's own need WebGL, cannot leave a value out and do not print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpsearch.report import style
from hpsearch.report.plotting import Choices, ceiling_of, empty, jitter, measure, new_figure, safe
from hpsearch.results.formatting import short
from hpsearch.results.view import Scale, StudyView

AXES = 7
"""Parameters shown; more than these cannot be told apart."""


def parallel_coordinates(view: StudyView, searched: Mapping[str, Scale], importance: Iterable[str]) -> go.Figure:
    """A line per complete trial through the most important parameters to its value, coloured by its rank.

    A trial without a conditional parameter crosses that axis below its foot, at "unused". importance: names, most important
    first.
    """
    order = list(dict.fromkeys([*importance, *searched]))
    used = {name for trial in view.ranked for name in trial.params}
    names = [name for name in order if name in searched and name in used][:AXES]
    figure = new_figure("What the best trials have in common", x="", y="")
    figure.update_xaxes(visible=False, range=[-0.25, len(names) + 0.35])
    figure.update_yaxes(visible=False, range=[-0.2, 1.3])
    if len(view.ranked) < 2 or not names:
        return empty(figure, f"needs 2 complete trials; there {'is' if len(view.ranked) == 1 else 'are'} {len(view.ranked)}")
    values = [trial.value for trial in view.ranked if trial.value is not None]
    axes = [_ParallelAxis.of(name, searched[name], [trial.params.get(name) for trial in view.ranked]) for name in names]
    low, high = values[0], max(ceiling_of(values), values[0] + 1e-9)
    axes.append(_ParallelAxis(measure(view), [(short(low + part * (high - low)), part) for part in (0, 0.25, 0.5, 0.75, 1)]))
    rows = []
    for trial, value in zip(view.ranked, values, strict=True):
        heights = [axis.height(trial.params.get(name), trial.number) for axis, name in zip(axes, names, strict=False)]
        rows.append([*heights, min(1.0, (value - low) / (high - low))])
    fine = 1.0 if len(rows) <= 100 else 0.5
    tenth, half = math.ceil(0.1 * len(rows)), math.ceil(0.5 * len(rows))
    groups = [
        ("the rest", range(half, len(rows)), style.GREY, fine, 0.4),
        (f"best half, up to {short(values[half - 1])}", range(tenth, half), style.SKY, fine, 0.7),
        (f"best tenth, up to {short(values[tenth - 1])}", range(1, tenth), style.BLUE, 1.6 * fine, 0.9),
        ("best", range(1), style.BEST, 3, 1),
    ]
    for label, members, colour, width, opacity in groups:
        if not members:
            continue
        figure.add_trace(
            go.Scatter(
                x=np.array([*range(len(axes)), np.nan] * len(members), np.float32),
                y=np.array([height for row in members for height in (*rows[row], np.nan)], np.float32),
                customdata=np.repeat(np.array([view.ranked[row].number for row in members], np.int32), len(axes) + 1),
                mode="lines",
                line={"color": colour, "width": width},
                opacity=opacity,
                name=label,
                hovertemplate="trial %{customdata}<extra></extra>",
            )
        )
    for place, axis in enumerate(axes):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": style.GREY, "width": 1}, layer="above")
        name = "<br>(".join(safe(axis.name).split(" (", 1))
        figure.add_annotation(
            x=place, y=1.06 + 0.12 * (place % 2), text=f"<b>{name}</b>", showarrow=False, yanchor="bottom", font={"size": 12}
        )
        for text, height in axis.ticks:
            figure.add_annotation(x=place, y=height, text=text, showarrow=False, xanchor="left", xshift=3, font={"size": 11})
    figure.update_layout(height=440, margin={"l": 16, "r": 16, "b": 8})
    return figure


class _ParallelAxis:
    """Where a parameter's values stand on an axis from 0 to 1."""

    UNUSED = -0.13

    def __init__(
        self, name: str, ticks: list[tuple[str, float]], *, log: bool = False, low: float = 0, high: float = 1
    ) -> None:
        self.name, self.ticks, self.log, self.low, self.high = name, ticks, log, low, high
        self.choices: Choices | None = None

    @classmethod
    def of(cls, name: str, scale: Scale, values: Sequence[Any]) -> _ParallelAxis:
        given = [value for value in values if value is not None]
        unused = [("unused", cls.UNUSED)] if len(given) < len(values) else []
        if scale.choices is not None:
            choices = Choices(scale, given)
            top = max(1, len(choices.all) - 1)
            axis = cls(name, [(text, place / top) for place, text in choices.ticks()] + unused, high=top)
            axis.choices = choices
            return axis
        low, high = float(min(given)), float(max(given))
        axis = cls(name, unused, log=scale.log, low=low, high=high)
        if low == high:
            axis.ticks.append((short(given[0]), 0.5))
        for part in (0, 0.25, 0.5, 0.75, 1) if low < high else ():
            value = math.exp(math.log(low) + part * math.log(high / low)) if scale.log else low + part * (high - low)
            axis.ticks.append((f"{value:.0f}" if isinstance(given[0], int) else short(float(f"{value:.2g}")), part))
        return axis

    def height(self, value: Any, number: int) -> float:
        if value is None:
            return self.UNUSED + jitter(number, 0.015)
        if self.choices is not None:
            return self.choices.place(value) / self.high + jitter(number, 0.015)
        if self.low == self.high:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)
