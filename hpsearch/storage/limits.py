"""What a database does not hold. It is asked before a study is made: found in the middle of one, it would end it for good."""

from __future__ import annotations

LONGEST_NAME = 512
"""Characters of a name in Optuna's tables."""

_MYSQL_TEXT = 2**16 - 1
_MYSQL_STATEMENT = 2**23
"""Half of the packet that MariaDB takes unless it is told otherwise."""


def longest_value(url: str) -> int | None:
    """Bytes of a value in JSON in Optuna's tables, such as the choices of one parameter; None where there is no end to them."""
    return _MYSQL_TEXT if _is_mysql(url) else None


def longest_text(url: str) -> int | None:
    """Bytes of a text in our own tables, such as a whole space; None where there is no end to it."""
    return _MYSQL_STATEMENT if _is_mysql(url) else None


def _is_mysql(url: str) -> bool:
    return url.partition(":")[0].partition("+")[0] in ("mysql", "mariadb")
