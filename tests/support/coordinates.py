"""A coordinator of two slots, for tests that kill or freeze it.

    python coordinates.py FOLDER SILENCE_S [ADDRESS]

Both slots train for ever; without the address of a cluster they are processes of this machine. It prints their process ids,
and then why each of them ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Died, Executor, TrialTask
from hpsearch.execution.ray_executor import RayExecutor
from hpsearch.training.events import Progress

TRAINER = "toy_trainers:steps_until_told"


def main(folder: Path, silence_s: float, address: str = "") -> None:
    opened: Executor = RayExecutor(2, 1, address=address, trainer=TRAINER) if address else LocalExecutor(2, 1, trainer=TRAINER)
    slots = list(opened.idle())
    for number, slot in enumerate(slots):
        opened.submit(slot, TrialTask(number, 1, {}, {}, "", folder, folder, "cpu", 1, ("val_bpb",), silence_s=silence_s))
    at_work: set[str] = set()
    while len(at_work) < len(slots):
        at_work |= {message.slot for message in opened.messages(1.0) if isinstance(message.body, Progress)}
    print(*[slot.pid for slot in slots], flush=True)
    while True:
        for message in opened.messages(1.0):
            if isinstance(message.body, Died):
                print(message.body.reason, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
