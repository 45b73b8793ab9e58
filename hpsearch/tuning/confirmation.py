"""Confirmation: the best few configurations and the default, trained once more from seeds that no trial had.

A search picks the lowest of many noisy values, so the value of its best trial is too low on average. Fresh seeds give values
that were not picked. A seed decides a run's initial weights, the order of its text and its dropout masks, and sequence number
n of the text depends on the seed and the context length alone: runs of different configurations on one seed read the same
text in the same order, and their differences are paired.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from pathlib import Path

from hpsearch.config import CHECKPOINTS, TrialConfig
from hpsearch.errors import BadInput, StoppedForNow, StorageUnreachable
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, OwnRun, SlotInfo, SlotMessage, TrialTask
from hpsearch.model.counting import step_flops
from hpsearch.storage.records import ConfirmationRecord, Owner, StudyRecord, TrialRecord
from hpsearch.storage.store import Store
from hpsearch.text import measured
from hpsearch.training.events import Answer, EvalPoint, Outcome, TrainResult, Warned
from hpsearch.training.kept import remove_all
from hpsearch.tuning.lease import SILENCE_S
from hpsearch.tuning.stopping import Reached

POLL_S = 0.2
MAX_TRIES = 3
"""Slots that one retraining may take with it, or times that memory may be short for it."""
PARTS = 4
"""Into so many times as many micro-batches a batch is cut after memory was short."""
STEP_LIMIT_S = 600.0
GRACE_S = 20.0
"""How long one that is asked to stop waits for its slots, and for a database that does not answer after them."""

SHARED_FILES = {"save_dir": None, "log_file": None, "max_save_num": 1}
"""A retraining keeps its files in its own folder, wherever the trial's went."""


@dataclass(frozen=True)
class Retraining:
    """One configuration on one seed."""

    trial: TrialRecord
    seed: int

    @property
    def folder_name(self) -> str:
        return f"{self.trial.number:04d}-{self.seed}"

    @property
    def config(self) -> dict[str, object]:
        """As `TrialConfig.build` takes it."""
        whole = self.trial.config | SHARED_FILES | {"seed": self.seed}
        return {name: value for name, value in whole.items() if value is not None}


def fresh_seeds(trials: Iterable[TrialRecord], wanted: int) -> list[int]:
    """The first `wanted` seeds from 1 that no trial was trained with; always the same ones, so that more add to fewer."""
    used = {trial.config.get("seed") for trial in trials}
    seeds = (seed for seed in count_from(1) if seed not in used)
    return [next(seeds) for _ in range(wanted)]


def left_to_do(trials: Sequence[TrialRecord], seeds: Sequence[int], done: Collection[ConfirmationRecord]) -> list[Retraining]:
    """What is not stored yet, seed by seed: an interruption leaves whole pairs."""
    known = {(record.trial_number, record.seed) for record in done}
    return [Retraining(trial, seed) for seed in seeds for trial in trials if (trial.number, seed) not in known]


@dataclass
class _Run:
    """A retraining on its way."""

    work: Retraining
    tries: int = 0
    micro_batches: int | None = None
    slot: str = ""
    flops: float = 0.0
    """Up to its last evaluation, as are the seconds."""
    seconds: float = 0.0


