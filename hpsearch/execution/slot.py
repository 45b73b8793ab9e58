"""The inside of a slot: a process that trains one trial at a time and outlives neither its coordinator nor a fault."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import multiprocessing.forkserver
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpsearch.errors import HpsearchError, StoppedForNow
from hpsearch.execution.protocol import Ended, Failed, Ready, Reply, TrialTask
from hpsearch.execution.watchdog import Watchdog
from hpsearch.files import trouble, unusable
from hpsearch.training import heartbeat
from hpsearch.training.events import Answer, EvalPoint, Event, TrainResult
from hpsearch.training.memory import OutOfMemory, shortfall

Trainer = Callable[[TrialTask], Generator[Event, Answer, TrainResult]]

LOOK_S = 0.1
"""Between two looks for an unasked answer: one costs some microseconds, which is much beside a step of a tiny model."""
BEAT_S = 0.5
"""Between two signs of life of a coordinator, and between two looks for them."""
UNHEARD = 113
"""Exit code of a slot that missed them for too long."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The run takes steps, with nothing to report yet. Between executor and slot only: a coordinator does not see it."""


def slot_main(connection: Connection, trainer: str, environment: dict[str, str], beats: Any) -> None:
    """Serve tasks until the coordinator closes its end of the pipe or dies. `trainer` is `module:function`.

    environment: this process's, whenever the server that it was forked from was started. beats: a shared number that changes
    all the time while the coordinator lives.
    """
    coordinator = _Coordinator(connection, beats)
    for number in (signal.SIGINT, signal.SIGTERM):  # They reach the whole process group; the coordinator decides.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # Blocked while this process started.
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    module, _, function = trainer.partition(":")
    run: Trainer = getattr(importlib.import_module(module), function)
    gc.freeze()  # What was imported stays: to look through it again and again would copy it, where it is shared.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(Ready())
        while True:
            task = connection.recv()
            if isinstance(task, TrialTask):  # A late answer to a run that has ended is no task.
                coordinator.silence_s = task.silence_s
                connection.send(_run(connection, run, task))


class _Conversation:
    """One run's talk with its executor: events out, answers in, signs of life between them."""

    def __init__(self, connection: Connection, watchdog: Watchdog) -> None:
        self._connection, self._watchdog = connection, watchdog
        self._asked = Answer.CONTINUE
        """PAUSE or STOP that came unasked. It holds from then on: what hears of it first may not be what can obey."""
        self._looked_at = 0.0

    def hold(self, event: Event) -> Answer:
        """Send one event and return the answer: waited for after an evaluation, else only an unasked PAUSE or STOP."""
        self._watchdog.stop()  # What the coordinator takes is no hang of this run.
        self._connection.send(event)
        answer = None
        while answer is None and isinstance(event, EvalPoint):
            reply: Reply = self._connection.recv()
            if reply.rung in (event.rung, None):
                answer = reply.answer
        if answer is None:
            answer = self._unasked()
        self._watchdog.wind()
        return answer

    def beat(self) -> Answer:
        """The run lives. Tell the executor now and then, and hear what it wants."""
        if self._watchdog.wind():
            self._watchdog.stop()
            self._connection.send(Alive())
            self._watchdog.wind()
        return self.asked()

    def asked(self) -> Answer:
        """Hear what the executor wants, without a sign of life."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_S:
            self._looked_at = now
            self._unasked()
        return self._asked

    def _unasked(self) -> Answer:
        while self._asked is Answer.CONTINUE and self._connection.poll():
            reply: Reply = self._connection.recv()
            if reply.rung is None:
                self._asked = reply.answer
        return self._asked


def _run(connection: Connection, trainer: Trainer, task: TrialTask) -> Ended | Failed:
    """Train one trial, pass its events on, and say how it ended."""
    try:
        with Watchdog(task.folder, task.step_limit_s) as watchdog:
            talk = _Conversation(connection, watchdog)
            with heartbeat.listening(talk.beat, talk.asked), contextlib.closing(trainer(task)) as run:
                try:
                    event = next(run)
                    while True:
                        event = run.send(talk.hold(event))
                except StopIteration as stop:
                    return Ended(stop.value)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return failure(error, task.folder)


def failure(error: Exception, folder: Path | None = None) -> Failed:
    """What an exception of a run means to the coordinator. Called while it is handled. folder: the trial's."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, StoppedForNow):
        return Failed("disk-full", lines[0])
    if isinstance(error, HpsearchError):
        return Failed("bad-input", lines[0])
    message, trace = f"{type(error).__name__}: {lines[0]}", traceback.format_exc()
    folders = () if folder is None else (folder,)
    if isinstance(error, OSError) and folders and (told := trouble(error, *folders)):
        return Failed("disk-full", told, trace)
    missing = shortfall(error)
    if missing is None:
        if folder is not None and (why := unusable(folder)):  # Whatever else it says: it cannot have gone well.
            told = f"{folder}: {why}; bring it back as it was, then run the same command again"
            return Failed("disk-full", told, trace)
        return Failed("error", message, trace)
    parts = error.micro_batches if isinstance(error, OutOfMemory) else 1
    return Failed("out-of-memory", message, trace, shortfall_bytes=missing, micro_batches=parts)


class _Coordinator:
    """Ends this process when its coordinator ends, or has not been heard of for `silence_s` (None: for ever)."""

    def __init__(self, connection: Connection, beats: Any) -> None:
        self.silence_s: float | None = None
        self._connection, self._beats = connection, beats
        if sys.platform == "linux":
            # What it was forked from ends with the coordinator, once no slot keeps it, and then the kernel ends this process,
            # also where code that keeps Python from running keeps the thread below from looking.
            alive = multiprocessing.forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
            if alive is not None:  # None where it was spawned.
                os.close(alive)
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        threading.Thread(target=self._watch, daemon=True, name="coordinator-watch").start()

    def _watch(self) -> None:
        hung_up = select.poll()
        hung_up.register(self._connection, 0)  # The end of the pipe is told unasked.
        # Silence is counted in looks, and not by the clock: a terminal's Ctrl-Z stops coordinator and slot alike.
        heard, silent_s = self._beats.value, 0.0
        while not hung_up.poll(1000 * BEAT_S):
            if self.silence_s is not None and silent_s >= self.silence_s:
                os._exit(UNHEARD)  # As in a crash: a checkpoint that is being written is not there yet.
            before, heard = heard, self._beats.value
            silent_s = silent_s + BEAT_S if heard == before else 0.0
        os._exit(1)
