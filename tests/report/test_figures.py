from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from hpsearch.report import figures
from hpsearch.report.compute import quality, timeline
from hpsearch.report.effects import marginal_effects, rate_against_size
from hpsearch.report.gallery import NAMES, gallery
from hpsearch.report.importance import importance_of, importances, study_of
from hpsearch.report.parallel import parallel_coordinates
from hpsearch.report.plotting import TICKS, Choices
from hpsearch.results.failures import failures
from hpsearch.results.view import Scale, StudyView
from hpsearch.space.load import parse_space
from hpsearch.storage.records import AttemptRecord, EndReason, TrialState

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
    drawn = gallery(view, make_optuna(view), searched).values()
    assert len(drawn) == len(NAMES) + len(searched)
    for figure in drawn:
        assert figure.data or notes(figure), "an empty figure says why"
        assert figure.layout.title.text
        assert "NaN" not in figure.to_json()


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


def test_curves_mark_where_trials_were_set_aside_and_taken_back(view: StudyView) -> None:
    figure = figures.learning_curves(view)
    turned = [each.trial_number for each in view.decisions if each.action == "promote"]
    assert turned
    for label in ("paused here", "promoted"):
        assert sorted(trace(figure, label).customdata) == sorted(turned)
        assert set(trace(figure, label).x) == {50.0}


def test_marginal_effects_find_the_valley_and_the_bad_choice(thousand: StudyView, searched: dict[str, Scale]) -> None:
    effects = marginal_effects(thousand, searched)
    rate = effects["learning_rate"]
    lowest = rate.places[rate.mean.index(min(rate.mean))]
    assert 4e-4 < lowest < 4e-3, "the synthetic optimum is 1.3e-3"
    optimizer = dict(zip(effects["optimizer"].places, effects["optimizer"].mean, strict=True))
    assert optimizer["sgd"] > max(optimizer["adamw"], optimizer["lion"]) + 0.1, "though sgd always comes with momentum"
    flat = effects["hidden_act"]
    assert max(flat.mean) - min(flat.mean) < 0.05
    assert all(low <= mean <= high for low, mean, high in zip(rate.low, rate.mean, rate.high, strict=True))


def test_the_contour_leaves_out_where_no_trial_is_near(thousand: StudyView, view: StudyView) -> None:
    field = trace(rate_against_size(thousand), "smoothed value")
    rates, sizes, values = np.array(field.x), np.array(field.y), np.array(field.z)
    assert values.shape == (len(sizes), len(rates))
    _, column = np.unravel_index(np.nanargmin(values), values.shape)
    assert 4e-4 < rates[column] < 4e-3
    assert np.isnan(np.array(trace(rate_against_size(view), "smoothed value").z)).any()
    same = StudyView(view.study, [replace(trial, num_parameters=5) for trial in view.trials], view.points)
    assert notes(rate_against_size(same)) == ["all complete trials have the same size"]


def test_compute_to_quality_counts_what_pruned_trials_cost_too(view: StudyView) -> None:
    figure = quality(view)
    line = trace(figure, "best so far")
    assert line.x[-1] == pytest.approx(sum(trial.flops for trial in view.trials))
    assert view.best is not None
    assert line.y[-1] == pytest.approx(view.best.value)
    assert list(np.diff(line.y) <= 0) == [True] * (len(line.y) - 1)


def test_the_timeline_shows_every_stay_and_leaves_out_the_night(view: StudyView) -> None:
    later = 36_000.0
    attempts = [
        replace(each, started_at=each.started_at + later, ended_at=(each.ended_at or 0) + later) if index >= 25 else each
        for index, each in enumerate(view.attempts)
    ]
    figure = timeline(replace(view, attempts=attempts))
    assert sum(len(part.x) for part in figure.data) == len(attempts)
    assert figure.layout.xaxis.range[1] < 10, "minutes"
    assert "1 interruption left out" in figure.layout.xaxis.title.text
    running = AttemptRecord(0, 1, "slot-0", "here", 1, 5.0, 0)
    assert timeline(replace(view, attempts=[running])).data[0].name == "complete"


def test_failures_are_grouped_by_reason_whatever_the_numbers_in_it(thousand: StudyView) -> None:
    found = failures(thousand)
    assert [each.kind for each in found] == ["diverged", "failed"]
    assert sum(len(each.trials) for each in found) == sum(
        trial.state is TrialState.FAILED or trial.reason.startswith("diverged") for trial in thousand.trials
    )


