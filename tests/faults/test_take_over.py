"""Fault 8 after fault 2: sixteen starts at once of a study whose owner was killed."""

from __future__ import annotations

import os
import signal

from cli import Cli
from databases import on
from invariants import count, rows, snapshot
from many_starts import the_one_that_runs
from waiting import wait_for

STARTS = 16
RUN = ("run", "--space", "slow.yaml", "--slots", "1", "--device", "cpu", "--trials", "1000", "--pruner", "none")


@on("any_storage_url", "sqlite", "postgresql")
def test_fault_08_of_sixteen_starts_one_takes_over_from_a_killed_owner_and_the_others_are_refused(
    any_storage_url: str, slow: Cli
) -> None:
    url = any_storage_url
    cli = slow.using(url)
    killed = cli.start(*RUN)
    wait_for(lambda: count(url, "hps_checkpoints") >= 1, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = snapshot(url, "slow")
    started = [cli.start(*RUN) for _ in range(STARTS)]
    winner = the_one_that_runs(started)
    wait_for(lambda: len(rows(url, "SELECT 1 FROM hps_attempts")) > sum(before.attempts.values()), winner)
    os.killpg(winner.pid, signal.SIGINT)
    _, told = winner.communicate(timeout=60)
    assert winner.returncode == 130, told
    assert "Traceback" not in told
    # The trial that was cut off went on, once, and nobody else has begun one.
    number = max(before.attempts)
    attempts = rows(url, "SELECT * FROM hps_attempts WHERE trial_number = :number ORDER BY attempt", number=number)
    assert [attempt["attempt"] for attempt in attempts] == [1, 2]
    assert attempts[0]["outcome"] == "lost"
    assert attempts[1]["from_iteration"] >= before.checkpoints.get(number, 0)
    numbers = [row["number"] for row in rows(url, "SELECT number FROM trials ORDER BY number")]
    assert numbers == list(range(len(numbers)))
    assert [row["number"] for row in rows(url, "SELECT number FROM hps_trials ORDER BY number")] == numbers
