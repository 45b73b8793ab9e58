"""Faults 5, 6 and 7: the database goes away in the middle of a study, once for long or again and again, and comes back.

A SQLite file that another process has locked for long is away too.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from cli import Cli
from invariants import Snapshot, assert_nothing_lost, count, rows, snapshot
from servers import PASSWORD, Server, start_mariadb, start_postgresql
from waiting import wait_for

RESTARTS = 20


SERVERS = [start_postgresql, pytest.param(start_mariadb, marks=pytest.mark.soak)]


@pytest.fixture(scope="module", params=SERVERS, ids=["postgresql", "mysql"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that only these tests use, and may stop."""
    server: Server = request.param()
    yield server
    server.close()


@pytest.fixture
def url(own_server: Server) -> Iterator[str]:
    url = own_server.fresh_database()
    yield url
    own_server.drop(url)


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Another process writes to the SQLite file, until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, url.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        yield


def run_through(away: AbstractContextManager[None], url: str, cli: Cli, away_s: float, trials: int) -> str:
    """Run `slow` through an outage that lasts until the trials have gone on. Returns what it told."""
    running = cli.start("run", "--space", "slow.yaml", "--trials", str(trials), "--slots", "2", "--device", "cpu")
    wait_for(lambda: count(url, "hps_points") >= 2, running)
    before = snapshot(url, "slow")
    with away:
        began, logged = time.monotonic(), evaluations(cli)
        # Each slot evaluates once more without an answer, and waits for it then.
        while time.monotonic() < began + away_s or evaluations(cli) <= logged + 2:
            time.sleep(0.2)
            assert running.poll() is None, running.communicate()
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert "Traceback" not in told
    assert PASSWORD not in told
    assert_nothing_lost(url, "slow", trials, before=[before])
    assert {row["state"] for row in rows(url, "SELECT state FROM hps_trials")} <= {"complete", "pruned"}
    # No slot was replaced and no trial begun again: none of them noticed.
    assert {row["attempts"] for row in rows(url, "SELECT attempts FROM hps_trials")} == {1}
    rungs = rows(url, "SELECT trial_number, count(*) AS n, max(rung) AS last FROM hps_points GROUP BY trial_number")
    assert all(row["n"] == row["last"] for row in rungs), f"an evaluation of the outage is missing: {rungs}"
    return told


TWO = ("run", "--space", "slow.yaml", "--trials", "2", "--slots", "2", "--device", "cpu", "--pruner", "none")


def require_both_whole(cli: Cli, url: str, before: Snapshot) -> None:
    """The same command goes on, and in the end both trials have all their evaluations."""
    done = cli.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(url, "slow", 2, before=[before])
    rungs = rows(url, "SELECT trial_number, rung FROM hps_points ORDER BY trial_number, rung")
    assert [(row["trial_number"], row["rung"]) for row in rungs] == [(trial, rung) for trial in (0, 1) for rung in range(1, 9)]


def test_fault_05_training_goes_on_while_the_database_is_away(own_server: Server, url: str, slow: Cli) -> None:
    run_through(stopped(own_server), url, slow.using(url), away_s=8, trials=6)


def test_fault_07_training_goes_on_while_another_process_keeps_sqlite_locked(slow: Cli) -> None:
    url = f"sqlite:///{slow.folder}/hpsearch.db"
    told = run_through(locked(url), url, slow.using(url), away_s=15, trials=3)
    assert "/hpsearch.db: another process keeps it locked; training goes on" in told
    assert "the database is back" in told


def test_what_an_outage_kept_from_being_stored_survives_the_coordinator(own_server: Server, url: str, slow: Cli) -> None:
    """Trials evaluate and checkpoint while the database is away; the coordinator that knows of it is killed then."""
    cli = slow.using(url)
    running = cli.start(*TWO)
    wait_for(lambda: count(url, "hps_points") >= 2, running)
    stored = count(url, "hps_points")
    before = snapshot(url, "slow")
    own_server.stop()
    wait_for(lambda: evaluations(cli) >= stored + 4, running)
    running.kill()
    running.communicate()
    own_server.start()
    require_both_whole(cli, url, before)
    starts = rows(url, "SELECT from_iteration FROM hps_attempts WHERE attempt = 2")
    assert len(starts) == 2


def test_a_signal_while_the_database_is_away_leaves_checkpoints_that_the_same_command_goes_on_from(
    own_server: Server, url: str, slow: Cli
) -> None:
    cli = slow.using(url)
    running = cli.start(*TWO)
    wait_for(lambda: count(url, "hps_points") >= 2, running)
    before = snapshot(url, "slow")
    own_server.stop()
    wait_for(lambda: evaluations(cli) >= 4, running)
    running.terminate()
    _, told = running.communicate(timeout=120)
    assert running.returncode == 4, told
    assert told.endswith("; the trials are checkpointed: the same command goes on with them\n")
    assert "Traceback" not in told
    assert PASSWORD not in told
    own_server.start()
    require_both_whole(cli, url, before)


def evaluations(cli: Cli) -> int:
    """Those that trials have logged."""
    return sum(path.read_text().count('"event": "evaluation"') for path in cli.folder.rglob("log.jsonl"))


@pytest.mark.soak
def test_fault_05_training_goes_on_while_the_database_is_away_for_a_minute(own_server: Server, url: str, slow: Cli) -> None:
    run_through(stopped(own_server), url, slow.using(url), away_s=60, trials=30)


def test_fault_06_a_database_that_restarts_twenty_times_loses_nothing(own_server: Server, url: str, slow: Cli) -> None:
    trials = 12
    cli = slow.using(url)
    running = cli.start("run", "--space", "slow.yaml", "--trials", str(trials), "--slots", "2", "--device", "cpu")
    for restart in range(RESTARTS):
        seen = count(url, "hps_points")
        wait_for(lambda seen=seen: count(url, "hps_points") > seen, running)  # type: ignore[misc]
        if restart % 2:
            own_server.kill()
        else:
            own_server.stop()
        own_server.start()
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert "Traceback" not in told
    assert_nothing_lost(url, "slow", trials)
    assert {row["state"] for row in rows(url, "SELECT state FROM hps_trials")} <= {"complete", "pruned"}
    assert {row["attempts"] for row in rows(url, "SELECT attempts FROM hps_trials")} == {1}


def test_a_database_that_is_away_at_the_start_ends_the_command_with_its_code(own_server: Server, url: str, slow: Cli) -> None:
    own_server.stop()
    for words in (["run", "--space", "slow.yaml", "--trials", "1"], ["status"]):
        done = slow.using(url).run(*words)
        assert done.returncode == 4
        assert "does not answer" in done.stderr
        assert PASSWORD not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    own_server.start()
