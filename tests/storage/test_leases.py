"""One owner at a time, by the database's clock; take-over from the dead and the late; the fence behind them."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from hpsearch.errors import StudyGone, StudyOwned
from hpsearch.storage import leases
from hpsearch.storage.records import Owner, StudyRecord, TrialRecord
from hpsearch.storage.store import Store

HOLD = """
import sys
from hpsearch.storage import leases
from hpsearch.storage.store import Store
store = Store.open(sys.argv[1], create=False)
owner = leases.this_process()
store.acquire(int(sys.argv[2]), owner, 3600)
print(owner.pid, owner.token, flush=True)
sys.stdin.read()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def other() -> Owner:
    """Another coordinator; this process too, by another token."""
    return leases.this_process()


def hold(start_python: Start, url: str, study_id: int) -> tuple[subprocess.Popen[str], str]:
    """A real process that owns the study, and its token."""
    process = start_python(HOLD, url, str(study_id))
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    pid, token = line.split()
    assert int(pid) == process.pid
    return process, token


def test_a_second_coordinator_is_refused_with_host_and_process(
    store: Store, study: StudyRecord, owner: Owner, other: Owner
) -> None:
    with pytest.raises(StudyOwned, match=f"study 'lm' is owned by process {os.getpid()} on host {socket.gethostname()}"):
        store.acquire(study.id, other, 60)
    assert store.owner(study.id) == owner


def test_the_owner_may_acquire_again(store: Store, study: StudyRecord, owner: Owner) -> None:
    store.acquire(study.id, owner, 60)
    assert store.owner(study.id) == owner


def test_a_released_study_is_free(store: Store, study: StudyRecord, owner: Owner, other: Owner) -> None:
    store.release(study.id, owner)
    assert store.owner(study.id) is None
    store.acquire(study.id, other, 60)
    store.release(study.id, owner)
    assert store.owner(study.id) == other


def test_an_expired_lease_is_taken_over_and_its_holder_is_fenced(
    store: Store, study: StudyRecord, owner: Owner, other: Owner, make_trial: Callable[..., TrialRecord]
) -> None:
    store.renew(study.id, owner, -1)
    assert store.owner(study.id) is None
    store.acquire(study.id, other, 60)
    with pytest.raises(StudyOwned, match="study 'lm' was taken over by process"):
        store.renew(study.id, owner, 60)
    with pytest.raises(StudyOwned, match="study 'lm' was taken over by process"):
        store.add_trial(study.id, make_trial(0), token=owner.token)
    assert store.trials(study.id) == []
    store.add_trial(study.id, make_trial(0), token=other.token)
    assert store.owner(study.id) == other


def test_a_late_owner_goes_on_when_nobody_took_over(store: Store, study: StudyRecord, owner: Owner) -> None:
    store.renew(study.id, owner, -1)
    store.finish(study.id, "done", token=owner.token)
    store.renew(study.id, owner, 60)
    assert store.owner(study.id) == owner


def test_a_released_token_writes_nothing(store: Store, study: StudyRecord, owner: Owner) -> None:
    store.release(study.id, owner)
    with pytest.raises(StudyOwned, match="its lease was released"):
        store.finish(study.id, "done", token=owner.token)


def test_the_lease_of_a_living_process_holds(
    store: Store, study: StudyRecord, storage_url: str, other: Owner, start_python: Start
) -> None:
    process, _ = hold(start_python, storage_url, study.id)
    with pytest.raises(StudyOwned, match=f"owned by process {process.pid} on host"):
        store.acquire(study.id, other, 60)


def test_the_lease_of_a_killed_process_is_taken_over_at_once(
    store: Store, study: StudyRecord, storage_url: str, other: Owner, start_python: Start
) -> None:
    process, token = hold(start_python, storage_url, study.id)
    process.kill()
    process.wait()
    assert store.owner(study.id) is None
    store.acquire(study.id, other, 60)
    assert store.owner(study.id) == other
    with pytest.raises(StudyOwned):
        store.finish(study.id, "done", token=token)


def test_a_killed_process_that_its_parent_has_not_waited_for_is_dead(
    store: Store, study: StudyRecord, storage_url: str, other: Owner, start_python: Start
) -> None:
    process, _ = hold(start_python, storage_url, study.id)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    store.acquire(study.id, other, 60)


def test_a_process_id_that_was_used_again_is_another_process(
    store: Store, study: StudyRecord, owner: Owner, other: Owner
) -> None:
    store.release(study.id, owner)
    store.acquire(study.id, dataclasses.replace(owner, process_start=owner.process_start - 100), 60)
    assert store.owner(study.id) is None
    store.acquire(study.id, other, 60)


def test_a_process_of_another_host_is_never_taken_for_dead(
    store: Store, study: StudyRecord, owner: Owner, other: Owner
) -> None:
    store.release(study.id, owner)
    far = dataclasses.replace(owner, host="elsewhere", pid=2**30)
    store.acquire(study.id, far, 60)
    with pytest.raises(StudyOwned, match=f"process {2**30} on host elsewhere"):
        store.acquire(study.id, other, 60)
    assert store.owner(study.id) == far


@pytest.mark.parametrize("elsewhere", ["another boot pid:[1]", ""], ids=["another", "unknown"])
def test_a_process_of_another_namespace_of_one_host_name_is_never_taken_for_dead(
    store: Store, study: StudyRecord, owner: Owner, other: Owner, elsewhere: str
) -> None:
    store.release(study.id, owner)
    inside = dataclasses.replace(owner, pid=2**22 + 1, namespace=elsewhere)
    store.acquire(study.id, inside, 60)
    with pytest.raises(StudyOwned, match=f"process {2**22 + 1} on host {socket.gethostname()}"):
        store.acquire(study.id, other, 60)
    store.renew(study.id, inside, -1)
    store.acquire(study.id, other, 60)
    assert store.owner(study.id) == other


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of process ids are Linux's")
@pytest.mark.parametrize("proc", [("--mount-proc",), ()], ids=["a /proc of its own", "the host's /proc"])
def test_the_lease_of_a_live_process_in_another_namespace_holds(
    store: Store, study: StudyRecord, storage_url: str, other: Owner, proc: tuple[str, ...]
) -> None:
    apart = ["unshare", "--user", "--map-root-user"] if os.geteuid() else ["unshare"]
    command = [*apart, "--pid", "--fork", "--kill-child", *proc]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here")
    pipe = subprocess.PIPE
    words = [*command, sys.executable, "-c", HOLD, storage_url, str(study.id)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        pid, token = process.stdout.readline().split()
        assert int(pid) < 10, "an id of its own namespace"
        with pytest.raises(StudyOwned, match=f"owned by process {pid} on host"):
            store.acquire(study.id, other, 60)
        live = store.owner(study.id)
        assert live is not None
        assert live.token == token
        process.communicate("")


def test_the_lease_of_a_deleted_study_is_gone(store: Store, study: StudyRecord, owner: Owner) -> None:
    store.delete_study(study.id)
    uses: list[Callable[[], object]] = [
        lambda: store.acquire(study.id, owner, 60),
        lambda: store.renew(study.id, owner, 60),
        lambda: store.owner(study.id),
        lambda: store.finish(study.id, "done", token=owner.token),
    ]
    for use in uses:
        with pytest.raises(StudyGone):
            use()
    store.release(study.id, owner)
