"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.errors import BadInput

if TYPE_CHECKING:
    from hpsearch.storage.records import StudyRecord
    from hpsearch.storage.store import Store

StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="The study; needed only where there is more than one.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="HPSEARCH_STORAGE",
        show_envvar=True,
        help="SQL database; by default SQLite in the studies folder.",
    ),
]
StudiesDirOption = Annotated[
    Path,
    typer.Option(
        "--studies-dir",
        metavar="DIR",
        envvar="HPSEARCH_STUDIES_DIR",
        show_envvar=True,
        help="Where studies keep their files.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:i]", help="auto: every GPU that torch can use, else the CPU.")
]
STUDIES_DIR = Path("studies")


def storage_url(storage: str | None, studies_dir: Path) -> str:
    """The database to use: the given one, or the SQLite file in the studies folder."""
    from hpsearch.storage.engine import sqlite_url

    return storage or sqlite_url(studies_dir / "hpsearch.db")


def cache_dir() -> Path:
    """Where tokenised texts are kept, shared by all studies of a user. `HPSEARCH_CACHE_DIR` names another place."""
    from platformdirs import user_cache_path

    named = os.environ.get("HPSEARCH_CACHE_DIR")
    return Path(named) if named else user_cache_path("hpsearch", appauthor=False)


def open_store(storage: str | None, studies_dir: Path) -> Store:
    """The store to read. Raises BadInput where there is none yet."""
    from hpsearch.storage.store import Store

    if storage is None and not (studies_dir / "hpsearch.db").exists():
        raise BadInput(f"no study yet in {studies_dir}/; start one with `hpsearch run --space lm`")
    return Store.open(storage_url(storage, studies_dir), create=False)


def open_for_reading(storage: str | None, studies_dir: Path, name: str | None) -> tuple[Store, StudyRecord]:
    """The store and the study to read: the named one, or the only one. Raises BadInput with the names there are."""
    store = open_store(storage, studies_dir)
    if name is not None:
        return store, store.study(name)
    studies = store.studies()
    if not studies:
        raise BadInput(f"no study yet in {store.url}; start one with `hpsearch run --space lm`")
    if len(studies) > 1:
        names = ", ".join(study.name for study in studies[-8:])
        raise BadInput(f"there are {len(studies)} studies here: name one with --study ({names})")
    return store, studies[0]


def print_json(document: Any) -> None:
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def require_writable(path: Path) -> None:
    """Find out before the work starts that a file cannot be written at its end. Raises BadInput."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise BadInput(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"{path} cannot be written: no permission for it; choose another place")


def require_folder(option: str, folder: Path) -> None:
    """Find out before the work starts that a folder cannot be made or written. Raises BadInput."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise BadInput(f"{option} {folder}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK):
        raise BadInput(f"{option} {folder}: no permission to write in {nearest}; choose another place")
