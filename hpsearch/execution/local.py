"""Slots as spawned processes on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.execution.protocol import TRANSFORMER, Died, Ended, Failed, Reply, SlotInfo, SlotMessage, TrialTask
from hpsearch.execution.slot import slot_main
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


class LocalExecutor:
    """`slots` warm processes of `threads` threads each. A process that dies is replaced at once."""

    def __init__(self, slots: int, threads: int, *, trainer: str = TRANSFORMER) -> None:
        # Spawned, not forked: a forked child shares CUDA state and locks with its parent.
        self._context = multiprocessing.get_context("spawn")
        self._threads, self._trainer = threads, trainer
        self._host = socket.gethostname()
        self._slots = {f"slot-{index}": self._start(f"slot-{index}") for index in range(slots)}

    def idle(self) -> Sequence[SlotInfo]:
        return [slot.info for slot in self._slots.values() if slot.number is None]

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        target = self._slots[slot.name]
        target.number, target.waiting = task.number, None
        self._send(target, task)

    def answer(self, slot: str, answer: Answer) -> None:
        target = self._slots[slot]
        if answer is Answer.CONTINUE and target.waiting is None:
            return
        self._send(target, Reply(answer, target.waiting))
        target.waiting = None

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        by_handle: dict[Any, _Slot] = {slot.connection: slot for slot in self._slots.values()}
        found: deque[SlotMessage] = deque()
        for handle in multiprocessing.connection.wait(list(by_handle), timeout_s):
            slot = by_handle[handle]
            try:
                body = slot.connection.recv()
            except (EOFError, OSError):
                number = slot.number
                code = self._replace(slot)
                if number is not None:
                    found.append(SlotMessage(slot.info.name, number, Died(code)))
                continue
            assert slot.number is not None
            found.append(SlotMessage(slot.info.name, slot.number, body))
            if isinstance(body, EvalPoint):
                slot.waiting = body.rung
            elif isinstance(body, Ended | Failed):
                slot.number = slot.waiting = None
        return list(found)

    def close(self) -> None:
        for slot in self._slots.values():
            slot.connection.close()
        patience = time.monotonic() + 2.0
        for slot in self._slots.values():
            slot.process.join(max(0.0, patience - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
        self._slots.clear()

    def _start(self, name: str) -> _Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=slot_main, args=(theirs, self._trainer, self._threads, os.getpid()), name=f"hpsearch {name}", daemon=True
        )
        process.start()
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

    def _send(self, slot: _Slot, message: object) -> None:
        try:
            slot.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # It died; `messages` meets the end of its pipe and says so.
