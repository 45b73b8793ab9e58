"""The words of the command, out of the sight of others on the machine where one is a URL with a password."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path

_URL = re.compile(r"(--[a-z-]+=)?([\w+]+://.+)", re.DOTALL)


def take_words() -> list[str]:
    """The words after the command's name. From now on `sys.argv`, which goes to slots and trackers, has no password in it.

    Nor has, on Linux, the list of processes, where everyone could read it for as long as the study runs.
    """
    words = sys.argv[1:]
    hidden = {word: shown for word in words if (shown := _shown(word)) != word}
    if hidden:
        sys.argv[1:] = [hidden.get(word, word) for word in words]
        with contextlib.suppress(OSError):  # Where there is no /proc, nobody reads it there.
            _overwrite({os.fsencode(word): os.fsencode(shown) for word, shown in hidden.items()})
    return words


def _shown(word: str) -> str:
    found = _URL.fullmatch(word)
    if found is None:
        return word
    from hpsearch.storage.urls import masked  # Slow to import, and few commands have a URL.

    shown = masked(found[2])
    return (found[1] or "") + shown if "***" in shown else word


def _overwrite(hidden: dict[bytes, bytes]) -> None:
    """Write over words of this process's command line where the system reads it: in the process's own memory."""
    stat = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    start, end = int(stat[45]), int(stat[46])  # arg_start and arg_end, fields 48 and 49 in proc(5)
    if not start < end:
        return
    words = ctypes.string_at(start, end - start).split(b"\0")
    # Each as long as it was, so that the others stay where they are.
    shown = [hidden.get(word, word)[: len(word)].ljust(len(word)) for word in words]
    ctypes.memmove(start, b"\0".join(shown), end - start)
