"""Waiting for something to be so, with a deadline."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], *running: subprocess.Popen[str], seconds: float = 180) -> None:
    """Return once `condition` holds. Fails when it never does, or when one of `running` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process in running:
            if process.poll() is not None:
                raise AssertionError((process.returncode, *process.communicate()))
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen in {seconds:.0f} s")
        time.sleep(0.05)
