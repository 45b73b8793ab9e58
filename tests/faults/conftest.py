"""Databases for the faults: each test gets one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import Cli
from servers import Server
from tiny import SPACE


def _database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/hpsearch.db"
        return
    server: Server = request.getfixturevalue({"postgresql": "postgresql_server", "mysql": "mariadb_server"}[kind])
    url = server.fresh_database()
    yield url
    server.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new, empty database: SQLite, then PostgreSQL."""
    yield from _database(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def any_storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same, and on MariaDB too: for faults of the database."""
    yield from _database(request.param, request, tmp_path)


@pytest.fixture
def slow(cli: Cli) -> Cli:
    """A folder with `slow.yaml`: trials of a few seconds, with a checkpoint at each of eight evaluations."""
    text = SPACE.replace("name: tiny", "name: slow").replace("tokens: 7680, evaluations: 4", "tokens: 48000, evaluations: 8")
    (cli.folder / "slow.yaml").write_text(text)
    return cli
