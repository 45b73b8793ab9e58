"""Fault 19: the clock of the owner's host jumps by hours in mid-trial, forth and back."""

from __future__ import annotations

import os
from pathlib import Path

from cli import Cli
from databases import on
from invariants import assert_nothing_lost, count, rows
from waiting import wait_for

RUN = ("run", "--space", "slow.yaml", "--slots", "1", "--device", "cpu", "--trials", "2", "--pruner", "none")

JUMPING = """
import os, time
real, real_ns = time.time, time.time_ns
def shift():
    with open(os.environ["TEST_CLOCK"]) as file:
        return int(file.read())
time.time = lambda: real() + shift()
time.time_ns = lambda: real_ns() + shift() * 10**9
"""
"""A `sitecustomize`, read by Python before anything else, in the coordinator and in its slots. The database's clock, in a
server or in SQLite's own C, does not jump."""


@on("any_storage_url", "sqlite")
def test_fault_19_a_clock_that_jumps_by_hours_in_mid_trial_has_no_effect(
    any_storage_url: str, slow: Cli, tmp_path: Path
) -> None:
    url, clock = any_storage_url, tmp_path / "clock"
    (tmp_path / "jumping").mkdir()
    (tmp_path / "jumping" / "sitecustomize.py").write_text(JUMPING)

    def jump(seconds: int) -> None:
        # Renamed, as it is read all the time.
        new = tmp_path / "clock.new"
        new.write_text(str(seconds))
        new.replace(clock)

    jump(0)
    path = os.pathsep.join(filter(None, [str(tmp_path / "jumping"), slow.environment.get("PYTHONPATH", "")]))
    cli = slow.using(url).having(PYTHONPATH=path, TEST_CLOCK=str(clock))
    running = cli.start(*RUN)
    for seconds in (3600, -7200, 7200):  # No jumps that add up to nothing, whichever of them a step is timed across.
        seen = count(url, "hps_points")
        wait_for(lambda seen=seen: count(url, "hps_points") > seen, running)  # type: ignore[misc]
        (at_work,) = rows(url, "SELECT trial_number FROM hps_attempts WHERE ended_at IS NULL")
        assert at_work["trial_number"] == 0, "the jump must come in the first trial, which has eight evaluations"
        jump(seconds)
    refused = cli.run(*RUN)
    assert refused.returncode == 3, refused.stderr
    assert f"is owned by process {running.pid}" in refused.stderr
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert_nothing_lost(url, "slow", 2)
    # No slot was taken for hung, and no coordinator for late.
    assert [row["attempts"] for row in rows(url, "SELECT attempts FROM hps_trials")] == [1, 1]
    durations = [
        *(row["seconds"] for row in rows(url, "SELECT seconds FROM hps_trials")),
        *(row["age"] for row in rows(url, "SELECT ended_at - started_at AS age FROM hps_attempts")),
    ]
    assert all(0 < seconds < 600 for seconds in durations), durations
    in_order = rows(url, "SELECT trial_number, seconds FROM hps_points ORDER BY trial_number, rung")
    assert in_order == sorted(in_order, key=lambda row: (row["trial_number"], row["seconds"]))
