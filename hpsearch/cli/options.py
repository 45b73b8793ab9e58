"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli import streams
from hpsearch.cli.terminal import say
from hpsearch.errors import BadInput, HpsearchError
from hpsearch.paths import (
    STUDIES_DIR,
    cache_dir,
    claim_folder,
    read_secret,
    require_folder,
    require_own_folder,
    require_writable,
)
from hpsearch.storage.urls import storage_url

__all__ = [
    "STUDIES_DIR",
    "cache_dir",
    "claim_folder",
    "read_secret",
    "require_folder",
    "require_own_folder",
    "require_writable",
    "storage_url",
]

if TYPE_CHECKING:
    from hpsearch.results.view import StudyView
    from hpsearch.space.space import SearchSpace
    from hpsearch.storage.records import StudyRecord
    from hpsearch.storage.store import Store

MOST_SEEDS = 1000

SpaceOption = Annotated[
    str | None,
    typer.Option("--space", metavar="PATH|NAME", help="A search space: a file, or a bundled one.", show_default=False),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix one hyperparameter; may be repeated.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="PATH|NAME", help="The text, instead of the one that the space names.")
]


def studies_named(context: typer.Context, incomplete: str) -> list[str]:
    """Names of studies for the shell's completion; none where the storage cannot be read."""
    given = context.params
    try:
        with open_store(given.get("storage"), given.get("studies_dir") or STUDIES_DIR) as store:
            return [record.name for record in store.studies() if record.name.startswith(incomplete)]
    except HpsearchError:
        return []


StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        help="The study; needed only where there is more than one.",
        autocompletion=studies_named,
    ),
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
CheckpointsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints-dir",
        metavar="DIR",
        help="Where checkpoints are kept, a folder for each study and trial; by default with the trial.",
        show_default=False,
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
PreferOption = Annotated[
    str | None,
    typer.Option("--prefer", metavar="WHAT", help="first, 'smallest-within 1%' or 'fastest-within 1%'.", show_default=False),
]
TopOption = Annotated[int, typer.Option("--top", metavar="N", help="Confirm so many of the best trials, beside the default.")]
SeedsOption = Annotated[int, typer.Option("--seeds", metavar="N", help="Fresh seeds that each of them is confirmed on.")]
TOP, SEEDS = 3, 5
StepLimitOption = Annotated[
    str,
    typer.Option("--step-limit", metavar="TIME", help="A slot that takes no step for so long is replaced: 10m, or seconds."),
]
STEP_LIMIT = "600"


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


def same_place(storage: str | None, studies_dir: Path) -> str:
    """The options by which another command finds the same studies, to be put after it; empty where the environment does.

    A URL with a password is never shown: a comment of the shell says where it goes.
    """
    from hpsearch.storage.urls import masked

    told = ""
    if studies_dir != Path(os.environ.get("HPSEARCH_STUDIES_DIR") or STUDIES_DIR):
        told += f" --studies-dir {shlex.quote(str(studies_dir))}"
    if storage and storage != os.environ.get("HPSEARCH_STORAGE"):
        shown = masked(storage)
        told += "  # with HPSEARCH_STORAGE set to its URL" if "***" in shown else f" --storage {shlex.quote(shown)}"
    return told


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """One JSON document on standard output, all of it printable ASCII. indent: None for one on one line."""
    streams.document(json.dumps(document, indent=indent, allow_nan=False).replace("\x7f", "\\u007f") + "\n")


def load(word: str, settings: list[str] | None, budget: str | None, data: str | None, *, own: bool = False) -> SearchSpace:
    """The space of `--space` with what `--set`, `--budget` and `--data` change in it. own: for a trainer of one's own."""
    from hpsearch.space.bundled import find_space
    from hpsearch.space.load import load_space, override
    from hpsearch.workload.feasibility import parse_budget

    path, bundled = find_space(word)
    if bundled:
        say(f"space: the bundled '{path.stem}' ({path})")
    return override(
        load_space(path, own=own),
        settings=dict(map(parse_setting, settings or [])),
        budget=parse_budget(budget) if budget is not None else None,
        data={"text": data} if data is not None else None,
    )


def parse_setting(word: str) -> tuple[str, str]:
    """`dropout=0.1` → ("dropout", "0.1"); the space reads the value as it reads its file."""
    name, equals, text = word.partition("=")
    if not equals or not name or not text:
        raise BadInput(f"--set {word}: write it as NAME=VALUE, for instance --set dropout=0.1")
    return name, text


def require_counts(top: int, seeds: int) -> None:
    if top < 1:
        raise BadInput(f"--top {top}: give a number of trials from 1")
    if not 1 <= seeds <= MOST_SEEDS:
        raise BadInput(f"--seeds {seeds}: give a number of seeds from 1 to {MOST_SEEDS:,}, and 2 or more for an interval")


def load_view(storage: str | None, studies_dir: Path, study: str | None, *, curves: bool = True) -> StudyView:
    from hpsearch.results.view import StudyView

    store, record = open_for_reading(storage, studies_dir, study)
    return StudyView.load(store, record, curves=curves)