def test_what_a_trial_came_to_is_not_read_in_the_sentence_about_it(view: StudyView) -> None:
    best = view.best
    assert best is not None
    by_hand = best.ended(TrialState.PRUNED, EndReason.PRUNED_BY_HAND, "diverged from what the team wants")
    assert failures(StudyView(view.study, [by_hand])) == []
    slow = StudyView(view.study, [best.ended(TrialState.COMPLETE, EndReason.INFEASIBLE, "too slow")])
    assert [(each.kind, each.reason) for each in failures(slow)] == [("infeasible", "too slow")]
    assert slow.best is None
    named = StudyView(view.study, [replace(best, reason="infeasible, somebody wrote")])
    assert named.best is not None


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
    importance = importance_of(study, searched)
    assert next(iter(importance)) == "learning_rate"
    assert set(importance) == {"learning_rate", "dropout", "optimizer", "momentum"}
    assert sum(each.share for each in importance.values()) == pytest.approx(1)
    assert all(each.low <= each.share <= each.high for each in importance.values())
    assert importance["learning_rate"].low > importance["dropout"].high, "noise is told from what matters"
    assert importance == importance_of(study, searched), "the same each time"


def test_too_few_trials_for_importances_are_said(
    make_view: MakeView, make_optuna: MakeOptuna, searched: dict[str, Scale]
) -> None:
    view = make_view(3)
    assert importance_of(make_optuna(view), searched) == {}
    complete = len(view.ranked)
    assert notes(importances(view, {})) == [f"needs 10 complete trials; there are {complete}"]


def test_parallel_coordinates_lead_a_trial_without_a_conditional_parameter_below_its_axis(
    thousand: StudyView, searched: dict[str, Scale]
) -> None:
    figure = parallel_coordinates(thousand, searched, ["beta2", "learning_rate"])
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


@pytest.mark.parametrize("choices", [100, 4000])
def test_names_of_many_choices_are_thinned(view: StudyView, choices: int, searched: dict[str, Scale]) -> None:
    """The marks of a figure, and so the time that it takes, do not grow with the choices that nobody has tried."""
    shards = tuple(f"p{index}" for index in range(choices))
    trials = [replace(each, params=each.params | {"shard": shards[-1 - each.number]}) for each in view.trials]
    many = StudyView(view.study, trials, view.points)
    scale = Scale(choices=shards)
    panel = figures.slice_panel(many, "shard", scale)
    ticks = panel.layout.xaxis.ticktext
    assert (ticks[0], ticks[-1]) == ("p0", shards[-1])
    assert len(ticks) <= TICKS
    assert panel.layout.xaxis.tickvals[-1] == choices - 1
    effect = marginal_effects(many, searched | {"shard": scale})["shard"]
    assert len(effect.places) <= TICKS
    assert set(effect.places) <= set(shards)
    drawn = parallel_coordinates(many, {"shard": scale}, [])
    assert len(drawn.layout.annotations) < 2 * TICKS
    assert max(np.nanmax(trace.y) for trace in drawn.data) <= 1.02


def test_choices_that_look_alike_have_places_of_their_own() -> None:
    choices = Choices(Scale(choices=(True, 1, "1", [1], None)), [2.5, 1.0, [1], "x"])
    assert choices.all == [True, 1, "1", [1], None, 2.5, "x"]
    assert [choices.place(each) for each in (True, 1, 1.0, "1", [1], None, 2.5, "x")] == [0, 1, 1, 2, 3, 4, 5, 6]


def test_importances_from_our_own_records_are_those_from_optunas(view: StudyView, make_optuna: MakeOptuna) -> None:
    text = "name: lm\nbudget: {max_iters: 10}\nparameters:\n  learning_rate: {low: 1e-5, high: 1e-2, log: true}\n"
    space = parse_space(f"{text}  d_model: {{choices: [64, 128, 256, 384]}}\n  num_layers: {{low: 2, high: 8}}\n", "lm.yaml")
    names = ["learning_rate", "d_model", "num_layers"]
    ours = importance_of(study_of(view, space), names)
    assert ours == importance_of(make_optuna(view), names)
    assert ours.keys() == set(names)
