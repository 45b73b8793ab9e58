"""Files that can be made again. Each appears whole or not at all, so that any number of processes may share the folder.

Layout of the cache folder: `index/` remembers what a file on disk hashed to, `texts/` holds texts joined from many files,
`tokenizers/` trained BPE tokenizers, `tokens/` token arrays. Any of it may be deleted while nothing runs. What is kept is used
while it is what was written: by its sha256, which is remembered as long as the file's size, times and inode are the same.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpsearch import files
from hpsearch.errors import DataError, StoppedForNow

_ABANDONED_S = 24 * 3600
_SETTLED_NS = 2 * 10**9
"""A file younger than this may change again within one tick of its clock: its hash is not remembered."""


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path`, whole and flushed to disk, when the block ends; nothing appears when it raises.

    Raises StoppedForNow when the disk is full, and DataError when the folder cannot be written.
    """
    new: list[Path] = []
    try:
        new = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
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
        raise _refusal(path.parent, error) from None


def require_writable(cache_dir: Path) -> None:
    """Find out before a text is read that nothing can be kept of it. Raises as `writing` does."""
    try:
        nearest = next(place for place in (cache_dir.absolute(), *cache_dir.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=nearest).close()  # Permissions do not tell: the superuser has them on a read-only disk too.
    except OSError as error:
        raise _refusal(cache_dir, error) from None


def _refusal(folder: Path, error: OSError) -> StoppedForNow | DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoppedForNow(f"{folder}: the disk is full; make room and run the same command again")
    return DataError(
        f"{folder}: cannot keep prepared data here: {error.strerror or error}; name a folder that you can write to with "
        "HPSEARCH_CACHE_DIR"
    )


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
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def stamp(path: Path) -> tuple[int, int, int, int]:
    """Size, times of change of content and of inode, and inode: what stands for a file's content between two openings.

    Raises OSError.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def settled(modified_ns: int) -> bool:
    """Whether a file changed long enough ago for its stamp to stand for its content."""
    return time.time_ns() - modified_ns > _SETTLED_NS


def holds(cache_dir: Path, path: Path, sha256: str) -> bool:
    """Whether the file that is kept at `path` still has this content. Reads it once, and later only its stamp."""
    try:
        before = stamp(path)
        key = ["kept", str(path.absolute()), *before]
        if (recall(cache_dir, key) or {}).get("sha256") == sha256:
            return True
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256 or stamp(path) != before:
            return False
    except OSError:
        return False
    if settled(before[2]):
        with contextlib.suppress(DataError, StoppedForNow):  # It is only read again next time.
            remember(cache_dir, key, {"sha256": found})
    return True


def _index(cache_dir: Path, key: Any) -> Path:
    return cache_dir / "index" / f"{digest(key)}.json"
