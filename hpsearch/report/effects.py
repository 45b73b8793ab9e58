"""What each parameter does to the value when the others stay as they are, and the learning rate against the size.

Both read the complete trials only: what a pruned trial would have reached is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from hpsearch.report import style
from hpsearch.report.importance import MIN_TRIALS
from hpsearch.report.plotting import TICKS, Choices, by_state, ceiling_of, compact, empty, new_figure
from hpsearch.results.formatting import short
from hpsearch.results.view import Scale, StudyView

Floats = npt.NDArray[np.float64]

TREES = 64
DRAWN = 1000
"""Trials that each tree is grown on, at most."""
GRID = 14
"""Places along a range at which an effect is computed."""
BACKGROUND = 120
"""Trials over which the other parameters are averaged."""
RATE = "learning_rate"
CELLS = 56
"""Of the contour, along each axis."""
STEP = 0.32
"""Half the width of a choice's step."""
BAND = "rgba(140, 140, 140, 0.25)"
NEIGHBOURS = 1.5
"""Trials' worth of weight below which a cell of the contour is left empty."""


@dataclass(frozen=True)
class Effect:
    """The expected value along one parameter."""

    places: list[Any]
    """Numbers of a range, or choices."""
    mean: list[float]
    low: list[float]
    high: list[float]
    """10 % and 90 % quantiles over the trees of the forest."""


def marginal_effects(view: StudyView, searched: Mapping[str, Scale]) -> dict[str, Effect]:
    """The effect of each searched parameter that varies, averaged over the others as the trials have them.

    Partial dependence (Friedman 2001) of a random forest on the complete trials; its trees, each grown on trials drawn anew,
    give the band. Values far above the others are taken as the ceiling of the axis. Empty below MIN_TRIALS.
    """
    trials = view.ranked
    if len(trials) < MIN_TRIALS:
        return {}
    scales = {name: scale for name, scale in searched.items() if len({str(each.params.get(name)) for each in trials}) > 1}
    ceiling = ceiling_of([trial.value or 0.0 for trial in trials])
    values = np.array([min(trial.value or 0.0, ceiling) for trial in trials])
    # scikit-learn's trees keep inputs in four bytes, take those within 1e-7 for the same, and square the values.
    unit = _size(values)
    values = values / unit
    sizes: dict[str, float] = {}
    columns: dict[str, Floats] = {}
    choices: dict[str, Choices | None] = {}
    for name, scale in scales.items():
        given = [each.params.get(name) for each in trials]
        choices[name] = None if scale.choices is None else Choices(scale, [each for each in given if each is not None])
        column = np.array([_number(each, scale, choices[name]) for each in given])
        sizes[name] = _size(column)
        columns[name] = column / sizes[name]
    # A conditional parameter tells by its absence what the one above it is, and would take that one's effect: it is left to a
    # forest of its own, of the trials that have it.
    common = [name for name in scales if not np.isnan(columns[name]).any()]
    shared = _forest(np.stack([columns[name] for name in common], axis=1), values) if common else None
    effects = {}
    for name, scale in scales.items():
        having = ~np.isnan(columns[name])
        if having.sum() < MIN_TRIALS or len(np.unique(columns[name][having])) < 2:
            continue
        names = common if name in common else [*common, name]
        table = np.stack([columns[each][having] for each in names], axis=1)
        forest = shared if name in common else _forest(table, values[having])
        effects[name] = _effect(forest, table, names.index(name), scale, choices[name], sizes[name], unit)
    return effects


def _forest(table: Floats, values: Floats) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    drawn = min(DRAWN, len(values))
    return RandomForestRegressor(TREES, min_samples_leaf=2, max_samples=drawn, random_state=0).fit(table, values)


def _size(numbers: Floats) -> float:
    """A power of two, by which numbers are divided without loss, about as large as the largest of them."""
    largest = float(np.nanmax(np.abs(numbers)))
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0


def _effect(forest: Any, table: Floats, column: int, scale: Scale, choices: Choices | None, size: float, unit: float) -> Effect:
    """The effect of one column of `table`, (trials, parameters); of many choices, of the TICKS that most trials have.

    size, unit: what the column and the values were divided by.
    """
    found, counts = np.unique(table[:, column], return_counts=True)
    if choices is not None:
        found = np.sort(found[np.argsort(-counts, kind="stable")[:TICKS]])
    rows = table[np.linspace(0, len(table) - 1, min(BACKGROUND, len(table))).astype(int)]
    grid = found if choices is not None or len(found) <= GRID else np.linspace(found[0], found[-1], GRID)
    asked = np.repeat(rows[None], len(grid), axis=0)
    asked[:, :, column] = grid[:, None]
    flat = asked.reshape(-1, table.shape[1]).astype(np.float32)
    trees = np.stack([tree.predict(flat, check_input=False) for tree in forest.estimators_])
    along = trees.reshape(len(trees), len(grid), len(rows)).mean(axis=2)
    mean = along.mean(axis=0)
    low, high = np.quantile(along, [0.1, 0.9], axis=0)
    mean, low, high, grid = mean * unit, low * unit, high * unit, grid * size
    places = [choices.all[int(place)] for place in grid] if choices is not None else _places(grid, scale)
    return Effect(places, mean.tolist(), np.minimum(low, mean).tolist(), np.maximum(high, mean).tolist())


def _places(grid: Floats, scale: Scale) -> list[float]:
    return [math.exp(place) if scale.log else float(place) for place in grid]


