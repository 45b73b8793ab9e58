"""Slots as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.errors import SlotsUnable, StoppedForNow
from hpsearch.execution.protocol import SHORT, TRANSFORMER, Died, Ended, Failed, Ready, Reply, SlotInfo, SlotMessage, TrialTask
from hpsearch.execution.slot_process import BEAT_S, UNHEARD, Alive, slot_main
from hpsearch.execution.watchdog import Patience
from hpsearch.scratch import scratch
from hpsearch.training.events import Answer, EvalPoint


@dataclass
class _Slot:
    info: SlotInfo
    process: Any
    connection: multiprocessing.connection.Connection
    number: int | None = None
    """Trial in it."""
    waiting: int | None = None
    """Rung of the evaluation that it waits to have answered."""
    ready: bool = False
    """Whether the process has loaded its trainer."""
    task: TrialTask | None = None
    """Handed over before it was ready, so not begun: the process after it gets it again."""
    patience: Patience | None = None
    """With the trial in it, from when it is ready."""


SECRETS = ("HPSEARCH_STORAGE", "HPSEARCH_TOKEN")
"""Environment variables that may hold a password."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Those that torch and numpy read once, when they load."""

FORKED = sys.platform == "linux" and len(os.fsencode(tempfile.gettempdir())) <= 66  # A socket's path has at most 107 bytes.
"""Whether slots are forked from a server that has loaded the trainer: the second slot, and each that replaces one, starts in a
moment. It asks nothing of CUDA, which a fork would break. Elsewhere libraries of the system do not bear a fork, and slots are
spawned. Never from the coordinator: a child shares its parent's locks, and what it holds of CUDA."""

SERVER_ENDS_S = 10.0
"""How long a server that refuses may take until it has ended, and a new one takes its place."""

MAX_STILLBORN = 3
"""Slot processes in a row that may end before they are ready."""


