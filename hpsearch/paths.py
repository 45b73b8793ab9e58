"""Where things are: the slots of a study, its database, the cache. For the command line and for Python alike."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import BadInput
from hpsearch.files import WROTE, is_stream, unusable, write_atomically

if TYPE_CHECKING:
    pass

STUDIES_DIR = Path("studies")
MOST_THREADS = 1024
"""Of one slot, or of one run. A machine has some ten thousands in all, for every program on it."""


def read_secret(option: str, path: Path) -> str:
    """The text of a file without its last line's end. Raises BadInput."""
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{option} {path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None


def cache_dir() -> Path:
    """Where tokenised texts are kept, shared by all studies of a user. `HPSEARCH_CACHE_DIR` names another place.

    Raises BadInput where that is not set and this user has no home folder.
    """
    from platformdirs import user_cache_path

    named = os.environ.get("HPSEARCH_CACHE_DIR")
    if named:
        return Path(named)
    try:
        found = user_cache_path("hpsearch", appauthor=False)
    except RuntimeError:  # Neither HOME nor an entry among the users; older releases leave the "~" where it is.
        found = Path("~")
    if not found.is_absolute():
        raise BadInput("this user has no home folder to keep prepared texts in; name a folder with HPSEARCH_CACHE_DIR")
    return found


def require_writable(path: Path) -> None:
    """Find out before the work starts that `files.writing` cannot write a file at its end. Raises BadInput.

    Devices, pipes and streams are not opened: that alone would do something.
    """
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder; name a file")
        target = Path(os.path.realpath(path))
        if path.exists():
            if path.is_file() and not is_stream(path) and unusable(target.parent):
                path.open("r+b").close()  # Written over, as the folder takes no new file.
            elif not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif not target.parent.is_dir():
            folder = target.parent if path.is_symlink() else path.parent
            raise BadInput(f"{path}: the folder {folder} does not exist; create it first")
        elif why := unusable(target.parent):
            raise BadInput(f"{path} cannot be written ({why}); choose another place")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); choose another place") from None


def require_folder(option: str, folder: Path) -> None:
    """Find out before the work starts that a folder cannot be made or written. Raises BadInput."""
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise BadInput(f"{option} {folder}: {error.strerror}; name another place") from None
    if not nearest.is_dir():
        raise BadInput(f"{option} {folder}: {nearest} is a file; name a folder")
    # A file is made: permissions do not tell, as the superuser has them on a read-only disk too.
    if why := unusable(nearest):
        raise BadInput(f"{option} {folder}: {nearest} cannot be written ({why}); name another place")


def require_own_folder(option: str, folder: Path, names: Collection[str] | None = None) -> None:
    """Find out whether a folder can be written into without harm to a file of anybody else. Raises BadInput naming such a file.

    names: what will be written; nothing of these names may be there unless `claim_folder` noted it. None: whatever comes, as a
    training run writes it; the folder is new, empty, or was claimed so before.
    """
    require_folder(option, folder)
    noted = _noted(folder)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names is None:
        foreign = set() if "*" in noted or _trained_before(folder, there) else there
        remedy = "name a new or an empty folder"
    else:
        foreign = (there & set(names)) - noted
        remedy = "name another folder, or move the file away"
    if foreign:
        raise BadInput(f"{option} {folder}: {min(foreign)} is there already and was not written by this command; {remedy}")


def claim_folder(folder: Path, names: Collection[str] | None = None) -> None:
    """Note in a folder what is written there from now on; it is made where it is not there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = _noted(folder) | ({"*"} if names is None else set(names))
    write_atomically(folder / WROTE, json.dumps(sorted(noted)) + "\n")


def _noted(folder: Path) -> set[str]:
    try:
        noted = json.loads((folder / WROTE).read_text("utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name in noted if isinstance(name, str)} if isinstance(noted, list) else set()


TRAINED = frozenset(
    {"config.yaml", "config.json", "tokenizer.json", "model.safetensors", "log.jsonl", "sample.txt", "checkpoints"}
)


def _trained_before(folder: Path, there: Collection[str]) -> bool:
    """Whether `hpsearch train` of before it left a note has filled a folder: nothing but its files, and no trial's."""
    trial = "config.yaml" in there and "model.safetensors" not in there
    return "log.jsonl" in there and TRAINED.issuperset(there) and not trial
