"""Database URLs and engines: what differs between SQLite, PostgreSQL and MySQL/MariaDB when connecting.

A URL without a driver means psycopg or pymysql. Optuna's engine and ours have the same options, and on SQLite every writing
transaction starts with BEGIN IMMEDIATE: a deferred one that reads before it writes can see two processes claim one row.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sqlite3
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Dialect, Engine, NullPool, create_engine, event
from sqlalchemy.exc import ArgumentError

from hpsearch.errors import BadInput, StudyGone, install
from hpsearch.storage.jsons import json_text, json_value
from hpsearch.storage.options import driver_options
from hpsearch.storage.reading import ReadingConnection, connect_to_file, only_readable, to_be_copied
from hpsearch.storage.urls import masked, parse_url

if TYPE_CHECKING:
    pass

BUSY_TIMEOUT_S = 60
"""How long one statement waits for another process's write on SQLite."""

FROZEN_S = 60
"""How long a server waits in the middle of a transaction for a client that was frozen, before it gives its locks to others."""

_PACKAGES = {"psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}
"""What brings a driver that no extra of ours does."""


def _options(url: URL) -> dict[str, Any]:
    """Keyword arguments of `create_engine`."""
    # A statement's parameters hold the token of a lease, which steers the study.
    options: dict[str, Any] = {"hide_parameters": True, "json_serializer": json_text, "json_deserializer": json_value}
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        options["creator"] = functools.partial(connect_to_file, file, BUSY_TIMEOUT_S)
        # What is only readable for this process is written by another one: each transaction looks at it anew.
        return options | ({"poolclass": NullPool} if only_readable(file) and not to_be_copied(file) else {})
    if url.get_backend_name() == "postgresql":
        # A server that vanished without closing its connections must not hold a coordinator, and its slots with it, for the
        # system's 15 minutes.
        connect: dict[str, Any] = {
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "tcp_user_timeout": 20_000,
        }
        if url.get_driver_name() == "psycopg":
            # A prepared statement belongs to a session, and a pool such as pgbouncer's gives each transaction another one.
            connect["prepare_threshold"] = None
    else:
        connect = {"connect_timeout": 10, "read_timeout": 120, "write_timeout": 120, "charset": "utf8mb4"}
        if url.get_driver_name() == "pymysql" and url.password is not None and "password" not in url.query:
            connect["password"] = str(url.password).encode()  # of text the driver takes only what Latin-1 has
    return options | {
        "pool_pre_ping": True,
        # Every transaction here ends itself; one more ROLLBACK costs a round trip, and complains where the server is gone.
        "pool_reset_on_return": None,
        "connect_args": {key: value for key, value in connect.items() if key not in url.query}
        | driver_options(url.get_driver_name(), url.query),
    }


def _session(engine: Engine) -> list[str]:
    """What each new session of a server is told."""
    if engine.dialect.name == "postgresql":
        return ["SET TIME ZONE 'UTC'", f"SET idle_in_transaction_session_timeout = '{FROZEN_S}s'"]
    if getattr(engine.dialect, "is_mariadb", False):
        return ["SET time_zone = '+00:00'", f"SET idle_transaction_timeout = {FROZEN_S}"]
    return ["SET time_zone = '+00:00'"]


def _listen(engine: Engine, *, always_immediate: bool) -> None:
    """Set up each connection, and on SQLite begin the transactions ourselves."""

    file = Path(engine.url.database or "")

    def connect(connection: Any, record: Any) -> None:
        if engine.dialect.name == "sqlite":
            record.info[_FILE] = _identity(file)
            connection.isolation_level = None  # the driver would begin a deferred transaction, and only before a write
            connection.execute("PRAGMA foreign_keys=ON")
            # With WAL a crash of the machine can lose the last transactions, never their order nor the file.
            connection.execute("PRAGMA synchronous=NORMAL")
            return
        cursor = connection.cursor()
        for statement in _session(engine):
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    def begin(connection: Connection) -> None:
        immediate = always_immediate or connection.get_execution_options().get("writes")
        raw: object = connection.connection.dbapi_connection
        if isinstance(raw, ReadingConnection):
            immediate = False  # It would be refused though nothing is written in it.
        if immediate and _identity(file) != connection.info.get(_FILE):
            # SQLite itself would go on, with a file that has no name any more.
            raise StudyGone(f"{masked(engine.url)}: the database is gone: it was deleted or replaced")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
        if immediate:
            _unsettled.add(file)
            _written.add(file)

    def do_connect(dialect: Dialect, _record: object, positional: Any, named: Any) -> Any:
        try:
            return dialect.connect(*positional, **named)
        except (OSError, TypeError, ValueError, LookupError, AttributeError, dialect.loaded_dbapi.ProgrammingError) as error:
            # What a server or a network says comes as other errors: this is an option that the driver cannot take.
            raise _refused_options(engine.url, error) from None

    event.listen(engine, "connect", connect)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", begin)
    else:
        event.listen(engine, "do_connect", do_connect)
    _engines.add(engine)


_FILE = "hpsearch_file"


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_written: set[Path] = set()
"""SQLite files that this process could write, at one time."""
_unsettled: set[Path] = set()
"""Those of them that it may have written since they were settled."""
_SETTLING_S = 2.0
"""How long to wait for readers and writers of other processes before the log is left to them."""


def was_writable(url: URL) -> bool:
    """Whether this process could write the SQLite database at `url`, at one time."""
    return Path(url.database or "") in _written


def settle() -> None:
    """Bring what this process wrote to SQLite from the log (the `-wal` file) into the file itself: a copy of it is then whole.

    As much of it as other processes that read or write at this moment allow; nothing where the file cannot be written now.
    """
    while _unsettled:
        path = _unsettled.pop()
        wal = Path(f"{path}-wal")
        with contextlib.suppress(OSError, sqlite3.Error):
            if wal.stat().st_size and not only_readable(path):
                with contextlib.closing(sqlite3.connect(path, timeout=_SETTLING_S)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def close_all() -> None:
    """Close the connections of this process, as at its end; the last one to a SQLite file removes its log."""
    for engine in list(_engines):
        engine.dispose()
    settle()


def _at_exit(process: int) -> None:
    if os.getpid() == process:  # In a copy of it, the connections are the other one's.
        close_all()


atexit.register(_at_exit, os.getpid())


def _missing_driver(url: URL) -> BadInput:
    driver = url.get_driver_name()
    remedy = install(url.get_backend_name())
    if driver in _PACKAGES:
        remedy = f"run: pip install {_PACKAGES[driver]}, or leave '+{driver}' out of the URL"
    return BadInput(f"{masked(url)}: its driver {driver} is missing; {remedy}")


def _refused_options(url: URL, error: Exception) -> BadInput:
    told = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return BadInput(f"{masked(url)}: the driver cannot connect with these options ({told}); mend what follows the '?'")


def make_engine(url: str) -> Engine:
    """The engine of our own tables. Does not connect.

    A connection with the execution option `writes=True` begins with BEGIN IMMEDIATE on SQLite. Raises BadInput for a URL
    that cannot be used and for a missing driver, which names the extra to install.
    """
    parsed = parse_url(url)
    try:
        engine = create_engine(parsed, **_options(parsed))
    except ImportError:
        raise _missing_driver(parsed) from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise _refused_options(parsed, error) from None
    _listen(engine, always_immediate=False)
    return engine
