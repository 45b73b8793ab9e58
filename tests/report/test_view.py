from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpsearch.errors import BadInput
from hpsearch.results.formatting import amount, in_few_words, short
from hpsearch.results.view import StudyView, status_dict, trial_dict
from hpsearch.storage.records import (
    AttemptRecord,
    ConfirmationRecord,
    DecisionRecord,
    EndReason,
    PauseKind,
    PointRecord,
    TrialRecord,
    TrialState,
)

MakeView = Callable[..., StudyView]


class Records:
    """A store that holds one study's records in memory."""

    def __init__(self, view: StudyView) -> None:
        self.view = view
        self.read: list[str] = []

    def trials(self, study_id: int) -> Sequence[TrialRecord]:
        assert study_id == self.view.study.id
        return self.view.trials[::-1]

    def points(self, study_id: int, number: int | None = None) -> Sequence[PointRecord]:
        self.read.append("points")
        return self.view.points[::-1]

    def attempts(self, study_id: int, number: int | None = None) -> Sequence[AttemptRecord]:
        return self.view.attempts

    def decisions(self, study_id: int, number: int | None = None) -> Sequence[DecisionRecord]:
        return self.view.decisions

    def confirmations(self, study_id: int, number: int | None = None) -> Sequence[ConfirmationRecord]:
        return self.view.confirmations


def with_trial(view: StudyView, number: int, **changes: Any) -> StudyView:
    trials = [replace(trial, **changes) if trial.number == number else trial for trial in view.trials]
    return StudyView(view.study, trials, view.points)


def test_a_loaded_view_holds_trials_and_curves_in_order(view: StudyView) -> None:
    loaded = StudyView.load(Records(view), view.study)
    assert [trial.number for trial in loaded.trials] == list(range(50))
    assert [point.rung for point in loaded.curve(0)] == list(range(1, 11))
    assert loaded.curve(99) == []
    assert (loaded.attempts, loaded.decisions) == (view.attempts, view.decisions)


def test_a_summary_does_not_read_the_curves(view: StudyView) -> None:
    store = Records(view)
    assert StudyView.load(store, view.study, curves=False).best == view.best
    assert store.read == []


def test_best_is_the_lowest_finite_value_of_a_complete_feasible_trial(view: StudyView) -> None:
    assert view.best is not None
    complete = [trial for trial in view.trials if trial.state is TrialState.COMPLETE]
    assert view.best.value == min(trial.value for trial in complete if trial.value is not None)
    for changes in (
        {"values": (math.nan,)},
        {"values": (-math.inf,)},
        {"values": None},
        {"values": (0.0,), "state": TrialState.PRUNED},
        {"values": (0.0,), "state": TrialState.FAILED},
        {"values": (0.0,), "state": TrialState.RUNNING},
        {"values": (0.0,), "end_reason": EndReason.INFEASIBLE},
    ):
        assert with_trial(view, 5, **changes).best == view.best, changes
    assert with_trial(view, 5, values=(0.0,), state=TrialState.COMPLETE, end_reason=EndReason.COMPLETED).best.number == 5  # type: ignore[union-attr]


def test_of_two_equal_trials_the_earlier_is_best(view: StudyView) -> None:
    assert view.best is not None
    twice = with_trial(view, 49, values=view.best.values, state=TrialState.COMPLETE, reason="")
    assert twice.best == view.best


def test_best_so_far_never_rises_and_ends_at_the_best(view: StudyView) -> None:
    steps = view.best_so_far()
    assert [number for number, _ in steps] == sorted(number for number, _ in steps)
    assert all(later <= earlier for (_, earlier), (_, later) in itertools.pairwise(steps))
    assert view.best is not None
    assert steps[-1][1] == view.best.value


def test_counts_name_every_state_and_add_up(view: StudyView) -> None:
    assert set(view.counts) == set(TrialState)
    assert sum(view.counts.values()) == 50
    assert view.counts[TrialState.PRUNED] >= 10


def test_the_gain_is_a_share_of_the_baseline(view: StudyView) -> None:
    assert view.best is not None
    assert view.baseline is not None
    assert view.best.value is not None
    assert view.baseline.value is not None
    assert view.gain == pytest.approx(1 - view.best.value / view.baseline.value)
    assert with_trial(view, 0, state=TrialState.FAILED).gain is None


