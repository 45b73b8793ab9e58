"""Tells a hung run from a slow one, inside its process and from outside.

Inside, a timer of the interpreter (`faulthandler`) is wound up at each step. If it runs out, it writes the stacks of all
threads and ends the process, from a thread that needs no lock of Python's: also where the interpreter itself no longer turns. A
process that is stopped, or stuck in the system, cannot do that: its executor, which is told of life now and then, kills it.
"""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

STACKS = "stacks.txt"
PREPARING = 10
"""A run may take so many limits to its first step: it may be the first one to read and tokenize a long text."""
GRACE_S = 10.0
"""What a process has to end by its own timer before its executor kills it."""
LEAST_REST_S = 1.0
"""Winding up costs some 0.1 ms, which is much beside a step of a tiny model: not more often than this."""


class Watchdog:
    """The timer of one run, which is given `limit_s` for each step; None: no limit. Its stacks are added to `stacks.txt`."""

    def __init__(self, folder: Path, limit_s: float | None) -> None:
        self._path, self._limit_s = folder / STACKS, limit_s
        self._file: TextIO | None = None
        self._rest_s = 0.0 if limit_s is None else min(LEAST_REST_S, limit_s / 10)
        self._wound_at = 0.0

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
            faulthandler.dump_traceback_later(PREPARING * self._limit_s, exit=True, file=self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            forget_empty(self._path)

    def wind(self) -> bool:
        """The run did something. True when that is worth telling the executor: not too often."""
        now = time.monotonic()
        if self._file is None or now - self._wound_at < self._rest_s:
            return False
        self._wound_at = now
        assert self._limit_s is not None
        # A step that comes too soon after another one winds nothing up: that much more.
        faulthandler.dump_traceback_later(self._limit_s + self._rest_s, exit=True, file=self._file)
        return True

    def stop(self) -> None:
        """Until the next `wind`: the run waits for someone else."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._wound_at = 0.0


class Patience:
    """What an executor knows of one run's life: when to kill its process, and what to say of one that ended by its timer."""

    def __init__(self, folder: Path, limit_s: float | None) -> None:
        self._folder, self._limit_s = folder, limit_s
        self._stacks_before = self._stacks()
        self._until = self._after(PREPARING)

    def seen(self) -> None:
        """It said something, or was given something to go on with."""
        self._until = self._after(1)

    @property
    def over(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def verdict(self) -> str:
        """Why a process that ended did so, if it hung; else an empty string."""
        if self._stacks() > self._stacks_before:
            where = Path(*self._folder.parts[-2:]) / STACKS
            return f"no step for {self._limit_s:g} s; its stacks are in {where}"
        forget_empty(self._folder / STACKS)
        return f"no step for {self._limit_s:g} s, and it could not write its stacks: stopped from outside?" if self.over else ""

    def _after(self, limits: float) -> float | None:
        return None if self._limit_s is None else time.monotonic() + limits * self._limit_s + GRACE_S

    def _stacks(self) -> int:
        try:
            return (self._folder / STACKS).stat().st_size
        except OSError:
            return 0


def forget_empty(path: Path) -> None:
    """Remove the file of stacks that were never written."""
    try:
        if path.stat().st_size == 0:
            path.unlink()
    except OSError:
        return
