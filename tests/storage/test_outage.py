"""A database that goes away and comes back: transactions outlast it, and none is done twice when only its answer was lost."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState as OptunaState
from proxy import Proxy
from servers import Server, start_mariadb, start_postgresql

from hpsearch.errors import StorageUnreachable, StudyGone
from hpsearch.storage import leases
from hpsearch.storage.optuna_storage import PatientStorage, optuna_storage
from hpsearch.storage.records import (
    AttemptRecord,
    CheckpointRecord,
    DecisionRecord,
    PointRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.store import Store
from hpsearch.storage.transactions import DatabaseAway


class Noted:
    """An outage that notes what it is told, and calls `then` once it has lasted for `after_s`."""

    def __init__(self, after_s: float = 0.0, then: Callable[[], object] = lambda: None) -> None:
        self.after_s, self.then = after_s, then
        self.seconds: list[float] = []
        self.reasons: set[str] = set()
        self.lasted: list[float] = []

    def waiting(self, seconds: float, reason: str) -> None:
        self.seconds.append(seconds)
        self.reasons.add(reason)
        if seconds >= self.after_s:
            then, self.then = self.then, lambda: None
            then()

    def over(self, seconds: float) -> None:
        self.lasted.append(seconds)


@pytest.fixture(scope="module", params=[start_postgresql, start_mariadb])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that only these tests use, and may stop."""
    server: Server = request.param()
    yield server
    server.close()


@pytest.fixture
def own_url(own_server: Server) -> Iterator[str]:
    url = own_server.fresh_database()
    yield url
    own_server.drop(url)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_both_storages_outlast_a_server_that_comes_back(
    own_server: Server, own_url: str, study_record: StudyRecord, how: str
) -> None:
    with Store.open(own_url, create=True) as store:
        storage = optuna_storage(own_url)
        study = optuna.create_study(storage=storage, study_name="lm")
        first = store.create_study(study_record)
        for name, use in {
            "ours": lambda: store.create_study(replace(study_record, name="second")),
            "Optuna's": lambda: study.ask(),
        }.items():
            outage = Noted(0.5, own_server.start)
            store.sit_out(outage)
            storage.sit_out(outage)
            getattr(own_server, how)()
            use()
            assert len(outage.lasted) == 1, name
            assert outage.lasted[0] >= 0.5
            # Called all the time, and never left alone for long: slots wait for answers meanwhile.
            assert len(outage.seconds) >= 2, outage.seconds
            assert outage.seconds == sorted(outage.seconds)
            assert all("does not answer" in reason and "\n" not in reason for reason in outage.reasons)
            assert not any(own_server.url("x").split("@")[0].split(":")[-1] in reason for reason in outage.reasons)
        assert [record.name for record in store.studies()] == [first.name, "second"]
        assert [trial.number for trial in study.trials] == [0]
        storage.engine.dispose()


def test_an_outage_is_given_up_by_an_error_of_the_one_who_waits(own_server: Server, own_url: str) -> None:
    class EnoughError(Exception):
        pass

    def give_up() -> None:
        raise EnoughError

    with Store.open(own_url, create=True) as store:
        own_server.stop()
        store.sit_out(Noted(0.2, give_up))
        with pytest.raises(EnoughError):
            store.now()
        own_server.start()
        assert store.now() > 0


def test_whoever_was_given_no_outage_fails_at_once(own_server: Server, own_url: str) -> None:
    failures: list[Exception] = []
    with Store.open(own_url, create=True) as store, Store.open(own_url, create=False) as reader:
        storage = optuna_storage(own_url)
        outage = Noted()
        store.sit_out(outage)

        def other_thread() -> None:
            try:
                store.now()
            except StorageUnreachable as error:
                failures.append(error)

        own_server.stop()
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        with pytest.raises(StorageUnreachable, match="does not answer"):
            reader.now()
        with pytest.raises(DatabaseAway):  # and not after Optuna's own five tries, with sleeps between them
            storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "lm")
        own_server.start()
        assert len(failures) == 1
        assert outage.seconds == []
        store.sit_out(None)
        own_server.stop()
        with pytest.raises(StorageUnreachable):
            store.now()
        own_server.start()
        storage.engine.dispose()


