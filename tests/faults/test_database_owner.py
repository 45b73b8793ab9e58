"""Faults 4, 8 and 19: one coordinator owns a study, by the database's clock, whatever freezes, hurries or is late."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from cli import Cli
from databases import on
from invariants import assert_nothing_lost, count, rows, snapshot
from many_starts import the_one_that_runs
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from waiting import wait_for

from hpsearch.errors import StudyOwned
from hpsearch.storage import leases
from hpsearch.storage.store import Store
from hpsearch.storage.urls import parse_url

LEASE_S = 12
STARTS = 16
RUN = ("run", "--space", "slow.yaml", "--slots", "1", "--device", "cpu", "--trials")

SHIFTED = """
import os, time
shift = float(os.environ["TEST_CLOCK_SHIFT_S"])
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + shift
time.time_ns = lambda: real_ns() + int(shift * 1e9)
"""
"""A `sitecustomize`, read by Python before anything else, in the coordinator and in its slots. Their clocks seem shifted to all
code that asks `time`; the database's, in a server or in SQLite's own C, is not."""


def frozen_between_writes(process: subprocess.Popen[str], url: str) -> bool:
    """Freeze `process`; where that holds locks in the middle of a write, let it go on and say no.

    (A server takes those locks from it after a while, see `FROZEN_S`; SQLite cannot, and names the remedy.)
    """
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    engine = create_engine(parse_url(url), connect_args={"timeout": 0} if url.startswith("sqlite") else {})
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                for table in ("hps_studies", "studies", "trials"):
                    connection.exec_driver_sql(f"SELECT 1 FROM {table} FOR UPDATE NOWAIT")
    except DBAPIError:
        process.send_signal(signal.SIGCONT)
        return False
    finally:
        engine.dispose()
    return True


@on("any_storage_url", "postgresql")
def test_fault_04_a_coordinator_that_wakes_after_its_lease_writes_nothing_more(any_storage_url: str, slow: Cli) -> None:
    url = any_storage_url
    cli = slow.using(url).having(HPSEARCH_LEASE_S=str(LEASE_S))
    first = cli.start(*RUN, "2")
    wait_for(lambda: count(url, "hps_points") >= 2, first)
    wait_for(lambda: frozen_between_writes(first, url))
    with Store.open(url, create=False) as store:
        study = store.study("slow")
        with pytest.raises(StudyOwned, match=f"process {first.pid} on host"):  # it lives and its lease has not ended
            store.acquire(study.id, leases.this_process(), LEASE_S)
        wait_for(lambda: store.owner(study.id) is None, seconds=60)
    before = snapshot(url, "slow")
    second = cli.start(*RUN, "2")
    wait_for(lambda: rows(url, "SELECT lease_pid FROM hps_studies") == [{"lease_pid": second.pid}], second)
    seen = count(url, "hps_points")
    wait_for(lambda: count(url, "hps_points") > seen, second)
    os.kill(first.pid, signal.SIGCONT)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 3, told
    assert f"hpsearch: study 'slow' was taken over by process {second.pid} on host" in told.splitlines()[-1]
    assert "Traceback" not in told
    _, told = second.communicate(timeout=300)
    assert second.returncode == 0, told
    assert_nothing_lost(url, "slow", 2, before=[before])
    slots = rows(url, "SELECT outcome FROM hps_attempts WHERE trial_number = 0 ORDER BY attempt")
    assert [row["outcome"] for row in slots] == ["lost", "complete"]


@on("any_storage_url", "sqlite")
def test_fault_04_slots_end_when_their_coordinator_is_frozen_and_their_trials_go_on_when_it_wakes(
    any_storage_url: str, slow: Cli
) -> None:
    url = any_storage_url
    cli = slow.using(url).having(HPSEARCH_LEASE_S="5")
    running = cli.start(*RUN, "1")
    wait_for(lambda: count(url, "hps_checkpoints") >= 1, running)
    wait_for(lambda: frozen_between_writes(running, url))
    (slot,) = rows(url, "SELECT pid FROM hps_attempts")
    frozen_at = snapshot(url, "slow")
    wait_for(lambda: not psutil.pid_exists(slot["pid"]), seconds=60)
    running.send_signal(signal.SIGCONT)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert "its coordinator had not been heard of for too long" in told
    assert_nothing_lost(url, "slow", 1, before=[frozen_at])


@on("any_storage_url", "sqlite", "mysql")
def test_fault_08_of_sixteen_starts_one_runs_the_study_and_the_others_are_refused(any_storage_url: str, slow: Cli) -> None:
    cli = slow.using(any_storage_url)
    started = [cli.start(*RUN, "1000") for _ in range(STARTS)]
    winner = the_one_that_runs(started)
    wait_for(lambda: count(any_storage_url, "hps_points") >= 1, winner)
    os.killpg(winner.pid, signal.SIGINT)
    _, told = winner.communicate(timeout=60)
    assert winner.returncode == 130, told
    assert "Traceback" not in told
    numbers = [row["number"] for row in rows(any_storage_url, "SELECT number FROM trials ORDER BY number")]
    assert numbers == list(range(len(numbers)))
    (study,) = rows(any_storage_url, "SELECT name FROM hps_studies")
    assert study["name"] == "slow"
    assert len(list((cli.folder / "studies").glob("*-slow"))) == 1


@on("any_storage_url", "sqlite")
def test_fault_19_clocks_off_by_an_hour_have_no_effect(any_storage_url: str, slow: Cli, tmp_path: Path) -> None:
    """The owner's clock is an hour late and the other one's an hour early: by their clocks the lease ended long ago."""
    (tmp_path / "shifted").mkdir()
    (tmp_path / "shifted" / "sitecustomize.py").write_text(SHIFTED)
    cli = slow.using(any_storage_url)
    path = os.pathsep.join(filter(None, [str(tmp_path / "shifted"), cli.environment.get("PYTHONPATH", "")]))
    late = cli.having(PYTHONPATH=path, TEST_CLOCK_SHIFT_S="-3600")
    early = cli.having(PYTHONPATH=path, TEST_CLOCK_SHIFT_S="3600")
    running = late.start(*RUN, "2")
    wait_for(lambda: count(any_storage_url, "hps_points") >= 1, running)
    refused = early.run(*RUN, "2")
    assert refused.returncode == 3, refused.stderr
    assert f"is owned by process {running.pid}" in refused.stderr
    assert early.json("status")["owner"]["pid"] == running.pid
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert_nothing_lost(any_storage_url, "slow", 2)
    seconds = rows(any_storage_url, "SELECT max(seconds) AS longest FROM hps_trials")[0]["longest"]
    assert 0 < seconds < 600, "durations are not from the wall clock"
    ages = rows(any_storage_url, "SELECT min(ended_at - started_at) AS age FROM hps_attempts")[0]["age"]
    assert 0 < ages < 600
