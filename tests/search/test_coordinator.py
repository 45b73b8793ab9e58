"""One coordinator, real slots, a real database, and trainers that cost nothing."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import optuna
import pytest
from invariants import count
from sqlalchemy import Connection, Engine, event
from toy_spaces import SPACE
from toys import Heard, Toys
from waiting import wait_for

from hpsearch.errors import BadInput, StoppedForNow, StudyGone, StudyOwned
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import EndReason, Owner, PauseKind, TrialRecord, TrialState
from hpsearch.storage.upsert import Record
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.lease import lease_kept
from hpsearch.tuning.request import check
from hpsearch.tuning.study import Study, open_study
from hpsearch.tuning.trial_store import Ledger

A_CHECKPOINT = "SELECT 1 FROM hps_checkpoints"
SOME_EVALUATIONS = "SELECT 1 FROM hps_points LIMIT 1 OFFSET 5"


def states(study: Study) -> Counter[str]:
    return Counter(str(trial.state) for trial in study.store.trials(study.record.id))


def require_consistent(study: Study, total: int) -> None:
    """Numbers unique and without gaps, every trial ended once, and Optuna of the same mind."""
    trials = study.store.trials(study.record.id)
    assert [trial.number for trial in trials] == list(range(total))
    assert all(trial.state.ended and trial.told for trial in trials)
    theirs = study.optuna.get_trials()
    assert [frozen.number for frozen in theirs] == list(range(total))
    names = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAILED: "FAIL"}
    assert [frozen.state.name for frozen in theirs] == [names[trial.state] for trial in trials]
    for frozen, trial in zip(theirs, trials, strict=True):
        assert frozen.params == trial.params
        if trial.state is TrialState.COMPLETE:
            assert frozen.value == trial.value
    assert all(attempt.ended_at is not None for attempt in study.store.attempts(study.record.id))


def test_a_study_reaches_its_total_and_the_baseline_is_trial_0(toys: Toys) -> None:
    study, ended = toys.run(8)
    assert ended == "8 trials are done"
    require_consistent(study, 8)
    first = study.store.trial(study.record.id, 0)
    assert first.params == {"learning_rate": 1e-3, "weight_decay": 0.01, "num_heads": 2, "d_model": 16, "optimizer": "adamw"}
    assert first.proposed_by == "prior"
    assert first.value == pytest.approx(1e-3 + 1 / 4)
    assert first.sample == "words"
    assert {trial.end_reason for trial in study.store.trials(study.record.id) if trial.reason == ""} == {EndReason.COMPLETED}
    points = study.store.points(study.record.id, 0)
    assert [(point.rung, point.iteration) for point in points] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert study.optuna.trials[0].intermediate_values == {point.rung: point.metrics["val_bpb"] for point in points}


def test_two_slots_work_at_the_same_time(toys: Toys) -> None:
    study, _ = toys.run(6, trainer="slow_curve")
    attempts = study.store.attempts(study.record.id)
    assert {attempt.slot for attempt in attempts} == {"slot-0", "slot-1"}
    first, second = attempts[0], attempts[1]
    assert first.ended_at is not None
    assert second.started_at < first.ended_at


def test_a_finished_study_does_nothing_more_and_a_larger_total_adds_the_difference(toys: Toys) -> None:
    toys.run(4)
    study, ended = toys.run(4)
    assert ended == "4 trials are done"
    require_consistent(study, 4)
    assert [attempt.attempt for attempt in study.store.attempts(study.record.id)] == [1, 1, 1, 1]
    study, _ = toys.run(7)
    require_consistent(study, 7)
    study, _ = toys.run(2)
    require_consistent(study, 7)


def test_bad_trials_are_pruned_with_their_reason(toys: Toys) -> None:
    study, _ = toys.run(24, slots=1, text=SPACE.replace("1e-2", "1").replace("low: 1e-4", "low: 1e-3"), sampler="random")
    require_consistent(study, 24)
    counts = states(study)
    assert counts["pruned"] >= 3
    pruned = next(trial for trial in study.store.trials(study.record.id) if trial.state is TrialState.PRUNED)
    assert pruned.end_reason is EndReason.PRUNED_BY_PRUNER
    assert study.optuna.trials[pruned.number].user_attrs["end_reason"] == "pruned_by_pruner"
    assert pruned.reason.startswith(f"median pruner at rung {pruned.rung} of 4")
    assert re.search(r", where the median of \d+ complete trials is \d", pruned.reason)
    assert not (study.trial_folder(pruned.number) / "checkpoints").exists()
    decision = study.store.decisions(study.record.id, pruned.number)[0]
    assert (decision.action, decision.rung, decision.decided_by) == ("prune", pruned.rung, "median")
    values = [trial.value for trial in study.store.trials(study.record.id) if trial.state is TrialState.COMPLETE]
    assert study.optuna.best_value == min(value for value in values if value is not None)


def test_a_stopped_study_goes_on_with_the_same_numbers_from_its_checkpoints(toys: Toys) -> None:
    study, ended = toys.run(40, trainer="slow_curve", meanwhile=toys.stop_when(SOME_EVALUATIONS))
    assert ended == ""
    paused = [trial for trial in study.store.trials(study.record.id) if trial.state is TrialState.PAUSED]
    assert paused
    assert all(trial.reason == "interrupted" for trial in paused)
    assert {trial.pause_kind for trial in paused} == {PauseKind.INTERRUPTED}
    study, _ = toys.run(40, trainer="curve")
    require_consistent(study, 40)
    for trial in paused:
        attempts = study.store.attempts(study.record.id, trial.number)
        assert next(attempt.outcome for attempt in attempts) == "paused"
        points = [point.rung for point in study.store.points(study.record.id, trial.number)]
        assert points == list(range(1, len(points) + 1))


def test_an_outcome_that_was_stored_but_not_told_is_told_on_resume_without_training(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(self: Coordinator, record: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_tell", crash)
        with pytest.raises(Crash):
            toys.run(3, slots=1)
    study, _ = toys.run(3, slots=1)
    require_consistent(study, 3)
    assert len(study.store.attempts(study.record.id, 0)) == 1


def test_a_crash_between_telling_an_outcome_and_noting_that_tells_it_once(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    real = Ledger.save

    def crash(self: Ledger, *records: Record) -> None:
        if any(isinstance(record, TrialRecord) and record.told and record.reason for record in records):
            raise Crash
        real(self, *records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", crash)
        with pytest.raises(Crash):
            toys.run(3, slots=1, trainer="fails_the_second_trial")
    study, _ = toys.run(3, slots=1)
    require_consistent(study, 3)
    failed = study.store.trial(study.record.id, 1)
    assert (failed.state, failed.told) == (TrialState.FAILED, True)
    assert failed.end_reason is EndReason.FAILED
    assert study.optuna.trials[1].user_attrs["reason"] == failed.reason


def test_a_coordinator_starts_without_scipy() -> None:
    code = "import sys, hpsearch.tuning.coordinator; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trial_numbered_by_optuna_alone_keeps_its_number(toys: Toys) -> None:
    study, _ = toys.run(2)
    orphan = study.optuna.ask()
    assert orphan.number == 2
    study, _ = toys.run(5)
    require_consistent(study, 5)


def test_a_killed_slot_costs_an_attempt_and_not_the_trial(toys: Toys) -> None:
    study, _ = toys.run(4, trainer="kills_its_process_once")
    require_consistent(study, 4)
    outcomes = [attempt.outcome for attempt in study.store.attempts(study.record.id, 1)]
    assert outcomes == ["died", "complete"]
    assert study.store.trial(study.record.id, 1).attempts == 2


def test_a_trial_that_kills_its_slot_three_times_is_poisoned_and_the_study_goes_on(toys: Toys) -> None:
    study, _ = toys.run(4, trainer="poisons_the_second_trial")
    require_consistent(study, 4)
    poisoned = study.store.trial(study.record.id, 1)
    assert (poisoned.state, poisoned.end_reason) == (TrialState.FAILED, EndReason.POISONED)
    assert poisoned.reason == "poisoned: its slot died 3 times, the last time killed by signal 9"
    assert states(study)["complete"] == 3


def test_a_trial_that_raises_fails_with_its_reason_and_its_traceback_is_kept(toys: Toys) -> None:
    study, _ = toys.run(3, trainer="fails_the_second_trial")
    require_consistent(study, 3)
    failed = study.store.trial(study.record.id, 1)
    assert (failed.state, failed.reason) == (TrialState.FAILED, "ValueError: a bug")
    assert "Traceback" in (study.trial_folder(1) / "error.txt").read_text()


def test_a_diverged_trial_is_pruned_and_never_best(toys: Toys) -> None:
    study, _ = toys.run(10, trainer="diverges_when_steep", sampler="random")
    require_consistent(study, 10)
    diverged = [trial for trial in study.store.trials(study.record.id) if trial.reason.startswith("diverged: loss is nan")]
    assert diverged
    assert all(trial.state is TrialState.PRUNED for trial in diverged)
    assert [trial for trial in study.store.trials(study.record.id) if trial.end_reason is EndReason.DIVERGED] == diverged
    assert study.optuna.best_trial.params["learning_rate"] <= 1e-3


def test_a_full_disk_pauses_the_trial_and_stops_the_study(toys: Toys) -> None:
    text = SPACE.replace("parameters:", "parameters:\n  seed: 3")
    found: list[Coordinator] = []
    study, ended = toys.run(4, trainer="raises", slots=1, text=text, meanwhile=found.append)
    assert ended == ""
    assert f"{study.trial_folder(0)}: no space left" in found[0].stopped_for_now
    assert states(study) == {"paused": 1}
    study, _ = toys.run(4, text=text)
    require_consistent(study, 4)


def test_an_enqueued_configuration_that_no_model_has_fails_with_its_reason(toys: Toys) -> None:
    study, _ = toys.run(1)
    study.optuna.enqueue_trial({"d_model": 16, "num_heads": 3, "optimizer": "adamw"})
    study, _ = toys.run(3)
    require_consistent(study, 3)
    failed = study.store.trial(study.record.id, 1)
    assert failed.state is TrialState.FAILED
    assert "multiple of num_heads" in failed.reason


def test_a_grid_ends_when_each_configuration_was_tried(toys: Toys) -> None:
    text = """