def test_a_pruned_trial_reached_the_last_finite_value_of_its_curve(view: StudyView) -> None:
    pruned = next(trial for trial in view.trials if trial.state is TrialState.PRUNED and trial.rung > 1)
    assert view.reached(pruned) == view.curve(pruned.number)[-1].metrics["val_bpb"]
    diverged = [
        replace(point, metrics={"val_bpb": math.nan})
        if (point.trial_number, point.rung) == (pruned.number, pruned.rung)
        else point
        for point in view.points
    ]
    assert StudyView(view.study, view.trials, diverged).reached(pruned) == view.curve(pruned.number)[-2].metrics["val_bpb"]


def test_an_objective_unknown_while_training_has_the_curves_of_the_loss(view: StudyView) -> None:
    sized = StudyView(replace(view.study, objectives=("num_parameters",)), view.trials, view.points)
    assert sized.curve_metric == "val_bpb"
    pruned = next(trial for trial in sized.trials if trial.state is TrialState.PRUNED)
    assert sized.reached(pruned) is None


def test_picking_a_trial_names_what_is_there(view: StudyView, make_view: MakeView) -> None:
    assert view.pick() is view.best
    assert view.pick(3).number == 3
    with pytest.raises(BadInput, match="no trial 50; its trials are 0 to 49"):
        view.pick(50)
    with pytest.raises(BadInput, match="no complete trial yet"):
        make_view(0).pick()


def test_a_trial_in_json_has_the_documented_keys_and_no_nan(view: StudyView) -> None:
    broken = replace(view.trials[0], values=(math.nan,), metrics={"val_loss": math.inf})
    document = json.loads(json.dumps(trial_dict(broken), allow_nan=False))
    documented = {"number", "state", "value", "values", "config", "rung", "tokens", "flops", "seconds", "reason", "proposed_by"}
    assert documented | {"attempts", "end_reason", "pause_kind"} <= set(document)
    assert (document["end_reason"], document["pause_kind"]) == (None, None)
    ended = trial_dict(broken.ended(TrialState.PRUNED, EndReason.NOT_PROMOTED, "not among the best 3 of 9"))
    assert json.loads(json.dumps(ended))["end_reason"] == "not_promoted"
    paused = json.loads(json.dumps(trial_dict(broken.paused(PauseKind.INTERRUPTED, "interrupted"))))
    assert (paused["state"], paused["end_reason"], paused["pause_kind"]) == ("paused", None, "interrupted")
    assert (document["value"], document["values"], document["state"]) == (None, [None], "complete")
    assert document["config"]["learning_rate"] == 3e-4


def test_the_status_in_json_counts_and_names_the_best(view: StudyView, make_view: MakeView) -> None:
    document = json.loads(json.dumps(status_dict(view), allow_nan=False))
    assert view.best is not None
    assert document["best"]["number"] == view.best.number
    assert document["trials"]["total"] == document["trials"]["target"] == 50
    assert document["budget"]["kind"] == "device_seconds"
    empty = status_dict(make_view(0))
    assert (empty["best"], empty["baseline"], empty["trials"]["complete"]) == (None, None, 0)


def test_numbers_are_short_for_the_eye() -> None:
    written = {0.00030: "0.0003", 3.2e-5: "3.2e-5", 1e-12: "1e-12", 2.0: "2", True: "true", 128: "128", "gelu": "gelu"}
    assert {value: short(value) for value in written} == written
    assert short(None) == "—"
    assert [amount(value, "FLOP") for value in (950, 34e12, 2e24)] == ["950 FLOP", "34 TFLOP", "2e+03 ZFLOP"]


def test_few_words_name_what_differs_from_the_baseline_first(view: StudyView) -> None:
    trial = replace(view.trials[1], params={"dropout": 0.1, "d_model": 256, "num_heads": 8, "momentum": 0.9})
    assert in_few_words(trial, view.baseline, limit=2) == ["d_model 256", "num_heads 8", "and 2 more"]


def test_the_view_imports_nothing_heavy() -> None:
    heavy = ("plotly", "optuna", "numpy", "torch", "sqlalchemy", "pydantic")
    code = f"import sys, hpsearch.results.view; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
