"""What stands after the '?' of a database URL: text there, here what the driver takes; refused before anything connects.

Drivers read these values late and each in its own way: some keep the text `0` where they compare numbers, and a character set
other than UTF-8 fails only at the first text that it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.errors import did_you_mean

Check = Callable[[str], Any]
"""The value of a text. Raises ValueError that says what is right."""


def _text(word: str) -> str:
    return word


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 10):
        raise ValueError("give a whole number")
    return int(word)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ValueError("give a number of seconds")
    return value


def _yes_no(word: str) -> bool:
    if word.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError("give true or false")
    return word.lower() in ("true", "1", "yes", "on")


def _file(word: str) -> str:
    if not Path(word).is_file():
        raise ValueError("there is no such file")
    return word


def _root(word: str) -> str:
    return word if word == "system" else _file(word)


def _one_of(*words: str) -> Check:
    def check(word: str) -> str:
        if word.lower() not in words:
            raise ValueError(f"give {', '.join(words)}")
        return word

    return check


def _never_prepared(word: str) -> None:
    """psycopg's `prepare_threshold`: a number or none. Statements are never prepared, which is what it is given for."""
    if word.lower() not in ("none", "null", ""):
        _whole(word)


_LIBPQ: dict[str, Check] = {
    **dict.fromkeys(("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "options"), _text),
    **dict.fromkeys(("application_name", "fallback_application_name", "krbsrvname", "gsslib", "require_auth"), _text),
    **dict.fromkeys(("sslpassword", "sslcrl", "sslcrldir", "ssl_min_protocol_version", "ssl_max_protocol_version"), _text),
    **dict.fromkeys(("requirepeer", "sslcertmode", "gssdelegation", "requiressl", "sslcompression", "sslsni"), _text),
    **dict.fromkeys(("connect_timeout", "tcp_user_timeout", "keepalives"), _whole),
    **dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count"), _whole),
    **dict.fromkeys(("sslcert", "sslkey"), _file),
    "sslrootcert": _root,
    "sslmode": _one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": _one_of("postgres", "direct"),
    "channel_binding": _one_of("disable", "prefer", "require"),
    "gssencmode": _one_of("disable", "prefer", "require"),
    "target_session_attrs": _one_of("any", "read-write", "primary"),
    "load_balance_hosts": _one_of("disable", "random"),
    "client_encoding": _one_of("utf8", "utf-8", "auto"),
}
_MYSQL: dict[str, Check] = {
    **dict.fromkeys(("user", "password", "unix_socket", "init_command", "read_default_group"), _text),
    **dict.fromkeys(("ssl_capath", "ssl_cipher"), _text),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), _whole),
    **dict.fromkeys(("read_default_file", "ssl_ca", "ssl_cert", "ssl_key"), _file),
    "ssl_check_hostname": _yes_no,
    "charset": _one_of("utf8mb4"),
}
_KNOWN: dict[str, dict[str, Check]] = {
    "pysqlite": {"timeout": _number, "check_same_thread": _yes_no, "cached_statements": _whole},
    "psycopg": _LIBPQ | {"prepare_threshold": _never_prepared},
    "psycopg2": _LIBPQ,
    "pymysql": _MYSQL
    | dict.fromkeys(("collation", "bind_address", "program_name"), _text)
    | {"max_allowed_packet": _whole, "ssl_disabled": _yes_no},
    "mysqldb": _MYSQL,
}
_OF_THE_DIALECT = "ssl_"
"""SQLAlchemy gathers these into one argument of MySQL's drivers, and turns them into what they take."""
_REPEATED = ("host", "port")
"""Options that may be given for each of several servers."""


def driver_options(driver: str, query: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """The options of a URL that the driver takes otherwise than as text.

    Raises ValueError for an option that the driver does not have or that would break the storage, and for its value.
    """
    known, taken = _KNOWN[driver], {}
    for name, given in query.items():
        if name not in known:
            raise ValueError(f"{name}: {driver} has no such option{did_you_mean(name, known) or '; leave it out'}")
        words = [given] if isinstance(given, str) else list(given)
        if len(words) > 1 and name not in _REPEATED:
            raise ValueError(f"{name} is given {len(words)} times")
        for word in words:
            try:
                value = known[name](word)
            except ValueError as error:
                raise ValueError(f"{name}={word}: {error}") from None
            if value is not word and (not name.startswith(_OF_THE_DIALECT) or name == "ssl_disabled"):
                taken[name] = value
    return taken
