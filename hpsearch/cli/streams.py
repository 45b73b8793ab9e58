"""The standard streams of a command, whatever it was started with: closed, full, abandoned, or of another encoding.

Standard error has progress and complaints: what cannot be written there is dropped, and the work goes on. Standard output has
what was asked for: a reader who has gone ends the command quietly, anything else that keeps it from being written is an error.
Lines on both are made safe for a terminal; `document` writes what is to be read by a program as it is.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

from hpsearch.errors import BadInput, StoppedForNow
from hpsearch.text import BLANKS, printable

OUTPUT = "standard output"


class ReaderGone(Exception):
    """Who reads standard output (`| head`) has seen enough. No BrokenPipeError: typer would make an exit code of that."""


class _Output(io.FileIO):
    """Standard output. Raises what ends the command when it cannot be written."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            _abandon(self)
            raise ReaderGone from None
        except OSError as error:
            _abandon(self)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoppedForNow(f"{OUTPUT}: {error.strerror}; make room, then run the same command again") from None
            raise BadInput(f"{OUTPUT}: cannot be written ({error.strerror}); send it elsewhere") from None


class _Progress(io.FileIO):
    """Standard error. What cannot be written is dropped."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


class _Lines(io.TextIOWrapper):
    """Text for people: nothing in it steers a terminal."""

    def write(self, text: str) -> int:
        # What is no text raises TypeError there: by that click tells what kind of stream this is.
        return super().write(printable(text, keep=BLANKS) if type(text) is str else text)


def prepare() -> None:
    """Open what is closed on the null device, so that no file of ours gets the number of a standard stream, and put our own
    streams in place of Python's. No character is an error in any encoding: what one lacks is written as an escape."""
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # The lowest number that is free: this one.
            os.set_inheritable(opened, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process.
    sys.stdout = _lines(_Output(1, "w", closefd=False), sys.stdout, line_buffering=os.isatty(1))
    sys.stderr = _lines(_Progress(2, "w", closefd=False), sys.stderr, line_buffering=True)


def document(text: str) -> None:
    """Write what a program is to read to standard output: byte for byte as in a file, UTF-8 in any locale; to a terminal as
    any other text."""
    if sys.stdout.isatty():
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
    sys.stdout.flush()


def terminal() -> TextIO:
    """Standard error for a view that steers the terminal itself, and makes its texts safe itself."""
    raw = io.BufferedWriter(_Progress(2, "w", closefd=False))
    return io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def _lines(raw: io.FileIO, before: TextIO | None, *, line_buffering: bool) -> _Lines:
    encoding = before.encoding if before is not None else "utf-8"
    return _Lines(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=line_buffering)


def _abandon(stream: io.FileIO) -> None:
    """Let what is still in a buffer go nowhere, so that Python does not complain again while it closes."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
