"""Faults 1, 2 and 10 for trainers of one's own: processes of `--command` and of `hpsearch.tune` killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import own_trainers
import psutil
import pytest
from cli import Cli
from invariants import Snapshot, assert_nothing_lost, rows, snapshot
from waiting import wait_for

import hpsearch

SPACE = """
trainer: own
name: prog
budget: {steps: 8, evaluations: 8}
parameters:
  lr: {low: 0.001, high: 100.0, log: true, prior: 1.0}
"""
PROGRAM = Path(__file__).parents[1] / "support" / "own_program.py"
LINE = f"{sys.executable} {PROGRAM} --lr {{lr}} --folder {{folder}} --resume {{resume}} --act child --pause 0.15"
WORDS = ("run", "--space", "prog.yaml", "--command", LINE, "--trials", "3", "--slots", "2", "--pruner", "none")


def saved(url: str) -> Snapshot:
    """Where the trials stand; nothing before the first one is there."""
    try:
        return snapshot(url, "prog")
    except Exception:
        return Snapshot({}, {})


def processes(folder: Path) -> list[int]:
    """Of all programs that ran, and their children."""
    return [int(word) for path in folder.rglob("pids") for word in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def halfway(url: str) -> bool:
    """Whether trials 0 and 1 have both saved, and neither has ended."""
    steps = saved(url).checkpoints
    return all(steps.get(number, 0) >= 1 for number in (0, 1))


def require_whole(url: str, cli: Cli) -> None:
    for number in (0, 1, 2):
        found = rows(url, "SELECT rung, iteration FROM hps_points WHERE trial_number = :n ORDER BY rung", n=number)
        assert [(row["rung"], row["iteration"]) for row in found] == [(step, step) for step in range(1, 9)]
    wait_for(lambda: not any(map(alive, processes(cli.folder))))


def test_a_program_survives_kill_9_of_the_coordinator(cli: Cli, storage_url: str) -> None:
    (cli.folder / "prog.yaml").write_text(SPACE)
    there = cli.using(storage_url)
    process = there.start(*WORDS)
    wait_for(lambda: halfway(storage_url), process)
    before = saved(storage_url)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(map(alive, processes(cli.folder))))
    there.ok(*WORDS)
    assert_nothing_lost(storage_url, "prog", 3, before=[before])
    require_whole(storage_url, cli)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_a_program_survives_kill_9_of_its_slot(cli: Cli, storage_url: str) -> None:
    (cli.folder / "prog.yaml").write_text(SPACE)
    process = cli.using(storage_url).start(*WORDS)
    wait_for(lambda: halfway(storage_url), process)
    before = saved(storage_url)
    (slot,) = rows(storage_url, "SELECT pid FROM hps_attempts WHERE trial_number = 0 AND ended_at IS NULL")
    programs = [int(word) for word in next(cli.folder.rglob("trials/0000/pids")).read_text().split()]
    os.kill(slot["pid"], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, programs)))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "slot lost (killed by signal 9); it goes on from its last checkpoint" in said
    assert_nothing_lost(storage_url, "prog", 3, before=[before])
    require_whole(storage_url, cli)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_a_program_survives_kill_9_of_its_leash(cli: Cli, storage_url: str) -> None:
    """What the program left in sessions of their own is the slot's to end."""
    (cli.folder / "prog.yaml").write_text(SPACE)
    process = cli.using(storage_url).start(*WORDS)
    wait_for(lambda: halfway(storage_url), process)
    programs = [int(word) for word in next(cli.folder.rglob("trials/0000/pids")).read_text().split()]
    assert os.getsid(programs[1]) == programs[1]
    (slot,) = rows(storage_url, "SELECT pid FROM hps_attempts WHERE trial_number = 0 AND ended_at IS NULL")
    leash = psutil.Process(programs[0]).parent()
    assert leash is not None
    assert leash.ppid() == slot["pid"]
    leash.kill()
    wait_for(lambda: not any(map(alive, programs)))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "trial 0: slot lost (its program was ended by signal 9 (SIGKILL)" in said
    assert_nothing_lost(storage_url, "prog", 3)
    require_whole(storage_url, cli)


