"""Fault 7: locks and deadlocks of another program's transactions are waited for or retried, and nobody sees them."""

from __future__ import annotations

import time

from cli import Cli
from databases import on
from invariants import assert_nothing_lost, count, rows
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from waiting import wait_for

from hpsearch.storage.urls import parse_url

HELD_S = 2.0
TRIALS = 6


def hold_everything(connection: Connection) -> None:
    """Take locks that every write of a coordinator needs."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none of its own before a write
    elif connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE hps_studies, hps_trials, hps_points, trials IN EXCLUSIVE MODE"))
    else:
        for table in ("hps_studies", "hps_trials", "hps_points", "trials"):
            connection.execute(text(f"SELECT * FROM {table} FOR UPDATE"))


def deadlocks(connection: Connection) -> int:
    """Deadlocks that the server has ended so far."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))
        statement = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(connection.execute(text(statement)).scalar_one())
    return int(connection.execute(text("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")).one()[1])


def cross(connection: Connection) -> None:
    """Lock what a coordinator locks, in the other order: its trials first, its study second."""
    try:
        with connection.begin():
            connection.execute(text("UPDATE hps_trials SET attempts = attempts"))
            time.sleep(0.3)  # long enough for the coordinator to have its study and to wait for its trials
            connection.execute(text("SELECT id FROM hps_studies FOR UPDATE"))
    except DBAPIError:
        pass  # this one was chosen to end


@on("any_storage_url", "sqlite", "mysql")
def test_fault_07_locks_and_deadlocks_are_invisible(any_storage_url: str, slow: Cli) -> None:
    url = any_storage_url
    cli = slow.using(url)
    running = cli.start("run", "--space", "slow.yaml", "--trials", str(TRIALS), "--slots", "2", "--device", "cpu")
    wait_for(lambda: count(url, "hps_points") >= 1, running)
    engine = create_engine(parse_url(url))
    server = engine.dialect.name != "sqlite"
    with engine.connect() as connection:
        for _ in range(2):
            hold_everything(connection)
            time.sleep(HELD_S)
            connection.rollback()
        before = deadlocks(connection) if server else 0
        connection.rollback()
        while server and deadlocks(connection) == before:
            connection.rollback()
            assert running.poll() is None, "the study ended without a deadlock"
            cross(connection)
    engine.dispose()
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    for word in ("lock", "Traceback", "Error", "answer"):
        assert word not in told
    assert_nothing_lost(url, "slow", TRIALS)
    assert {row["state"] for row in rows(url, "SELECT state FROM hps_trials")} <= {"complete", "pruned"}
