"""The learning rate, evaluation and checkpoint tables, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import TrialConfig
from hpsearch.training.schedules import evaluation_due, evaluations, learning_rate_at, rung_at, save_due


def config(**settings: Any) -> TrialConfig:
    return TrialConfig.build({"max_iters": 100, "learning_rate": 1.0, "lr_decay_ratio": 0.1, **settings})


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        ("constant", {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 50: 1.0, 100: 1.0, 150: 1.0}),
        # Half of the way from 4 to 100 is 52; a quarter is 28: 0.1 + 0.9 * (1 + cos(pi / 4)) / 2.
        ("cosine", {0: 0.2, 3: 0.8, 4: 1.0, 28: 0.868198051, 52: 0.55, 100: 0.1, 150: 0.1}),
        ("linear", {0: 0.2, 3: 0.8, 4: 1.0, 28: 0.775, 52: 0.55, 76: 0.325, 100: 0.1, 150: 0.1}),
        ("wsd", {0: 0.2, 3: 0.8, 4: 1.0, 79: 1.0, 80: 1.0, 85: 0.775, 90: 0.55, 100: 0.1, 150: 0.1}),
    ],
)
def test_learning_rates_follow_the_table(schedule: str, table: dict[int, float]) -> None:
    run = config(lr_schedule=schedule, warmup_steps=4)
    assert {t: learning_rate_at(t, run) for t in table} == pytest.approx(table)


def test_without_warmup_the_first_step_has_the_peak() -> None:
    assert learning_rate_at(0, config(lr_schedule="cosine")) == 1.0


def test_decay_ends_at_lr_decay_iters_not_at_max_iters() -> None:
    run = config(lr_schedule="linear", lr_decay_iters=50)
    assert learning_rate_at(25, run) == pytest.approx(0.55)
    assert learning_rate_at(50, run) == learning_rate_at(99, run) == pytest.approx(0.1)


def test_a_decay_that_ends_after_the_run_is_cut_off() -> None:
    assert learning_rate_at(100, config(lr_schedule="linear", lr_decay_iters=200)) == pytest.approx(0.55)


def test_ratio_zero_decays_to_nothing_and_ratio_one_not_at_all() -> None:
    assert learning_rate_at(100, config(lr_decay_ratio=0.0)) == 0.0
    assert learning_rate_at(60, config(lr_decay_ratio=1.0)) == pytest.approx(1.0)


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    warmup=st.integers(0, 300),
    end=st.integers(1, 300),
    ratio=st.floats(0, 1),
)
def test_rates_rise_to_the_peak_then_never_rise_again(schedule: str, warmup: int, end: int, ratio: float) -> None:
    run = config(lr_schedule=schedule, warmup_steps=warmup, lr_decay_iters=end, lr_decay_ratio=ratio)
    rates = [learning_rate_at(t, run) for t in range(320)]
    assert all(0 <= rate <= 1.0 + 1e-12 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize(
    ("max_iters", "interval", "due"),
    [
        (10, 5, [5, 10]),
        (10, 3, [3, 6, 10]),  # 9 comes less than half an interval before 10
        (11, 3, [3, 6, 9, 11]),
        (12, 4, [4, 8, 12]),
        (10, 4, [4, 8, 10]),  # exactly half an interval before the end stays
        (3, 10, [3]),
        (7, 10, [7]),
        (1, 1, [1]),
        (4, 1, [1, 2, 3, 4]),
        (46, 4.6, [5, 9, 14, 18, 23, 28, 32, 37, 41, 46]),
        (10, 2.5, [2, 5, 8, 10]),
        (10, 3.75, [4, 8, 10]),
        (10, 100.5, [10]),
    ],
)
def test_evaluations_come_at_these_steps(max_iters: int, interval: float, due: list[int]) -> None:
    run = config(max_iters=max_iters, eval_interval=interval)
    assert [t for t in range(max_iters + 20) if evaluation_due(t, run)] == due
    assert evaluations(run) == len(due)
    assert [rung_at(t, run) for t in due] == list(range(1, len(due) + 1))
    assert rung_at(0, run) == 0


@given(max_iters=st.integers(1, 400), interval=st.integers(1, 500) | st.floats(1, 500))
def test_rungs_count_the_evaluations_that_are_due(max_iters: int, interval: float) -> None:
    run = config(max_iters=max_iters, eval_interval=interval)
    rung = 0
    for iteration in range(max_iters + 1):
        rung += evaluation_due(iteration, run)
        assert rung_at(iteration, run) == rung
    assert evaluations(run) == rung


@given(max_iters=st.integers(1, 400), interval=st.integers(1, 500))
def test_a_whole_interval_means_what_it_always_meant(max_iters: int, interval: int) -> None:
    run = config(max_iters=max_iters, eval_interval=interval)
    before = [step for step in range(interval, max_iters, interval) if 2 * (max_iters - step) >= interval]
    assert [step for step in range(max_iters + 1) if evaluation_due(step, run)] == [*before, max_iters]


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (9, 9), (10, 10), (19, 10), (57, 10), (100, 10), (10**15, 10)])
def test_a_run_without_a_budget_evaluates_ten_times_or_after_each_step(steps: int, count: int) -> None:
    assert evaluations(config(max_iters=steps)) == count


def test_checkpoints_have_an_interval_of_their_own() -> None:
    run = config(max_iters=10, eval_interval=5, save_interval=4)
    assert [t for t in range(12) if save_due(t, run)] == [4, 8, 10]
    assert [t for t in range(12) if save_due(t, config(max_iters=10, eval_interval=2.5))] == [2, 5, 8, 10]
