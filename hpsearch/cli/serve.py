"""`hpsearch dashboard`: optuna-dashboard on this storage."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli import app
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
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Browse the study in optuna-dashboard until Ctrl-C."""
    from hpsearch.service.dashboard import open_server

    warnings.simplefilter("ignore")  # Of Optuna's importances, at each poll; the page says the same.
    page = ""
    if study is not None or len(open_store(storage, studies_dir).studies()) == 1:
        _, record = open_for_reading(storage, studies_dir, study)
        page = record.name
    try:
        server, address = open_server(
            storage_url(storage, studies_dir), host, port, page, token=read_token(token_file), hosts=allow_host or ()
        )
    except OSError as error:
        raise BadInput(f"--port {port}: cannot be opened on {host} ({error.strerror}); --port 0 takes a free one") from None
    print(f"optuna-dashboard: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with server:
        server.serve_forever()


def read_token(path: Path | None) -> str:
    """The token in a file, or in HPSEARCH_TOKEN; empty where there is neither. Raises BadInput."""
    if path is None:
        return os.environ.get("HPSEARCH_TOKEN", "").strip()
    token = read_secret("--token-file", path)
    if not token:
        raise BadInput(f"--token-file {path}: the file is empty; put a long random word in it")
    return token
