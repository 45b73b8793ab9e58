"""An executor whose slots train in this process and in no time: for trainers that only say what training would have said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from hpsearch.execution.protocol import Ended, SlotInfo, SlotMessage, TrialTask
from hpsearch.training.events import Answer, EvalPoint, TrainResult

Run = Generator[Any, Answer | None, TrainResult]


class Instant:
    """The executor of a coordinator. trainer: a trainer as slots have it."""

    def __init__(self, slots: int, trainer: Callable[[TrialTask], Run]) -> None:
        self._slots = [SlotInfo(f"slot-{index}", "here", 1) for index in range(slots)]
        self._trainer = trainer
        self._runs: dict[str, tuple[int, Run]] = {}
        self._ended: set[str] = set()
        """Slots whose run has returned, and whose last message was not read yet."""
        self._said: deque[SlotMessage] = deque()

    def idle(self) -> Sequence[SlotInfo]:
        return [slot for slot in self._slots if slot.name not in self._runs]

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        self._runs[slot.name] = task.number, self._trainer(task)
        self._go_on(slot.name, None)

    def answer(self, slot: str, answer: Answer) -> None:
        if slot not in self._ended:  # A pause that comes unasked may come too late.
            self._go_on(slot, answer)

    def _go_on(self, slot: str, answer: Answer | None) -> None:
        """Up to the next event that has to be answered."""
        number, run = self._runs[slot]
        try:
            while True:
                event = run.send(answer)
                self._said.append(SlotMessage(slot, number, event))
                if isinstance(event, EvalPoint):
                    return
                answer = None
        except StopIteration as stop:
            self._ended.add(slot)
            self._said.append(SlotMessage(slot, number, Ended(stop.value)))

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        said, self._said = list(self._said), deque()
        for message in said:
            if isinstance(message.body, Ended):
                del self._runs[message.slot]
                self._ended.discard(message.slot)
        return said

    def close(self) -> None:
        self._runs.clear()
