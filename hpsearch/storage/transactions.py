"""Short transactions: retried where the database asks for it, with errors in the program's own words."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, literal_column, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpsearch.errors import BadInput, HpsearchError, StoppedForNow, StorageUnreachable, StudyGone
from hpsearch.storage.engine import BUSY_TIMEOUT_S, masked

T = TypeVar("T")

PATIENCE_S = float(BUSY_TIMEOUT_S)
"""How long a transaction that the database refused for the moment is tried again."""

_CLOCKS = {
    # Milliseconds on SQLite; unixepoch('subsec') would need SQLite 3.42.
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) / 1e6",
}

_REFUSED_LOGIN = (1044, 1045, 1049, 1698)  # MySQL: no access, wrong password, no such database
_REFUSED_LOGIN_WORDS = ("password authentication failed", "no password supplied", "does not exist", "pg_hba.conf")
_TRY_AGAIN = ("40001", "40P01", "55P03", 1205, 1213)  # serialization failure, deadlock, lock wait timeout


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
    if isinstance(cause, sqlite3.Error):
        return "is locked" in str(cause)
    return _code(cause) in _TRY_AGAIN


def _in_our_words(error: BaseException, url: URL) -> HpsearchError | None:
    """What `error` means to a person; None where it is a bug."""
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
        if "readonly" in text:
            return BadInput(f"{where}: the database cannot be written ({text}); change its permissions or name another")
        if "is locked" in text:
            return StorageUnreachable(f"{where}: another process has kept it locked for {PATIENCE_S:.0f} s; end that process")
    if "no such table" in text or code in ("42P01", 1146):
        return StudyGone(f"{where}: the tables are gone: the database was deleted or replaced")
    if code == "53100":
        return StoppedForNow(f"{where}: the server's disk is full; free some space and run the same command again")
    if code in _REFUSED_LOGIN or code in ("28P01", "28000", "3D000"):
        return BadInput(f"{where}: {text}; check the user, the password and the database's name")
    if code is None and any(word in str(cause) for word in _REFUSED_LOGIN_WORDS) and "FATAL" in str(cause):
        return BadInput(f"{where}: {text}; check the user, the password and the database's name")
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
    """The transactions of one engine. `work` runs as a whole or not at all, and may run more than once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(writes=True)

    @property
    def url(self) -> URL:
        return self.engine.url

    def read(self, work: Callable[[Connection], T]) -> T:
        return self._run(self.engine, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        return self._run(self._writer, work)

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until the database does not refuse it for the moment, for at most a minute."""
        with storage_errors(self.url):
            deadline = time.monotonic() + PATIENCE_S
            for number in itertools.count():
                try:
                    return attempt()
                except (SQLAlchemyError, sqlite3.Error) as error:
                    if not passing(error) or time.monotonic() > deadline:
                        raise
                time.sleep(min(2.0, 0.01 * 2**number) * random.uniform(0.5, 1.0))
        raise AssertionError  # the loop returns or raises

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with engine.begin() as connection:
                return work(connection)

        return self.patiently(attempt)
