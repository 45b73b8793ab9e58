"""The contract of the store, on every database."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hpsearch.errors import BadInput, StudyGone, StudyOwned
from hpsearch.storage import leases
from hpsearch.storage.records import (
    AttemptRecord,
    CheckpointRecord,
    DecisionRecord,
    EndReason,
    PauseKind,
    PointRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.store import Store
from hpsearch.storage.tables import metadata

Trial = Callable[..., TrialRecord]
Point = Callable[..., PointRecord]


def test_a_study_comes_back_as_it_was_given(store: Store, study_record: StudyRecord) -> None:
    before = store.now()
    created = store.create_study(study_record)
    assert created == dataclasses.replace(
        study_record, id=created.id, folder=f"{created.id:04d}-lm", created_at=created.created_at
    )
    assert before <= created.created_at <= store.now()
    assert store.study("lm") == store.find_study("lm") == created
    assert store.studies() == [created]


def test_creating_a_study_twice_returns_the_first(store: Store, study: StudyRecord, study_record: StudyRecord) -> None:
    assert store.create_study(dataclasses.replace(study_record, seed=7)) == study
    assert len(store.studies()) == 1


def test_study_names_differ_by_case(store: Store, study: StudyRecord, study_record: StudyRecord) -> None:
    assert store.create_study(dataclasses.replace(study_record, name="LM")).id != study.id


def test_a_missing_study_is_refused_with_the_nearest_name(store: Store, study: StudyRecord) -> None:
    assert store.find_study("lmm") is None
    with pytest.raises(BadInput, match=r"no study 'lmm' in .*; did you mean 'lm'\?"):
        store.study("lmm")


def test_a_store_without_studies_says_so(store: Store) -> None:
    with pytest.raises(BadInput, match="no study yet in "):
        store.study("lm")


def test_the_target_only_rises_and_opens_the_study_again(store: Store, study: StudyRecord, token: str) -> None:
    store.finish(study.id, "all 50 trials ended", token=token)
    store.raise_target(study.id, 40, token=token)
    assert (store.study("lm").trials_target, store.study("lm").finished_reason) == (50, "all 50 trials ended")
    store.raise_target(study.id, 60, token=token)
    assert (store.study("lm").trials_target, store.study("lm").finished_reason) == (60, "")


def test_deleting_a_study_deletes_all_its_rows_and_its_id_never_comes_again(
    store: Store, study: StudyRecord, study_record: StudyRecord, token: str, make_trial: Trial, make_point: Point
) -> None:
    kept = store.create_study(dataclasses.replace(study_record, name="kept"))
    last = store.create_study(dataclasses.replace(study_record, name="last"))
    attempt = AttemptRecord(0, 1, "slot-0", "box", 42, 0.0, 0)
    decision = DecisionRecord(0, 1, "continue", "better than the median", "median")
    checkpoint = CheckpointRecord(0, 10, "trials/0000/checkpoints/10.pt", "f" * 64, 1000)
    store.save(study.id, [make_trial(0), attempt, make_point(1), decision, checkpoint], token=token)
    store.delete_study(study.id)
    store.delete_study(last.id)
    assert store.studies() == [kept]

    def rows(connection: Connection) -> dict[str, int]:
        return {table.name: len(connection.execute(table.select()).all()) for table in metadata.sorted_tables}

    assert store._database.read(rows) == dict.fromkeys(metadata.tables, 0) | {"hps_studies": 1}
    assert store.create_study(dataclasses.replace(study_record, name="next")).id > last.id
    with pytest.raises(StudyGone):
        store.delete_study(study.id)
    with pytest.raises(StudyGone):
        store.add_points(study.id, [make_point(1)], token=token)


def test_a_database_that_lost_its_tables_says_so(store: Store) -> None:
    store._database.write(metadata.drop_all)
    with pytest.raises(StudyGone, match="the tables are gone"):
        store.studies()


def test_a_trial_comes_back_as_it_was_given(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    trial = make_trial(
        3,
        TrialState.COMPLETE,
        values=(1.25, 3e6),
        metrics={"val_bpb": 1.25},
        rung=10,
        iteration=500,
        tokens=7_000_000_000,
        flops=1e19,
        seconds=15.25,
        reason="学习",
        attempts=2,
        sample="Once 🙂 upon",
        num_parameters=5_000_000_000,
        started_at=1.5,
        ended_at=2.5,
        told=True,
        end_reason=EndReason.COMPLETED,
    )
    store.add_trial(study.id, trial, token=token)
    assert store.trial(study.id, 3) == trial
    assert store.trials(study.id) == [trial]


@pytest.mark.parametrize("end_reason", EndReason)
def test_each_end_comes_back_as_it_was_given(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, end_reason: EndReason
) -> None:
    ended = make_trial(0).ended(TrialState.PRUNED, end_reason, "in a sentence")
    store.add_trial(study.id, ended, token=token)
    (found,) = store.outlines(study.id)
    assert (found.end_reason, store.trial(study.id, 0).end_reason) == (end_reason, end_reason)
    assert found.feasible == (end_reason is not EndReason.INFEASIBLE)


@pytest.mark.parametrize("kind", PauseKind)
def test_each_pause_comes_back_as_it_was_given_and_ends_with_the_trial(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, kind: PauseKind
) -> None:
    paused = make_trial(0).paused(kind, "in a sentence")
    store.add_trial(study.id, paused, token=token)
    found = store.trial(study.id, 0)
    assert (found.state, found.pause_kind, found.end_reason) == (TrialState.PAUSED, kind, None)
    store.update_trial(study.id, found.ended(TrialState.PRUNED, EndReason.PRUNED_BY_HAND), token=token)
    found = store.trial(study.id, 0)
    assert (found.state, found.pause_kind, found.end_reason) == (TrialState.PRUNED, None, EndReason.PRUNED_BY_HAND)


def test_the_database_fills_the_times_of_a_trial(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    before = store.now()
    store.add_trial(study.id, make_trial(0), token=token)
    running = store.trial(study.id, 0)
    assert running.started_at is not None
    assert running.ended_at is None
    store.update_trial(study.id, make_trial(0, TrialState.PRUNED, reason="diverged"), token=token)
    ended = store.trial(study.id, 0)
    assert ended.started_at == running.started_at
    assert ended.ended_at is not None
    assert before <= ended.started_at <= ended.ended_at <= store.now()
    store.update_trial(study.id, make_trial(0, TrialState.PRUNED, reason="diverged", told=True), token=token)
    assert store.trial(study.id, 0) == dataclasses.replace(ended, told=True)


def test_trials_are_counted_and_picked_by_state(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    states = [TrialState.PRUNED, TrialState.RUNNING, TrialState.PRUNED]
    store.save(study.id, [make_trial(number, state) for number, state in enumerate(states)], token=token)
    assert store.counts(study.id) == dict.fromkeys(TrialState, 0) | {TrialState.PRUNED: 2, TrialState.RUNNING: 1}
    assert [trial.number for trial in store.trials(study.id, [TrialState.PRUNED])] == [0, 2]


def test_a_missing_trial_is_refused_with_their_number(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    with pytest.raises(BadInput, match="no trial 7; the study has none yet"):
        store.trial(study.id, 7)
    store.add_trial(study.id, make_trial(0), token=token)
    with pytest.raises(BadInput, match="no trial 7; there are 1, from 0"):
        store.trial(study.id, 7)


def test_a_replayed_point_replaces(store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point) -> None:
    store.save(study.id, [make_trial(0), make_trial(1)], token=token)
    store.add_points(study.id, [make_point(1), make_point(2), make_point(1, trial_number=1)], token=token)
    store.add_points(study.id, [make_point(2, loss=9.0), make_point(2, loss=2.0), make_point(3)], token=token)
    assert store.points(study.id, 0) == [make_point(1), make_point(2, loss=2.0), make_point(3)]
    assert store.points(study.id) == [*store.points(study.id, 0), make_point(1, trial_number=1)]
    store.add_points(study.id, [], token=token)


def test_numbers_that_are_not_finite_read_as_nan(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point
) -> None:
    trial = make_trial(0, values=(math.nan, 1.0), metrics={"val_bpb": math.inf})
    store.save(study.id, [trial, make_point(1, loss=math.nan), make_point(2, loss=-math.inf)], token=token)
    for point in store.points(study.id):
        assert math.isnan(point.train_loss)
        assert math.isnan(point.metrics["val_bpb"])
    values = store.trial(study.id, 0).values
    assert values is not None
    assert math.isnan(values[0])
    assert values[1] == 1.0
    assert math.isnan(store.trial(study.id, 0).metrics["val_bpb"])


def test_any_text_that_a_model_writes_is_kept(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    store.add_trial(study.id, make_trial(0, sample="a\0b\ud800c\U0010ffff" + "x" * 100_000), token=token)
    assert store.trial(study.id, 0).sample == "a\\x00b\\ud800c\U0010ffff" + "x" * 100_000


def test_an_attempt_is_started_and_ended_once(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    store.add_trial(study.id, make_trial(0), token=token)
    before = store.now()
    first = AttemptRecord(0, 1, "slot-0", "box", 42, 0.0, 0)
    store.start_attempt(study.id, first, token=token)
    store.start_attempt(study.id, dataclasses.replace(first, pid=43), token=token)
    (begun,) = store.attempts(study.id)
    assert begun == dataclasses.replace(first, started_at=begun.started_at)
    assert begun.started_at >= before
    store.end_attempt(study.id, 0, 1, "killed", "signal 9", token=token)
    store.end_attempt(study.id, 0, 1, "complete", token=token)
    store.start_attempt(study.id, AttemptRecord(0, 2, "slot-1", "box", 44, 0.0, 30), token=token)
    ended, second = store.attempts(study.id, 0)
    assert ended == dataclasses.replace(begun, ended_at=ended.ended_at, outcome="killed", reason="signal 9")
    assert ended.ended_at is not None
    assert begun.started_at <= ended.ended_at <= second.started_at
    assert (second.from_iteration, second.ended_at) == (30, None)
    store.save(study.id, [dataclasses.replace(second, outcome="complete")], token=token)
    assert store.attempts(study.id)[1].ended_at is not None


def test_decisions_are_kept_with_their_time(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    store.add_trial(study.id, make_trial(0), token=token)
    pause = DecisionRecord(0, 2, "pause", "not among the best third", "asha")
    promote = DecisionRecord(0, 2, "promote", "among the best third", "asha", at=4e9)
    store.add_decision(study.id, promote, token=token)
    store.add_decision(study.id, pause, token=token)
    store.add_decision(study.id, promote, token=token)
    paused, promoted = store.decisions(study.id, 0)
    assert promoted == promote
    assert paused == dataclasses.replace(pause, at=paused.at)
    assert 0 < paused.at <= store.now()


def test_checkpoints_are_forgotten_by_iteration(store: Store, study: StudyRecord, token: str, make_trial: Trial) -> None:
    store.save(study.id, [make_trial(0), make_trial(1)], token=token)
    saved = [CheckpointRecord(0, step, f"trials/0000/checkpoints/{step}.pt", "a" * 64, 2**33) for step in (10, 20, 30)]
    for checkpoint in saved:
        store.add_checkpoint(study.id, checkpoint, token=token)
    other = CheckpointRecord(1, 10, "trials/0001/checkpoints/10.pt", "b" * 64, 1)
    store.add_checkpoint(study.id, other, token=token)
    store.forget_checkpoints(study.id, 0, [10, 30, 99], token=token)
    assert store.checkpoints(study.id, 0) == [saved[1]]
    assert store.checkpoints(study.id) == [saved[1], other]


def test_records_saved_together_are_saved_whole_or_not_at_all(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point
) -> None:
    with pytest.raises(IntegrityError):
        store.save(study.id, [make_trial(0), make_point(1), make_point(1, trial_number=5)], token=token)
    assert store.trials(study.id) == []
    assert store.points(study.id) == []


def test_updating_a_trial_keeps_what_belongs_to_it(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point
) -> None:
    store.save(study.id, [make_trial(0), make_point(1), make_trial(0, TrialState.COMPLETE)], token=token)
    assert store.points(study.id) == [make_point(1)]


def test_every_write_of_a_coordinator_is_fenced(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point
) -> None:
    checkpoint = CheckpointRecord(0, 10, "p", "a" * 64, 1)
    store.save(study.id, [make_trial(0), checkpoint, AttemptRecord(0, 1, "slot-0", "box", 42, 5.0, 0)], token=token)
    before = (store.studies(), store.trials(study.id), store.attempts(study.id), store.checkpoints(study.id))
    wrong = "another token"
    writes: list[Callable[[], None]] = [
        lambda: store.raise_target(study.id, 99, token=wrong),
        lambda: store.finish(study.id, "done", token=wrong),
        lambda: store.add_trial(study.id, make_trial(1), token=wrong),
        lambda: store.update_trial(study.id, make_trial(0, TrialState.FAILED), token=wrong),
        lambda: store.start_attempt(study.id, AttemptRecord(0, 2, "slot-0", "box", 42, 5.0, 0), token=wrong),
        lambda: store.end_attempt(study.id, 0, 1, "complete", token=wrong),
        lambda: store.add_points(study.id, [make_point(1)], token=wrong),
        lambda: store.add_decision(study.id, DecisionRecord(0, 1, "prune", "", ""), token=wrong),
        lambda: store.add_checkpoint(study.id, CheckpointRecord(0, 20, "q", "a" * 64, 1), token=wrong),
        lambda: store.forget_checkpoints(study.id, 0, [10], token=wrong),
    ]
    for write in writes:
        with pytest.raises(StudyOwned):
            write()
    assert before == (store.studies(), store.trials(study.id), store.attempts(study.id), store.checkpoints(study.id))
    assert store.points(study.id) == []
    assert store.decisions(study.id) == []


def test_threads_share_a_store(store: Store, study: StudyRecord, token: str, make_trial: Trial, make_point: Point) -> None:
    store.save(study.id, [make_trial(number) for number in range(4)], token=token)

    def work(number: int) -> None:
        for rung in range(1, 11):
            store.add_points(study.id, [make_point(rung, trial_number=number)], token=token)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(p.trial_number, p.rung) for p in store.points(study.id)] == [(n, r) for n in range(4) for r in range(1, 11)]


def test_numbers_in_json_that_are_not_finite_come_back_as_they_were(
    store: Store, study: StudyRecord, token: str, make_trial: Trial
) -> None:
    params = {"low": -math.inf, "high": math.inf, "largest": 1.7976931348623157e308, "least": 5e-324, "whole": 2**70}
    trial = dataclasses.replace(make_trial(0), params=params, config={"nested": [{"a": math.inf}], "nan": math.nan})
    store.save(study.id, [trial], token=token)
    found = store.trial(study.id, 0)
    assert found.params == params
    assert found.config["nested"] == [{"a": math.inf}]
    assert math.isnan(found.config["nan"])
    store.set_extras(study.id, {"forecast": {"slowest": math.inf}}, token=token)
    assert store.study("lm").extras == {"forecast": {"slowest": math.inf}}


def test_measures_at_the_end_of_what_a_float_holds_are_kept(
    store: Store, study: StudyRecord, token: str, make_trial: Trial
) -> None:
    for number, flops in enumerate((1.7976931348623157e308, 5e-324, -1e308, 2**1000)):
        store.save(study.id, [make_trial(number, flops=flops)], token=token)
        assert store.trial(study.id, number).flops == float(flops)
    store.save(study.id, [make_trial(9, flops=10**400, metrics={"a": 10**400})], token=token)
    assert math.isnan(store.trial(study.id, 9).flops)
    assert math.isnan(store.trial(study.id, 9).metrics["a"])


@pytest.mark.parametrize(
    "beyond",
    [{"tokens": 2**63}, {"iteration": -(2**63) - 1}, {"rung": 2**31}, {"tokens": 10**5000}],
    ids=["64 bits", "64 bits below", "32 bits", "thousands of digits"],
)
def test_a_whole_number_beyond_its_column_is_refused_in_one_line(
    store: Store, study: StudyRecord, token: str, make_trial: Trial, beyond: dict[str, int]
) -> None:
    with pytest.raises(BadInput, match=r"whole number .* cannot be stored") as caught:
        store.save(study.id, [make_trial(0, **beyond)], token=token)
    assert len(str(caught.value)) < 200
    assert store.trials(study.id) == []


def test_a_text_beyond_its_column_is_cut_and_one_that_is_no_utf8_is_kept_readable(
    store: Store, study_record: StudyRecord, make_trial: Trial
) -> None:
    odd = dataclasses.replace(study_record, host="h\udce9" + "ö" * 300, versions={"python": "3\ud800", "学": "é"})
    study = store.create_study(odd)
    assert study.host == "h\\xe9" + "ö" * 250
    assert study.versions == {"python": "3\\ud800", "学": "é"}
    owner = leases.this_process()
    store.acquire(study.id, owner, 60)
    attempt = AttemptRecord(0, 1, "s" * 999, "h\0", 1, 0.0, 0, outcome="o" * 999, reason="r" * 70_000)
    trial = dataclasses.replace(make_trial(0), proposed_by="p" * 999, metrics={"a\udcff": 1.0})
    store.save(study.id, [trial, attempt], token=owner.token)
    (kept,) = store.attempts(study.id)
    assert (kept.slot, kept.outcome, kept.reason) == ("s" * 255, "o" * 255, "r" * 70_000)
    assert store.trial(study.id, 0).metrics == {"a\\xff": 1.0}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a\udcff"], ids=["long", "NUL", "no UTF-8"])
def test_a_name_that_no_study_can_have_is_not_found(store: Store, study: StudyRecord, name: str) -> None:
    with pytest.raises(BadInput, match="no study"):
        store.study(name)
