"""One way to write a file, whole or not at all, and one way to find a place inside a folder.

A reader never sees half of a file, and a write that fails leaves the file of before as it was. What a file, a bucket or a
database names is a place inside a folder or is refused: only a command line names places elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".hpsearch-tmp"
"""How the names of unfinished files end; only such files are ever swept away."""

WROTE = "hpsearch-wrote.json"
"""In a folder that a command filled: the names of its files, so that another one replaces these and nothing else."""

LONGEST_NAME, LONGEST_PATH = 255 - 32, 1000
"""Bytes of one part of a place's name, so that an unfinished file has room for its ending, and of the whole name."""

DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""What a folder says in which no file may be made."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when no more can be written: disk full, quota, largest file size."""

BROKEN = frozenset(
    {errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EMFILE, errno.ENFILE}
)
"""What a disk says that turned read-only, broke or was taken away, and a system with too many open files."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})
"""What is said of a folder that was removed, replaced by a file or locked; and of a good many mistakes elsewhere."""


class OutsideFolder(ValueError):
    """A name that is no place inside the folder that it is for. Its text is the end of a sentence that begins with the name."""


def require_place(name: str) -> str:
    """`name` without what says nothing (`./`, a `/` at its end), where it is the name of a place inside any folder.

    Raises OutsideFolder for a name that leads elsewhere, on any system: absolute, `..`, `~`, a drive, a backslash; for one with
    an empty part, and for one that not every disk takes: control characters, bytes that are not UTF-8, too long.
    """
    if not name.isprintable():
        raise OutsideFolder("has a character that no name of a file should have")
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        raise OutsideFolder("is written with a backslash or a drive; write a/b")
    if name.startswith(("/", "~")):
        raise OutsideFolder("leads out of the folder")
    parts = [part for part in name.removesuffix("/").split("/") if part != "."]
    if ".." in parts:
        raise OutsideFolder("leads out of the folder")
    if not parts or "" in parts:
        raise OutsideFolder("names no place inside the folder")
    if max(len(part.encode()) for part in parts) > LONGEST_NAME or len(name.encode()) > LONGEST_PATH:
        raise OutsideFolder("is too long")
    if any(part.endswith(TEMPORARY) for part in parts):
        raise OutsideFolder(f"ends in {TEMPORARY}, as unfinished files do")
    return "/".join(parts)


def inside(folder: Path, name: str) -> Path:
    """The place `name` in `folder`, which need not be there yet.

    Raises OutsideFolder as `require_place`, and where a symbolic link on the way, or the place itself, leads out of `folder`.
    """
    place = folder / require_place(name)
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise OutsideFolder("leads out of the folder through a symbolic link")
    return place


def trouble(error: OSError, *folders: Path) -> str:
    """What happened to a disk, or to one of `folders`, and what to do about it; empty where it was something else.

    Such a trouble passes: the disk has room again, the folder is back. Without folders any file that is not there is one.
    """
    what = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    why = (error.strerror or "cannot be written").lower()
    if error.errno in DISK_FULL:
        return f"{what}{why}; make room, then run the same command again"
    if error.errno in BROKEN or (error.errno in ABSENT and what and (not folders or any(map(unusable, folders)))):
        return f"{what}{why}; bring it back as it was, then run the same command again"
    return ""


def unusable(folder: Path) -> str:
    """Why no file can be made in `folder`; empty where one can. It leaves nothing there."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return (error.strerror or "cannot be written").lower()
    return ""


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in `folder`."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        if stat.S_ISREG(leftover.lstat().st_mode):
            leftover.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Write `path` whole or not at all, flushed to disk with its folder. A text is written as UTF-8.

    Raises OSError; a file that was there before then stays as it was. See `writing`.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path`, whole and flushed to disk, when the block ends; nothing changes when the block raises.

    A symbolic link is followed and stays a link. A device, a pipe or a stream of this process (`/dev/stdout`) is written to as
    it is: there is nothing to keep whole. Where the folder takes no new file, the old one is written over once all of it is
    known. A new file gets the permissions that the umask leaves, an old one keeps its own. Raises OSError.
    """
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    if before is not None and (is_stream(path) or not stat.S_ISREG(before.st_mode)):
        with os.fdopen(_opened(path), "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = _beside(target)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if before is None or error.errno not in DENIED:
            raise OSError(error.errno, error.strerror, str(path)) from None
        with _over(target) as file:
            yield file
        return
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` for what writes its files itself; its file is at `path` when the block ends.

    Nothing is left when the block raises. Raises OSError.
    """
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which is new or empty, to write into; its files are in `folder` when the block ends.

    Nothing is left when the block raises. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.realpath(folder))
    temporary = _beside(target)
    try:
        temporary.mkdir()
        yield temporary
        target.mkdir(exist_ok=True)  # It may be a link's, or a disk of its own: it stays, and the files go into it.
        for path in temporary.iterdir():
            path.replace(target / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush_folder(target)


STREAMS = re.compile(r"/dev/(?:(stdout)|(stderr)|fd/(\d+))|/proc/self/fd/(\d+)")


def is_stream(path: Path) -> bool:
    """Whether a path names what this process has open."""
    return STREAMS.fullmatch(os.path.abspath(path)) is not None  # noqa: PTH100 - not where a link leads to


def _opened(path: Path) -> int:
    """A descriptor of a stream, a pipe or a device, to write to where it stands."""
    found = STREAMS.fullmatch(os.path.abspath(path))  # noqa: PTH100 - as above
    if found is None:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    # Not opened anew: where it is a file, that would be written from its beginning, or what comes after would be.
    number = 1 if found[1] else 2 if found[2] else int(found[3] or found[4])
    return os.dup(number)


@contextlib.contextmanager
def _over(target: Path) -> Iterator[BinaryIO]:
    """Write over a file in a folder that takes no other: from a copy, so that it is opened when all is known."""
    with target.open("r+b") as old, tempfile.TemporaryFile() as whole:
        yield whole
        whole.seek(0)
        shutil.copyfileobj(whole, old)
        old.truncate()
        old.flush()
        os.fsync(old.fileno())


def _beside(target: Path) -> Path:
    """A name for what is not finished yet, with as much of the target's as leaves room for more, in whole characters."""
    start = os.fsencode(target.name)[:100].decode(errors="ignore")
    return target.with_name(f".{start}.{secrets.token_hex(8)}{TEMPORARY}")


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # One that may be written and not read.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
