from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from ray_nodes import RayNodes

from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Executor
from hpsearch.execution.ray_executor import RayExecutor


@pytest.fixture(params=["local", "ray"])
def address(request: pytest.FixtureRequest) -> str:
    """Of a cluster; empty for slots of this machine."""
    if request.param == "local":
        return ""
    nodes: RayNodes = request.getfixturevalue("ray_nodes")
    return nodes.address


@pytest.fixture
def executor(address: str) -> Callable[..., AbstractContextManager[Executor]]:
    """Opens an executor for one of the trainers that cost nothing, and closes it in the end."""

    @contextmanager
    def opens(trainer: str, slots: int = 1, threads: int = 1) -> Iterator[Executor]:
        named = f"toy_trainers:{trainer}"
        opened: Executor
        if address:
            opened = RayExecutor(slots, threads, address=address, trainer=named)
        else:
            opened = LocalExecutor(slots, threads, trainer=named)
        try:
            yield opened
        finally:
            opened.close()

    return opens
