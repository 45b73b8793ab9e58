"""SQLite files that can be read and not written: an archive, a volume mounted read-only, another person's study.

SQLite writes a little even to read: it makes the `-shm` file, and with a `-wal` file that was left behind it needs one. Where
it cannot, there are three ways, by what lies beside the file.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any


class ReadingConnection(sqlite3.Connection):
    """Of a database that this process cannot write; a statement that tries to is refused as 'readonly'."""


def only_readable(path: Path) -> bool:
    """Whether the database at `path` is there and this process cannot write it."""
    if not path.exists():
        return False
    if not os.access(path, os.W_OK):
        return True
    # With both files beside it, as while a study runs, nothing needs to be made in the folder.
    return not os.access(path.parent, os.W_OK) and not all(os.access(f"{path}{each}", os.W_OK) for each in ("-wal", "-shm"))


def to_be_copied(path: Path) -> bool:
    """Whether there are rows in a `-wal` file that nothing but a copy can be read with."""
    wal = Path(f"{path}-wal")
    return wal.exists() and wal.stat().st_size > 0 and not Path(f"{path}-shm").exists()


def connect_to_file(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection to the database at `path`, which is made where there is none; a ReadingConnection where it is only readable.

    timeout: seconds that a statement waits for another process's write.
    """
    options: dict[str, Any] = {"timeout": timeout, "check_same_thread": False}
    if not only_readable(path):
        writing: sqlite3.Connection = sqlite3.connect(path, **options)
        return writing
    if to_be_copied(path):
        connection = _of_a_copy(path, options)
    else:
        wal = Path(f"{path}-wal")
        # Without a log nobody writes; `immutable` looks for none, and for no locks.
        how = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
        uri = f"{path.absolute().as_uri()}?{how}"
        connection = sqlite3.connect(uri, uri=True, factory=ReadingConnection, **options)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _of_a_copy(path: Path, options: dict[str, Any]) -> sqlite3.Connection:
    with tempfile.TemporaryDirectory(prefix="hpsearch-") as folder:
        copy = Path(folder) / "copy.db"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        whole = sqlite3.connect(copy)
        connection = sqlite3.connect(":memory:", factory=ReadingConnection, **options)
        whole.backup(connection)
        whole.close()
    return connection
