from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput
from hpsearch.model.counting import step_flops, update_flops
from hpsearch.storage.records import BudgetRecord
from hpsearch.training.schedules import evaluation_due, rung_at, step_of
from hpsearch.training.schedules import evaluations as rungs_in
from hpsearch.workload.feasibility import parse_budget, plan, steps_and_interval

SETTINGS = {"batch_size": 8, "context_length": 32}


def planned(kind: str, amount: float, flops: float | None = None, **settings: object) -> float:
    budget = BudgetRecord(kind, amount, 10, flops)
    return plan(budget, SETTINGS | settings, step_flops=2.56e8, windows_per_pass=1000)["max_iters"]


def test_a_flop_budget_buys_as_many_steps_as_it_pays_for() -> None:
    assert planned("flops", 5e11, 5e11) == int(5e11 / 2.56e8)
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
def test_every_trial_gets_its_whole_budget_in_equal_parts(steps: float, evaluations: int) -> None:
    if steps < evaluations:
        with pytest.raises(BadInput, match="larger --budget"):
            steps_and_interval(steps, evaluations)
        return
    found = steps_and_interval(steps, evaluations)
    last = int(found["max_iters"])
    assert steps - 1 < last <= steps + 1e-6, "no step that is paid for is cut, and none is given that is not"
    config = TrialConfig.build(found)
    assert rungs_in(config) == evaluations
    due = [step_of(rung, last, config.eval_interval) for rung in range(1, evaluations + 1)]
    assert due == [round(Fraction(rung * last, evaluations)) for rung in range(1, evaluations + 1)]
    assert [rung_at(step, config) for step in due] == list(range(1, evaluations + 1))
    assert [rung_at(step - 1, config) for step in due] == list(range(evaluations))
    assert all(evaluation_due(step, config) for step in due)
    if last <= 3000:
        assert [step for step in range(last + 2) if evaluation_due(step, config)] == due


@given(st.floats(1, 300), st.integers(1, 40))
def test_a_run_of_a_given_length_has_as_many_evaluations_as_asked_or_as_steps(steps: float, evaluations: int) -> None:
    found = steps_and_interval(steps, evaluations, exact=True)
    config = TrialConfig.build(found)
    last = config.max_iters
    assert last == math.floor(steps + 1e-9)
    due = [step for step in range(last + 1) if evaluation_due(step, config)]
    assert len(due) == rungs_in(config) == min(evaluations, last)
    assert all(abs(step / last - rung / len(due)) <= 0.5 / last + 1e-9 for rung, step in enumerate(due, start=1))


def test_nineteen_steps_and_ten_evaluations_are_all_there() -> None:
    assert steps_and_interval(19.9, 10) == {"max_iters": 19, "eval_interval": 1.9}
    config = TrialConfig.build({"max_iters": 19, "eval_interval": 1.9})
    assert [step for step in range(20) if evaluation_due(step, config)] == [2, 4, 6, 8, 10, 11, 13, 15, 17, 19]


def test_an_interval_that_can_be_whole_is_whole() -> None:
    found = steps_and_interval(500.7, 10)
    assert repr(found["eval_interval"]) == "50"
    assert repr(TrialConfig.build(found).concrete()["eval_interval"]) == "50"
    assert repr(TrialConfig.build({"max_iters": 10, "eval_interval": 2.0}).model_dump(mode="json")["save_interval"]) == "2"


def test_a_step_of_muon_costs_its_own_products_too() -> None:
    shape: dict[str, Any] = {"d_model": 32, "num_heads": 2, "d_ff": 64, "num_layers": 1, "vocab_size": 64, **SETTINGS}
    plain, muon = (
        TrialConfig.build({**shape, "optimizer": name, "max_iters": 1, "batch_size": 1}) for name in ("adamw", "muon")
    )
    assert step_flops(muon) == step_flops(plain) + update_flops(muon) > 2 * step_flops(plain)
    budget = BudgetRecord("flops", 1e9, 10, 1e9)
    for config in (plain, muon):
        found = plan(budget, config.model_dump(), step_flops=step_flops(config), windows_per_pass=1)
        assert found["max_iters"] == int(1e9 / step_flops(config))


def test_the_option_is_read_as_a_space_would_write_it() -> None:
    assert parse_budget("device_seconds=30,evaluations=5") == {"device_seconds": 30.0, "evaluations": 5.0}
    for wrong in ("30", "flops=", "flops=nan", "flops=-1", "flops=inf", "="):
        with pytest.raises(BadInput, match="--budget"):
            parse_budget(wrong)
