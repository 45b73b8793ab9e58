"""All figures of a study by name: the page, single files and the dashboard show the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from hpsearch.report import figures
from hpsearch.report.compute import quality, timeline
from hpsearch.report.decisions import confirmation, trade_off
from hpsearch.report.effects import marginal_effects, rate_against_size
from hpsearch.report.importance import importance_of, importances
from hpsearch.report.parallel import parallel_coordinates
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import TrialRecord

if TYPE_CHECKING:
    import optuna

SLICE = "slice-"
"""Before a parameter's name: the name of its panel."""
NAMES = (
    "history",
    "quality",
    "confirmation",
    "curves",
    "curves-flops",
    "importances",
    "rate-size",
    "parallel",
    "trade-off",
    "timeline",
)
"""Of the figures that every study has; each searched parameter adds a panel."""
OF_THE_MODEL = ("curves-flops", "rate-size")
"""Those that need FLOPs or sizes, which nobody knows of a trainer of one's own."""


def gallery(
    view: StudyView, study: optuna.Study | None, searched: Mapping[str, Scale], chosen: TrialRecord | None = None
) -> dict[str, go.Figure]:
    """Every figure by its name, those of NAMES first. One that has nothing to show says why.

    study: Optuna's side, for the importances; without it they are left open. chosen: the trial that is taken; by default the
    best.
    """
    importance = importance_of(study, searched) if study is not None else {}
    effects = marginal_effects(view, searched)
    drawn = {
        "history": figures.history(view),
        "quality": quality(view),
        "confirmation": confirmation(view),
        "curves": figures.learning_curves(view),
        "curves-flops": figures.learning_curves(view, "flops"),
        "importances": importances(view, importance),
        "rate-size": rate_against_size(view),
        "parallel": parallel_coordinates(view, searched, importance),
        "trade-off": trade_off(view, chosen),
        "timeline": timeline(view),
    }
    assert tuple(drawn) == NAMES
    if view.study.own:
        drawn = {name: figure for name, figure in drawn.items() if name not in OF_THE_MODEL}
    order = sorted(searched, key=lambda name: list(importance).index(name) if name in importance else len(importance))
    return drawn | {f"{SLICE}{name}": figures.slice_panel(view, name, searched[name], effects.get(name)) for name in order}
