"""One run of a trainer of one's own as a slot does it, in the test's own process: what it says, and how it ends."""

from __future__ import annotations

import shlex
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpsearch.execution.protocol import Ended, Failed, FunctionTrainer, OwnRun, ProgramTrainer, Reply, TrialTask
from hpsearch.execution.slot_process import _run
from hpsearch.trainers.function import train
from hpsearch.training.events import Answer, EvalPoint, Event

Trainer = FunctionTrainer | ProgramTrainer


def task_of(trainer: Trainer, folder: Path, *, steps: int = 8, evaluations: int = 4, objectives: tuple[str, ...]) -> TrialTask:
    return TrialTask(
        number=0,
        attempt=1,
        config={"lr": 1.0},
        data={},
        data_fingerprint="",
        folder=folder,
        cache_dir=folder,
        device="cpu",
        threads=1,
        objectives=objectives,
        own=OwnRun(trainer, steps, evaluations),
    )


def run(
    trainer: Trainer, folder: Path, objectives: tuple[str, ...] = ("value",), **more: Any
) -> tuple[list[Event], Ended | Failed]:
    """All that a run says, and its end."""
    said: list[Event] = []
    ours, theirs = Pipe()
    listener = threading.Thread(target=_listen, args=(ours, said))
    listener.start()
    try:
        ended = _run(theirs, train, task_of(trainer, folder, objectives=objectives, **more))
    finally:
        theirs.close()
        listener.join()
        ours.close()
    return said, ended


def _listen(connection: Connection, said: list[Event]) -> None:
    while True:
        try:
            event = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        said.append(event)
        if isinstance(event, EvalPoint):
            connection.send(Reply(Answer.CONTINUE, event.rung))


def printing(folder: Path, output: bytes, code: int = 0) -> ProgramTrainer:
    """A program that prints `output` and ends."""
    (folder / "output").write_bytes(output)
    script = f"import sys; sys.stdout.buffer.write(open({str(folder / 'output')!r}, 'rb').read()); sys.exit({code})"
    if code == 0:
        return ProgramTrainer(shlex.join(["cat", str(folder / "output")]))
    return ProgramTrainer(shlex.join([sys.executable, "-I", "-S", "-c", script]))


def points(said: list[Event]) -> list[tuple[int, dict[str, float]]]:
    """The evaluations: rung, and what was measured."""
    return [(each.rung, each.metrics) for each in said if isinstance(each, EvalPoint)]