@dataclass
class Confirmation:
    """Trains what `left_to_do` lists in the slots of `executor` and stores each result on its own.

    The caller holds the study's lease as `owner`. folder: the study's; a retraining keeps its log and, while it runs, its
    checkpoints below `confirm/`, from which the same call goes on after a crash. say: gets a line for each event.
    """

    store: Store
    study: StudyRecord
    executor: Executor
    owner: Owner
    folder: Path
    cache_dir: Path
    devices: tuple[str, ...]
    say: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    """Retrainings that could not be done, in a sentence each; a later call tries them again."""
    own: OwnRun | None = None
    """Of a trainer of one's own."""
    limit: Callable[[float, float], Reached | None] = lambda flops, seconds: None
    """What of a person's limits is reached by the FLOPs and slot-seconds of these retrainings."""
    stopping: str = ""
    """Why it was stopped before its end; empty when it was not."""
    reached: Reached | None = None
    """The limit that stopped it."""
    _flops: float = 0.0
    """Of those that have ended."""
    _seconds: float = 0.0
    _inbox: deque[SlotMessage] = field(default_factory=deque)
    _active: dict[int, _Run] = field(default_factory=dict)
    _asked_to_pause_at: float | None = None
    _paused_since: float | None = None

    def stop(self, reason: str) -> None:
        """Pause the runs at their next step and return from `run`. Safe to call from a signal handler."""
        self.stopping = self.stopping or reason

    def run(self, work: Sequence[Retraining]) -> bool:
        """Do all of `work`; whether nothing was left for another call.

        Raises StoppedForNow when the disk is full, BadInput when the text is no longer the study's, and what the store
        raises when the lease or the study is gone.
        """
        waiting = deque(_Run(retraining, micro_batches=retraining.trial.micro_batches) for retraining in work)
        numbers, total, ended = count_from(), len(work), 0
        self.store.sit_out(self)
        try:
            while self._active or (waiting and not self.stopping):
                self._look_at_limit()
                if not self.stopping:
                    for slot in self.executor.idle()[: len(waiting)]:
                        self._submit(slot, waiting.popleft(), next(numbers))
                self._pause_all()
                self._inbox.extend(self.executor.messages(0.0 if self._inbox else POLL_S))
                while self._inbox:
                    message = self._inbox.popleft()
                    run = self._active[message.number]
                    again, over = self._handle(message, run)
                    if again:
                        waiting.appendleft(run)
                    if over:
                        ended += 1
                        self.say(f"  {ended} of {total} retrainings are done")
        finally:
            self.store.sit_out(None)
        return not waiting and not self.stopping and not self.failures

    def _look_at_limit(self) -> None:
        active = self._active.values()
        flops, seconds = sum(run.flops for run in active), sum(run.seconds for run in active)
        if not self.stopping and (reached := self.limit(self._flops + flops, self._seconds + seconds)):
            self.reached = reached
            self.stop(reached.reason)

    def _submit(self, slot: SlotInfo, run: _Run, number: int) -> None:
        folder = self.folder / "confirm" / run.work.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        index = int(slot.name.rpartition("-")[2]) if slot.name.rpartition("-")[2].isdecimal() else 0
        task = TrialTask(
            number=number,
            attempt=run.tries + 1,
            config=run.work.config if self.own is None else run.work.trial.config,
            data=self.study.data,
            data_fingerprint=self.study.data_fingerprint,
            folder=folder,
            cache_dir=self.cache_dir,
            device=self.devices[index % len(self.devices)],
            threads=self.study.threads,
            objectives=self.study.objectives,
            micro_batches=run.micro_batches,
            step_limit_s=STEP_LIMIT_S,
            silence_s=SILENCE_S,
            own=self.own and replace(self.own, seed=run.work.seed),
        )
        run.slot = slot.name
        self._active[number] = run
        self.say(f"trial {run.work.trial.number} on seed {run.work.seed} in {slot.name}")
        self.executor.submit(slot, task)

    def _pause_all(self) -> None:
        if not self.stopping:
            return
        if self._asked_to_pause_at is None:
            self._asked_to_pause_at = time.monotonic()
            for run in self._active.values():
                self.executor.answer(run.slot, Answer.PAUSE)
        elif time.monotonic() - self._asked_to_pause_at > GRACE_S:
            for slot in self._busy():
                self.executor.kill(slot)

    def _handle(self, message: SlotMessage, run: _Run) -> tuple[bool, bool]:
        """Whether the run is to be tried again, and whether it is over."""
        what = f"trial {run.work.trial.number} on seed {run.work.seed}"
        match message.body:
            case EvalPoint(flops=flops, seconds=seconds):
                run.flops, run.seconds = flops, seconds
                self.executor.answer(run.slot, Answer.PAUSE if self.stopping else Answer.CONTINUE)
                return False, False
            case Warned(text):
                self.say(f"{what}: {text}")
                return False, False
            case Ended(result):
                del self._active[message.number]
                if result.outcome in (Outcome.PAUSED, Outcome.STOPPED):
                    return False, False
                self._keep(run, result)
                return False, True
            case Failed(kind="disk-full" | "out-of-threads", message=text):
                raise StoppedForNow(f"{what}: {text}")
            case Failed(kind="bad-input", message=text):
                raise BadInput(f"{what}: {text}")
            case Failed(kind="out-of-memory"):
                run.micro_batches = PARTS * (run.micro_batches or 1)
                why = message.body.message
            case Failed(kind="killed", message=text):
                why = text
            case Failed():
                run.tries, why = MAX_TRIES, message.body.message  # It would fail of the same again.
            case Died() if self.stopping:
                del self._active[message.number]
                return False, False
            case Died(exit_code, reason):
                why = reason or f"its process ended with {exit_code}"
            case _:
                return False, False
        del self._active[message.number]
        run.tries += 1
        if run.tries < MAX_TRIES:
            self.say(f"{what}: {why}; it goes on from its last checkpoint")
            return True, False
        self.failures.append(f"{what}: {why}")
        self.say(self.failures[-1])
        return False, True

    def _keep(self, run: _Run, result: TrainResult) -> None:
        work = run.work
        value = result.metrics.get(self.study.objectives[0], math.nan)
        if result.outcome is Outcome.DIVERGED or not math.isfinite(value):
            value = math.nan
        record = ConfirmationRecord(
            work.trial.number,
            work.seed,
            value,
            result.metrics,
            result.metrics.get("train_seconds", run.seconds),
            0.0 if self.own else _training_flops(work, result.iteration),
        )
        self.store.add_confirmation(self.study.id, record, token=self.owner.token)
        self._flops, self._seconds = self._flops + record.flops, self._seconds + record.seconds
        found = f"{self.study.objectives[0]} {measured(value)}" if math.isfinite(value) else f"diverged: {result.reason}"
        self.say(f"trial {work.trial.number} on seed {work.seed}: {found}")
        remove_all(self.folder / "confirm" / work.folder_name / CHECKPOINTS)

    # While the database is away

    def waiting(self, seconds: float, reason: str) -> None:
        """Serve the slots, whose results are stored once the database is back."""
        self._pause_all()
        self._inbox.extend(self.executor.messages(0.0))
        for run in self._active.values():
            self.executor.answer(run.slot, Answer.CONTINUE)  # Nothing to a slot that does not wait for one.
        if self.stopping and not self._busy():
            self._paused_since = self._paused_since or time.monotonic()
            if time.monotonic() - self._paused_since > GRACE_S:
                raise StorageUnreachable(f"{reason}; the runs are checkpointed: the same command goes on with them")

    def _busy(self) -> set[str]:
        """The slots that a run is in. (One that ended during an outage is still active.)"""
        return {run.slot for run in self._active.values()} - {slot.name for slot in self.executor.idle()}

    def over(self, seconds: float) -> None:
        if seconds > 1.0:
            self.say(f"the database is back after {seconds:.0f} s")


def _training_flops(work: Retraining, iterations: int) -> float:
    return iterations * step_flops(TrialConfig.build(work.config))


def confirmable(
    ranked: Sequence[TrialRecord], default: TrialRecord | None, top: int, preferred: TrialRecord | None = None
) -> list[TrialRecord]:
    """The default and the `top` best, the default first, and `preferred` where it is none of them. ranked: best first."""
    best = {trial.number: trial for trial in [*ranked[:top], *([preferred] if preferred else [])]}
    chosen = [trial for number, trial in best.items() if default is None or number != default.number]
    return [*([default] if default is not None and default.config else []), *chosen]
