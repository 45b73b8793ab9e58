"""The entry point: run one verb, and turn errors into exit codes and one line on the terminal."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
import warnings

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from hpsearch.cli import streams
from hpsearch.cli.app import app
from hpsearch.cli.secrets import take_words
from hpsearch.errors import INTERRUPTED, BadInput, HpsearchError, StoppedForNow
from hpsearch.files import trouble


def main() -> None:
    """Run one verb; the exit codes are those of `hpsearch.errors`. However it ends, no database is left open."""
    streams.prepare()
    try:
        _run()
    finally:
        if engine := sys.modules.get("hpsearch.storage.engine"):  # Slow to import, and not every verb needs one.
            engine.close_all()


def _run() -> None:
    # Optuna calls what it has had for years experimental; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*experimental")
    try:
        words = take_words()
        from hpsearch.cli import run, inspect, control, export, report, train, confirm, forecast, dashboard, spaces, database  # noqa: F401, I001 - each declares its verbs, in this order

        code = app(words, prog_name="hpsearch", standalone_mode=False)
        sys.stdout.flush()  # Here, so that a reader who has gone is met below and not while Python closes.
    except typer.Abort:
        code = INTERRUPTED
    except TyperException as error:
        code = 2
        _complain(_usage(error))
    except HpsearchError as error:
        code = error.exit_code
        for line in error.lines:
            _complain(line)
    except streams.ReaderGone:
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _complain(f"{str(error.filename)[:60]}…: this name is too long for a file; give a shorter one")
            sys.exit(BadInput.exit_code)
        if isinstance(error, FileNotFoundError) and not _temporary_folder():
            _complain("no folder for temporary files can be written; set TMPDIR to one that can")
            sys.exit(BadInput.exit_code)
        if isinstance(error, OSError) and (told := trouble(error)):  # A disk that is full, gone or read-only.
            _complain(told)
            sys.exit(StoppedForNow.exit_code)
        code = 1
        _complain(f"unexpected error, a bug: {type(error).__name__}: {_first_line(error)}; {_write_traceback()}")
    # Under `python -m`, Python ends itself by SIGINT, caught or not, if that came while a string was executed, as where a
    # dataclass is made in an import; the next string that is executed resets this.
    exec("")
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    print(f"hpsearch: {' '.join(message.split())}", file=sys.stderr)


def _usage(error: TyperException) -> str:
    """What is wrong with the words of a command; of a value, the value too."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if isinstance(error.__cause__, ValidationError):
        message = message.replace("Input", repr(error.__cause__.errors()[0]["input"]), 1)
    return f"{message}; see `hpsearch --help`"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _write_traceback() -> str:
    """Where the traceback is, in words."""
    try:
        handle, name = tempfile.mkstemp(prefix="hpsearch-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(traceback.format_exc())
    except OSError:
        return "no folder for temporary files can be written; with TMPDIR set to one that can, the traceback goes there"
    return f"the traceback is in {name}"


def _temporary_folder() -> bool:
    """Whether there is a folder for temporary files."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True
