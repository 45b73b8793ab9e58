"""Figures as files: the plotly figures drawn once more by matplotlib, which needs no browser.

Only what our figures are made of is known here: scatter, bars, contours, straight lines and notes. `json` is plotly's own form.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hpsearch.errors import BadInput, install
from hpsearch.files import write_atomically
from hpsearch.report import style
from hpsearch.report.plotting import unwritten

FORMATS = ("png", "svg", "pdf", "json")
WIDTH_INCH = 9.0
TITLE_WIDTH = 90
"""Letters of a title in a line."""
DOTS_PER_INCH = 150
PIXELS_PER_INCH = 100
"""Of a plotly figure, whose height is in pixels."""
SHRINK = 0.75
"""Points per pixel: plotly's sizes are in pixels."""

_SYMBOLS = {
    "circle": "o",
    "x": "X",
    "square": "s",
    "diamond": "D",
    "star": "*",
    "triangle-up": "^",
    "triangle-right": ">",
}
_RGBA = re.compile(r"rgba\((\d+), ?(\d+), ?(\d+), ?([\d.]+)\)")


def write_figures(figures: Mapping[str, go.Figure], folder: Path, format: str) -> list[Path]:
    """Write each figure to `folder` as NAME.format; the files.

    Raises BadInput without matplotlib or where none can be, and StoppedForNow where that passes.
    """
    written = []
    require_painter(format)
    for name, figure in figures.items():
        path = folder / f"{name}.{format}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, figure.to_json() if format == "json" else paint(figure, format))
        except OSError as error:
            raise unwritten(path, "figure", error) from None
        written.append(path)
    return written


def require_painter(format: str) -> None:
    """Raises BadInput that names the extra where `format` cannot be written."""
    if format == "json":
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        told = f"--format {format}: the library matplotlib is missing; use json, or {install('figures')}"
        raise BadInput(told) from None


