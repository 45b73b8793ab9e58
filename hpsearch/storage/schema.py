"""Our schema in a database: made once under a lock, checked at each opening, upgraded when asked.

Alembic is imported only to make or to upgrade: an opening reads one row.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, func, inspect, select, text

from hpsearch.errors import BadInput, StoppedForNow, StorageUnreachable
from hpsearch.storage.engine import make_engine
from hpsearch.storage.reading import only_readable
from hpsearch.storage.tables import REVISION, VERSION_TABLE
from hpsearch.storage.transactions import Database
from hpsearch.storage.urls import masked, optuna_url

T = TypeVar("T")

_FIRST = "0001"
_ADVISORY_KEY = 0x68707365  # "hpse"
_LOCK_WAIT_S = 100.0
"""How long to wait for another process that makes tables, which takes it a second or so."""
_LOCK_SILENT_S = 15.0
"""After how long a person is told what is waited for."""
_LOCK_POLL_S = 0.02
_SERVER_POLL_S = 0.2
_MYSQL_WAIT_S = 1
"""How long one try waits inside MySQL, which serves those who wait in their order."""
_LOCK_SUFFIX = "-setup"
"""Of the file beside a SQLite database that is there while a process holds the lock."""

_log = logging.getLogger("hpsearch.storage")


@contextlib.contextmanager
def setup_lock(database: Database) -> Iterator[None]:
    """Hold what only one process at a time may do: making tables, creating a study. Ends with the process that holds it.

    On SQLite it is a lock on a file beside the database that only who can write there can open, and that is gone afterwards; on
    a server, the server's own. Raises StorageUnreachable where another process holds it for `_LOCK_WAIT_S`.
    """
    if database.engine.dialect.name == "sqlite":
        file = Path(database.url.database or "")
        if only_readable(file):
            yield  # Nothing can be made there.
            return
        with _file_lock(file, masked(database.url)):
            yield
        return
    # PostgreSQL's lock is its transaction's: a pool such as pgbouncer's may give each transaction another session.
    connection = database.patiently(database.engine.connect)
    try:
        held = _wait_for(
            lambda: database.patiently(lambda: _take_lock(connection)),
            masked(database.url),
            _SERVER_POLL_S,
            holder=lambda: database.patiently(lambda: _holder(connection)),
        )
        try:
            yield
        finally:
            if held != "transaction":
                connection.execute(select(func.release_lock(held)))
            connection.commit()
    finally:
        connection.close()


def _wait_for(
    attempt: Callable[[], T | None], where: str, poll_s: float, holds: str = "", holder: Callable[[], object] = lambda: None
) -> T:
    """What `attempt` returns once it is not None.

    holds: how a person finds who holds it. holder: changes when another one does, and then all is well; None: nobody knows.
    """
    began, told, last = time.monotonic(), False, holder()
    while (got := attempt()) is None:
        waited, now = time.monotonic() - began, holder()
        if now != last:
            began, told, last = time.monotonic(), False, now
        elif waited > _LOCK_WAIT_S:
            raise StorageUnreachable(
                f"{where}: another process has been setting it up for {_LOCK_WAIT_S:.0f} s{holds}; end that process"
            )
        elif waited > _LOCK_SILENT_S and not told:
            _log.warning("%s: waiting for another process that is setting it up%s", where, holds)
            told = True
        time.sleep(poll_s * random.uniform(0.5, 1.0))
    return got


@contextlib.contextmanager
def _file_lock(database: Path, where: str) -> Iterator[None]:
    """Whoever can open a file can lock it, and a folder can be opened by all who may read it: this file only to be written."""
    path = Path(f"{database}{_LOCK_SUFFIX}")
    holds = f" (see `fuser {path}`)"
    handle = _wait_for(lambda: _lock_file(path, where), where, _LOCK_POLL_S, holds, lambda: _made(path))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Its folder may be gone.
            path.unlink()  # First: whoever waits for it finds that the file is another one, and begins anew.
        os.close(handle)


def _made(path: Path) -> tuple[int, int] | None:
    """By which one file of this name is told from the next."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _lock_file(path: Path, where: str) -> int | None:
    """The descriptor of `path`, made and locked; None while another process has it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o200)
    except PermissionError:
        if os.access(path.parent, os.W_OK) and path.exists():
            return None  # Another user of this folder is at it.
        raise BadInput(f"{where}: its folder {path.parent} cannot be written; change its permissions or name another") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoppedForNow(f"{where}: the disk is full; free some space and run the same command again") from None
        raise BadInput(f"{where}: {path} cannot be made ({error.strerror}); name another place") from None
    try:
        with contextlib.suppress(OSError):  # Not the one who made it.
            os.fchmod(handle, 0o200 | (path.parent.stat().st_mode & 0o022))  # Those who may write in the folder.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held, there = os.fstat(handle), path.stat()
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(handle)
        raise StorageUnreachable(
            f"{where}: {path} cannot be locked ({error.strerror}): SQLite needs a local disk; "
            "use PostgreSQL where several machines share a folder"
        ) from error
    os.close(handle)
    return None


def _lock_name(connection: Connection) -> str:
    return f"hpsearch {connection.engine.url.database}"[:64]  # MySQL's lock names belong to the server, not to a database


def _holder(connection: Connection) -> str:
    """By which one holder of the server's lock is told from the next: its transaction or its session."""
    if connection.dialect.name == "postgresql":
        statement = text("SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted")
        found = connection.execute(statement, {"key": _ADVISORY_KEY}).scalars().all()
    else:
        found = connection.execute(select(func.is_used_lock(_lock_name(connection)))).scalars().all()
    connection.rollback()
    return str(found)


def _take_lock(connection: Connection) -> str | None:
    """Take the server's lock; None after a while. Returns its name where the session has it, else `transaction`."""
    if connection.dialect.name == "postgresql":
        # Who waits must not do so inside the server: behind a pool of few sessions, the one who has the lock needs one too.
        if not connection.execute(select(func.pg_try_advisory_xact_lock(_ADVISORY_KEY))).scalar():
            connection.rollback()
            return None
        # The transaction does nothing else until it ends, and must not be cut for that.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        return "transaction"
    name = _lock_name(connection)
    got = connection.execute(select(func.get_lock(name, _MYSQL_WAIT_S))).scalar()
    connection.commit()
    return name if got == 1 else None


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
