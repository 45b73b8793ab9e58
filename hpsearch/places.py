"""Where things are: the slots of a study, its database, the cache. For the command line and for Python alike."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import BadInput

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor

STUDIES_DIR = Path("studies")
MOST_TRIALS = 1_000_000
"""Of one study. Each is a row that every start reads; and a number's column on a server ends at 2^31."""
MOST_SLOTS = 1024


@dataclass(frozen=True)
class Placement:
    """Where trials train."""

    devices: tuple[str, ...]
    threads: int
    """Of each slot of a new study."""
    open: Callable[[int, str], Executor]
    """Starts the slots: the threads of each, and the trainer that they load."""
    memory_bytes: int | None = None
    """What a trial can have at the very most; None where only its slot knows (a GPU, a node of a cluster)."""


def on_this_machine(slots: str, device: str, *, threads: int | None = None, most: int | None = None) -> Placement:
    """Slots as processes here. threads: of each, where a study has them already; most: slots that there is work for.

    Raises BadInput for a device that is not there, or no number of slots.
    """
    from hpsearch.execution.devices import choose_device, cores
    from hpsearch.execution.local import LocalExecutor
    from hpsearch.training.memory import machine_memory

    devices = choose_device(device)
    if slots == "auto" and devices[0] == "cpu" and threads:
        count = max(1, cores() // threads)
    else:
        count = slot_count(slots, devices)
    count = min(count, most or count)
    return Placement(
        devices,
        threads or slot_threads(count, devices),
        lambda threads, trainer: LocalExecutor(count, threads, trainer=trainer),
        memory_bytes=machine_memory() if devices[0] == "cpu" else None,
    )


def require_trials(told: str, trials: int) -> None:
    """Raises BadInput for a total of trials that no study has. told: how it was given."""
    if not 1 <= trials <= MOST_TRIALS:
        raise BadInput(f"{told}: a study has at least 1 trial, and at most {MOST_TRIALS:,}")


def slot_count(word: str, devices: tuple[str, ...]) -> int:
    """Trials at a time of `--slots N|auto`. Raises BadInput."""
    from hpsearch.execution.devices import cores

    if word == "auto":
        return cores() if devices[0] == "cpu" else len(devices)
    # The length first: Python refuses to read a number of thousands of digits.
    if not word.isdecimal() or len(word) > 9 or not 1 <= int(word) <= MOST_SLOTS:
        raise BadInput(f"--slots {word}: give a whole number from 1 to {MOST_SLOTS}, or auto")
    return int(word)


def slot_threads(slots: int, devices: tuple[str, ...]) -> int:
    """Threads of each of a new study's slots: its share of the cores, or what OMP_NUM_THREADS says, if less."""
    from hpsearch.execution.devices import cores

    if devices[0] != "cpu":
        return 1
    share, asked = max(1, cores() // slots), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


def storage_url(storage: str | None, studies_dir: Path) -> str:
    """The database to use: the given one, or the SQLite file in the studies folder.

    HPSEARCH_STORAGE_PASSWORD_FILE names a file with the password of a URL that has none.
    """
    from hpsearch.storage.engine import parse_url, sqlite_url

    file = os.environ.get("HPSEARCH_STORAGE_PASSWORD_FILE")
    if not storage or not file:
        return storage or sqlite_url(studies_dir / "hpsearch.db")
    url = parse_url(storage)
    if url.password is None and url.get_backend_name() != "sqlite":
        url = url.set(password=read_secret("HPSEARCH_STORAGE_PASSWORD_FILE", Path(file)))
    return url.render_as_string(hide_password=False)


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
    """Find out before the work starts that a file cannot be written at its end. Raises BadInput."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise BadInput(f"{path}: the folder {path.parent} does not exist; create it first")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            _try_folder(path.parent)
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); choose another place") from None


def require_folder(option: str, folder: Path) -> None:
    """Find out before the work starts that a folder cannot be made or written. Raises BadInput."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise BadInput(f"{option} {folder}: {nearest} is a file; name a folder")
    try:
        _try_folder(nearest)
    except OSError as error:
        raise BadInput(f"{option} {folder}: {nearest} cannot be written ({error.strerror}); name another place") from None


def _try_folder(folder: Path) -> None:
    """Make a file without a name. Permissions do not tell: the superuser has them on a read-only disk too."""
    tempfile.TemporaryFile(dir=folder).close()