def paint(figure: go.Figure, format: str) -> memoryview:
    """A file with `figure` drawn on white."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    layout = figure.layout
    height = max(2.0, (layout.height or 400) / PIXELS_PER_INCH)
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "pdf.fonttype": 42,
        "svg.hashsalt": "hpsearch",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#8A919B",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E6E8EB",
        "text.color": "#1F2328",
    }
    with mpl.rc_context(settings):
        sheet = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
        axes = sheet.add_subplot()
        categories = _categories(figure)
        for order, trace in enumerate(figure.data):
            _PAINTERS[trace.type](sheet, axes, trace, categories, order + 2)
        _set_axis(axes, layout.xaxis, "x", categories)
        _set_axis(axes, layout.yaxis, "y", categories)
        for shape in layout.shapes:
            _line(axes, shape)
        for note in layout.annotations:
            _note(axes, note)
        if layout.title.text:
            # Of the sheet, not of the axes: what stands above the axes then has room below it.
            title = textwrap.fill(_plain(layout.title.text), TITLE_WIDTH)
            sheet.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1 and layout.showlegend is not False:
            sheet.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 6), frameon=False, fontsize=8)
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        drawn = io.BytesIO()
        sheet.savefig(drawn, format=format, dpi=DOTS_PER_INCH, metadata=metadata)
    return drawn.getbuffer()


def _scatter(sheet: Any, axes: Any, trace: Any, categories: Sequence[str], order: int) -> None:
    xs, ys = np.asarray(trace.x, float), np.asarray(trace.y, float)
    label = trace.name if trace.showlegend is not False and trace.name else None
    opacity = 1.0 if trace.opacity is None else trace.opacity
    mode = trace.mode or "lines"
    if trace.fill == "toself":
        for part in np.split(np.arange(len(xs)), np.flatnonzero(np.isnan(xs))):
            whole = part[~np.isnan(xs[part])]
            axes.fill(xs[whole], ys[whole], color=_colour(trace.fillcolor), linewidth=0, zorder=order)
        return
    if "lines" in mode:
        stepped = "steps-post" if trace.line.shape == "hv" else "default"
        width = SHRINK * (2 if trace.line.width is None else trace.line.width)
        axes.plot(
            xs,
            ys,
            color=_colour(trace.line.color),
            linewidth=width,
            alpha=opacity,
            drawstyle=stepped,
            label=label,
            zorder=order,
            rasterized=len(xs) > 5000,
        )
    if "markers" in mode and len(xs):
        marker = trace.marker
        symbol = marker.symbol or "circle"
        shape = _SYMBOLS[symbol.removesuffix("-open")]
        colours = marker.color if isinstance(marker.color, str | None) else [_colour(each) for each in marker.color]
        colour = _colour(colours) if isinstance(colours, str | None) else colours
        opened = symbol.endswith("-open")
        edge = _colour(marker.line.color) if marker.line.color else colour
        axes.scatter(
            xs,
            ys,
            s=(SHRINK * (marker.size or 6)) ** 2 * (1.6 if shape == "*" else 1),
            marker=shape,
            facecolors="none" if opened else colour,
            edgecolors=edge if opened or marker.line.color else "none",
            linewidths=0.8,
            alpha=1.0 if marker.opacity is None else marker.opacity,
            label=label,
            zorder=order,
        )
        for kind in ("x", "y"):
            error = trace[f"error_{kind}"]
            if error.array is not None:
                spread = {f"{kind}err": np.asarray(error.array, float)}
                axes.errorbar(xs, ys, **spread, fmt="none", ecolor=_colour(error.color), capsize=3, zorder=order)


def _bar(sheet: Any, axes: Any, trace: Any, categories: Sequence[str], order: int) -> None:
    rows = [categories.index(name) for name in trace.y]
    lengths = np.asarray(trace.x, float)
    bases = np.zeros(len(rows)) if trace.base is None else np.asarray(trace.base, float)
    axes.barh(
        rows,
        lengths,
        left=bases,
        height=0.72,
        color=_colour(trace.marker.color),
        label=trace.name,
        edgecolor="white" if trace.base is not None and len(rows) <= 300 else "none",
        linewidth=0.3,
        zorder=order,
    )
    if trace.error_x.array is not None:
        spread = [np.asarray(trace.error_x.arrayminus, float), np.asarray(trace.error_x.array, float)]
        axes.errorbar(lengths, rows, xerr=spread, fmt="none", ecolor=_colour(trace.error_x.color), capsize=3, zorder=order + 1)


def _contour(sheet: Any, axes: Any, trace: Any, categories: Sequence[str], order: int) -> None:
    values = np.ma.masked_invalid(np.asarray(trace.z, float))
    drawn = axes.contourf(trace.x, trace.y, values, levels=trace.ncontours, cmap="viridis_r", zorder=order)
    axes.contour(trace.x, trace.y, values, levels=drawn.levels, colors="#1F2328", linewidths=0.3, zorder=order)
    bar = sheet.colorbar(drawn, ax=axes, pad=0.02, aspect=30)
    bar.set_label(_plain(trace.colorbar.title.text or ""))
    bar.outline.set_visible(False)


_PAINTERS = {"scatter": _scatter, "bar": _bar, "contour": _contour}


def _categories(figure: go.Figure) -> list[str]:
    """The rows of horizontal bars, in the order in which they come."""
    return list(dict.fromkeys(str(name) for trace in figure.data if trace.type == "bar" for name in trace.y))


def _set_axis(axes: Any, axis: Any, side: str, categories: Sequence[str]) -> None:
    own = axes.xaxis if side == "x" else axes.yaxis
    if axis.visible is False:
        own.set_visible(False)
        axes.spines["bottom" if side == "x" else "left"].set_visible(False)
    getattr(axes, f"set_{side}label")(_plain(axis.title.text or ""))
    if axis.type == "log":
        getattr(axes, f"set_{side}scale")("log")
    limits = axis.range
    if limits is not None:
        ends = [10**end for end in limits] if axis.type == "log" else list(limits)
        getattr(axes, f"set_{side}lim")(*ends)
    if axis.tickvals is not None:
        own.set_ticks(list(axis.tickvals), [_plain(str(text)) for text in axis.ticktext])
    elif side == "y" and categories:
        own.set_ticks(range(len(categories)), list(categories))
    if axis.autorange == "reversed":
        own.set_inverted(True)


def _line(axes: Any, shape: Any) -> None:
    """A straight line between two points, in the units of the axes or across the whole of one."""
    horizontal = "domain" in (shape.xref or "")
    vertical = "domain" in (shape.yref or "")
    dash = {"dot": ":", "dash": "--"}.get(shape.line.dash, "-")
    look = {"color": _colour(shape.line.color), "linewidth": SHRINK * (shape.line.width or 1), "linestyle": dash}
    if horizontal:
        axes.axhline(shape.y0, **look)
    elif vertical:
        axes.axvline(shape.x0, **look)
    else:
        axes.plot([shape.x0, shape.x1], [shape.y0, shape.y1], zorder=60, **look)


def _note(axes: Any, note: Any) -> None:
    frames = [
        axes.transAxes if str(ref or "").endswith(("paper", "domain")) else axes.transData for ref in (note.xref, note.yref)
    ]
    if frames[0] is frames[1]:
        place = frames[0]
    else:
        place = axes.get_yaxis_transform() if frames[0] is axes.transAxes else axes.get_xaxis_transform()
    bold = "<b>" in note.text
    shift = (SHRINK * (note.xshift or 0), 0)
    axes.annotate(
        _plain(note.text),
        (note.x, note.y),
        xycoords=place,
        xytext=shift,
        textcoords="offset points",
        ha={"left": "left", "right": "right"}.get(note.xanchor, "center"),
        va={"top": "top", "bottom": "bottom"}.get(note.yanchor, "center"),
        fontsize=SHRINK * (note.font.size or 12),
        fontweight="bold" if bold else "normal",
        zorder=70,
        annotation_clip=False,
    )


def _plain(text: str) -> str:
    """Without the HTML that plotly reads, and nothing in it a formula."""
    return html.unescape(re.sub(r"</?b>", "", text.replace("<br>", "\n"))).replace("$", "\\$")


def _colour(value: str | None) -> Any:
    if value is None:
        return style.BLUE
    found = _RGBA.fullmatch(value)
    return (*(int(each) / 255 for each in found.groups()[:3]), float(found[4])) if found else value