def test_a_program_is_paused_by_sigint(cli: Cli, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies/hpsearch.db"
    (cli.folder / "prog.yaml").write_text(SPACE)
    process = cli.start(*WORDS)
    wait_for(lambda: (tmp_path / "studies/hpsearch.db").exists() and halfway(url), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert not any(map(alive, processes(cli.folder)))
    before = saved(url)
    cli.ok(*WORDS)
    assert_nothing_lost(url, "prog", 3, before=[before])
    require_whole(url, cli)


SCRIPT = """
import hpsearch, own_trainers

if __name__ == "__main__":
    options = dict(trials=3, slots=2, pruner="none", sampler="random", view="none", storage={url!r})
    hpsearch.tune(own_trainers.slow_curve, own_trainers.SPACE, **options)
"""


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_tune_survives_kill_9_of_its_process(tmp_path: Path, environment: dict[str, str], storage_url: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(url=storage_url))
    support = str(Path(own_trainers.__file__).parent)
    there = environment | {"PYTHONPATH": os.pathsep.join([support, *filter(None, [environment.get("PYTHONPATH")])])}
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=there, text=True, stderr=subprocess.PIPE)

    def begun() -> bool:
        try:
            return bool(snapshot(storage_url, "toy").checkpoints)
        except Exception:
            return False

    try:
        wait_for(begun, process)
        before = snapshot(storage_url, "toy")
    finally:
        process.kill()
        process.communicate()
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=there, check=True)
    assert_nothing_lost(storage_url, "toy", 3, before=[before])
    for trial in hpsearch.open_study("toy", storage=storage_url, studies_dir=tmp_path / "studies").trials:
        steps = (trial.folder / "steps.log").read_text().split()
        assert sorted(set(map(int, steps))) == list(range(1, 9))
        assert len(steps) <= 8 + 1, "at most the step that was not saved is taken twice"


def test_another_command_is_refused_and_another_verb_does_not_run_it(cli: Cli) -> None:
    (cli.folder / "prog.yaml").write_text(SPACE)
    line = f"{sys.executable} {PROGRAM} --lr {{lr}}"
    words = ("run", "--space", "prog.yaml", "--trials", "1", "--slots", "1", "--command")
    cli.ok(*words, line)
    for verb, told in (
        ((*words, f"{line} --seed 3"), "was made with another trainer (command"),
        (("run", "--space", "prog.yaml"), "give the program with --command"),
        (("resume",), "go on with the command that began it"),
        (("confirm",), "give the same `hpsearch run` again, with --confirm"),
        (("price", "--space", "prog.yaml"), "only the runs of a trainer of your own tell its price"),
        (("export", "--format", "hf", "--out", "x"), "has a trainer of your own"),
        (("export", "--for", "nanogpt"), "has a trainer of your own"),
    ):
        before = cli.files()
        done = cli.run(*verb)
        assert done.returncode == 2, (verb, done.stdout, done.stderr)
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 or verb[0] == "run"
        assert cli.files() == before
    exported = cli.ok("export", "--format", "cli").splitlines()[-1]
    assert exported == f"{sys.executable} {PROGRAM} --lr 1.0"
    for verb in ("status", "trials", "show"):
        assert "loss" not in cli.ok(*(verb, "0") if verb == "show" else (verb,))
    assert cli.json("trials")[0]["config"] == {"lr": 1.0}
    cli.ok("report", "--out", "report.html")
    best = cli.folder / "best.yaml"
    cli.ok("export", "--out", str(best))
    refused = cli.run("train", "--config", str(best))
    assert (refused.returncode, "but of a trainer of your own: " in refused.stderr) == (2, True)
