"""Faults 5 and 6: the database goes away in the middle of a study, once for long or again and again, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cli import Cli
from invariants import assert_nothing_lost, count, rows, snapshot
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


def run_through(server: Server, url: str, cli: Cli, away_s: float, trials: int) -> None:
    running = cli.start("run", "--space", "slow.yaml", "--trials", str(trials), "--slots", "2", "--device", "cpu")
    wait_for(lambda: count(url, "hps_points") >= 2, running)
    before = snapshot(url, "slow")
    server.stop()
    began, logged = time.monotonic(), trained(cli)
    while time.monotonic() < began + away_s:
        time.sleep(0.2)
        assert running.poll() is None, running.communicate()
    assert trained(cli) > logged, "no trial went on while the database was away"
    server.start()
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


def trained(cli: Cli) -> int:
    """Bytes that trials have logged so far."""
    return sum(path.stat().st_size for path in cli.folder.rglob("log.jsonl"))


def test_fault_05_training_goes_on_while_the_database_is_away(own_server: Server, url: str, slow: Cli) -> None:
    run_through(own_server, url, slow.using(url), away_s=8, trials=6)


def test_what_an_outage_kept_from_being_stored_survives_the_coordinator(own_server: Server, url: str, slow: Cli) -> None:
    """Trials evaluate and checkpoint while the database is away; the coordinator that knows of it is killed then."""
    cli = slow.using(url)
    words = ("run", "--space", "slow.yaml", "--trials", "2", "--slots", "2", "--device", "cpu", "--pruner", "none")
    running = cli.start(*words)
    wait_for(lambda: count(url, "hps_points") >= 2, running)
    stored = count(url, "hps_points")
    before = snapshot(url, "slow")
    own_server.stop()
    wait_for(lambda: evaluations(cli) >= stored + 4, running)
    running.kill()
    running.communicate()
    own_server.start()
    done = cli.run(*words)
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(url, "slow", 2, before=[before])
    rungs = rows(url, "SELECT trial_number, rung FROM hps_points ORDER BY trial_number, rung")
    assert [(row["trial_number"], row["rung"]) for row in rungs] == [(trial, rung) for trial in (0, 1) for rung in range(1, 9)]
    starts = rows(url, "SELECT from_iteration FROM hps_attempts WHERE attempt = 2")
    assert len(starts) == 2


def evaluations(cli: Cli) -> int:
    """Those that trials have logged."""
    return sum(path.read_text().count('"event": "evaluation"') for path in cli.folder.rglob("log.jsonl"))


@pytest.mark.soak
def test_fault_05_training_goes_on_while_the_database_is_away_for_a_minute(own_server: Server, url: str, slow: Cli) -> None:
    run_through(own_server, url, slow.using(url), away_s=60, trials=30)


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
