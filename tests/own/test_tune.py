from __future__ import annotations

import csv
import functools
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_trainers
import pytest
from invariants import assert_nothing_lost

import hpsearch
from hpsearch.errors import BadInput, NoTrialSucceeded, StoppedForNow
from hpsearch.results.tables import to_csv

Tune = Callable[..., hpsearch.Study]


def test_a_generator_is_tuned(tune: Tune) -> None:
    study = tune(own_trainers.curve, trials=6, sampler="auto", pruner="median")
    assert_nothing_lost(study.storage, "toy", 6)
    best, baseline = study.best, study.baseline
    assert best is not None
    assert baseline is not None
    assert baseline.config == {"learning_rate": 1.0, "dropout": "light", "num_heads": 3, "momentum": None}
    assert baseline.value == own_trainers.score(baseline.config, 8) == 0.125
    assert study.curve(0) == [(step, 1 / step) for step in (2, 4, 6, 8)]
    assert baseline.metrics == {"value": 0.125, "twice": 16.0}
    assert (study.folder / "best.yaml").exists()
    assert (study.folder / "report.html").exists()


def test_results_come_as_objects_and_data_frames(tune: Tune) -> None:
    study = tune(own_trainers.accurate, dict(own_trainers.SPACE, objective=[{"maximize": "accuracy"}, "size"]), trials=3)
    given = json.loads((study.trials[1].folder / "given.json").read_text())
    assert given == {"config": study.trials[1].config, "trial": 1, "every": 2}
    best = study.best
    assert best is not None
    assert best.value == max(trial.value for trial in study.trials if trial.value is not None) > 0
    assert best.values == (best.value, 5.0)
    assert study.objective == "accuracy"
    frame = study.frame()
    assert list(frame["value"]) == [trial.value for trial in study.trials]
    assert list(frame.columns[:7]) == ["number", "state", "value", "learning_rate", "dropout", "num_heads", "momentum"]
    assert "neg_accuracy" not in frame.columns
    assert list(study.curves().query("trial == 0")["step"]) == [2, 4, 6, 8]
    assert hpsearch.open_study("toy", studies_dir=study.studies_dir).trials == study.trials
    assert repr(study) == f"<Study 'toy': 3 complete; best: trial {best.number}, accuracy {best.value:.4g}>"
    assert f"<td>{best.number}</td><td>{best.value:.4g}</td>".replace("<td>0<", "<td>0 (baseline)<") in study._repr_html_()


@pytest.mark.parametrize("trainer", ["curve", "when_due"])
def test_steps_that_evaluations_do_not_divide_have_all_of_them_at_equal_parts(tune: Tune, trainer: str) -> None:
    space = dict(own_trainers.SPACE, budget={"steps": 25, "evaluations": 10})
    study = tune(getattr(own_trainers, trainer), space)
    assert [step for step, _ in study.curve(0)] == [2, 5, 8, 10, 12, 15, 18, 20, 22, 25]
    assert [point.rung for point in study.view.points if point.trial_number == 0] == list(range(1, 11))


def test_an_interval_of_whole_steps_misses_no_evaluation(tune: Tune) -> None:
    space = dict(own_trainers.SPACE, budget={"steps": 25, "evaluations": 10})
    study = tune(own_trainers.every_interval, space)
    # Every 2 steps, and at the end: each is the first after its tenth of the run.
    assert [step for step, _ in study.curve(0)] == [2, 6, 8, 10, 12, 16, 18, 20, 22, 25]


def test_the_same_call_goes_on_and_a_finished_study_trains_nothing(tune: Tune) -> None:
    first = tune(own_trainers.curve)
    again = tune(own_trainers.curve)
    assert again.trials == first.trials
    assert [trial.number for trial in tune(own_trainers.curve, trials=3).trials] == [0, 1, 2]
    with pytest.raises(BadInput, match=r"another trainer .*own_trainers:curve, now function own_trainers:accurate"):
        tune(own_trainers.accurate)


def test_a_slot_that_is_killed_goes_on_from_the_checkpoint(tune: Tune) -> None:
    study = tune(own_trainers.killed_once, trials=3)
    assert_nothing_lost(study.storage, "toy", 3)
    attempts = [attempt for attempt in study.view.attempts if attempt.trial_number == 1]
    assert [(attempt.from_iteration, attempt.outcome) for attempt in attempts] == [(0, "died"), (5, "complete")]
    assert (study.trials[1].folder / "steps.log").read_text().split() == [str(step) for step in range(1, 9)]
    assert [step for step, _ in study.curve(1)] == [2, 4, 6, 8]


