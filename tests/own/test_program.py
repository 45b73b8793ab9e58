"""`hpsearch run --command`: programs of one's own, as real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

import hpsearch
from hpsearch.errors import BadInput, NoTrialSucceeded
from hpsearch.trainers import supervisor
from hpsearch.trainers.command import fill, placeholders

Tune = Callable[..., hpsearch.Study]

SPACE = """
trainer: own
name: prog
objective: loss
budget: {steps: 8, evaluations: 4}
parameters:
  lr: {low: 0.001, high: 100.0, log: true, prior: 1.0}
  kind: {choices: [light, heavy], prior: light}
  momentum: {low: 0.0, high: 1.0, when: kind == 'heavy'}
"""

PROGRAM = f"{sys.executable} {Path(__file__).parents[1] / 'support' / 'own_program.py'}"


JSON = '{"a": {"b": 1}}'


def command(act: str = "none", more: str = "") -> str:
    return f"{PROGRAM} --lr {{lr}} --momentum {{momentum}} --folder={{folder}} --resume {{resume}} --act {act} {more}"


def test_placeholders_are_filled_word_by_word() -> None:
    values = {"lr": 1e-4, "name": "a b'; rm -rf /", "on": True, "off": None, "path": Path("x y")}
    words = [
        "prog",
        "--lr={lr}",
        "{name}",
        "--on",
        "{on}",
        "--off",
        "{off}",
        "--off={off}",
        "{path}/{lr}",
        "{{lr}}",
        '{"a": {"b": 1}}',
    ]
    assert fill(words, values) == [
        "prog",
        "--lr=0.0001",
        "a b'; rm -rf /",
        "--on",
        "true",
        "x y/0.0001",
        "{lr}",
        '{"a": {"b": 1}}',
    ]
    assert placeholders(words) == ["lr", "name", "on", "off", "path"]
    assert fill(["run", "{off}"], values) == ["run"]


def test_a_program_is_tuned(tune: Tune) -> None:
    study = tune(command(more="--seed {seed}"), SPACE, trials=4, confirm=True, top=1, seeds=2)
    assert {trial.state for trial in study.trials} == {"complete"}
    baseline = study.trials[0]
    assert (baseline.value, baseline.metrics) == (0.125, {"loss": 0.125, "twice": 16.0})
    assert study.curve(0) == [(step, 1 / step) for step in (2, 4, 6, 8)]
    log = (baseline.folder / "output.log").read_text()
    assert log.startswith("from step 0 with momentum None\n{")
    heavy = next(trial for trial in study.trials if trial.config["kind"] == "heavy")
    assert f"momentum {heavy.config['momentum']}" in (heavy.folder / "output.log").read_text()
    assert study.confirmation is not None
    assert study.confirmation.of(0).values == {1: 0.126, 2: 0.127}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("act", "state", "reason"),
    [
        ("fails", "failed", "ProgramFailed: exit code 1: it broke: 1 of 2"),
        ("nan", "pruned", "diverged: loss is nan at step 4"),
    ],
)
def test_how_a_program_that_does_not_end_well_ends(tune: Tune, act: str, state: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(NoTrialSucceeded, match=re.escape(reason)):
        tune(command(act), SPACE, trials=1, slots=1)
    (trial,) = hpsearch.open_study("prog", studies_dir=tmp_path).trials
    assert (trial.state, trial.reason, trial.rung) == (state, reason, 2 if act == "fails" else 1)


def test_a_program_that_a_signal_ends_goes_on_from_its_checkpoint(tune: Tune) -> None:
    study = tune(command("crashes"), SPACE, trials=1, slots=1)
    assert (study.trials[0].state, study.trials[0].value) == ("complete", 0.125)
    assert [attempt.from_iteration for attempt in study.view.attempts] == [0, 4]
    assert "from step 4" in (study.trials[0].folder / "output.log").read_text()


def test_a_program_that_prints_nothing_is_hung(tune: Tune) -> None:
    with pytest.raises(NoTrialSucceeded, match=r"poisoned: its slot died 3 times, the last time no step for 0\.3 s"):
        tune(command("silent"), SPACE, trials=1, slots=1, step_limit=0.3)


def test_trials_of_a_program_are_paused_and_promoted(tune: Tune) -> None:
    study = tune(command(more="--pause 0.02"), SPACE, trials=9, slots=1, pruner=None, scheduler="halving_only")
    assert all(trial.state in ("complete", "pruned") for trial in study.trials)
    paused = [attempt for attempt in study.view.attempts if attempt.outcome == "paused"]
    resumed = [attempt for attempt in study.view.attempts if attempt.attempt > 1]
    assert paused
    assert all(attempt.from_iteration > 0 for attempt in resumed)


@pytest.mark.parametrize(
    ("line", "options", "told"),
    [
        (f"{PROGRAM} --lr {{learning_rate}}", {}, "{learning_rate} is no parameter of space 'prog'"),
        (f"{PROGRAM} --lr {{rl}} {{config}}", {}, "{rl} is no parameter of space 'prog'"),
        (f"{PROGRAM} --lr {{lr}}", {}, "kind is searched and the command is never told"),
        (f"{PROGRAM} --lr '{{lr}}", {}, "No closing quotation"),
        ("", {}, "--command is empty"),
        (f"{PROGRAM} {{config}}", {"scheduler": "halving"}, "add {resume} to it"),
        (f"{PROGRAM} {{config}}", {"confirm": True}, "add {seed} to it"),
    ],
)
def test_a_command_that_cannot_be_is_refused(
    tune: Tune, tmp_path: Path, line: str, options: dict[str, object], told: str
) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        tune(line, SPACE, **options)
    assert list(tmp_path.iterdir()) == []


# The leash: nothing of a program outlives its slot


def leashed(tmp_path: Path, act: str) -> tuple[subprocess.Popen[str], socket.socket]:
    """The program on a leash, and the end of the socket that holds it."""
    ours, theirs = socket.socketpair()
    words = [*PROGRAM.split(), "--lr", "1", "--folder", str(tmp_path), "--act", act, "--pause", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, str(theirs.fileno()), *words],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return process, ours


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["the slot is gone", "the leash is killed"])
def test_a_program_and_its_children_do_not_outlive_their_slot(tmp_path: Path, how: str) -> None:
    process, pipe = leashed(tmp_path, "child")
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, process)
    program, child = map(int, pids.read_text().split())
    if how == "the slot is gone":
        pipe.close()
        wait_for(lambda: not alive(program) and not alive(child))
    else:
        process.kill()
        wait_for(lambda: not alive(program))
        pipe.close()
        os.kill(child, signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_program_that_is_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    process, pipe = leashed(tmp_path, "deaf")
    assert process.stdout is not None
    while process.stdout.readline() != "deaf\n":
        pass
    pipe.send(b"T")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    pipe.send(b"K")
    assert process.wait(60) == 0
    assert int(pipe.recv(64)) == -signal.SIGKILL
    pipe.close()
    process.stdout.close()


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", supervisor.__file__, "0", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (127, f"{tmp_path / 'nothing'}: No such file or directory\n")
