"""One way to write a file: whole or not at all.

A reader never sees half of a file, and a write that fails leaves the file of before as it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".hpsearch-tmp"
"""How the names of unfinished files end; only files with this ending are ever swept away."""


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Write `path` whole or not at all, flushed to disk with its folder. A text is written as UTF-8.

    Raises OSError; a file that was there before then stays as it was. See `writing`.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path`, whole and flushed to disk, when the block ends; nothing changes when the block raises.

    A symbolic link is followed and stays a link. A device or a pipe is written to as it is: there is nothing to keep whole. A
    new file gets the permissions that the umask leaves, an old one keeps its own. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    try:
        before = target.stat()
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        with target.open("wb") as file:
            yield file
        return
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
