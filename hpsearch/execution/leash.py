"""A small process between a slot and a program that it runs, so that nothing of the program outlives the slot.

    python leash.py CONTROL WORD ...

CONTROL is the number of a file descriptor. A `T` there sends SIGTERM to the program's process group; `K`, or its end, because
the slot is gone however that happened, kills the group and every process that came from it. Run as a script, with the
standard library only: it must start in milliseconds.
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

SIGNALLED = 128
"""The exit code of a program that a signal ended is this and the signal's number, as in a shell."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(control: int, words: list[str]) -> int:
    """Run `words`. Returns the exit code of the program, 127 where it cannot be started."""
    linux = sys.platform == "linux"
    prctl = ctypes.CDLL(None).prctl if linux else None
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # Whatever the program leaves behind becomes a child of this process.

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
    _kill_children()
    return SIGNALLED - code if code < 0 else code


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill_children() -> None:
    """Kill all children, and those that become some when their parents die."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while children.exists() and (left := [int(word) for word in children.read_text().split()]):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