def test_a_lease_that_ended_during_an_outage_is_renewed_where_nobody_took_it(
    own_server: Server, own_url: str, study_record: StudyRecord
) -> None:
    with Store.open(own_url, create=True) as store, Store.open(own_url, create=False) as other:
        study = store.create_study(study_record)
        mine, theirs = leases.this_process(), leases.this_process()
        store.acquire(study.id, mine, 0.5)
        outage = Noted(1.0, own_server.start)
        store.sit_out(outage)
        own_server.stop()
        store.renew(study.id, mine, 60)
        assert store.owner(study.id) == mine
        store.acquire(study.id, mine, -1)
        other.acquire(study.id, theirs, 60)
        with pytest.raises(leases.StudyOwned, match="was taken over by process"):
            store.renew(study.id, mine, 60)


def writes(store: Store, study: StudyRecord, token: str) -> Iterator[Callable[[], object]]:
    """Every write that a coordinator makes, in an order that makes sense."""
    owner = replace(leases.this_process(), token=token)
    trial = TrialRecord(0, TrialState.RUNNING, {"x": 1}, {"x": 1}, "tpe")
    ended = replace(trial, state=TrialState.COMPLETE, values=(1.5, 2.0))
    point = PointRecord(0, 1, 10, 100, 1e6, 0.5, 2.5, {"val_bpb": math.nan}, 1e-3, 0.7, 1e3)
    saved = CheckpointRecord(0, 10, "trials/0000/checkpoints/step-10.pt", "0" * 64, 9)
    one = study.id
    yield lambda: store.acquire(one, owner, 60)
    yield lambda: store.renew(one, owner, 60)
    yield lambda: store.set_budget(one, replace(study.budget, flops=1.0), token=token)
    yield lambda: store.set_extras(one, {"forecast": {"seconds": 1.0}}, token=token)
    yield lambda: store.raise_target(one, 99, token=token)
    yield lambda: store.save(one, [trial, AttemptRecord(0, 1, "local-0", "box", 1, 0.0, 0)], token=token)
    yield lambda: store.add_points(one, [point], token=token)
    yield lambda: store.add_decision(one, DecisionRecord(0, 1, "continue", "good", "median"), token=token)
    yield lambda: store.add_checkpoint(one, saved, token=token)
    yield lambda: store.end_attempt(one, 0, 1, "complete", token=token)
    yield lambda: store.close_attempts(one, "lost", "the coordinator ended", token=token)
    yield lambda: store.update_trial(one, ended, token=token)
    yield lambda: store.forget_checkpoints(one, 0, token=token)
    yield lambda: store.finish(one, "1 trials are done", token=token)


def contents(store: Store, study_id: int) -> dict[str, Any]:
    """All that the store has of a study, without times and with floats that compare equal to themselves."""
    rows = {
        "studies": store.studies(),
        "trials": store.trials(study_id),
        "attempts": store.attempts(study_id),
        "points": store.points(study_id),
        "decisions": store.decisions(study_id),
        "checkpoints": store.checkpoints(study_id),
    }
    times = ("created_at", "started_at", "ended_at", "at")
    return {name: [repr({**asdict(row), **dict.fromkeys(times)}) for row in found] for name, found in rows.items()}