def test_trials_are_paused_and_promoted(tune: Tune) -> None:
    study = tune(own_trainers.curve, trials=12, slots=1, pruner=None, scheduler="halving")
    assert_nothing_lost(study.storage, "toy", 12)
    outcomes = [attempt.outcome for attempt in study.view.attempts]
    assert "paused" in outcomes
    for trial in study.trials:
        steps = (trial.folder / "steps.log").read_text().split()
        assert len(steps) == len(set(steps)), "nothing is trained twice"
    promoted = {decision.trial_number for decision in study.view.decisions if decision.action == "promote"}
    assert all(len([a for a in study.view.attempts if a.trial_number == number]) > 1 for number in promoted)


def test_a_pruned_trainer_is_closed(tune: Tune) -> None:
    study = tune(own_trainers.cleans_up, trials=7, slots=1, pruner="median")
    assert study.trials[6].state == "pruned"
    assert all((trial.folder / "closed").exists() for trial in study.trials)


@pytest.mark.parametrize(
    ("trainer", "state", "reason"),
    [
        ("diverges", "pruned", "diverged: value is nan at step 4"),
        ("raises", "failed", "ValueError: the wrong trousers"),
    ],
)
def test_how_a_trial_that_does_not_end_well_ends(tune: Tune, trainer: str, state: str, reason: str) -> None:
    study = tune(getattr(own_trainers, trainer))
    assert (study.trials[1].state, study.trials[1].reason) == (state, reason)
    assert study.best is not None
    assert study.best.number == 0


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        ("returns_a_number", "returned float: a training function is a generator and yields"),
        ("yields_a_number", "yielded float: yield hpsearch.Evaluation, Checkpoint or None"),
        ("says_nothing", "it ended without a value of value; it reported accuracy"),
    ],
)
def test_what_is_wrong_with_a_trainer_is_the_reason(tune: Tune, trainer: str, reason: str) -> None:
    with pytest.raises(NoTrialSucceeded, match=re.escape(reason)):
        tune(getattr(own_trainers, trainer), trials=1, slots=1)


def test_a_run_whose_last_checkpoint_is_its_end_is_complete(tune: Tune) -> None:
    study = tune(own_trainers.finishes_and_is_paused, trials=1, slots=1)
    assert (study.trials[0].state, study.trials[0].value) == ("complete", 0.5)
    assert len(study.view.attempts) == 2


def test_a_checkpoint_that_is_gone_is_passed_over(tune: Tune) -> None:
    study = tune(own_trainers.forgets_its_checkpoint, trials=1, slots=1)
    assert (study.trials[0].folder / "resumed").read_text() == "2 step-2"


def test_checkpoints_of_a_pruned_trial_go_and_nothing_else_does(tune: Tune, tmp_path: Path) -> None:
    study = tune(own_trainers.saves_here_and_there)
    complete, pruned = study.trials
    assert {"file", "folder"} <= {path.name for path in complete.folder.iterdir()}
    assert {"file", "folder"}.isdisjoint(path.name for path in pruned.folder.iterdir())
    assert (tmp_path / "theirs").exists()


def test_what_is_measured_beyond_the_budget_does_not_count(tune: Tune) -> None:
    study = tune(own_trainers.goes_beyond, trials=1, slots=1)
    assert study.trials[0].value == 0.5


def test_a_hung_trainer_is_ended_and_its_trial_fails_in_the_end(tune: Tune) -> None:
    with pytest.raises(NoTrialSucceeded, match=r"poisoned: its slot died 3 times, the last time no step for 0\.2 s"):
        tune(own_trainers.sleeps, trials=1, slots=1, step_limit=0.2)


def test_the_step_limit_holds_for_the_confirmation_too(tune: Tune) -> None:
    study = tune(own_trainers.sleeps_once_when_confirmed, trials=1, confirm=True, top=1, seeds=1, step_limit=0.5)
    assert study.confirmation is not None
    assert study.confirmation.of(0).values == {1: 0.5}  # type: ignore[union-attr]
    assert (study.folder / "confirm" / "0000-1" / "stacks.txt").exists()


def test_the_best_is_confirmed_on_fresh_seeds(tune: Tune) -> None:
    study = tune(own_trainers.curve, trials=4, confirm=True, top=1, seeds=2)
    verdict = study.confirmation
    assert verdict is not None
    assert verdict.seeds == (1, 2)
    assert {each.trial for each in verdict.confirmed} == {0, study.best.number if study.best else None}
    first = verdict.of(0)
    assert first is not None
    assert first.values == {1: 0.125 + 0.001, 2: 0.125 + 0.002}


