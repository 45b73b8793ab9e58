"""The inside of a slot: a process that trains one trial at a time and outlives neither its coordinator nor a fault."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import multiprocessing.forkserver
import multiprocessing.popen_fork
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpsearch.errors import HpsearchError, StoppedForNow
from hpsearch.execution.protocol import SHORT, Ended, Failed, Killed, NoRoom, Ready, Reply, TrialTask
from hpsearch.execution.watchdog import Watchdog
from hpsearch.files import trouble, unusable
from hpsearch.text import message
from hpsearch.training import heartbeat
from hpsearch.training.events import Answer, Began, CheckpointSaved, EvalPoint, Event, Progress, TrainResult, Warned
from hpsearch.training.memory import OutOfMemory, shortfall

Trainer = Callable[[TrialTask], Generator[Event, Answer, TrainResult]]

LOOK_S = 0.1
"""Between two looks for an unasked answer: one costs some microseconds, which is much beside a step of a tiny model."""
BEAT_S = 0.5
"""Between two signs of life of a coordinator, and between two looks for them."""
UNHEARD = 113
"""Exit code of a slot that missed them for too long."""
LONGEST_TEXT = 200_000
"""Characters of a traceback and of a sample that are kept."""
LARGEST = 2**63 - 1
"""Whole numbers that every database has."""
_STARTERS = frozenset(
    start.__code__
    for start in (
        threading.Thread.start,
        subprocess.Popen._execute_child,  # type: ignore[attr-defined]
        multiprocessing.popen_fork.Popen._launch,  # type: ignore[attr-defined]
    )
)
"""Where Python starts threads and processes."""


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


class _Gone(BaseException):
    """The executor's end of the pipe is closed. Not an Exception: a broken pipe of the run's own is another thing, and no
    trainer should catch this."""


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise _Gone from None


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
        self._send(event)
        answer = None
        while answer is None and isinstance(event, EvalPoint):
            reply = self._receive()
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
            self._send(Alive())
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
            reply = self._receive()
            if reply.rung is None:
                self._asked = reply.answer
        return self._asked

    def _send(self, said: Event | Alive) -> None:
        with _noticing():
            self._connection.send(said)

    def _receive(self) -> Reply:
        with _noticing():
            reply: Reply = self._connection.recv()
        return reply


def _run(connection: Connection, trainer: Trainer, task: TrialTask) -> Ended | Failed:
    """Train one trial, pass its events on, and say how it ended."""
    try:
        with Watchdog(task.folder, task.step_limit_s) as watchdog:
            talk = _Conversation(connection, watchdog)
            with heartbeat.listening(talk.beat, talk.asked), contextlib.closing(trainer(task)) as run:
                try:
                    event = next(run)
                    while True:
                        event = run.send(talk.hold(bounded(event)))
                except StopIteration as stop:
                    return Ended(_bounded_result(stop.value))
    except _Gone:
        raise EOFError from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # A trainer that calls sys.exit() ends its trial only.
        return failure(error, task.folder)


def bounded(said: Event) -> Event:
    """What a run says, as everything after this takes it: whole numbers that every database has, texts without what no file or
    database takes and not too long. Nothing else stands between a run and the coordinator. Raises ValueError."""
    match said:
        case Progress(iteration=iteration) | Began(iteration):
            _require_counts(iteration)
        case EvalPoint(rung=rung, iteration=iteration, tokens=tokens):
            _require_counts(rung, iteration, tokens)
        case CheckpointSaved(iteration=iteration, size=size):
            _require_counts(iteration, size)
        case Warned(text):
            return Warned(message(text))
    return said


def _bounded_result(result: TrainResult) -> TrainResult:
    _require_counts(result.iteration, result.peak_memory)
    return replace(result, reason=message(result.reason), sample=message(result.sample, LONGEST_TEXT))


def _require_counts(*counts: int) -> None:
    for count in counts:
        if not 0 <= count <= LARGEST:
            raise ValueError(f"a count is outside of 0 to 2**63: {count:.3g}")


def failure(error: BaseException, folder: Path | None = None) -> Failed:
    """What an exception of a run means to the coordinator. Called while it is handled. folder: the trial's."""
    failed = _failure(error, folder)
    return replace(failed, message=message(failed.message), traceback=message(failed.traceback, LONGEST_TEXT))


def _failure(error: BaseException, folder: Path | None) -> Failed:
    try:
        text, trace = str(error), traceback.format_exc()
    except Exception:  # Its own way to be a text fails.
        return Failed("error", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    first = (text.strip().splitlines() or [""])[0]
    if isinstance(error, StoppedForNow):
        return Failed("disk-full", first)
    if isinstance(error, HpsearchError):
        return Failed("bad-input", first)
    if isinstance(error, Killed):
        return Failed("killed", first, trace)
    told = f"{type(error).__name__}: {first}"
    if isinstance(error, NoRoom) or _could_not_start(error):
        return Failed("out-of-threads", told, trace)
    if isinstance(error, OSError) and folder is not None and (why := trouble(error, folder)):
        return Failed("disk-full", why if error.filename else f"{folder}: {why}", trace)
    missing = shortfall(error)
    if missing is None:
        if folder is not None and (why := unusable(folder)):  # Whatever else it says: it cannot have gone well.
            return Failed("disk-full", f"{folder}: {why}; bring it back as it was, then run the same command again", trace)
        return Failed("error", told, trace)
    parts = error.micro_batches if isinstance(error, OutOfMemory) else 1
    return Failed("out-of-memory", told, trace, shortfall_bytes=missing, micro_batches=parts)


def _could_not_start(error: BaseException) -> bool:
    """Whether a thread or a process was to be started, and the system has none left. (A thread's error has no number.)"""
    if not isinstance(error, RuntimeError) and not (isinstance(error, OSError) and error.errno in SHORT):
        return False
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1] in _STARTERS


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
