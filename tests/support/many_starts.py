"""Many starts of one study at once."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from waiting import wait_for


def the_one_that_runs(started: Sequence[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Of many starts of the study `slow` the one that works on it, once all others were refused, in one line each."""
    wait_for(lambda: sum(process.poll() is not None for process in started) == len(started) - 1, seconds=150)
    (winner,) = [process for process in started if process.poll() is None]
    for process in started:
        if process is not winner:
            out, told = process.communicate()
            assert process.returncode == 3, told
            assert out == ""
            (line,) = told.strip().splitlines()
            assert line.startswith(f"hpsearch: study 'slow' is owned by process {winner.pid} on host ")
    return winner
