"""`hpsearch dashboard`: optuna-dashboard on this storage."""

from __future__ import annotations

import sys
import warnings
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
    storage_url,
)


@app.command()
def dashboard(
    study: StudyOption = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option("--host", help="Loopback only; other machines are not let in.")] = "127.0.0.1",
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Browse the study in optuna-dashboard until Ctrl-C."""
    from hpsearch.errors import BadInput
    from hpsearch.service.dashboard import open_server

    warnings.simplefilter("ignore")  # Of Optuna's importances, at each poll; the page says the same.
    page = ""
    if study is not None or len(open_store(storage, studies_dir).studies()) == 1:
        _, record = open_for_reading(storage, studies_dir, study)
        page = record.name
    try:
        server, address = open_server(storage_url(storage, studies_dir), host, port, page)
    except OSError as error:
        raise BadInput(f"--port {port}: cannot be opened on {host} ({error.strerror}); --port 0 takes a free one") from None
    print(f"optuna-dashboard: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    with server:
        server.serve_forever()
