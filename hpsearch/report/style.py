"""Colours and templates of the figures.

The palette is Okabe and Ito's, told apart by colour-blind people; its blue is lighter here and grey stands for its black, so
that all of it shows on white and on near black alike. Every state has a symbol too: no meaning hangs on colour alone.
"""

from __future__ import annotations

from typing import Any

from hpsearch.storage.records import TrialState

BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#1A85C8", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
GREY = "#8C8C8C"

BEST, BASELINE = VERMILLION, GREEN

COLOURS: dict[TrialState, str] = {
    TrialState.COMPLETE: BLUE,
    TrialState.PRUNED: GREY,
    TrialState.RUNNING: SKY,
    TrialState.PAUSED: ORANGE,
    TrialState.FAILED: PURPLE,
}
SYMBOLS: dict[TrialState, str] = {
    TrialState.COMPLETE: "circle",
    TrialState.PRUNED: "x",
    TrialState.RUNNING: "circle-open",
    TrialState.PAUSED: "square",
    TrialState.FAILED: "diamond-open",
}
TURNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("pause", "paused here", {"color": ORANGE, "symbol": "square-open"}),
    ("promote", "promoted", {"color": GREEN, "symbol": "triangle-right"}),
)
"""What a scheduler decides of a trial: the action, its label and its marker."""


def template(*, dark: bool) -> dict[str, Any]:
    """A plotly template: `layout` only, transparent, so that the page's own ground shows."""
    ink, faint, line = ("#E4E6EA", "#2B3038", "#69707C") if dark else ("#1F2328", "#E6E8EB", "#8A919B")
    ground = "#1B1F26" if dark else "#FFFFFF"
    axis = {
        "gridcolor": faint,
        "linecolor": line,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": line,
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
        "tickfont": {"size": 12},
    }
    return {
        "layout": {
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, GREY],
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 84, "b": 44},
            "hoverlabel": {"bgcolor": ground, "bordercolor": line, "font": {"color": ink}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": ink},
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 0.98,
                "yanchor": "top",
                "pad": {"l": 12, "t": 8},
                "font": {"size": 15},
            },
        }
    }


LIGHT, DARK = template(dark=False), template(dark=True)
