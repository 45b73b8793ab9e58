"""Short transactions: retried where the database asks for it, with errors in the program's own words."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, literal_column, select
from sqlalchemy.exc import DBAPIError, StatementError

from hpsearch.errors import BadInput, HpsearchError, StoppedForNow, StorageUnreachable, StudyGone
from hpsearch.storage.engine import BUSY_TIMEOUT_S, was_writable
from hpsearch.storage.urls import masked
from hpsearch.text import message

T = TypeVar("T")

PATIENCE_S = float(BUSY_TIMEOUT_S)
"""How long a transaction that the database refused for the moment is tried again."""

OUTAGE_POLL_S = 0.1
"""How often `Outage.waiting` is called, at the least, beside the time that it takes itself."""

_OUTAGE_PAUSES_S = (0.1, 5.0)
"""The first and the longest pause between two tries while the database does not answer."""

_OUTAGE_BUSY_S = 1
"""In place of BUSY_TIMEOUT_S while someone sits out outages: inside SQLite, nothing would call `Outage.waiting`."""

_CLOCKS = {
    # Milliseconds on SQLite; unixepoch('subsec') would need SQLite 3.42.
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) / 1e6",
}

_REFUSED_LOGIN = (1044, 1045, 1049, 1698)  # MySQL: no access, wrong password, no such database
_REFUSED_LOGIN_WORDS = ("password authentication failed", "no password supplied", "does not exist", "pg_hba.conf")
_NO_RIGHT = (1142, 1143, 1227, 1370, "42501")
_NO_ROOM = (1153, 1264, 1366, 1367, 1406, 3140, 4025, "54000")
"""A text or number beyond its column, a statement beyond what the server takes, or no JSON."""
_CONNECTION_ERRORS = ("OperationalError", "InterfaceError", "ConnectionTimeout")
_TRY_AGAIN = ("40001", "40P01", "55P03", 1205, 1213)  # serialization failure, deadlock, lock wait timeout

_AWAY = (1040, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2006, 2013, 2055, 4031)
"""MySQL: too many connections, shutting down, killed, connection refused or lost."""
_AWAY_STATES = ("08", "25P03", "53300", "57P01", "57P02", "57P03")
"""PostgreSQL, by prefix: connection lost, cut while frozen, too many connections, shutting down, crashed, starting up."""


class DatabaseAway(StorageUnreachable):
    """The database does not answer; the same transaction succeeds once it does."""

    usual_s = 0.0
    """How much of it is nothing to speak of."""


class DatabaseLocked(DatabaseAway):
    """Another process writes to SQLite, and has for longer than `_OUTAGE_BUSY_S`."""

    usual_s = 10.0


class Outage(Protocol):
    """What a coordinator does while its database does not answer.

    Both methods are called in the middle of a transaction, and of Optuna's, which hold locks: neither may use the database.
    """

    def waiting(self, seconds: float, reason: str) -> None:
        """The database has not answered for so long, beyond what is usual; called at least ten times a second, beside the time
        that it takes itself and, where SQLite is locked, a second for each new try.

        An error that it raises passes to the caller of the transaction, which is then not tried again.
        """

    def over(self, seconds: float) -> None:
        """The database answers again, after so long."""


def now(connection: Connection) -> float:
    """Seconds since 1970 on the database's clock (UTC)."""
    return float(connection.execute(select(literal_column(_CLOCKS[connection.dialect.name]))).scalar_one())


def _code(error: BaseException) -> str | int | None:
    """The error's number on MySQL, SQLSTATE on PostgreSQL."""
    first = error.args[0] if error.args else None
    if isinstance(first, int):
        return first
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _driver_error(error: BaseException) -> BaseException | None:
    """The driver's error at the bottom of `error` (Optuna wraps SQLAlchemy's, which wraps the driver's)."""
    for link in (error, error.__cause__):
        if isinstance(link, sqlite3.Error):
            return link
        if isinstance(link, DBAPIError):
            return link.orig if isinstance(link.orig, BaseException) else None
    return None


