"""Where trials train: devices, slots, and the threads of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpsearch.errors import BadInput
from hpsearch.paths import MOST_THREADS

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor

MOST_SLOTS = 1024


@dataclass(frozen=True)
class Placement:
    """Where trials train."""

    devices: tuple[str, ...]
    threads: int
    """Of each slot of a new study."""
    open: Callable[[int, str], Executor]
    """Starts the slots: the threads of each, and the trainer that they load."""
    memory_bytes: int | None = None
    """What a trial can have at the very most; None where only its slot knows (a GPU, a node of a cluster)."""


def on_this_machine(slots: str, device: str, *, threads: int | None = None, most: int | None = None) -> Placement:
    """Slots as processes here. threads: of each, where a study has them already; most: slots that there is work for.

    Raises BadInput for a device that is not there, or no number of slots.
    """
    from hpsearch.execution.devices import choose_device, cores
    from hpsearch.execution.local_executor import LocalExecutor
    from hpsearch.training.memory import machine_memory

    devices = choose_device(device)
    if slots == "auto" and devices[0] == "cpu" and threads:
        count = max(1, cores() // threads)
    else:
        count = slot_count(slots, devices)
    count = min(count, most or count)
    return Placement(
        devices,
        threads or slot_threads(count, devices),
        lambda threads, trainer: LocalExecutor(count, threads, trainer=trainer),
        memory_bytes=machine_memory() if devices[0] == "cpu" else None,
    )


def slot_count(word: str, devices: tuple[str, ...]) -> int:
    """Trials at a time of `--slots N|auto`. Raises BadInput."""
    from hpsearch.execution.devices import cores

    if word == "auto":
        return cores() if devices[0] == "cpu" else len(devices)
    # The length first: Python refuses to read a number of thousands of digits.
    if not word.isdecimal() or len(word) > 9 or not 1 <= int(word) <= MOST_SLOTS:
        raise BadInput(f"--slots {word}: give a whole number from 1 to {MOST_SLOTS}, or auto")
    return int(word)


def slot_threads(slots: int, devices: tuple[str, ...]) -> int:
    """Threads of each of a new study's slots: its share of the cores, or what OMP_NUM_THREADS says, if less."""
    from hpsearch.execution.devices import cores

    if devices[0] != "cpu":
        return 1
    share, asked = min(MOST_THREADS, max(1, cores() // slots)), os.environ.get("OMP_NUM_THREADS", "")
    # The length first: Python refuses to read a number of thousands of digits.
    return min(share, int(asked)) if asked.isdecimal() and len(asked) < 10 and int(asked) else share
