"""What `status` reads of many trials tells the same as all of it."""

from __future__ import annotations

from collections.abc import Callable

from hpsearch.results.view import StudyView, status_dict
from hpsearch.storage.records import ConfirmationRecord, StudyRecord, TrialRecord, TrialState
from hpsearch.storage.store import Store


def test_a_summary_tells_what_the_whole_study_tells(
    store: Store, study: StudyRecord, token: str, make_trial: Callable[..., TrialRecord]
) -> None:
    assert StudyView.summary(store, study) == StudyView.load(store, study, curves=False)  # of no trial at all
    records = [
        make_trial(
            0, TrialState.COMPLETE, values=(2.5, 10.0), metrics={"val_bpb": 2.5}, sample="first", seconds=3.0, flops=1e9
        ),
        make_trial(1, TrialState.COMPLETE, values=(2.0, 20.0), metrics={"val_bpb": 2.0}, sample="best", tokens=70),
        make_trial(2, TrialState.COMPLETE, values=(1.0, 5.0), constraints={"memory_bytes": 0.5}),
        make_trial(3, TrialState.PRUNED, metrics={"val_bpb": 1.5}, reason="median pruner"),
        make_trial(4, TrialState.RUNNING),
    ]
    confirmed = [ConfirmationRecord(number, 11, value, {"val_bpb": value}, 1.0, 1e9) for number, value in ((0, 2.4), (1, 2.1))]
    store.save(study.id, [*records, *confirmed], token=token)
    summary, whole = StudyView.summary(store, study), StudyView.load(store, study, curves=False)
    assert status_dict(summary) == status_dict(whole)
    assert (summary.best, summary.baseline) == (whole.best, whole.baseline)
    assert summary.front == [whole.by_number[1], summary.by_number[0]]
    assert [trial.number for trial in store.outlines(study.id)] == [0, 1, 2, 3, 4]
    assert {str(trial.params) + str(trial.config) + str(trial.metrics) for trial in store.outlines(study.id)} == {"{}{}{}"}
