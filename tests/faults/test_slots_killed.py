"""Faults 1, 2, 3, 11, 12 and 13: processes killed at the worst moments, and checkpoints that cannot be read or written.

Each study is compared with one that nothing disturbed: the same curve and the same final weights, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import steady
from cli import Cli
from databases import on
from invariants import assert_nothing_lost, assert_one_at_a_time, rows, snapshot
from steady import STUDY, attempts, checkpoints, curve, saved, starts, trial, weights
from waiting import wait_for

ONE, TWO = steady.words(1), steady.words(2)


@dataclass(frozen=True)
class Undisturbed:
    curve: list[dict[str, Any]]
    weights: str

    def equals(self, cli: Cli, url: str) -> bool:
        return curve(url, 0) == self.curve and weights(checkpoints(cli, 0)[-1]) == self.weights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Undisturbed:
    """The first trial, which is the same in every study of this space."""
    folder = tmp_path_factory.mktemp("undisturbed")
    steady.written(folder)
    cli = Cli(folder, environment)
    cli.ok(*ONE)
    return Undisturbed(curve(f"sqlite:///{folder}/studies/hpsearch.db", 0), weights(checkpoints(cli, 0)[-1]))


@pytest.fixture
def disturbed(cli: Cli, storage_url: str) -> Cli:
    steady.written(cli.folder)
    return cli.using(storage_url)


def step(checkpoint: Path) -> int:
    return int(checkpoint.stem.partition("-")[2])


def slot_of(url: str, number: int) -> int:
    """Process id of the slot that works on a trial."""
    newest = attempts(url, number)[-1]
    assert newest["ended_at"] is None, f"trial {number} is over already"
    return int(newest["pid"])


@on("storage_url", "sqlite")
def test_fault_01_a_slot_killed_in_mid_step_is_replaced_and_its_trial_ends_as_the_undisturbed_one(
    disturbed: Cli, storage_url: str, undisturbed: Undisturbed
) -> None:
    running = disturbed.start(*TWO)
    wait_for(lambda: saved(storage_url, 0) > 0, running)
    before = snapshot(storage_url, STUDY)
    os.kill(slot_of(storage_url, 0), signal.SIGKILL)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert "trial 0: slot lost (killed by signal 9); it goes on from its last checkpoint" in told
    first, second = attempts(storage_url, 0)
    assert (first["outcome"], second["outcome"]) == ("died", "complete")
    assert first["pid"] != second["pid"]
    assert starts(disturbed, 0)[1] == second["from_iteration"] > 0
    assert undisturbed.equals(disturbed, storage_url)
    assert_nothing_lost(storage_url, STUDY, 2, before=[before])
    assert_one_at_a_time(*disturbed.folder.glob("studies/0*"))


def test_fault_02_slots_end_with_a_killed_coordinator_and_the_same_command_goes_on(
    disturbed: Cli, storage_url: str, undisturbed: Undisturbed
) -> None:
    running = disturbed.start(*TWO)
    wait_for(lambda: saved(storage_url, 0) > 0, running)
    slots = psutil.Process(running.pid).children(recursive=True)
    assert slot_of(storage_url, 0) in [slot.pid for slot in slots]
    running.kill()
    running.communicate()
    assert psutil.wait_procs(slots, timeout=30)[1] == []
    before = snapshot(storage_url, STUDY)
    done = disturbed.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert f"study: resuming '{STUDY}'" in done.stderr
    assert [attempt["outcome"] for attempt in attempts(storage_url, 0)] == ["lost", "complete"]
    assert starts(disturbed, 0)[1] > 0
    assert undisturbed.equals(disturbed, storage_url)
    assert_nothing_lost(storage_url, STUDY, 2, before=[before])
    assert_one_at_a_time(*disturbed.folder.glob("studies/0*"))


@on("storage_url", "postgresql")
def test_fault_03_a_result_that_is_known_but_not_told_is_told_once_and_not_trained_again(
    disturbed: Cli, storage_url: str, undisturbed: Undisturbed
) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-m", "dies_before_telling", "1", *ONE],
        cwd=disturbed.folder,
        env=disturbed.environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (trial(storage_url, 0)["state"], bool(trial(storage_url, 0)["told"])) == ("complete", False)
    optunas = "SELECT t.state, v.value FROM trials t LEFT JOIN trial_values v ON v.trial_id = t.trial_id WHERE t.number = 0"
    assert rows(storage_url, optunas) == [{"state": "RUNNING", "value": None}]
    done = disturbed.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert rows(storage_url, optunas) == [{"state": "COMPLETE", "value": undisturbed.curve[-1]["metrics"]["val_bpb"]}]
    assert starts(disturbed, 0) == [0]
    assert undisturbed.equals(disturbed, storage_url)
    assert_nothing_lost(storage_url, STUDY, 2)


def flip(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)


@on("storage_url", "sqlite")
@pytest.mark.parametrize(("damage", "sound"), [(flip, 1), (truncate, 1), (truncate, 0)])
def test_fault_11_damaged_checkpoints_are_passed_over_with_a_warning_and_the_one_before_or_none_is_used(
    disturbed: Cli, storage_url: str, undisturbed: Undisturbed, damage: Callable[[Path], None], sound: int
) -> None:
    running = disturbed.start(*ONE)
    # The database hears of a checkpoint after its checksum is beside it.
    wait_for(
        lambda: len(checkpoints(disturbed, 0)) >= 2 and saved(storage_url, 0) >= step(checkpoints(disturbed, 0)[-1]), running
    )
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    there = checkpoints(disturbed, 0)
    intact, damaged = there[:sound], there[sound:]
    for checkpoint in damaged:
        damage(checkpoint)
    done = disturbed.run(*ONE)
    assert done.returncode == 0, done.stderr
    for checkpoint in damaged:
        assert f"{checkpoint.name}: passed over: damaged" in done.stderr
    assert starts(disturbed, 0)[-1] == (step(intact[-1]) if intact else 0)
    assert undisturbed.equals(disturbed, storage_url)
    assert_nothing_lost(storage_url, STUDY, 1)


@on("storage_url", "postgresql")
def test_fault_12_a_full_disk_pauses_the_study_with_its_old_checkpoint_intact_and_it_goes_on_later(
    disturbed: Cli, storage_url: str, undisturbed: Undisturbed
) -> None:
    running = disturbed.start(*ONE)
    wait_for(lambda: saved(storage_url, 0) > 0, running)
    # To a process at its largest file size, every disk is full: its log still fits, its next checkpoint does not.
    slot = slot_of(storage_url, 0)
    resource.prlimit(slot, resource.RLIMIT_FSIZE, (2**16, resource.prlimit(slot, resource.RLIMIT_FSIZE)[1]))
    _, told = running.communicate(timeout=300)
    assert running.returncode == 75, told
    assert "file too large; make room, then run the same command again" in told
    assert "Traceback" not in told
    assert trial(storage_url, 0)["state"] == "paused"
    before = snapshot(storage_url, STUDY)
    newest = checkpoints(disturbed, 0)[-1]
    assert weights(newest)  # Sound: it loads.
    assert before.checkpoints[0] == step(newest)
    assert list(newest.parent.glob("*.hpsearch-tmp")) == []
    done = disturbed.run(*ONE)
    assert done.returncode == 0, done.stderr
    assert undisturbed.equals(disturbed, storage_url)
    assert_nothing_lost(storage_url, STUDY, 1, before=[before])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_fault_12_a_file_system_without_room_for_anything_leaves_all_that_was_on_it_sound(
    small_disk: Path, environment: dict[str, str], undisturbed: Undisturbed
) -> None:
    steady.written(small_disk)
    cli, url = Cli(small_disk, environment), f"sqlite:///{small_disk}/studies/hpsearch.db"
    running = cli.start(*ONE)
    wait_for(lambda: (small_disk / "studies/hpsearch.db").exists() and saved(url, 0) > 0, running)
    before = snapshot(url, STUDY)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # No space left.
        while True:
            file.write(bytes(4096))
    _, told = running.communicate(timeout=300)
    assert running.returncode == 75, told
    assert "Traceback" not in told
    assert told.splitlines()[-1].endswith("run the same command again"), told
    filler.unlink()
    assert rows(url, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    kept = checkpoints(cli, 0)[-1]
    assert weights(kept)  # Sound: it loads.
    assert step(kept) >= before.checkpoints[0]
    done = cli.run(*ONE)
    assert done.returncode == 0, done.stderr
    assert undisturbed.equals(cli, url)
    assert_nothing_lost(url, STUDY, 1, before=[before])


@on("storage_url", "sqlite")
def test_fault_13_a_trial_whose_slot_dies_three_times_fails_as_poisoned_and_the_study_goes_on(
    disturbed: Cli, storage_url: str
) -> None:
    running = disturbed.start(*TWO)
    for deaths in range(3):
        wait_for(lambda deaths=deaths: len(starts(disturbed, 0)) == deaths + 1, running)
        os.kill(slot_of(storage_url, 0), signal.SIGKILL)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert trial(storage_url, 0)["state"] == "failed"
    assert trial(storage_url, 0)["reason"] == "poisoned: its slot died 3 times, the last time killed by signal 9"
    assert [attempt["outcome"] for attempt in attempts(storage_url, 0)] == 3 * ["died"]
    assert trial(storage_url, 1)["state"] == "complete"
    assert not (Path(steady.trial_folder(disturbed, 0)) / "checkpoints").exists()
    assert_nothing_lost(storage_url, STUDY, 2)