def _number(value: Any, scale: Scale, choices: Choices | None) -> float:
    """As the forest sees it: the place of a choice, the logarithm where it was searched so, NaN where there is none."""
    if value is None:
        return math.nan
    if choices is not None:
        return float(choices.place(value))
    return math.log(value) if scale.log and value > 0 else float(value)


def add_effect(figure: go.Figure, effect: Effect, places: Sequence[float], *, apart: bool) -> None:
    """Draw `effect` on a slice, at `places` of its horizontal axis: a line with its band, or (`apart`) a step for each."""
    rows = list(zip(places, effect.mean, effect.low, effect.high, strict=True))
    runs = [[(row[0] + side, *row[1:]) for side in (-STEP, STEP)] for row in rows] if apart else [rows]
    gap = [math.nan]
    bands = [
        ([each[0] for each in (*run, *run[::-1])], [*(each[3] for each in run), *(each[2] for each in run[::-1])])
        for run in runs
    ]
    figure.add_trace(
        go.Scatter(
            x=compact(x for xs, _ in bands for x in xs + gap),
            y=compact(y for _, ys in bands for y in ys + gap),
            mode="lines",
            fill="toself",
            fillcolor=BAND,
            line={"width": 0},
            showlegend=False,
            hoverinfo="skip",
            name="effect, band",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=compact(x for run in runs for x in [each[0] for each in run] + gap),
            y=compact(y for run in runs for y in [each[1] for each in run] + gap),
            mode="lines",
            line={"color": style.ORANGE, "width": 2.5},
            showlegend=False,
            hovertemplate="marginal %{y:.4f}<extra></extra>",
            name="effect",
        )
    )


def rate_against_size(view: StudyView) -> go.Figure:
    """The value over learning rate and number of parameters, smoothed, with the trials on it."""
    figure = new_figure("Which learning rate suits which size", x=f"{RATE} (log)", y="parameters (log)")
    trials = [trial for trial in view.ranked if _positive(trial.config.get(RATE)) and trial.num_parameters > 0]
    if len(trials) < MIN_TRIALS:
        return empty(figure, f"needs {MIN_TRIALS} complete trials with a learning rate; there are {len(trials)}")
    rates = np.log10([float(trial.config[RATE]) for trial in trials])
    sizes = np.log10([trial.num_parameters for trial in trials])
    if np.ptp(rates) == 0 or np.ptp(sizes) == 0:
        same = "learning rate" if np.ptp(rates) == 0 else "size"
        return empty(figure, f"all complete trials have the same {same}")
    values = np.array([trial.value for trial in trials], np.float64)
    xs, ys = (np.linspace(each.min(), each.max(), CELLS) for each in (rates, sizes))
    unit = _size(values)
    smooth = _smoothed(rates, sizes, np.minimum(values, ceiling_of(values.tolist())) / unit, xs, ys) * unit
    figure.add_trace(
        go.Contour(
            x=10**xs,
            y=10**ys,
            z=compact(smooth.flat).reshape(smooth.shape),
            colorscale="Viridis",
            reversescale=True,
            ncontours=12,
            line={"width": 0.5},
            colorbar={"title": {"text": view.unit or view.objective, "side": "top"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="about %{z:.4f}<extra></extra>",
            name="smoothed value",
        )
    )
    places = {trial.number: float(trial.config[RATE]) for trial in trials}
    texts = {trial.number: f"trial {trial.number}: {short(trial.value)}" for trial in trials}
    for trace in by_state(view, places, texts, legend=False):
        own = trace.customdata
        trace.y = np.array([view.by_number[int(number)].num_parameters for number in own], np.float64)
        if trace.name not in ("best", "baseline"):
            trace.marker = {"color": "rgba(255,255,255,0.85)", "size": 4, "line": {"color": "#333333", "width": 0.75}}
        else:
            trace.marker.line = {"color": "#ffffff", "width": 1.5}
        figure.add_trace(trace)
    pads = [0.03 * np.ptp(each) for each in (rates, sizes)]
    dticks = [1 if np.ptp(each) > 2.5 else "D2" for each in (rates, sizes)]
    ends = [[each[0] - pad, each[-1] + pad] for each, pad in zip((xs, ys), pads, strict=True)]
    figure.update_xaxes(type="log", exponentformat="power", showgrid=False, range=ends[0], dtick=dticks[0])
    figure.update_yaxes(type="log", exponentformat="SI", showgrid=False, range=ends[1], dtick=dticks[1])
    best = view.best
    if best is not None and best in trials:
        at = f"{short(float(best.config[RATE]))} at {best.num_parameters:,} parameters"
        figure.update_layout(title={"text": f"The best trial has learning rate {at}"})
    figure.update_layout(height=460)
    return figure


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _smoothed(x: Floats, y: Floats, z: Floats, xs: Floats, ys: Floats) -> Floats:
    """Gaussian-weighted mean of `z` at each crossing of `xs` and `ys`, (len(ys), len(xs)); NaN where no trial is near.

    The width is Scott's: a share of each axis' spread that shrinks as trials are added.
    """
    width = len(z) ** (-1 / 6)
    # A weight is the product of one along each axis, so that no table of all crossings and all trials is needed.
    near_x = np.exp(-0.5 * ((xs[:, None] - x) / (width * max(float(np.std(x)), 1e-9))) ** 2)
    near_y = np.exp(-0.5 * ((ys[:, None] - y) / (width * max(float(np.std(y)), 1e-9))) ** 2)
    total = near_y @ near_x.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = ((near_y * z) @ near_x.T) / total
    mean[total < min(NEIGHBOURS, 0.1 * len(z))] = np.nan
    return mean
