"""Our schema in a database: made once under a lock, checked at each opening, upgraded when asked.

Alembic is imported only to make or to upgrade: an opening reads one row.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, func, inspect, select, text

from hpsearch.errors import BadInput, StorageUnreachable
from hpsearch.storage.engine import make_engine, masked, optuna_url
from hpsearch.storage.tables import REVISION, VERSION_TABLE
from hpsearch.storage.transactions import Database

_FIRST = "0001"
_ADVISORY_KEY = 0x68707365  # "hpse"
_LOCK_WAIT_S = 100  # below the driver's read timeout


@contextlib.contextmanager
def setup_lock(database: Database) -> Iterator[None]:
    """Hold what only one process at a time may do: making tables, creating a study. Ends with the process that holds it.

    On SQLite it is a lock on the database's folder, so that no other file is left behind; on a server, the server's own.
    """
    if database.engine.dialect.name == "sqlite":
        with _folder_lock(Path(database.url.database or "").parent, masked(database.url)):
            yield
        return
    connection = database.patiently(database.engine.connect)
    try:
        release = database.patiently(lambda: _take_lock(connection))
        try:
            yield
        finally:
            connection.execute(release)
            connection.commit()
    finally:
        connection.close()


@contextlib.contextmanager
def _folder_lock(folder: Path, where: str) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageUnreachable(
                f"{where}: the folder {folder} cannot be locked ({error.strerror}): SQLite needs a local disk; "
                "use PostgreSQL where several machines share a folder"
            ) from error
        yield
    finally:
        os.close(handle)


def _take_lock(connection: Connection) -> Select[Any]:
    """Wait for the server's lock, which belongs to the session; the statement that gives it back."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_lock(_ADVISORY_KEY)))
        release = select(func.pg_advisory_unlock(_ADVISORY_KEY))
    else:
        url = connection.engine.url
        name = f"hpsearch {url.database}"[:64]  # MySQL's lock names belong to the server, not to a database
        if connection.execute(select(func.get_lock(name, _LOCK_WAIT_S))).scalar() != 1:
            raise StorageUnreachable(f"{masked(url)}: another process has been setting it up for {_LOCK_WAIT_S} s")
        release = select(func.release_lock(name))
    connection.commit()
    return release


_MARKS = {VERSION_TABLE: {"version_num"}, "studies": {"study_id", "study_name"}, "trials": {"trial_id", "study_id"}}
"""Tables of ours and of Optuna's that another program may have too, and the columns by which they are known."""


def _require_known(connection: Connection, *names: str) -> None:
    """Raises BadInput where one of the tables is there and is another program's."""
    there = inspect(connection)
    for name in names:
        if there.has_table(name) and not _MARKS[name] <= {column["name"] for column in there.get_columns(name)}:
            where = masked(connection.engine.url)
            raise BadInput(f"{where}: its table {name} belongs to another program; name another database")


def version(connection: Connection) -> str | None:
    """The revision that the database is at; None where it has no tables of ours. Raises BadInput for another program's."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    _require_known(connection, VERSION_TABLE)
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def create(database: Database) -> None:
    """Make our tables where there are none, or wait for the process that is making them. Safe from many at once."""
    found = database.read(version)
    # MySQL commits each table: it may show another process's migration half done.
    if found == REVISION or (found is not None and database.engine.dialect.name not in ("mysql", "mariadb")):
        return
    with setup_lock(database):
        if database.read(version) is None:
            database.read(lambda connection: _require_known(connection, *_MARKS))
            if database.engine.dialect.name == "sqlite":
                _use_wal(database)
            _migrate(database)


def verify(database: Database) -> None:
    """Raises BadInput, with the command that helps, unless the schema is this program's. Never writes."""
    found, where = database.read(version), masked(database.url)
    if found is None:
        raise BadInput(f"no study yet in {where}; start one with `hpsearch run`")
    if found < REVISION:
        raise BadInput(
            f"{where}: its tables are at revision {found}, older than this program's {REVISION}; run `hpsearch db upgrade`"
        )
    if found > REVISION:
        raise BadInput(
            f"{where}: its tables are at revision {found}, newer than this program's {REVISION}, and `hpsearch db upgrade` "
            "cannot go back; use the hpsearch that wrote them, or a newer one"
        )


def upgrade(url: str) -> tuple[str, str]:
    """Bring our tables, and Optuna's, to this program's revision: (the one before, the one now).

    Raises BadInput where there is nothing to upgrade, and for a revision that this program does not know.
    """
    database = Database(make_engine(url))
    try:
        before = database.read(version)
        if before is None or before > REVISION:
            verify(database)
        assert before is not None
        if before < _FIRST:
            raise BadInput(f"{masked(database.url)}: its tables are at revision {before}, which no hpsearch ever made")
        with setup_lock(database):
            _migrate(database)
            _upgrade_optuna(database)
    finally:
        database.engine.dispose()
    return before, REVISION


def _upgrade_optuna(database: Database) -> None:
    if not database.read(lambda connection: inspect(connection).has_table("alembic_version")):
        return
    from optuna.storages import RDBStorage

    storage = RDBStorage(optuna_url(database.url), skip_compatibility_check=True)
    try:
        if storage.get_current_version() != storage.get_head_version():
            storage.upgrade()
    finally:
        storage.engine.dispose()


def _use_wal(database: Database) -> None:
    """Readers and one writer at a time do not wait for each other. The file remembers it."""

    def switch() -> None:
        connection = database.engine.raw_connection()  # the mode cannot change inside a transaction
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()

    database.patiently(switch)


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    database.write(run)
