"""How long it takes until another slot has taken the place of a dead one: forked, beside spawned.

    python benchmarks/slot_starts.py --repeats 5

An idle slot of the built-in trainer is killed; the time ends when the process after it has loaded its trainer. Forked and
spawned in turns, in one process.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from contextlib import closing

from hpsearch.execution import local_executor as local


def replaced_s(forked: bool) -> float:
    """Seconds from a slot's death to its successor."""
    local.FORKED = forked
    with closing(local.LocalExecutor(1, 1)) as executor:
        slots = executor._slots
        while not slots["slot-0"].ready:
            executor.messages(0.02)
        dead = slots["slot-0"].info.pid
        os.kill(dead, signal.SIGKILL)
        began = time.monotonic()
        while slots["slot-0"].info.pid == dead or not slots["slot-0"].ready:
            executor.messages(0.02)
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    pairs = [(replaced_s(True), replaced_s(False)) for _ in range(parser.parse_args().repeats)]
    for name, times in zip(("forked", "spawned"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: median {statistics.median(times):.3f} s of {', '.join(f'{each:.3f}' for each in times)}")
    print(f"spawned / forked: {statistics.median(spawned / forked for forked, spawned in pairs):.1f}")


if __name__ == "__main__":
    main()
