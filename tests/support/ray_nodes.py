"""A real Ray cluster of several nodes on this machine, everything bound to loopback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray replaces 127.0.0.1 by the machine's outward address, except where it knows no clusters.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Slots find the trainers that cost nothing.
    "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parent)))),
}
"""Of every process of the cluster, and of every one that speaks with it."""

QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A lost node is noticed in seconds."""


class RayNodes:
    """A head that takes no work, and nodes that come and go."""

    def __init__(self) -> None:
        os.environ.update({key: value for key, value in ENVIRONMENT.items() if key.startswith("RAY_")})
        from ray.cluster_utils import Cluster

        with mock.patch.dict(os.environ, ENVIRONMENT):
            self._cluster = Cluster(
                initialize_head=True, head_node_args=self._options(0) | {"include_dashboard": False, "_system_config": QUICK}
            )
        self.address: str = self._cluster.address
        self.nodes: list[Any] = []
        """Those that take work."""

    def add(self, cores: int = 2, gpus: int = 0) -> Any:
        """A node that has joined. gpus: as many as it says that it has; Ray believes it."""
        with mock.patch.dict(os.environ, ENVIRONMENT):
            node = self._cluster.add_node(**self._options(cores), num_gpus=gpus)
        self.nodes.append(node)
        return node

    def kill(self, node: Any) -> None:
        """End all processes of a node at once, as a power cut would."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        raylet.suspend()  # So that it starts no more.
        for process in [*raylet.children(recursive=True), raylet]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """End the head's own node; what keeps the cluster's state goes on."""
        psutil.Process(self._cluster.head_node.all_processes["raylet"][0].process.pid).kill()

    def of(self, pid: int) -> Any:
        """The node that a process belongs to."""
        (found,) = [node for node in self.nodes if pid in self.processes(node)]
        return found

    def remove(self, node: Any) -> None:
        """A node leaves in good order."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=True)

    def processes(self, node: Any) -> set[int]:
        """All processes of a node, slots among them."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return {process.pid for process in [raylet, *raylet.children(recursive=True)]}

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def _options(self, cores: int) -> dict[str, Any]:
        return {"num_cpus": cores, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


@contextlib.contextmanager
def ray_nodes_of(*cores: int) -> Iterator[RayNodes]:
    """A cluster with one node for each number of cores."""
    opened = RayNodes()
    try:
        for number in cores:
            opened.add(number)
        yield opened
    finally:
        opened.close()
