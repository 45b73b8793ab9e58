"""Runs jobs in the slots of an executor: the trials of a search, and the retrainings of its confirmation.

A `JobRunner` submits tasks, collects what the slots say, pauses all jobs, and keeps them training while the database is away.
Its caller decides what runs next, what an evaluation means, and what is stored. The rules for a job that is tried again are in
`outcomes`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from hpsearch.errors import StorageUnreachable
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotInfo, SlotMessage, TrialTask
from hpsearch.storage.records import StudyRecord
from hpsearch.training.events import Answer, Event
from hpsearch.tuning.lease import SILENCE_S

POLL_S = 0.2
STEP_LIMIT_S = 600.0
"""A job that takes no step for so long is hung."""
GRACE_S = 20.0
"""How long a stopped runner waits for its jobs to pause, and then for a database that does not answer."""


class JobRunner:
    """The jobs of `study` in the slots of `executor`. It is the `Outage` of the study's storages.

    A job is the task that was submitted with its number. Devices are given to slots in turn. say: gets a line for each event.
    jobs: what a person calls the jobs. step_limit_s: after so long without a step a job's slot counts as hung.
    """

    def __init__(
        self,
        executor: Executor,
        study: StudyRecord,
        cache_dir: Path,
        devices: Sequence[str],
        say: Callable[[str], None],
        *,
        jobs: str = "trials",
        step_limit_s: float = STEP_LIMIT_S,
    ) -> None:
        self._executor, self._devices, self._say, self._jobs = executor, devices, say, jobs
        self.task = partial(
            TrialTask,
            data=study.data,
            data_fingerprint=study.data_fingerprint,
            cache_dir=cache_dir,
            device=devices[0],
            threads=study.threads,
            objectives=study.objectives,
            step_limit_s=step_limit_s,
            silence_s=SILENCE_S,
        )
        """Makes a task from what differs between jobs."""
        self._slots: dict[int, str] = {}
        """The slot of each job that is in one, by the job's number."""
        self._inbox: deque[SlotMessage] = deque()
        """What slots said and the caller has not seen yet: it grows while the database is away."""
        self.stopping = ""
        """Why all jobs pause; empty while they do not."""
        self._asked_to_pause_at: float | None = None
        self._all_left_at: float | None = None
        self._outage_said = False

    def stop(self, reason: str) -> None:
        """Let `pause_all` pause all jobs. Safe to call from a signal handler."""
        self.stopping = self.stopping or reason

    def idle(self) -> Sequence[SlotInfo]:
        """Slots that could take a task now."""
        return self._executor.idle()

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        """Start a job in an idle slot, on the slot's device."""
        index = slot.name.rpartition("-")[2]
        device = self._devices[int(index) % len(self._devices) if index.isdecimal() else 0]
        self._slots[task.number] = slot.name
        self._executor.submit(slot, replace(task, device=device))

    def answer(self, number: int, answer: Answer) -> None:
        """Answer a job's evaluation, or ask the job to pause or to stop. Does nothing once the job has left its slot."""
        if number in self._slots:
            self._executor.answer(self._slots[number], answer)

    def messages(self) -> Iterator[tuple[int, Event | Ended | Failed | Died]]:
        """What the jobs said, each with the job's number, oldest first; waits shortly where there is nothing yet.

        A trainer that was killed counts as a slot that died. The last message of a job is Ended, Failed or Died.
        """
        self._receive(0.0 if self._inbox else POLL_S)
        while self._inbox:
            message = self._inbox.popleft()
            match message.body:
                case Failed(kind="killed", message=reason):
                    yield message.number, Died(1, reason)
                case body:
                    yield message.number, body

    def pause_all(self) -> None:
        """After `stop`: ask all jobs to pause, and in later calls kill those that have not within GRACE_S."""
        if not self.stopping:
            return
        if self._asked_to_pause_at is None:
            self._asked_to_pause_at = time.monotonic()
            for slot in self._slots.values():
                self._executor.answer(slot, Answer.PAUSE)
            self._say(f"{self.stopping}: pausing the running {self._jobs} (interrupt once more to end at once)")
        elif self.out_of_time:
            for slot in self._slots.values():
                self._executor.kill(slot)

    @property
    def out_of_time(self) -> bool:
        """Whether the jobs have had their time to pause."""
        return self._asked_to_pause_at is not None and time.monotonic() - self._asked_to_pause_at > GRACE_S

    def _receive(self, timeout_s: float) -> None:
        for message in self._executor.messages(timeout_s):
            self._inbox.append(message)
            if isinstance(message.body, Ended | Failed | Died):
                del self._slots[message.number]

    # While the database is away

    def waiting(self, seconds: float, reason: str) -> None:
        """Answer evaluations from memory; the caller handles what the jobs say once the database is back."""
        if not self._outage_said and seconds > 1.0:
            self._say(f"{reason}; training goes on, and what it finds is stored when the database is back")
            self._outage_said = True
        self.pause_all()
        self._receive(0.0)
        for slot in self._slots.values():
            self._executor.answer(slot, Answer.CONTINUE)  # Nothing to a slot that does not wait for one.
        if self.stopping and not self._slots:
            self._all_left_at = self._all_left_at or time.monotonic()
            if time.monotonic() - self._all_left_at > GRACE_S:
                raise StorageUnreachable(f"{reason}; the {self._jobs} are checkpointed: the same command goes on with them")

    def over(self, seconds: float) -> None:
        """The database is back."""
        if self._outage_said:
            self._say(f"the database is back after {seconds:.0f} s")
        self._outage_said = False