def test_every_write_whose_answer_was_lost_is_done_once(server_url: str, proxy: Proxy, study_record: StudyRecord) -> None:
    """After each write through the proxy, the tables hold what they hold after it was done once without one."""
    seen: list[list[dict[str, Any]]] = []
    for lossy in (False, True):
        seen.append([])
        with Store.open(proxy.through(server_url), create=True) as store:
            store.sit_out(Noted())

            def lose(write: Callable[[], Any], lossy: bool = lossy) -> Any:
                before = proxy.lost
                if lossy:
                    proxy.lose_next_answer()
                result = write()
                assert proxy.lost == before + lossy
                return result

            study = lose(lambda: store.create_study(study_record))
            assert [record.name for record in store.studies()] == ["lm"]
            for write in writes(store, study, "mine"):
                lose(write)
                seen[-1].append(contents(store, study.id))
            lose(functools.partial(store.delete_study, study.id))
            assert store.studies() == []
            with pytest.raises(StudyGone):
                store.delete_study(study.id)
    for number, (plain, tried_again) in enumerate(zip(*seen, strict=True)):
        for document in (plain, tried_again):  # the second study has another id, and so another folder
            document["studies"] = [row.partition("'folder'")[0] for row in document["studies"]]
        assert plain == tried_again, f"write {number}"


def test_optuna_asks_and_tells_once_when_answers_are_lost(server_url: str, proxy: Proxy) -> None:
    storage = optuna_storage(proxy.through(server_url))
    outage = Noted()
    storage.sit_out(outage)
    proxy.lose_next_answer()
    study = optuna.create_study(storage=storage, study_name="lm", load_if_exists=True)
    assert proxy.lost == 1
    assert isinstance(study._storage, _CachedStorage)
    assert isinstance(storage, RDBStorage)

    def lose(use: Callable[[], Any]) -> Any:
        before = proxy.lost
        proxy.lose_next_answer()
        result = use()
        assert proxy.lost == before + 1
        return result

    lose(lambda: study.enqueue_trial({"x": 0.25}))
    enqueued = lose(study.ask)  # takes the waiting one
    assert lose(lambda: enqueued.suggest_float("x", 0, 1)) == 0.25
    trial = lose(study.ask)
    x = lose(lambda: trial.suggest_float("x", 0, 1))
    lose(lambda: trial.report(0.5, 1))
    lose(lambda: trial.set_user_attr("reason", "good"))
    lose(lambda: storage.set_trial_system_attr(trial._trial_id, "key", [1]))
    lose(lambda: study.set_user_attr("key", [1]))
    lose(lambda: study.set_metric_names(["val_bpb"]))
    lose(lambda: study.tell(trial.number, 0.5))
    assert lose(lambda: storage.set_trial_state_values(enqueued._trial_id, OptunaState.PRUNED, None))
    with pytest.raises(UpdateFinishedTrialError):  # a first try that finds it finished is an error as ever
        storage.set_trial_state_values(enqueued._trial_id, OptunaState.PRUNED, None)
    first, second = study.trials
    assert (first.number, first.state, first.params) == (0, OptunaState.PRUNED, {"x": 0.25})
    assert (second.number, second.state, second.params, second.value) == (1, OptunaState.COMPLETE, {"x": x}, 0.5)
    assert second.intermediate_values == {1: 0.5}
    assert second.user_attrs == {"reason": "good"}
    assert second.system_attrs == {"key": [1]}
    assert study.user_attrs == {"key": [1]}
    assert len(outage.lasted) == proxy.lost
    storage.engine.dispose()


def test_the_patient_storage_is_as_patient_in_every_call_that_optuna_makes() -> None:
    """What Optuna's cache and base class call on a storage; what is missing here would end a study at an outage."""
    impatient = {"delete_study", "record_heartbeat", "remove_session", "upgrade"}  # no coordinator calls these while it works
    through_others = {"create_new_trial", "set_trial_param", "get_all_trials", "get_best_trial"}
    public = {name for name in vars(RDBStorage) if not name.startswith("_") and callable(getattr(RDBStorage, name))}
    versions = {name for name in public if "version" in name or "heartbeat" in name}
    assert public - versions - impatient - through_others <= vars(PatientStorage).keys()
