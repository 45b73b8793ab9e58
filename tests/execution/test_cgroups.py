"""A container's or a job's share of the machine, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch import cgroups
from hpsearch.execution import devices


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "root")
    monkeypatch.setattr(cgroups, "OURS", tmp_path / "cgroup")
    return tmp_path


def lay(tree: Path, ours: str, files: dict[str, str]) -> None:
    """`ours`: /proc/self/cgroup; `files`: below /sys/fs/cgroup."""
    (tree / "cgroup").write_text(ours)
    for name, text in files.items():
        path = tree / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_job_has_the_least_that_any_level_above_it_allows(tree: Path) -> None:
    lay(
        tree,
        "0::/slurm/job_7/step_0\n",
        {
            "slurm/job_7/cpu.max": "150000 100000\n",
            "slurm/job_7/step_0/cpu.max": "max 100000\n",
            "slurm/job_7/memory.max": "8000\n",
            "slurm/job_7/memory.current": "5000\n",
            "slurm/job_7/memory.stat": "anon 3000\ninactive_file 1500\n",
            "slurm/job_7/step_0/memory.max": "max\n",
            "slurm/job_7/step_0/memory.current": "5000\n",
            "slurm/memory.max": "6000\n",
            "slurm/memory.current": "5500\n",
        },
    )
    assert cgroups.cores() == 1.5
    assert cgroups.free_memory() == 500
    assert devices.cores() == 1


def test_a_container_sees_its_own_group_as_the_root(tree: Path) -> None:
    lay(
        tree,
        "0::/system.slice/docker-1f.scope\n",
        {"cpu.max": "50000 100000\n", "memory.max": "4096\n", "memory.current": "96\n"},
    )
    assert cgroups.cores() == 0.5
    assert cgroups.free_memory() == 4000
    assert devices.cores() == 1


def test_version_1_has_a_tree_for_each_controller(tree: Path) -> None:
    lay(
        tree,
        "3:cpu,cpuacct:/pod\n2:memory:/pod\n1:name=systemd:/\n0::/\n",
        {
            "cpu,cpuacct/pod/cpu.cfs_quota_us": "200000\n",
            "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "memory/pod/memory.limit_in_bytes": "1000\n",
            "memory/pod/memory.usage_in_bytes": "900\n",
            "memory/pod/memory.stat": "cache 500\ntotal_inactive_file 300\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "5000\n",
        },
    )
    assert cgroups.cores() == 2.0
    assert cgroups.free_memory() == 400


def test_without_a_limit_there_is_none(tree: Path) -> None:
    lay(tree, "0::/user.slice\n", {"user.slice/cpu.max": "max 100000\n", "user.slice/memory.max": "max\n"})
    assert cgroups.cores() is None
    assert cgroups.free_memory() is None
    (tree / "cgroup").unlink()  # As on other systems.
    assert cgroups.cores() is None
    assert cgroups.free_memory() is None
    assert devices.cores() >= 1