name: grid
data: {text: pydoc, tokenizer: bytes}
budget: {max_iters: 4, evaluations: 4}
parameters:
  learning_rate: {choices: [1e-3, 2e-3, 3e-3]}
  num_layers: {low: 1, high: 2}
  d_model: 16
  num_heads: 2
  context_length: 16
  batch_size: 2
"""
    study, ended = toys.run(50, text=text, sampler="grid", pruner="none")
    assert ended == "all 6 configurations of the grid were tried"
    require_consistent(study, 6)
    assert len({tuple(trial.params.items()) for trial in study.store.trials(study.record.id)}) == 6


def test_a_second_coordinator_is_refused_with_the_first_ones_host_and_process(toys: Toys) -> None:
    request = toys.request(4)
    owner = this_process()
    study = open_study(request, check(request), owner)
    with pytest.raises(StudyOwned, match=f"{owner.pid}"):
        open_study(request, check(request), this_process())
    study.store.release(study.record.id, owner)


def test_a_coordinator_that_lost_its_lease_writes_nothing_more(toys: Toys) -> None:
    def take_over(coordinator: Coordinator) -> None:
        study = coordinator._study
        thief = Owner("elsewhere", 1, 0.0, "thief")
        study.store.release(study.record.id, coordinator._owner)
        study.store.acquire(study.record.id, thief, 60)

    with pytest.raises(StudyOwned):
        toys.run(4, meanwhile=take_over)


def test_whoever_opened_a_study_and_lost_its_lease_numbers_no_trial_in_optuna(toys: Toys) -> None:
    """Before there is a coordinator, while the machine is measured."""
    owner, request = this_process(), toys.request()
    study = open_study(request, check(request), owner)
    study.store.release(study.record.id, owner)
    study.store.acquire(study.record.id, Owner("elsewhere", 1, 0.0, "thief"), 60)
    with pytest.raises(StudyOwned):
        study.optuna.ask()
    assert [trial.state.name for trial in study.optuna.get_trials()] == ["WAITING"]  # The baseline, as it was left.


@pytest.mark.parametrize("frozen_in", ["ask", "sampler"])
def test_a_coordinator_that_wakes_in_a_proposal_leaves_none_behind_in_optuna(toys: Toys, frozen_in: str) -> None:
    """Another one has taken over and finished the study, so nobody would adopt a trial that it numbers now."""

    def freeze(coordinator: Coordinator) -> None:
        study = coordinator._study
        place, name = (study.optuna, "ask") if frozen_in == "ask" else (study.optuna.sampler, "infer_relative_search_space")
        original, calls = getattr(place, name), itertools.count()

        def freezing(*arguments: object) -> object:
            if next(calls) == 1:
                study.store.release(study.record.id, coordinator._owner)
                require_consistent(toys.run(3, pruner="none", sampler="random")[0], 3)
            return original(*arguments)

        setattr(place, name, freezing)

    with pytest.raises(StudyOwned):
        toys.run(3, pruner="none", sampler="random", meanwhile=freeze)
    require_consistent(toys.run(3)[0], 3)


def test_a_study_deleted_from_optuna_ends_the_run_with_a_sentence(toys: Toys) -> None:
    def delete(coordinator: Coordinator) -> None:
        optuna.delete_study(study_name="toy", storage=coordinator._study.storage)

    toys.run(1)
    with pytest.raises(StudyGone, match="study 'toy' was deleted while it ran"):
        toys.run(4, meanwhile=delete)
    with pytest.raises(StudyGone, match="hpsearch delete --study toy"):
        toys.run(4)


def test_another_space_text_or_sampler_is_refused_with_the_difference(toys: Toys) -> None:
    toys.run(2)
    with pytest.raises(BadInput, match=re.escape("learning_rate: high 0.01 → 0.1")):
        toys.run(2, text=SPACE.replace("1e-2", "1e-1"))
    with pytest.raises(BadInput, match="--sampler gp: study 'toy' was made with --sampler auto"):
        toys.run(2, sampler="gp")
    study, _ = toys.run(3, text=f"# a comment\n{SPACE}", sampler="auto")
    require_consistent(study, 3)


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "../up", "a/b"])
def test_a_studys_name_is_plain(toys: Toys, name: str) -> None:
    with pytest.raises(BadInput, match="1 to 128 characters"):
        toys.run(1, name=name)


def test_optuna_and_ours_agree_after_the_coordinator_is_killed(toys: Toys) -> None:
    pid = os.fork()
    if pid == 0:  # A process of its own: it is killed as a whole, in the middle of its work.
        os.setpgid(0, 0)
        toys.run(60, trainer="slow_curve")
        os._exit(0)
    url = f"sqlite:///{toys.folder / 'hpsearch.db'}"
    wait_for(lambda: count(url, "hps_points") >= 20)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    study, _ = toys.run(60)
    require_consistent(study, 60)
    lost = [attempt for attempt in study.store.attempts(study.record.id) if attempt.outcome == "lost"]
    assert lost


def test_a_constraint_is_kept_by_every_trial(toys: Toys) -> None:
    text = SPACE + "constraints:\n  num_parameters: {max: 15000}\n"
    free, _ = toys.run(8, sampler="random", pruner="none")
    assert max(trial.num_parameters for trial in free.store.trials(free.record.id)) > 15000
    study, _ = toys.run(8, text=text, name="small", sampler="random", pruner="none")
    require_consistent(study, 8)
    assert max(trial.num_parameters for trial in study.store.trials(study.record.id)) <= 15000
    study.optuna.enqueue_trial({"d_model": 24, "num_heads": 2, "optimizer": "adamw"})
    study, _ = toys.run(9, text=text, name="small")
    assert study.store.trial(study.record.id, 8).reason.startswith("num_parameters is ")


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("num_parameters: {max: 100}", "outside a constraint: num_parameters is .* at most 100; change a prior"),
        ("memory_bytes: {min: 1e12}", "memory_bytes is .* at least 1,000,000,000,000"),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_refused_before_anything_is_written(toys: Toys, constraint: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        toys.run(2, text=f"{SPACE}constraints:\n  {constraint}\n")
    assert not (toys.folder / "hpsearch.db").exists()


def test_a_text_that_changed_pauses_the_study_and_fails_no_trial(toys: Toys) -> None:
    text = SPACE.replace("parameters:", "parameters:\n  seed: 2")
    with pytest.raises(BadInput, match="is paused: the text changed"):
        toys.run(4, trainer="raises", slots=1, text=text)
    study, _ = toys.run(4, text=text)
    require_consistent(study, 4)
    assert states(study)["failed"] == 0


def test_a_proposal_that_was_half_set_when_the_coordinator_died_is_completed_to_a_sound_one(toys: Toys) -> None:
    study, _ = toys.run(2)
    orphan = study.optuna.ask()
    given = {parameter.name: study.space.distributions()[parameter.name] for parameter in study.space.searched}
    study.storage.set_trial_param(orphan._trial_id, "num_heads", 1, given["num_heads"])  # the choice 3
    study, _ = toys.run(4)
    require_consistent(study, 4)
    trial = study.store.trial(study.record.id, 2)
    assert (trial.params["num_heads"], trial.params["d_model"]) == (3, 24)
    assert trial.state is not TrialState.FAILED


def test_a_half_set_proposal_that_nothing_goes_with_fails_alone_and_the_watcher_is_told(toys: Toys) -> None:
    study, _ = toys.run(1)
    study.optuna.enqueue_trial({"d_model": 16, "num_heads": 3, "optimizer": "adamw"})
    study.optuna.ask()  # and the coordinator died
    study, _ = toys.run(3)
    require_consistent(study, 3)
    assert study.store.trial(study.record.id, 1).state is TrialState.FAILED


def test_unfinished_trials_are_not_started_again_where_their_checkpoints_are_not(toys: Toys) -> None:
    study, _ = toys.run(40, trainer="slow_curve", meanwhile=toys.stop_when(SOME_EVALUATIONS))
    assert states(study)["paused"]
    with pytest.raises(BadInput, match=r"--studies-dir .* unfinished trials"):
        toys.run(40, studies_dir=toys.folder / "elsewhere")


def test_a_trial_that_another_program_ended_does_not_stop_the_study_for_ever(toys: Toys) -> None:
    study, _ = toys.run(30, trainer="slow_curve", meanwhile=toys.stop_when(SOME_EVALUATIONS))
    paused = next(trial for trial in study.store.trials(study.record.id) if trial.state is TrialState.PAUSED)
    study.optuna.tell(paused.number, state=optuna.trial.TrialState.FAIL)
    study, _ = toys.run(30)
    require_consistent(study, 30)
    assert study.store.trial(study.record.id, paused.number).reason == "ended by another program"
    assert study.store.trial(study.record.id, paused.number).end_reason is EndReason.ENDED_ELSEWHERE


def test_a_stop_that_comes_when_all_is_done_does_not_undo_it(toys: Toys) -> None:
    toys.run(2)
    _, ended = toys.run(2, meanwhile=lambda coordinator: coordinator.stop("interrupted"))
    assert ended == "2 trials are done"


def test_a_lease_lasts_through_slow_work(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.tuning.lease.LEASE_S", 0.5)
    request = toys.request(2)
    owner = this_process()
    study = open_study(request, check(request), owner)
    with lease_kept(study.store, study.record.id, owner, every_s=0.1):
        time.sleep(1.5)
        with pytest.raises(StudyOwned):
            open_study(request, check(request), this_process())
    study.store.release(study.record.id, owner)


def test_checkpoints_that_a_command_puts_elsewhere_are_kept_apart_and_go_with_a_trial_that_is_pruned(toys: Toys) -> None:
    study, _ = toys.run(3, trainer="saves_and_diverges", sampler="random", checkpoints_dir=toys.folder / "scratch")
    require_consistent(study, 3)
    assert states(study)["pruned"] == 3
    left = sorted(str(path.relative_to(toys.folder / "scratch")) for path in (toys.folder / "scratch").rglob("*.*"))
    assert left == [f"{study.record.folder}/trials/{number:04d}/step-99999999.pt" for number in range(3)]


def test_what_a_row_says_of_a_checkpoint_elsewhere_removes_nothing(toys: Toys) -> None:
    study, _ = toys.run(3, trainer="saves_elsewhere_and_diverges", sampler="random")
    assert states(study)["pruned"] == 3
    assert sorted(path.name for path in (toys.folder / "elsewhere").iterdir()) == ["best.safetensors", "step-00000001.pt"]


def test_checkpoints_that_are_gone_are_told_and_the_attempt_says_where_it_begins(toys: Toys) -> None:
    study, _ = toys.run(1, trainer="slow_curve", slots=1, meanwhile=toys.stop_when(A_CHECKPOINT))
    (study.trial_folder(0) / "step").unlink()
    watcher = Heard()
    toys.run(1, slots=1, watcher=watcher)
    assert watcher.started_from == [0]
    assert any(re.fullmatch("trial 0: the checkpoint of step [0-9]+ is gone; it begins anew", note) for note in watcher.notes)
    assert [attempt.from_iteration for attempt in study.store.attempts(study.record.id, 0)] == [0, 0]


def test_a_checkpoint_that_only_the_slot_finds_damaged_is_told_and_stored_too(toys: Toys) -> None:
    study, _ = toys.run(1, trainer="slow_curve", slots=1, meanwhile=toys.stop_when(A_CHECKPOINT))
    watcher = Heard()
    toys.run(1, trainer="begins_anew", slots=1, watcher=watcher)
    (expected,) = watcher.started_from
    assert expected > 0
    assert f"trial 0: it begins anew, and not from step {expected}" in watcher.notes
    assert [attempt.from_iteration for attempt in study.store.attempts(study.record.id, 0)] == [0, 0]


@pytest.mark.parametrize("trainer", ["loses_its_folder", "loses_the_study"])
def test_a_folder_that_is_taken_away_pauses_the_study_and_fails_no_trial(toys: Toys, trainer: str) -> None:
    held: list[Coordinator] = []
    study, ended = toys.run(2, trainer=trainer, slots=1, meanwhile=held.append)
    assert (ended, states(study)["failed"]) == ("", 0)
    assert "run the same command again" in held[0].stopped_for_now
    if study.folder.is_file():
        with pytest.raises(BadInput, match="0001-toy is a file; move it away"):
            toys.run(2, slots=1)
        study.folder.unlink()
    study.folder.mkdir(exist_ok=True)
    toys.run(2, slots=1)
    require_consistent(study, 2)


def test_a_study_whose_folder_is_gone_between_two_trials_stops_for_now(toys: Toys) -> None:
    def replace(coordinator: Coordinator) -> None:
        folder = toys.folder / "0001-toy"
        shutil.rmtree(folder)
        folder.write_text("a file")

    with pytest.raises(StoppedForNow, match="the study's folder is gone; bring it back"):
        toys.run(2, meanwhile=replace)


@pytest.mark.parametrize("written", ["../../mine", "/mine", "0002-other", "..", "0001-toy/../../mine", ""])
def test_a_row_decides_no_folder(toys: Toys, written: str) -> None:
    study, _ = toys.run(1)
    with study.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE hps_studies SET folder = ?", (written,))
    assert study.store.study("toy").folder == "0001-toy"


def test_a_study_begins_with_what_the_scaling_laws_say(toys: Toys) -> None:
    study, _ = toys.run(1, text=SPACE.replace("prior: 1e-3", "prior: auto"))
    (baseline,) = study.store.trials(study.record.id)
    assert baseline.proposed_by == "prior"
    assert baseline.params["learning_rate"] > 5e-3  # The middle of its range would be 1e-3.


def test_the_loop_writes_three_times_for_an_evaluation(toys: Toys) -> None:
    """By what more of them cost: an evaluation with how its trial stands after it, Optuna's report, a checkpoint."""
    wrote: list[bool] = []
    """Of each transaction."""

    def executed(*told: object) -> None:
        wrote[-1:] = [wrote[-1] or str(told[2]).startswith(("INSERT", "UPDATE", "DELETE"))]

    def begun(_: Connection) -> None:
        wrote.append(False)

    listeners = {"begin": begun, "before_cursor_execute": executed}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    try:
        writes = []
        for repeat, evaluations in enumerate((4, 4, 12)):  # The first one makes the tables.
            wrote.clear()
            text = SPACE.replace("max_iters: 4, evaluations: 4", f"max_iters: 12, evaluations: {evaluations}")
            study, _ = toys.run(1, slots=1, text=text, name=f"toy-{repeat}")
            assert len(study.store.points(study.record.id)) == evaluations
            assert len(study.store.checkpoints(study.record.id)) == evaluations
            writes.append(sum(wrote))
    finally:
        for name, listener in listeners.items():
            event.remove(Engine, name, listener)
    assert writes[2] - writes[1] <= 8 * 3 + 3, writes  # A few may renew the lease.