@pytest.mark.parametrize(
    ("train", "name"),
    [
        (functools.partial(own_trainers.scaled, 2.0), "scaled"),
        (functools.partial(functools.partial(own_trainers.scaled), 2.0), "scaled"),
        (own_trainers.Scaled(2.0), "Scaled"),
        (own_trainers.Scaled(2.0).train, "train"),
        (own_trainers.Scaled.twice, "twice"),
    ],
    ids=["partial", "partial of a partial", "object", "method", "class method"],
)
def test_whatever_can_be_called_is_tuned(tune: Tune, train: Any, name: str) -> None:
    study = tune(train, {"learning_rate": {"low": 1.0, "high": 2.0, "prior": 1.0}}, steps=8, evaluations=4, trials=1, slots=1)
    assert (study.name, study.trials[0].value) == (name, 0.25)


def test_an_object_that_cannot_be_sent_is_refused_in_one_line(tune: Tune, tmp_path: Path) -> None:
    train = own_trainers.Scaled(2.0)
    train.by = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(BadInput, match=r"own_trainers:Scaled cannot be sent to a slot: .*pickle"):
        tune(train)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_starts_no_thread_stops_a_study_for_now(tune: Tune, tmp_path: Path) -> None:
    with pytest.raises(StoppedForNow, match="can't start new thread"):
        tune(own_trainers.starts_a_thread, trials=1, slots=1)
    (trial,) = hpsearch.open_study("toy", studies_dir=tmp_path).trials
    assert trial.state == "paused"


def test_columns_that_fall_together_have_names_of_their_own(tune: Tune) -> None:
    space = {"seconds": {"low": 0.0, "high": 1.0, "prior": 0.5}, "loss": 3}
    whole = {"name": "columns", "objective": ["loss", "seconds"], "budget": {"steps": 8, "evaluations": 4}, "parameters": space}
    study = tune(own_trainers.names_like_columns, whole, trials=1, slots=1)
    frame = study.frame()
    ours = ["value", "config.seconds", "loss", "objective.seconds", "metrics.rung"]
    assert frame.loc[0, ours].tolist() == [0.5, 0.5, 3, 105.0, 7.0]
    assert frame.loc[0, "seconds"] == study.trials[0].seconds < 105
    assert study.curves().loc[0, ["rung", "metrics.rung", "objective.seconds"]].tolist() == [4, 7.0, 105.0]
    (row,) = csv.DictReader(io.StringIO(to_csv(study.view)))
    assert {name: row[name] for name in ("value", "loss", "objective.seconds", "config.loss", "config.seconds")} == {
        "value": "0.5",
        "loss": "0.5",
        "objective.seconds": "105.0",
        "config.loss": "3",
        "config.seconds": "0.5",
    }


SCRIPT = """
import hpsearch

def local(config, run):
    yield hpsearch.Evaluation(run.steps, config["x"])

study = hpsearch.tune(local, {"x": {"low": 0.0, "high": 1.0}}, steps=2, trials=2, slots=1, view="lines")
print(study.best.value == study.best.config["x"])
"""


@pytest.mark.parametrize("how", ["script", "standard input"])
def test_a_function_of_a_script_needs_neither_module_nor_guard(tmp_path: Path, environment: dict[str, str], how: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py"] if how == "script" else [sys.executable, "-"]
    done = subprocess.run(words, input=SCRIPT, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
    assert "trial 1 complete value" in done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    told = "import sys, hpsearch; hpsearch.tune, hpsearch.Evaluation; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert "hpsearch" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trials": 0}, "trials=0: a study has at least 1 trial"),
        ({"steps": 8}, "the space has a budget already"),
        ({"sampler": "tpee"}, "unknown sampler 'tpee'; did you mean 'tpe'?"),
        ({"slots": 0}, "--slots 0"),
        ({"space": {"x": {"low": 1.0, "high": 0.0}}, "steps": 4}, "low 1.0 is above high 0.0"),
        ({"space": "nowhere.yaml"}, "nowhere.yaml"),
        ({"train": "no-such-program {config}"}, "'no-such-program' is no program here"),
        ({"train": 3}, "give a generator function"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tune: Tune, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    whole: dict[str, object] = {"train": own_trainers.curve} | changes
    with pytest.raises(BadInput, match=re.escape(told)):
        tune(**whole)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_an_error(tune: Tune) -> None:
    with pytest.raises(TypeError, match="unknown option 'trails'; known: trials"):
        tune(own_trainers.curve, trails=3)


def test_the_report_has_only_what_is_known_of_such_a_study(tune: Tune) -> None:
    study = tune(own_trainers.curve, trials=2)
    page = (study.folder / "report.html").read_text()
    assert "What was searched" in page
    assert "hpsearch.tune(own_trainers:curve" in page
    for absent in ("Generated text", "training compute", "Which learning rate suits which size", "tokens/s"):
        assert absent not in page
