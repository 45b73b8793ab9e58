"""Files that can be made again. Each appears whole or not at all, so that any number of processes may share the folder.

Layout of the cache folder: `index/` remembers what a file on disk hashed to, `texts/` holds texts joined from many files,
`tokenizers/` trained BPE tokenizers, `tokens/` token arrays. Any of it may be deleted while nothing runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpsearch import files
from hpsearch.errors import DataError, StoppedForNow

_ABANDONED_S = 24 * 3600


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path`, whole and flushed to disk, when the block ends; nothing appears when it raises.

    Raises StoppedForNow when the disk is full, and DataError when the folder cannot be written.
    """
    new = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_abandoned(path.parent)
        with files.writing(path) as file:
            yield file
    except BaseException as error:
        with contextlib.suppress(OSError):
            for folder in new:
                folder.rmdir()
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoppedForNow(f"{path.parent}: the disk is full; make room and run the same command again") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            message = f"{path.parent}: cannot keep prepared data here: {error.strerror}; give a folder to write to"
            raise DataError(message) from None
        raise


def _forget_abandoned(folder: Path) -> None:
    """A process killed while it wrote leaves its partial file, which can be as large as the text."""
    for partial in folder.glob(f"*{files.TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                partial.unlink()


def remember(cache_dir: Path, key: Any, value: dict[str, Any]) -> None:
    """Keep a small JSON object under a JSON key."""
    with writing(_index(cache_dir, key)) as file:
        file.write(json.dumps(value).encode())


def recall(cache_dir: Path, key: Any) -> dict[str, Any] | None:
    """What was remembered under `key`, or None."""
    try:
        found = json.loads(_index(cache_dir, key).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _index(cache_dir: Path, key: Any) -> Path:
    return cache_dir / "index" / f"{digest(key)}.json"
