"""Which device trials run on, found out without importing torch into the coordinator."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys

from hpsearch import cgroups
from hpsearch.errors import BadInput, did_you_mean


def cores() -> int:
    """Cores that this process may use: by its affinity, and by a container's or a job's limit."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroups.cores()
    return allowed if limit is None else max(1, min(allowed, math.floor(limit)))


def gpus() -> int:
    """GPUs that torch can use."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0  # No driver: spare the seconds that importing torch takes.
    probe = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0) if done.returncode == 0 else 0


def choose_device(word: str) -> tuple[str, ...]:
    """The devices of `--device auto|cpu|cuda|cuda:i`, one for each slot in turn.

    Raises BadInput for another word, and for a GPU that is not there.
    """
    if word == "cpu":
        return ("cpu",)
    kind, _, index = word.partition(":")
    if word != "auto" and (kind != "cuda" or (index and not index.isdecimal())):
        raise BadInput(f"--device {word}: use auto, cpu, cuda or cuda:0{did_you_mean(word, ['auto', 'cpu', 'cuda'])}")
    count = gpus()
    if word == "auto" and not count:
        return ("cpu",)
    if not count or (index and int(index) >= count):
        raise BadInput(f"--device {word}: torch finds {count or 'no'} GPU{'s' if count > 1 else ''} here; use --device cpu")
    return (f"cuda:{index}",) if index else tuple(f"cuda:{number}" for number in range(count))
