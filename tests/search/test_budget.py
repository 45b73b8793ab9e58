from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput
from hpsearch.search.budget import parse_budget, plan, steps_and_interval
from hpsearch.storage.records import BudgetRecord
from hpsearch.training.schedules import evaluation_due, rung_at

SETTINGS = {"batch_size": 8, "context_length": 32}


def planned(kind: str, amount: float, flops: float | None = None, **settings: object) -> int:
    budget = BudgetRecord(kind, amount, 10, flops)
    return plan(budget, SETTINGS | settings, flops_per_token=1e6, windows_per_pass=1000)["max_iters"]


def test_a_flop_budget_buys_as_many_steps_as_it_pays_for() -> None:
    assert planned("flops", 5e11, 5e11) == int(5e11 / (1e6 * 8 * 32))
    assert planned("device_seconds", 15, 5e11) == planned("flops", 5e11, 5e11)


def test_a_token_budget_is_the_same_text_for_every_batch_size() -> None:
    assert planned("tokens", 256_000) == 1000
    assert planned("tokens", 256_000, batch_size=16) == 500


def test_epochs_are_whole_passes_over_the_windows() -> None:
    assert planned("num_epochs", 2) == 250
    assert planned("num_epochs", 0, num_epochs=0.5) == 63


def test_iterations_are_taken_as_they_are() -> None:
    assert planned("max_iters", 57) == 57
    assert planned("max_iters", 0, max_iters=31) == 31


@given(st.floats(1, 1e6), st.integers(1, 40))
def test_a_budget_is_never_exceeded_and_its_rungs_are_equal_fractions(steps: float, evaluations: int) -> None:
    if steps < evaluations:
        with pytest.raises(BadInput, match="larger --budget"):
            steps_and_interval(steps, evaluations)
        return
    found = steps_and_interval(steps, evaluations)
    assert 1 <= found["max_iters"] <= steps + 1e-6
    config = TrialConfig.build(found)
    last = found["max_iters"]
    due = [step for step in range(1, min(last, 3000) + 1) if evaluation_due(step, config)]
    if last <= 3000:
        assert len(due) == evaluations
        assert due[-1] == last
        assert [rung_at(step, config) for step in due] == list(range(1, len(due) + 1))
    for rung, step in enumerate(due, start=1):
        assert abs(step / last - rung / evaluations) <= 0.5 / evaluations + 1e-9


@given(st.integers(10, 100))
def test_a_run_too_short_for_equal_intervals_loses_less_than_one_round_of_them(steps: int) -> None:
    assert steps_and_interval(steps, 10)["max_iters"] > steps - 10


def test_the_option_is_read_as_a_space_would_write_it() -> None:
    assert parse_budget("device_seconds=30,evaluations=5") == {"device_seconds": 30.0, "evaluations": 5.0}
    for wrong in ("30", "flops=", "flops=nan", "flops=-1", "flops=inf", "="):
        with pytest.raises(BadInput, match="--budget"):
            parse_budget(wrong)
