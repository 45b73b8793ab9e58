"""Verbs that look after the storage: delete, db upgrade, db check."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import STUDIES_DIR, StorageOption, StudiesDirOption, open_store, storage_url
from hpsearch.errors import BadInput


@app.command()
def delete(
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="The study to delete.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    shared: Annotated[
        str | None,
        typer.Option("--shared", metavar="URL", help="Delete the copies too that a run with this option left there."),
    ] = None,
) -> None:
    """Delete a study with all its files, after a question."""
    from optuna import load_study

    from hpsearch.execution.mirror import Mirror
    from hpsearch.service.notes import forget_files
    from hpsearch.storage.leases import this_process
    from hpsearch.storage.optuna_storage import optuna_storage
    from hpsearch.tuning.lease import LEASE_S
    from hpsearch.tuning.study import remove_study

    store = open_store(storage, studies_dir)
    record = store.study(study)
    folder = studies_dir / record.folder
    if not yes:
        if not sys.stdin.isatty():
            raise BadInput(f"delete '{record.name}'? Nobody is here to answer: add --yes")
        if not typer.confirm(f"delete study '{record.name}' with its {len(store.trials(record.id))} trials and {folder}?"):
            print("nothing was deleted", file=sys.stderr)
            return
    mirror = Mirror(shared) if shared else None
    store.acquire(record.id, this_process(), LEASE_S)  # Refused while a coordinator works on it.
    if mirror:
        mirror.remove(record.folder)  # First: it may be out of reach, and then the study still has its name.
    theirs = optuna_storage(storage_url(storage, studies_dir))
    name = theirs.name_of(record)
    if name is not None:  # Optuna's dashboard may have deleted its part already.
        with contextlib.suppress(KeyError):
            forget_files(load_study(study_name=name, storage=theirs), studies_dir)
            theirs.delete_study(theirs.get_study_id_from_name(name))
    store.delete_study(record.id)
    left = "" if remove_study(folder) else f"; {folder} could not be removed whole: remove it by hand"
    print(f"study '{record.name}' is deleted{left}", file=sys.stderr)


db_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.add_typer(db_app, name="db")


@db_app.callback()
def about(context: typer.Context) -> None:
    """Look after the tables of a storage."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@db_app.command()
def upgrade(
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    create: Annotated[bool, typer.Option("--create", help="Make the tables in a database that has none.")] = False,
) -> None:
    """Bring the tables of an older hpsearch to this one's form."""
    from hpsearch.storage.engine import make_engine
    from hpsearch.storage.schema import create as create_tables
    from hpsearch.storage.schema import upgrade as upgrade_tables
    from hpsearch.storage.transactions import Database
    from hpsearch.storage.urls import masked

    url = storage_url(storage, studies_dir)
    if create:
        database = Database(make_engine(url))
        create_tables(database)
        database.engine.dispose()
    before, now = upgrade_tables(url)
    changed = f"upgraded from revision {before} to {now}" if before != now else f"at revision {now} already"
    print(f"{masked(url)}: {changed}")


@db_app.command("check")
def check_tables(storage: StorageOption = None, studies_dir: StudiesDirOption = STUDIES_DIR) -> None:
    """Check that this hpsearch can use the storage."""
    store = open_store(storage, studies_dir)
    print(f"{store.url}: sound, studies: {len(store.studies())}")
