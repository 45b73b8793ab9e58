"""A pool before PostgreSQL that gives each transaction another session: what a session would remember must not be needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cli import Cli
from invariants import assert_nothing_lost
from own_study import RUN, write_own
from servers import Server

from hpsearch.storage import schema
from hpsearch.storage.engine import make_engine
from hpsearch.storage.transactions import Database


@pytest.fixture
def pooled_url(pgbouncer_server: Server, postgresql_server: Server) -> Iterator[str]:
    direct = postgresql_server.fresh_database()
    yield direct.replace(f":{postgresql_server.port}/", f":{pgbouncer_server.port}/")
    postgresql_server.drop(direct)


@pytest.mark.parametrize("options", ["", "?prepare_threshold=0", "?prepare_threshold=none&connect_timeout=5"])
def test_a_study_behind_a_pool_of_transactions_comes_to_its_end(pooled_url: str, cli: Cli, options: str) -> None:
    write_own(cli)
    there = cli.using(pooled_url + options)
    there.ok(*RUN, "--trials", "6")
    there.ok("status")
    assert_nothing_lost(pooled_url, "s", 6)


def test_the_setup_lock_is_held_and_given_back_behind_a_pool_of_transactions(pooled_url: str) -> None:
    databases = [Database(make_engine(pooled_url)) for _ in range(6)]
    inside: list[int] = []

    def enter(number: int) -> None:
        for _ in range(5):
            with schema.setup_lock(databases[number]):
                inside.append(number)
                databases[number].read(schema.version)  # Another transaction, by another session.
                assert inside.pop() == number
                assert not inside, "two were inside"

    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(enter, range(len(databases))))
    for database in databases:
        database.engine.dispose()
