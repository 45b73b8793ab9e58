"""A folder for what lasts no longer than a process, in the system's folder for temporary files.

Each process has one of its own, with its id in the name, and removes it at its end. What a killed process left is removed by
the next one that needs such a folder: a lock tells that its owner is gone, also where ids mean other processes (containers).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "hps-"
"""Short, as sockets are in it, whose paths have at most 107 bytes."""
LOCK = ".lock"
_NAME = re.compile(rf"{PREFIX}(\d+)-\w+")
_own: dict[int, Path] = {}
"""Of this process, by its id: a forked one is another."""


def scratch() -> Path:
    """This process's folder; made when it is first asked for, and nobody else's to read. Raises OSError."""
    process = os.getpid()
    if process not in _own:
        sweep(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{process}-"))
        fcntl.flock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)  # Until it ends.
        _own[process] = folder
        atexit.register(_remove, process)
    return _own[process]


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder in this process's own, which is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=scratch(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this user left in `folder`."""
    for left in folder.glob(f"{PREFIX}*"):
        found = _NAME.fullmatch(left.name)
        if found and not Path("/proc", found[1]).exists():
            with contextlib.suppress(OSError):
                if _is_abandoned(left):
                    shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether it is this user's and was locked by a process that has ended. Raises OSError where that cannot be told."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    return True


def _remove(process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(_own.pop(process), ignore_errors=True)
