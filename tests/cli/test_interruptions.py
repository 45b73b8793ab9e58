"""A real study that ends in another way than at its total. Signals and kills in the middle of one: tests/faults."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from dataclasses import replace

import pytest
from cli import COMMAND, Cli
from tiny import SPACE

from hpsearch.tuning.stopping import Limits, Spent

RUN = ("run", "--space", "slow.yaml", "--device", "cpu", "--trials")


@pytest.fixture
def slow(cli: Cli) -> Cli:
    """A folder with a space of trials of a second."""
    (cli.folder / "slow.yaml").write_text(SPACE.replace("tokens: 7680, evaluations: 4", "tokens: 48000, evaluations: 8"))
    return cli


def test_a_time_limit_pauses_the_study(slow: Cli) -> None:
    # Longer trials than the limit: none is whole, so there is nothing to keep time for, and nothing to confirm.
    done = slow.run(*RUN, "1000", "--budget", "tokens=5e6", "--timeout", "2", "--confirm")
    assert done.returncode == 0
    assert "the time limit was reached; it goes on with a larger --timeout, or without it" in done.stderr
    assert "then up to 20 retrainings to confirm, about " in done.stderr
    assert "nothing was confirmed within the limit" in done.stderr
    assert {trial["state"] for trial in slow.json("trials")} & {"paused"}
    assert "where a limit was reached, with a larger one" in slow.ok("status")


@pytest.mark.parametrize(
    ("spent", "option"),
    [
        (Spent(wall_s=6000), "--timeout"),
        (Spent(flops=1e12), "--budget-flops"),
        (Spent(seconds=7200), "--budget-hours"),
        (Spent(wall_s=4000, flops=9e11, seconds=7199), ""),
    ],
)
def test_a_limit_that_is_reached_is_told_as_the_option_to_raise(spent: Spent, option: str) -> None:
    reached = Limits(timeout_s=5000, flops=1e12, slot_hours=2).reached(spent, ())
    assert (reached.option if reached else "") == option
    assert Limits().reached(spent, ()) is None


@pytest.mark.parametrize("option", ["--timeout", "--budget-flops", "--budget-hours"])
def test_a_search_leaves_its_confirmation_what_as_many_whole_trials_have_cost(option: str) -> None:
    limits = Limits(timeout_s=5000, flops=1e12, slot_hours=2, retrainings=5, slots=2)
    before, after = {
        "--timeout": (Spent(wall_s=4600), Spent(wall_s=4800)),  # Three turns of 100 s.
        "--budget-flops": (Spent(flops=9.4e11), Spent(flops=9.6e11)),
        "--budget-hours": (Spent(seconds=6600), Spent(seconds=6800)),
    }[option]
    for spent in (before, after):
        spent.whole, spent.whole_flops, spent.whole_seconds = 4, 4e10, 400
    assert limits.reached(before, ()) is None
    reached = limits.reached(after, ())
    assert reached is not None
    assert reached.option == option
    assert reached.reason.endswith(", but for the confirmation's part of it")
    assert replace(limits, retrainings=0).reached(after, ()) is None
    before.whole_flops, before.whole_seconds = 1e15, 1e6
    assert limits.reached(before, ()) is not None
    fresh = Spent(wall_s=2400, flops=4e11, seconds=3500, whole=1, whole_flops=1e15, whole_seconds=1e6)
    assert limits.reached(fresh, ()) is None, "half of it is the search's in any case"


def test_what_is_left_of_the_clock_counts_what_trials_take_beside_their_training() -> None:
    limits = Limits(timeout_s=5000, retrainings=5, slots=2)
    spent = Spent(wall_s=4000, seconds=2000, whole=4, whole_seconds=400)  # Slots trained for a quarter of the time.
    assert limits.reached(spent, ()) is not None, "three turns of 400 s would not end in time"
    assert limits.reached(replace(spent, seconds=8000), ()) is None


def test_limits_hold_for_a_search_and_its_confirmation_together(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    trial = cli.json("price", "--space", "tiny.yaml", "--trials", "1", "--device", "cpu")["trial"]["flops"]
    words = ("run", "--space", "tiny.yaml", "--trials", "100", "--slots", "1", "--device", "cpu", "--pruner", "none")
    confirm = ("--confirm", "--top", "1", "--seeds", "2")
    done = cli.run(*words, *confirm, "--budget-flops", f"{10.5 * trial:g}")
    assert done.returncode == 0, done.stderr
    assert "is spent, but for the confirmation's part of it; it goes on with a larger --budget-flops" in done.stderr
    assert "confirmation over seeds 1, 2" in done.stdout
    document = cli.json("status")
    assert 5 <= sum(trial["state"] == "complete" for trial in cli.json("trials")) <= 9
    assert document["confirmation"]["seeds"] == [1, 2]
    again = cli.run(*words, "--confirm", "--top", "1", "--seeds", "9", "--budget-flops", f"{10.5 * trial:g}")
    assert again.returncode == 0, again.stderr
    assert "the confirmation is paused: the compute budget" in again.stderr
    assert "given a larger --budget-flops" in again.stderr


def test_an_early_end_is_said_on_a_terminal_with_commands_that_find_the_study(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    terminal, theirs = os.openpty()
    words = ("run", "--space", "tiny.yaml", "--trials", "9", "--patience", "1", "--sampler", "random", "--slots", "1")
    running = subprocess.Popen(
        [*COMMAND, *words, "--device", "cpu", "--studies-dir", "my studies"],
        cwd=cli.folder,
        env=cli.environment | {"TERM": "xterm", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    cli.started.append(running)
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # Its other side is closed.
        while part := os.read(terminal, 65536):
            told += part
    os.close(terminal)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 0, told
    said = r"ended after \d of 9 trials: no better trial among the last 1 \(--patience 1\); a larger --trials goes on"
    assert re.search(said, told.decode())
    assert "hpsearch report --study tiny --out report.html --studies-dir 'my studies'" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_before_the_first_trial_leaves_a_study_that_the_same_line_begins(
    slow: Cli, number: signal.Signals, code: int
) -> None:
    running = slow.start(*RUN, "1")
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