class LocalExecutor:
    """`slots` warm processes of `threads` threads each. A process that dies is replaced at once.

    relayed: the coordinator is on another machine, and its signs of life come by `heard`.
    """

    def __init__(self, slots: int, threads: int, *, trainer: str = TRANSFORMER, relayed: bool = False) -> None:
        # Where its sockets are: it removes its own folder at its end only, and nobody would one of a killed process.
        multiprocessing.current_process()._config["tempdir"] = str(scratch())  # type: ignore[attr-defined]
        self._context: Any = multiprocessing.get_context("forkserver" if FORKED else "spawn")
        if FORKED and trainer == TRANSFORMER:
            self._context.set_forkserver_preload([trainer.partition(":")[0]])
        self._threads, self._trainer = threads, trainer
        self._host = socket.gethostname()
        self._stillborn = 0
        self._beats: Any = self._context.RawValue("Q", 0)
        self._closed = threading.Event()
        if not relayed:
            # From a thread: a sampler's fit, or a database that does not answer, must not look like an end to the slots.
            threading.Thread(target=self._beat, daemon=True, name="slots-beat").start()
        self._slots = {f"slot-{index}": self._start(f"slot-{index}") for index in range(slots)}

    def idle(self) -> Sequence[SlotInfo]:
        return [slot.info for slot in self._slots.values() if slot.number is None]

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        target = self._slots[slot.name]
        target.number, target.waiting = task.number, None
        target.task = None if target.ready else task
        target.patience = Patience(task.folder, task.step_limit_s)
        self._send(target, task)

    def answer(self, slot: str, answer: Answer) -> None:
        target = self._slots[slot]
        if answer is Answer.CONTINUE and target.waiting is None:
            return
        self._send(target, Reply(answer, target.waiting))
        if target.waiting is not None and target.patience is not None:
            target.patience.seen()  # What it waited for was no hang of its own.
        target.waiting = None

    def kill(self, slot: str) -> None:
        target = self._slots[slot]
        target.task = None  # It is not for the process after it.
        target.process.kill()

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        by_handle: dict[Any, _Slot] = {slot.connection: slot for slot in self._slots.values()}
        found: list[SlotMessage] = []
        speaking = multiprocessing.connection.wait(list(by_handle), timeout_s)
        for handle, slot in by_handle.items():
            if handle in speaking:
                self._hear(slot, found)
            elif slot.ready and slot.waiting is None and slot.patience is not None and slot.patience.over:
                # Silent for too long, with nothing left to read. Its end is met like any other one.
                slot.process.kill()
        return found

    def _hear(self, slot: _Slot, found: list[SlotMessage]) -> None:
        """Read one message, and add to `found` what the coordinator should know of it."""
        try:
            body = slot.connection.recv()
        except (EOFError, OSError):
            code = self._replace(slot)
            if slot.number is not None and slot.task is None:
                found.append(SlotMessage(slot.info.name, slot.number, _death(slot, code)))
            elif not slot.ready:
                self._again(slot, code)
            return
        if isinstance(body, Ready):
            slot.ready, slot.task, self._stillborn = True, None, 0
        if slot.patience is not None and not isinstance(body, Ready):
            slot.patience.seen()
        if isinstance(body, Ready | Alive):
            return
        assert slot.number is not None
        found.append(SlotMessage(slot.info.name, slot.number, body))
        if isinstance(body, EvalPoint):
            slot.waiting = body.rung
        elif isinstance(body, Ended | Failed):
            slot.number = slot.waiting = slot.patience = None
            if isinstance(body, Failed) and body.kind == "out-of-memory":
                self._replace(slot)  # What it holds, in pieces or in use, is not for the next trial.

    def heard(self) -> None:
        """The coordinator lives. Slots that miss this for too long end."""
        self._beats.value += 1

    def open_ends(self) -> dict[SlotInfo, multiprocessing.connection.Connection]:
        """The slots of this moment, and for each what can be waited on for its next word."""
        return {slot.info: slot.connection for slot in self._slots.values()}

    def close(self) -> None:
        self._closed.set()
        for slot in self._slots.values():
            slot.connection.close()
            if not slot.ready:
                slot.process.kill()  # It loads its trainer, and would not look before it has.
        patience = time.monotonic() + 2.0
        for slot in self._slots.values():
            slot.process.join(max(0.0, patience - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
        self._slots.clear()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            self.heard()

    def _start(self, name: str) -> _Slot:
        ours, theirs = self._context.Pipe()
        # A slot needs no database, and its environment can be read by every process of the user.
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        environment |= dict.fromkeys(THREADS, str(self._threads))
        process = self._context.Process(
            target=slot_main,
            args=(theirs, self._trainer, environment, self._beats),
            name=f"hpsearch {name}",
            daemon=True,
        )
        # A slot needs nothing of the script or notebook that began the study, and would run it again to import it.
        script, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
        try:
            if FORKED:
                _fork(process, environment)
            else:
                with begetting(environment):
                    process.start()
        except OSError as error:
            if error.errno not in SHORT:
                raise
            raise StoppedForNow(f"no process can be started for a slot: {error.strerror}; run the same command again") from None
        finally:
            sys.modules["__main__"] = script
        theirs.close()
        assert process.pid is not None
        return _Slot(SlotInfo(name, self._host, process.pid), process, ours)

    def _replace(self, slot: _Slot) -> int | None:
        """A fresh process in the place of one that is gone. Returns the exit code of the old one."""
        slot.connection.close()
        slot.process.kill()  # It may have closed its pipe without ending.
        slot.process.join()
        self._slots[slot.info.name] = self._start(slot.info.name)
        code: int | None = slot.process.exitcode
        return code

    def _again(self, gone: _Slot, code: int | None) -> None:
        """A process ended before it was ready, which is no fault of the trial that waits for it."""
        self._stillborn += 1
        if self._stillborn >= MAX_STILLBORN:
            raise SlotsUnable(
                f"{MAX_STILLBORN} slot processes in a row ended while they started (the last one with exit code {code}); "
                "if an error stands above, mend that, else look for a limit on memory or processes"
            )
        if gone.task is not None:
            self.submit(self._slots[gone.info.name].info, gone.task)

    def _send(self, slot: _Slot, message: object) -> None:
        try:
            slot.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # It died; `messages` meets the end of its pipe and says so.


def _death(slot: _Slot, code: int | None) -> Died:
    reason = slot.patience.verdict() if slot.patience is not None else ""
    if code == UNHEARD:  # As with a lost node, no fault of the trial.
        return Died(None, "its coordinator had not been heard of for too long")
    return Died(code, reason)


@contextlib.contextmanager
def begetting(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process that starts meanwhile inherits: an environment, and no signal before it can say what one means.

    A Ctrl-C reaches the whole process group: one that comes before a child can ignore it waits until it does.
    """
    ours, blocked = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for name in ours.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        multiprocessing.resource_tracker.ensure_running()  # First: its start unblocks these signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        yield
    finally:
        for name in environment.keys() - ours.keys():
            del os.environ[name]
        os.environ.update(ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fork(process: Any, environment: Mapping[str, str]) -> None:
    """Start it from the server, and the server before it. One that was just killed refuses until it has been seen to end."""
    patience = time.monotonic() + SERVER_ENDS_S
    while True:
        with begetting(environment):
            multiprocessing.forkserver.ensure_running()
        try:
            process.start()  # The first one waits until the trainer is loaded: a Ctrl-C is heard meanwhile.
            return
        except (ConnectionError, EOFError):
            if time.monotonic() > patience:  # It ends whenever it is to fork, and says why on the terminal.
                raise StoppedForNow("no process can be started for a slot; run the same command again") from None
            time.sleep(0.02)


def _forget_server() -> None:
    """A process that was forked from one with slots starts a server of its own: the other one is no child of it."""
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_pid is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None


if FORKED:
    os.register_at_fork(after_in_child=_forget_server)
