"""Fault 20: a node of a Ray cluster is lost in the middle of a study."""

from __future__ import annotations

import json
import os
import shutil
import signal

import psutil
import pytest
from cli import Cli
from databases import on
from invariants import assert_nothing_lost, assert_one_at_a_time, rows, snapshot
from ray_nodes import ENVIRONMENT, RayNodes, ray_nodes_of
from waiting import wait_for

TRIALS = 3
STUDY = ("run", "--space", "slow.yaml", "--trials", str(TRIALS), "--slots", "2", "--sampler", "random", "--pruner", "none")
CURVES = "SELECT trial_number, rung, iteration, train_loss, metrics FROM hps_points ORDER BY trial_number, rung"
AT_WORK = (
    "SELECT a.trial_number, a.attempt, a.pid FROM hps_attempts a JOIN hps_checkpoints c ON c.trial_number = a.trial_number "
    "WHERE a.ended_at IS NULL ORDER BY c.iteration"
)
AFTER = "SELECT * FROM hps_attempts WHERE trial_number = :number ORDER BY attempt"


def undisturbed(cli: Cli) -> object:
    """The curves of the same study on one machine."""
    elsewhere = Cli(cli.folder / "undisturbed", cli.environment)
    elsewhere.folder.mkdir()
    shutil.copy(cli.folder / "slow.yaml", elsewhere.folder)
    elsewhere.ok(*STUDY, "--device", "cpu")
    return points(f"sqlite:///{elsewhere.folder}/studies/hpsearch.db")


@pytest.mark.timeout(800)  # Three studies' worth of training, and Ray, on two busy cores.
@on("storage_url", "postgresql")
def test_fault_20_trials_of_a_lost_node_go_on_elsewhere(storage_url: str, slow: Cli, ray_nodes: RayNodes) -> None:
    alone = undisturbed(slow)
    cli = Cli(slow.folder, slow.environment | ENVIRONMENT).using(storage_url)
    running = cli.start(*STUDY, "--executor", "ray", "--ray-address", ray_nodes.address, "--json")
    wait_for(lambda: bool(begun(storage_url)), running)
    at_work = begun(storage_url)[0]
    before = snapshot(storage_url, "slow")
    ray_nodes.kill(ray_nodes.of(at_work["pid"]))
    try:
        results, told = running.communicate(timeout=300)
    finally:
        ray_nodes.add()
    assert running.returncode == 0, told
    assert "Traceback" not in told
    assert results.startswith("{"), "Ray wrote where results go"
    assert_nothing_lost(storage_url, "slow", TRIALS, before=[before])
    lost, *others = rows(storage_url, AFTER, number=at_work["trial_number"])
    assert "its node left the cluster" in lost["reason"]
    assert others[-1]["from_iteration"] > 0
    assert points(storage_url) == alone
    assert_one_at_a_time(*cli.folder.glob("studies/0*"))


def test_fault_02_slots_on_a_cluster_end_with_a_killed_coordinator_and_the_same_command_goes_on(
    slow: Cli, ray_nodes: RayNodes
) -> None:
    cli = Cli(slow.folder, slow.environment | ENVIRONMENT)
    url = f"sqlite:///{cli.folder}/studies/hpsearch.db"
    words = (*STUDY, "--executor", "ray", "--ray-address", ray_nodes.address)
    killed = cli.start(*words)
    wait_for(lambda: bool(begun(url)), killed)
    at_work = begun(url)[0]
    before = snapshot(url, "slow")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    wait_for(lambda: not psutil.pid_exists(at_work["pid"]))
    cli.ok(*words)
    assert_nothing_lost(url, "slow", TRIALS, before=[before])
    attempts = rows(url, AFTER, number=at_work["trial_number"])
    assert len(attempts) == at_work["attempt"] + 1, "one more attempt is enough"
    assert attempts[-1]["from_iteration"] > 0
    assert_one_at_a_time(*cli.folder.glob("studies/0*"))


def test_a_coordinator_whose_own_node_is_lost_says_so_and_its_study_goes_on_later(slow: Cli) -> None:
    cli = Cli(slow.folder, slow.environment | ENVIRONMENT)
    url = f"sqlite:///{cli.folder}/studies/hpsearch.db"
    words = ("run", "--space", "slow.yaml", "--trials", "2", "--slots", "2", "--executor", "ray", "--ray-address")
    with ray_nodes_of(2) as nodes:
        running = cli.start(*words, nodes.address)
        wait_for(lambda: bool(begun(url)), running)
        before = snapshot(url, "slow")
        nodes.kill_head()
        _, told = running.communicate(timeout=300)
    assert running.returncode == 4, told
    assert told.splitlines()[-1].endswith("when it is back, the same command goes on from the last checkpoints")
    assert "Traceback" not in told
    cli.ok(*words[:-3], "--device", "cpu")
    assert_nothing_lost(url, "slow", 2, before=[before])


def points(storage_url: str) -> list[dict[str, object]]:
    """All evaluations; SQLite gives JSON as text."""
    found = rows(storage_url, CURVES)
    return [
        row | {"metrics": json.loads(row["metrics"]) if isinstance(row["metrics"], str) else row["metrics"]} for row in found
    ]


def begun(storage_url: str) -> list[dict[str, object]]:
    """Attempts under way of trials that have a checkpoint."""
    try:
        return rows(storage_url, AT_WORK)
    except Exception:  # before the tables are there
        return []
