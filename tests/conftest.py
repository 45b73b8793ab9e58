"""What all tests share: the command as users run it, in an empty folder, with a cache of the test's own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Slots start with this path too, so that they find the trainers that cost nothing.
sys.path.append(str(Path(__file__).parent / "support"))

import warm
from cli import Cli
from ray_nodes import RayNodes, ray_nodes_of
from servers import NoServer, Server, start_mariadb, start_pgbouncer, start_postgresql

# Several workers share few cores: a second thread of each would wait for the first, and burn the others' time meanwhile.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would every command that is started and interrupted here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test fails because the machine is slow, and CI fails on what is wrong, not on what it was lucky to find.
settings.register_profile("here", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("here")


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    warm.begin()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised texts, shared by the whole test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache_dir: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPSEARCH_")}
    return kept | {"HPSEARCH_CACHE_DIR": str(cache_dir), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Iterator[Cli]:
    cli = Cli(tmp_path, environment)
    yield cli
    cli.end()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A real PostgreSQL for all tests that only use it; one that stops its server starts its own."""
    yield from _running(start_postgresql)


@pytest.fixture(scope="session")
def pgbouncer_server(postgresql_server: Server) -> Iterator[Server]:
    """A real pgbouncer before it, with a session for each transaction."""
    yield from _running(lambda: start_pgbouncer(postgresql_server))


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    yield from _running(start_mariadb)


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayNodes]:
    """A real Ray cluster: a head, and two nodes of two cores. A test that takes a node away adds another one."""
    with ray_nodes_of(2, 2) as nodes:
        yield nodes


def _running(start: Callable[[], Server]) -> Iterator[Server]:
    """Where the system's package is missing, the tests that need it are left out, but never in CI."""
    try:
        server = start()
    except NoServer as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield server
    server.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long ones run only where they are asked for: `pytest -m soak`."""
    if "soak" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
