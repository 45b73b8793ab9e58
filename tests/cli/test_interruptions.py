"""Kills and signals of the real command in the middle of a real study."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cli import COMMAND, Cli
from tiny import SPACE

TRIALS = 10
RUN = ("run", "--space", "slow.yaml", "--trials", str(TRIALS), "--device", "cpu")


@pytest.fixture
def slow(cli: Cli) -> Cli:
    """Trials of a few seconds, with a checkpoint at each of eight evaluations."""
    text = SPACE.replace("name: tiny", "name: slow").replace("tokens: 7680, evaluations: 4", "tokens: 48000, evaluations: 8")
    (cli.folder / "slow.yaml").write_text(text)
    return cli


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        if running.poll() is not None:
            raise AssertionError(running.communicate())
        time.sleep(0.05)
    raise AssertionError("it never happened")


def checkpoints(folder: Path, at_least: int) -> Callable[[], bool]:
    return lambda: len(list(folder.rglob("checkpoints/step-*.pt"))) >= at_least


def points(folder: Path) -> list[tuple[int, int, str]]:
    """Trial, rung and the measured values of every evaluation in the database."""
    with sqlite3.connect(folder / "studies" / "hpsearch.db") as database:
        return list(
            database.execute("SELECT trial_number, rung, metrics FROM hps_points ORDER BY trial_number, rung").fetchall()
        )


def require_whole(cli: Cli) -> None:
    trials = cli.json("trials")
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    with sqlite3.connect(cli.folder / "studies" / "hpsearch.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone() == (0,)
        assert database.execute("SELECT count(*), count(DISTINCT number) FROM trials").fetchone() == (TRIALS, TRIALS)


def test_a_killed_process_group_goes_on_with_the_same_line_and_equal_curves(slow: Cli) -> None:
    running = slow.start(*RUN)
    wait_for(checkpoints(slow.folder, 2), running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    before = points(slow.folder)
    unfinished = [trial["number"] for trial in slow.json("trials") if trial["state"] == "running"]
    assert unfinished
    done = slow.run(*RUN)
    assert done.returncode == 0, done.stderr
    assert "study: resuming 'slow'" in done.stderr
    require_whole(slow)
    after = points(slow.folder)
    # A point that was measured again after the checkpoint is the same point, to the last bit.
    assert [point for point in after if point[:2] in {point[:2] for point in before}] == before
    resumed = [
        attempt
        for number in unfinished
        for attempt in slow.json("show", str(number))["attempts_history"]
        if attempt["attempt"] == 2
    ]
    assert resumed
    assert any(attempt["from_iteration"] > 0 for attempt in resumed)
    # The undisturbed run of trial 0 gives the same curve.
    alone = slow.folder / "alone"
    slow.ok("export", "--trial", "0", "--out", "zero.yaml")
    slow.ok("train", "--config", "zero.yaml", "--out", str(alone), "--device", "cpu")
    logged = [json.loads(line) for line in (alone / "log.jsonl").read_text().splitlines()]
    curve = [entry["metrics"]["val_bpb"] for entry in logged if "rung" in entry]
    assert curve == [json.loads(metrics)["val_bpb"] for number, _, metrics in after if number == 0]


def test_slots_end_with_the_coordinator_alone(slow: Cli) -> None:
    running = slow.start(*RUN)
    wait_for(checkpoints(slow.folder, 1), running)
    slots = psutil.Process(running.pid).children(recursive=True)
    assert slots
    running.kill()
    running.communicate()
    _, alive = psutil.wait_procs(slots, timeout=20)
    assert alive == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_pauses_the_study_and_the_same_line_goes_on(slow: Cli, number: signal.Signals, code: int) -> None:
    running = slow.start(*RUN)
    wait_for(checkpoints(slow.folder, 1), running)
    os.killpg(running.pid, number)  # as a terminal does: the slots get it too
    _, told = running.communicate(timeout=60)
    assert running.returncode == code
    assert "the same command goes on with it" in told
    assert "Traceback" not in told
    trials = slow.json("trials")
    assert {trial["state"] for trial in trials} <= {"paused", "complete", "pruned"}
    assert any(trial["state"] == "paused" for trial in trials)
    assert slow.json("status")["owner"] is None
    done = slow.run(*RUN)
    assert done.returncode == 0, done.stderr
    require_whole(slow)


def test_a_second_start_is_refused_in_one_line(slow: Cli) -> None:
    running = slow.start(*RUN)
    wait_for(checkpoints(slow.folder, 1), running)
    second = slow.run(*RUN)
    assert second.returncode == 3
    assert str(running.pid) in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=60)


def test_a_time_limit_pauses_the_study(slow: Cli) -> None:
    done = slow.run(*RUN[:-4], "--trials", "1000", "--timeout", "2")
    assert done.returncode == 0
    assert "the time limit was reached" in done.stderr
    assert {trial["state"] for trial in slow.json("trials")} & {"paused"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_before_the_first_trial_leaves_a_study_that_the_same_line_begins(
    slow: Cli, number: signal.Signals, code: int
) -> None:
    running = slow.start(*RUN)
    assert running.stderr is not None
    assert any("measuring" in line for line in iter(running.stderr.readline, ""))
    os.killpg(running.pid, number)  # the slots get it too, while they start
    _, told = running.communicate(timeout=60)
    assert running.returncode == code, told
    assert "Traceback" not in told
    assert slow.json("status")["owner"] is None
    done = slow.run(*RUN[:-4], "--trials", "1")
    assert done.returncode == 0, done.stderr


def test_a_baseline_that_diverges_at_once_is_measured_and_pruned(cli: Cli) -> None:
    text = SPACE.replace("3e-2, log: true, prior: 3e-4", "1e15, log: true, prior: 1e15").replace("prior: adamw", "prior: sgd")
    (cli.folder / "steep.yaml").write_text(text)
    done = cli.run("run", "--space", "steep.yaml", "--trials", "1", "--slots", "2")
    assert done.returncode == 5, done.stderr
    assert "diverged" in done.stderr


def test_a_full_disk_is_a_reason_that_passes(cli: Cli) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {' '.join(COMMAND)} params > /dev/full"],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 75
    assert "make room" in done.stderr