def passing(error: BaseException) -> bool:
    """Whether the same transaction can succeed when it is tried again: locked, deadlock, serialization failure."""
    cause = _driver_error(error)
    if cause is None:
        return False
    return _locked(cause) or _code(cause) in _TRY_AGAIN


def _of_the_disk(cause: sqlite3.Error) -> bool:
    """Whether SQLite says that it could not open, read or write a file."""
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
    )


def _locked(cause: BaseException) -> bool:
    return isinstance(cause, sqlite3.Error) and "is locked" in str(cause)


def _refused_login(cause: BaseException) -> bool:
    code = _code(cause)
    if code is None:  # PostgreSQL's reason for refusing a connection comes as text only
        return "FATAL" in str(cause) and any(word in str(cause) for word in _REFUSED_LOGIN_WORDS)
    return code in (*_REFUSED_LOGIN, "28P01", "28000", "3D000")


def _away(cause: BaseException) -> bool:
    """Whether the driver's error says that there is no server, or none yet."""
    if isinstance(cause, sqlite3.Error) or _refused_login(cause):
        return False
    code = _code(cause)
    if isinstance(code, int):
        return code in _AWAY or (code == 0 and type(cause).__name__ == "InterfaceError")  # pymysql: the connection was closed
    # Without a state it is libpq that speaks, and not a server.
    return str(code).startswith(_AWAY_STATES) if code else type(cause).__name__ in _CONNECTION_ERRORS


def _in_our_words(error: BaseException, url: URL) -> HpsearchError | None:
    """What `error` means to a person; None where it is a bug."""
    if isinstance(error, StatementError) and isinstance(error.orig, HpsearchError):
        return error.orig  # One of our columns refused a value.
    cause = _driver_error(error)
    if cause is None:
        return None
    where, code = masked(url), _code(cause)
    said = str(cause.args[-1] if isinstance(code, int) else cause).strip() or type(cause).__name__
    text = said.splitlines()[0].replace(url.password or "\n", "***")
    if isinstance(cause, sqlite3.Error):
        if "not a database" in text or "malformed" in text:
            return BadInput(f"{where}: not a sound SQLite database ({text}); name another file")
        if "is full" in text:
            return StoppedForNow(f"{where}: the disk is full; free some space and run the same command again")
        if _of_the_disk(cause) and was_writable(url):
            if not Path(url.database or "").exists():
                return StudyGone(f"{where}: the database is gone: it was deleted or moved")
            return StoppedForNow(f"{where}: it cannot be written any more ({text}); run the same command again once it can")
        if "unable to open" in text:
            return BadInput(f"{where}: {text}; check its path and permissions, or name another")
        if "readonly" in text:
            return BadInput(f"{where}: the database cannot be written ({text}); change its permissions or name another")
        if "is locked" in text:
            return StorageUnreachable(f"{where}: another process has kept it locked for {PATIENCE_S:.0f} s; end that process")
    if "no such table" in text or code in ("42P01", 1146):
        return StudyGone(f"{where}: the tables are gone: the database was deleted or replaced")
    if code == "53100":
        return StoppedForNow(f"{where}: the server's disk is full; free some space and run the same command again")
    if code in _NO_RIGHT:
        return BadInput(f"{where}: {text}; grant the user the right to create, read and write tables, or name another user")
    if _refused_login(cause):
        return BadInput(f"{where}: {text}; check the user, the password and the database's name")
    if any(kind.__name__ == "DataError" for kind in type(cause).__mro__) or code in _NO_ROOM:
        return BadInput(f"{where}: a value cannot be stored in this database ({message(text, 200)})")
    # So drivers report a lost connection; each has classes of its own by these names (PEP 249).
    if any(kind.__name__ in ("OperationalError", "InterfaceError") for kind in type(cause).__mro__):
        return StorageUnreachable(f"{where}: the database does not answer ({text})")
    return None


