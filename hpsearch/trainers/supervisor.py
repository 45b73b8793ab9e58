"""A small process between a slot and a program that it runs, so that nothing of the program outlives the slot.

    python leash.py CONTROL WORD ...

CONTROL is the number of a socket. A `T` there sends SIGTERM to the program's process group; `K`, or its end, because the slot
is gone however that happened, kills the group and every process that came from it. The last word there is how the program
ended, as `Popen.returncode` has it (a signal below 0: an exit code of 137 is one that the program chose), or `errno N` where it
could not be started. Run as a script, with the standard library only: it must start in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(control: int, words: list[str]) -> int:
    """Run `words`. Returns 0; 127 where the program cannot be started."""
    adopt_orphans()  # Whatever the program leaves behind becomes a child of this process.
    prctl = _prctl()

    def die_with_parent() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):  # A slot ignores them, and a program would inherit that.
        signal.signal(number, signal.SIG_DFL)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        program = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=die_with_parent)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        _say(control, f"errno {error.errno}")
        return 127
    while program.poll() is None:
        ready, _, _ = select.select([control, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
        if control in ready:
            asked = os.read(control, 1)
            _signal(program.pid, signal.SIGTERM if asked == b"T" else signal.SIGKILL)
            if not asked:
                break
    _signal(program.pid, signal.SIGKILL)
    code = program.wait()  # Only now has what it left behind become a child of this process.
    kill_children()
    _say(control, str(code))
    return 0


def adopt_orphans() -> None:
    """Have processes that come from this one become its children when their parents end, also those with a session of their
    own. Linux only; elsewhere nothing."""
    prctl = _prctl()
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """Process ids of the children of this process. Linux only; elsewhere none."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # A thread may end meanwhile.
            found |= {int(word) for word in listed.read_text().split()}
    return found


def kill_children(but: frozenset[int] = frozenset()) -> None:
    """Kill all children but those, and what becomes a child when its parent dies."""
    while left := children() - but:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _prctl() -> Any:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _say(control: int, word: str) -> None:
    with contextlib.suppress(OSError):  # Nobody listens.
        os.write(control, word.encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
