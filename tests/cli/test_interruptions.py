"""A real study that ends in another way than at its total. Signals and kills in the middle of one: tests/faults."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from cli import COMMAND, Cli
from tiny import SPACE

RUN = ("run", "--space", "slow.yaml", "--device", "cpu", "--trials")


@pytest.fixture
def slow(cli: Cli) -> Cli:
    """A folder with a space of trials of a second."""
    (cli.folder / "slow.yaml").write_text(SPACE.replace("tokens: 7680, evaluations: 4", "tokens: 48000, evaluations: 8"))
    return cli


def test_a_time_limit_pauses_the_study(slow: Cli) -> None:
    done = slow.run(*RUN, "1000", "--timeout", "2")
    assert done.returncode == 0
    assert "the time limit was reached" in done.stderr
    assert {trial["state"] for trial in slow.json("trials")} & {"paused"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_before_the_first_trial_leaves_a_study_that_the_same_line_begins(
    slow: Cli, number: signal.Signals, code: int
) -> None:
    running = slow.start(*RUN, "10")
    assert running.stderr is not None
    assert any("measuring" in line for line in iter(running.stderr.readline, ""))
    os.killpg(running.pid, number)  # the slots get it too, while they start
    _, told = running.communicate(timeout=60)
    assert running.returncode == code, told
    assert "Traceback" not in told
    assert slow.json("status")["owner"] is None
    done = slow.run(*RUN, "1")
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