@contextlib.contextmanager
def storage_errors(url: URL) -> Iterator[None]:
    """Turn what a database raised, in Optuna's calls too, into BadInput, StorageUnreachable or StoppedForNow.

    Errors that are ours or nobody's fault but the program's pass unchanged.
    """
    try:
        yield
    except HpsearchError:
        raise
    except Exception as error:
        known = _in_our_words(error, url)
        if known is None:
            raise
        raise known from error


class Database:
    """The transactions of one engine. `work` runs as a whole or not at all, and may run more than once.

    That holds for Optuna's transactions on the same engine too: no error of a lost connection is lost among others.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(writes=True)
        self._outage: Outage | None = None
        self._thread = 0
        event.listen(engine, "handle_error", self._notice)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "checkout", self._lend)

    @property
    def url(self) -> URL:
        return self.engine.url

    def sit_out(self, outage: Outage | None) -> None:
        """From now on, transactions of the calling thread outlast a database that does not answer or, on SQLite, is locked;
        None: they do not.

        Those of other threads, and of readers, fail at once: `outage` serves what belongs to its own thread.
        """
        self._outage, self._thread = outage, threading.get_ident()

    def read(self, work: Callable[[Connection], T]) -> T:
        return self._run(self.engine, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        return self._run(self._writer, work)

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until the database takes it.

        Where it is locked, or chose this transaction to end a deadlock, for at most a minute. Where it does not answer, or
        SQLite is locked, as long as the outage that was given to `sit_out` allows. Raises DatabaseAway, StorageUnreachable
        and the like.
        """
        outage = self._outage if threading.get_ident() == self._thread else None
        away_since: float | None = None
        refused_since: float | None = None
        pauses = _pauses(0.01, 2.0)
        with storage_errors(self.url):
            while True:
                began = time.monotonic()
                try:
                    result = attempt()
                except DatabaseAway as error:
                    if outage is None:
                        raise
                    if away_since is None:
                        away_since, pauses = time.monotonic(), _pauses(*_OUTAGE_PAUSES_S)
                    _wait(next(pauses), outage, away_since, error)
                    continue
                except Exception as error:
                    _answered(outage, away_since)
                    away_since = None
                    refused_since = refused_since or began
                    if not passing(error) or time.monotonic() > refused_since + PATIENCE_S:
                        raise
                    time.sleep(next(pauses))
                    continue
                _answered(outage, away_since)
                return result

    def _lend(self, connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={1000 * (_OUTAGE_BUSY_S if self._outage else BUSY_TIMEOUT_S)}")

    def _notice(self, context: ExceptionContext) -> None:
        """Name a lost connection at once: Optuna would sleep and try again without its caller, five times."""
        if self._outage and _locked(context.original_exception):
            raise DatabaseLocked(f"{masked(self.url)}: another process keeps it locked")
        if not _away(context.original_exception):
            return
        context.is_disconnect = True  # SQLAlchemy does not know all of them, and would keep the connection
        if not context.is_pre_ping:
            known = _in_our_words(context.sqlalchemy_exception or context.original_exception, self.url)
            raise DatabaseAway(str(known))

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with engine.begin() as connection:
                return work(connection)

        return self.patiently(attempt)


def _pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Twice as long each time, and never quite the same: many clients must not come back all at once."""
    for number in itertools.count():
        yield min(longest_s, first_s * 2.0 ** min(number, 32)) * random.uniform(0.5, 1.0)


def _answered(outage: Outage | None, away_since: float | None) -> None:
    if outage is not None and away_since is not None:
        outage.over(time.monotonic() - away_since)


def _wait(pause_s: float, outage: Outage, since: float, error: DatabaseAway) -> None:
    end = time.monotonic() + pause_s
    while (left := end - time.monotonic()) > 0:
        called = time.monotonic()
        outage.waiting(max(0.0, called - since - error.usual_s), str(error))
        spent = time.monotonic() - called
        time.sleep(max(0.0, min(left, OUTAGE_POLL_S) - spent))
