"""`hpsearch dashboard`: optuna-dashboard on this storage."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    STUDIES_DIR,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    open_for_reading,
    open_store,
    read_secret,
    storage_url,
)
from hpsearch.errors import BadInput

if TYPE_CHECKING:
    from hpsearch.storage.records import StudyRecord
    from hpsearch.storage.store import Store

WATCH_S = 10.0
"""Seconds between two looks at a running study."""
SHARE = 0.05
"""Most of the time that the looks may take."""


@app.command()
def dashboard(
    study: StudyOption = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option("--host", help="Beyond loopback a token is needed.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="PATH", help="What every request must know, in a file; or HPSEARCH_TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name by which it is reached beyond loopback; may be repeated."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Bring notes and figures up to date while a study runs, not only at the start.")
    ] = False,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Browse the study in optuna-dashboard until Ctrl-C."""
    from hpsearch.service.dashboard import open_server
    from hpsearch.service.notes import artifact_files

    warnings.simplefilter("ignore")  # Of Optuna's importances, at each poll; the page says the same.
    record = None
    if study is not None or len(open_store(storage, studies_dir).studies()) == 1:
        _, record = open_for_reading(storage, studies_dir, study)
    try:
        server, address = open_server(
            storage_url(storage, studies_dir),
            host,
            port,
            record,
            token=read_token(token_file),
            hosts=allow_host or (),
            files=artifact_files(studies_dir, create=False) if studies_dir.is_dir() else None,
        )
    except OSError as error:
        raise BadInput(f"--port {port}: cannot be opened on {host} ({error.strerror}); --port 0 takes a free one") from None
    if studies_dir.is_dir():
        with contextlib.suppress(OSError):  # What can only be read is shown without files.
            artifact_files(studies_dir)  # Not before: a server that is refused leaves nothing behind.
    print(f"optuna-dashboard: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Beside the server, which answers meanwhile.
    showing = threading.Thread(
        target=show,
        args=(storage, studies_dir, record.name if record else "", threading.Event() if watch else None),
        daemon=True,
    )
    showing.start()
    with server:
        server.serve_forever()


def show(storage: str | None, studies_dir: Path, name: str, until: threading.Event | None) -> None:
    """Write what the dashboard shows of ours, of all studies or of `name`: once, or again and again `until` something."""
    complained = False
    done: set[tuple[int, str]] = set()
    while True:
        began = time.monotonic()
        try:
            with open_store(storage, studies_dir) as store:
                for record in store.studies():
                    state = (record.id, record.finished_reason)
                    if (name and record.name != name) or state in done:
                        continue
                    show_one(store, record, storage_url(storage, studies_dir), studies_dir)
                    if store.owner(record.id) is None:
                        done.add(state)
            complained = False
        except Exception as error:
            if not complained:  # The dashboard goes on without; it tries again.
                print(f"hpsearch: notes and figures are not up to date: {error}", file=sys.stderr, flush=True)
            complained = True
        spent = time.monotonic() - began
        if until is None or until.wait(max(WATCH_S, spent / SHARE)):
            return


def show_one(store: Store, record: StudyRecord, url: str, studies_dir: Path) -> None:
    from hpsearch.cli.inspect import at_edge
    from hpsearch.results.view import StudyView, axes
    from hpsearch.service.notes import show_study
    from hpsearch.space.load import parse_space
    from hpsearch.storage.optuna_storage import load_optuna

    view = StudyView.load(store, record)
    space = parse_space(record.space_text, f"study {record.name}")
    show_study(view, load_optuna(url, record), axes(space), studies_dir, edges=at_edge(view))


def read_token(path: Path | None) -> str:
    """The token in a file, or in HPSEARCH_TOKEN; empty where there is neither. Raises BadInput."""
    if path is None:
        return os.environ.get("HPSEARCH_TOKEN", "").strip()
    token = read_secret("--token-file", path)
    if not token:
        raise BadInput(f"--token-file {path}: the file is empty; put a long random word in it")
    return token
