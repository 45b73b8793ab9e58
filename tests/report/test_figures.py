from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from hpsearch.report import figures
from hpsearch.report.view import Scale, StudyView
from hpsearch.storage.records import TrialState

MakeView = Callable[..., StudyView]
MakeOptuna = Callable[[StudyView], optuna.Study]


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def notes(figure: Any) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


@pytest.mark.parametrize("trials", [0, 1, 2, 10, 1000])
def test_every_figure_is_drawn_for_any_number_of_trials(
    trials: int, make_view: MakeView, make_optuna: MakeOptuna, searched: dict[str, Scale], thousand: StudyView
) -> None:
    view = thousand if trials == 1000 else make_view(trials)
    searched = {name: searched[name] for name in ("learning_rate", "d_model", "num_layers", "momentum", "tie_embeddings")}
    importance = figures.importance_of(make_optuna(view), searched)
    drawn = [
        figures.history(view),
        figures.learning_curves(view),
        figures.learning_curves(view, "flops"),
        figures.importances(view, importance),
        figures.parallel_coordinates(view, searched, importance),
        figures.slices(view, searched),
    ]
    for figure in drawn:
        assert figure.data or notes(figure), "an empty figure says why"
        assert figure.layout.title.text
        assert "NaN" not in figure.to_json()


def test_nothing_searched_is_said(view: StudyView) -> None:
    assert notes(figures.slices(view, {})) == ["nothing was searched"]


def test_the_history_shows_each_trial_once_with_a_line_of_the_best_so_far(view: StudyView) -> None:
    figure = figures.history(view)
    shown = [number for part in figure.data if part.mode == "markers" for number in part.customdata]
    assert sorted(shown) == list(range(50))
    assert view.best is not None
    line = trace(figure, "best so far")
    assert line.line.shape == "hv"
    assert line.y[-1] == pytest.approx(view.best.value)
    assert list(trace(figure, "best").customdata) == [view.best.number]
    assert figure.layout.yaxis.title.text == "val_bpb (bits/byte)"


def test_one_diverged_value_does_not_flatten_the_axis(view: StudyView) -> None:
    trials = [replace(trial, values=(1e6,)) if trial.number == 4 else trial for trial in view.trials]
    figure = figures.history(StudyView(view.study, trials, view.points))
    assert figure.layout.yaxis.range[1] < 10
    assert 4 in trace(figure, "off the axis").customdata


def test_curves_share_the_budget_axis_and_mark_where_trials_were_pruned(view: StudyView) -> None:
    figure = figures.learning_curves(view)
    pruned = [trial for trial in view.trials if trial.state is TrialState.PRUNED and trial.rung]
    ends = trace(figure, "pruned")
    assert sorted(ends.x) == pytest.approx(sorted(100 * trial.rung / 10 for trial in pruned))
    assert max(trace(figure, "complete").x) == 100
    assert "learning_rate" in "".join(ends.text)
    flops = trace(figures.learning_curves(view, "flops"), "best").x[0]
    assert view.best is not None
    assert flops == pytest.approx(view.best.flops, rel=1e-6)


def test_a_thousand_curves_are_thinned_with_their_ends_kept(thousand: StudyView) -> None:
    figure = figures.learning_curves(thousand)
    assert len(thousand.points) > 50_000
    assert sum(len(part.x) for part in figure.data) < 1.5 * figures.CURVE_POINTS
    complete = trace(figure, "complete")
    assert set(complete.x) == {100.0}
    assert len(complete.x) > 300


def test_importances_find_the_parameter_that_decides_and_include_conditional_ones(searched: dict[str, Scale]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        trial.suggest_float("dropout", 0, 0.3)
        if trial.suggest_categorical("optimizer", ["adamw", "sgd"]) == "sgd":
            trial.suggest_float("momentum", 0.8, 0.99)
        return (math.log10(rate) + 3) ** 2

    study.optimize(objective, n_trials=80)
    importance = figures.importance_of(study, searched)
    assert next(iter(importance)) == "learning_rate"
    assert set(importance) == {"learning_rate", "dropout", "optimizer", "momentum"}
    assert sum(importance.values()) == pytest.approx(1)
    assert importance == figures.importance_of(study, searched), "the same each time"


def test_too_few_trials_for_importances_are_said(
    make_view: MakeView, make_optuna: MakeOptuna, searched: dict[str, Scale]
) -> None:
    view = make_view(3)
    assert figures.importance_of(make_optuna(view), searched) == {}
    complete = len(view.ranked)
    assert notes(figures.importances(view, {})) == [f"needs 10 complete trials; there are {complete}"]


def test_parallel_coordinates_lead_a_trial_without_a_conditional_parameter_below_its_axis(
    thousand: StudyView, searched: dict[str, Scale]
) -> None:
    figure = figures.parallel_coordinates(thousand, searched, {"beta2": 0.6, "learning_rate": 0.4})
    assert "unused" in notes(figure)
    assert "<b>beta2</b>" in notes(figure)
    heights = np.concatenate([part.y for part in figure.data])
    crossings = np.concatenate([part.x for part in figure.data])
    below = heights[(crossings == 0) & (heights < -0.1)]
    assert len(below) == sum("beta2" not in trial.params for trial in thousand.ranked)
    best = trace(figure, "best")
    assert best.y[~np.isnan(best.y)][-1] == 0


def test_a_slice_has_the_scale_of_the_space_and_only_the_trials_with_that_parameter(
    view: StudyView, searched: dict[str, Scale]
) -> None:
    assert figures.slice_panel(view, "learning_rate", searched["learning_rate"]).layout.xaxis.type == "log"
    choices = figures.slice_panel(view, "d_model", searched["d_model"])
    assert list(choices.layout.xaxis.ticktext) == ["64", "128", "256", "384"]
    assert choices.layout.xaxis.title.text == "d_model"
    momentum = figures.slice_panel(view, "momentum", searched["momentum"])
    having = [trial.number for trial in view.trials if "momentum" in trial.params]
    assert 0 < len(having) < 50
    assert sorted(number for part in momentum.data for number in part.customdata) == having
    assert notes(momentum) == [f"used by {len(having)} of 50 trials"]


def test_an_enqueued_choice_outside_the_space_is_shown_too(view: StudyView) -> None:
    panel = figures.slice_panel(view, "d_model", Scale(choices=(64, 128)))
    assert list(panel.layout.xaxis.ticktext) == ["64", "128", "256", "384"]


def test_texts_of_users_are_not_read_as_html(view: StudyView) -> None:
    trials = [replace(trial, reason="<a href='https://example.org'>x</a>") for trial in view.trials]
    text = "".join(figures.history(StudyView(view.study, trials, view.points)).data[0].text)
    assert "<a" not in text
    assert "&lt;a" in text
