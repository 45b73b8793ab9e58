"""Database URLs: their spellings, drivers and passwords."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, make_url

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.paths import read_secret
from hpsearch.storage.options import driver_options

_SPELLINGS = {"postgres": "postgresql", "mariadb": "mysql"}  # mysql: Optuna knows no dialect of the other name.
_DRIVERS = {"sqlite": ("pysqlite",), "postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql", "mysqldb")}
_FORMS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE"
_SECRET = re.compile(r"pass|secret|token", re.IGNORECASE)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever characters its path has."""
    return _rendered(URL.create("sqlite", database=str(path)))


def _rendered(url: URL) -> str:
    """`url` as a text that gives it again. Bytes of a path that are not UTF-8 stay as they are: %FF would be read as UTF-8."""
    text = url.database or ""
    try:
        return url.render_as_string(hide_password=False)
    except UnicodeEncodeError:
        if url.get_backend_name() != "sqlite":
            raise BadInput("--storage: the name of a database must be UTF-8; name another") from None
    path = "".join(each if "\ud800" <= each <= "\udfff" else quote(each, safe=" +/") for each in text)
    head, _, query = url.set(database="").render_as_string(hide_password=False).partition("?")
    return head + path + (f"?{query}" if query else "")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for one on a server. Raises BadInput as `parse_url` does."""
    parsed = parse_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def masked(url: str | URL) -> str:
    """`url` as it may be shown: passwords replaced by `***`, also where the URL cannot be parsed."""
    try:
        parsed = make_url(url)
    except Exception:  # any text may stand here, and none may be shown unmasked
        return re.sub(r"^([a-zA-Z0-9+]*:?/*).*@", r"\1***@", str(url), flags=re.DOTALL)
    hidden = {key: "***" for key in parsed.query if _SECRET.search(key)}
    if parsed.get_backend_name() == "sqlite" and parsed.database and not hidden:
        return f"sqlite:///{parsed.database}"
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def parse_url(url: str) -> URL:
    """`url` with its driver named. Raises BadInput for a scheme, driver or SQLite path that cannot be used."""
    try:
        parsed = make_url(url)
        scheme, _, driver = parsed.drivername.partition("+")
    except Exception:  # ArgumentError or ValueError, by the part that is wrong
        raise BadInput(f"{masked(url)}: not a database URL; write {_FORMS}") from None
    scheme = _SPELLINGS.get(scheme, scheme)
    if scheme not in _DRIVERS:
        near = did_you_mean(scheme, [*_DRIVERS, *_SPELLINGS])
        raise BadInput(f"{masked(url)}: unknown kind of database '{scheme}'{near}; write {_FORMS}")
    driver = driver or _DRIVERS[scheme][0]
    if driver not in _DRIVERS[scheme]:
        raise BadInput(
            f"{masked(url)}: the driver '{driver}' is not supported; leave it out, or use {' or '.join(_DRIVERS[scheme])}"
        )
    if scheme == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise BadInput(f"{masked(url)}: a database in memory is gone when the command ends; write sqlite:///FILE")
        if parsed.database.startswith("file:"):
            raise BadInput(f"{masked(url)}: write the file's plain path, as in sqlite:///studies/hpsearch.db")
        path = Path(parsed.database)
        if not path.parent.is_dir():
            raise BadInput(f"{masked(url)}: the folder {path.parent} does not exist; create it, or name another")
        if path.is_dir():
            raise BadInput(f"{masked(url)}: {path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise BadInput(f"{masked(url)}: {path} is neither a file nor free for one; name another")
    elif parsed.port is not None and not 0 < parsed.port < 65536:
        raise BadInput(f"{masked(url)}: {parsed.port} is no port; give one from 1 to 65535")
    try:
        driver_options(driver, parsed.query)
    except ValueError as error:
        raise BadInput(f"{masked(url)}: after the '?', {error}") from None
    return parsed.set(drivername=f"{scheme}+{driver}")


def optuna_url(url: URL) -> str:
    """`url` as RDBStorage takes it: it fills templates with `str.format`."""
    return _rendered(url).replace("{", "{{").replace("}", "}}")


def storage_url(storage: str | None, studies_dir: Path) -> str:
    """The database to use: the given one, or the SQLite file in the studies folder.

    HPSEARCH_STORAGE_PASSWORD_FILE names a file with the password of a URL that has none.
    """
    from hpsearch.storage.urls import parse_url, sqlite_url

    file = os.environ.get("HPSEARCH_STORAGE_PASSWORD_FILE")
    if not storage or not file:
        return storage or sqlite_url(studies_dir / "hpsearch.db")
    url = parse_url(storage)
    if url.password is None and url.get_backend_name() != "sqlite":
        url = url.set(password=read_secret("HPSEARCH_STORAGE_PASSWORD_FILE", Path(file)))
    return url.render_as_string(hide_password=False)
