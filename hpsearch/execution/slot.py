"""The inside of a slot: a process that trains one trial at a time and outlives neither its coordinator nor a fault."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection

from hpsearch.errors import HpsearchError, StoppedForNow
from hpsearch.execution.protocol import Ended, Failed, Ready, Reply, TrialTask
from hpsearch.training.events import Answer, EvalPoint, Event, TrainResult

Trainer = Callable[[TrialTask], Generator[Event, Answer, TrainResult]]


def slot_main(connection: Connection, trainer: str, threads: int, parent: int) -> None:
    """Serve tasks until the coordinator closes its end of the pipe or dies. `trainer` is `module:function`."""
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # They reach the whole process group; the coordinator decides.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # Blocked while this process started.
    faulthandler.enable()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)  # Read once, when torch and numpy load: hence before any import of them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    module, _, function = trainer.partition(":")
    run: Trainer = getattr(importlib.import_module(module), function)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(Ready())
        while True:
            task = connection.recv()
            if isinstance(task, TrialTask):  # A late answer to a run that has ended is no task.
                connection.send(_run(connection, run, task))


def _run(connection: Connection, trainer: Trainer, task: TrialTask) -> Ended | Failed:
    """Train one trial, pass its events on, and say how it ended."""
    try:
        run = trainer(task)
        try:
            event = next(run)
            while True:
                event = run.send(_converse(connection, event))
        except StopIteration as stop:
            return Ended(stop.value)
        finally:
            run.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return _failure(error)


def _converse(connection: Connection, event: Event) -> Answer:
    """Send one event and return the answer: waited for after an evaluation, else only an unasked PAUSE or STOP."""
    connection.send(event)
    if isinstance(event, EvalPoint):
        while True:
            reply: Reply = connection.recv()
            if reply.rung in (event.rung, None):
                return reply.answer
    while connection.poll():
        reply = connection.recv()
        if reply.rung is None:
            return reply.answer
    return Answer.CONTINUE


def _failure(error: Exception) -> Failed:
    kind = "error"
    if isinstance(error, StoppedForNow) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        kind = "disk-full"
    elif isinstance(error, HpsearchError):
        kind = "bad-input"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        kind = "out-of-memory"
    lines = str(error).strip().splitlines() or [""]
    message = lines[0] if isinstance(error, HpsearchError) else f"{type(error).__name__}: {lines[0]}"
    return Failed(kind, message, "" if isinstance(error, HpsearchError) else traceback.format_exc())


def _die_with(parent: int) -> None:
    """End this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        # Elsewhere than on Linux, and for a parent that died before the call above.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
