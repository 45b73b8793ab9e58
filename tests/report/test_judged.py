from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hpsearch.report.decisions import confirmation, trade_off
from hpsearch.report.page import render_report
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import ConfirmationRecord

MakeView = Callable[..., StudyView]


@pytest.fixture(scope="module")
def confirmed(view: StudyView) -> StudyView:
    assert view.best is not None
    values = {0: (2.5, 2.6, 2.55), view.best.number: (2.4, 2.52, 2.46)}
    records = [
        ConfirmationRecord(number, seed, value, {}, 1.0, 1.0)
        for number, each in values.items()
        for seed, value in enumerate(each, 1)
    ]
    study = replace(
        view.study, extras={"forecast": {"seconds": 700.0, "actual_s": 100.0, "expected_s": 90.0, "error": -0.1, "done": 0.8}}
    )
    return replace(view, study=study, confirmations=records)


def test_the_trade_off_marks_the_front_the_baseline_and_the_chosen_one(view: StudyView) -> None:
    figure = trade_off(view)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert set(traces) == {"dominated", "front", "baseline", "chosen"}
    front = list(zip(traces["front"].x, traces["front"].y, strict=True))
    assert front == sorted(front)
    values = [value for _, value in front]
    assert values == sorted(values, reverse=True), "less loss costs more parameters along the front"
    assert view.best is not None
    assert list(traces["chosen"].x) == [view.best.num_parameters]
    assert len(traces["front"].x) + len(traces["dominated"].x) == len(view.ranked)
    other = view.ranked[3]
    assert list(trade_off(view, other).data[-1].x) == [other.num_parameters]


def test_the_trade_off_is_drawn_against_the_second_objective(view: StudyView) -> None:
    trials = [
        replace(
            trial, values=(trial.value, float(trial.number)), metrics=trial.metrics | {"train_seconds": float(trial.number)}
        )
        if trial.value is not None
        else trial
        for trial in view.trials
    ]
    seen = StudyView(replace(view.study, objectives=("val_bpb", "train_seconds")), trials)
    figure = trade_off(seen)
    assert figure.layout.xaxis.title.text == "train_seconds (s)"
    front = next(trace for trace in figure.data if trace.name == "front")
    assert list(front.x) == sorted(float(trial.number) for trial in seen.front)


def test_a_space_of_one_size_has_no_trade_off(make_view: MakeView) -> None:
    view = make_view(3)
    same = StudyView(view.study, [replace(trial, num_parameters=7) for trial in view.trials])
    assert not trade_off(same).data
    assert not trade_off(make_view(0)).data


def test_the_confirmation_shows_each_seed_the_mean_and_the_value_of_the_search(confirmed: StudyView) -> None:
    figure = confirmation(confirmed)
    seeds, means, searched = figure.data
    assert len(seeds.y) == 6
    assert list(means.y) == [pytest.approx(2.46), pytest.approx(2.55)]
    assert means.error_y.array[0] > 0
    assert confirmed.best is not None
    assert searched.y[0] == confirmed.best.value
    assert "default" in figure.layout.title.text
    assert not confirmation(replace(confirmed, confirmations=[])).data


def test_the_page_tells_the_verdict_the_edges_and_what_the_forecast_was_worth(
    confirmed: StudyView, searched: dict[str, Scale]
) -> None:
    text = render_report(confirmed, None, searched, edges=["learning_rate 0.01 is at the upper edge of its range: widen it"])
    assert confirmed.verdict is not None
    sentence = confirmed.verdict.sentences[0].replace("'", "&#39;")
    assert f"{sentence[0].upper()}{sentence[1:]}." in text
    assert f"<td>{confirmed.verdict.first} (search best)</td>" in text
    assert "<li>learning_rate 0.01 is at the upper edge of its range: widen it</li>" in text
    assert "was forecast at 1 min 30 s and took 1 min 40 s (-10 %)" in text
    assert 'data-figure="confirmation"' in text
    assert "Not confirmed yet" in render_report(replace(confirmed, confirmations=[]), None, searched)
