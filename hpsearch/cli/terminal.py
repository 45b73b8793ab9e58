"""What several verbs share of the terminal: messages, tables, the live view, exit codes after signals."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from hpsearch.cli import streams
from hpsearch.errors import INTERRUPTED
from hpsearch.text import columns, printable, shortened

if TYPE_CHECKING:
    from hpsearch.console import LiveView, PlainLines


def view(slots: int) -> LiveView | PlainLines:
    from rich.console import Console

    from hpsearch.console import LiveView, PlainLines

    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveView(slots, Console(file=streams.terminal()))
    return PlainLines(slots)


def leave(_number: int, _: FrameType | None) -> None:
    """End this process as at the end of its work: leases given back, slots ended."""
    sys.exit(0)


def leave_at_once(number: int) -> None:
    """End this process now: a second signal came."""
    if sys.stderr.isatty():
        with contextlib.suppress(OSError):  # The terminal is gone.
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # The live view has hidden the cursor.
    os._exit(exit_code(number))


def exit_code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else 0


def load_importance() -> None:
    """Load `optuna.importance`, as the report and the notes do, but without scikit-learn, which takes a second or two: an
    evaluator needs it that this command does not use, and Optuna does without where it is not installed."""
    _load("optuna.importance", without="sklearn")


def load_forest() -> None:
    """Load what grows the forests of a report, but without pandas, of which it needs nothing: a second and fifty megabytes."""
    _load("sklearn.ensemble", without="pandas")


def _load(module: str, *, without: str) -> None:
    """Import `module` as where the package `without` is not installed; where that is loaded already, it is there."""
    if without in sys.modules:
        return
    sys.modules[without] = None  # type: ignore[assignment]  # To an import, that is a package that is not there.
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[without]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell; the last one is cut at the width of the terminal."""
    table = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(columns(row[index]) for row in table) for index in range(len(header))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in table:
        line = "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if limit is None else shortened(line, limit))
