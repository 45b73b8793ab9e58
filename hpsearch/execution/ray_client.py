"""The connection of this process to a Ray cluster. The only module that imports Ray, and only when it is used."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from typing import Any

from hpsearch.errors import BadInput, ClusterUnreachable, install

CONNECT_S = 5.0


def cluster_gpus(address: str) -> float:
    """How many GPUs the cluster has now. Raises as RayExecutor does."""
    ray = ray_package()
    connect(ray, address)
    return float(ray.cluster_resources().get("GPU", 0.0))


def ray_package() -> Any:
    """The package, imported. Raises BadInput where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise BadInput(f"--executor ray: Ray is missing; {install('ray')}") from None
    return ray


def connect(ray: Any, address: str) -> bool:
    """Connect this process, unless it is. Returns whether it was not. Never starts a cluster."""
    if ray.is_initialized():
        return False
    _require_answer(address)
    # Ray writes what becomes of nodes on standard output, where results go, and has no option against that.
    vars(ray._private.worker).update(print_to_stdstream=lambda *_, **__: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # What slots print is in Ray's logs on their nodes: here, standard output is for results.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds, by what is wrong
        raise ClusterUnreachable(
            f"--ray-address {address}: {line(error)}; this machine must be a node of the cluster "
            "(`ray start --address=HOST:PORT --num-cpus=0` makes it one that is given no work)"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray's own would end the process without a word.
    return True


def _require_answer(address: str) -> None:
    """Find out in seconds that nothing is there; Ray itself tries for minutes."""
    if address == "auto":
        return
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "://" in address:
        raise BadInput(f"--ray-address {address}: write it as HOST:PORT, or auto; this machine must be a node of the cluster")
    if not answers(address):
        raise ClusterUnreachable(f"--ray-address {address}: no answer; is the cluster up?")


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError:
        return False
    return True


def line(error: Any) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
