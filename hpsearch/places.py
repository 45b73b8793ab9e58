"""Where things are: the slots of a study, its database, the cache. For the command line and for Python alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import BadInput

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor

STUDIES_DIR = Path("studies")


@dataclass(frozen=True)
class Placement:
    """Where trials train."""

    devices: tuple[str, ...]
    threads: int
    """Of each slot of a new study."""
    open: Callable[[int, str], Executor]
    """Starts the slots: the threads of each, and the trainer that they load."""


def on_this_machine(slots: str, device: str, *, threads: int | None = None, most: int | None = None) -> Placement:
    """Slots as processes here. threads: of each, where a study has them already; most: slots that there is work for.

    Raises BadInput for a device that is not there, or no number of slots.
    """
    from hpsearch.execution.devices import choose_device, cores
    from hpsearch.execution.local import LocalExecutor

    devices = choose_device(device)
    if slots == "auto" and devices[0] == "cpu" and threads:
        count = max(1, cores() // threads)
    else:
        count = slot_count(slots, devices)
    count = min(count, most or count)
    each = threads or (max(1, cores() // count) if devices[0] == "cpu" else 1)
    return Placement(devices, each, lambda threads, trainer: LocalExecutor(count, threads, trainer=trainer))


def slot_count(word: str, devices: tuple[str, ...]) -> int:
    """Trials at a time of `--slots N|auto`. Raises BadInput."""
    from hpsearch.execution.devices import cores

    if word == "auto":
        return cores() if devices[0] == "cpu" else len(devices)
    if not word.isdecimal() or int(word) < 1:
        raise BadInput(f"--slots {word}: give a whole number from 1, or auto")
    return int(word)


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
    """Where tokenised texts are kept, shared by all studies of a user. `HPSEARCH_CACHE_DIR` names another place."""
    from platformdirs import user_cache_path

    named = os.environ.get("HPSEARCH_CACHE_DIR")
    return Path(named) if named else user_cache_path("hpsearch", appauthor=False)
