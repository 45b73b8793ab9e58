"""Confirmation: the best few configurations and the default, trained once more from seeds that no trial had.

A search picks the lowest of many noisy values, so the value of its best trial is too low on average. Fresh seeds give values
that were not picked. A seed decides a run's initial weights, the order of its text and its dropout masks, and sequence number
n of the text depends on the seed and the context length alone: runs of different configurations on one seed read the same
text in the same order, and their differences are paired.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from pathlib import Path

from hpsearch.config import CHECKPOINTS, TrialConfig
from hpsearch.errors import BadInput, StoppedForNow
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, OwnRun, SlotInfo
from hpsearch.model.counting import step_flops
from hpsearch.storage.records import ConfirmationRecord, Owner, StudyRecord, TrialRecord
from hpsearch.storage.store import Store
from hpsearch.text import measured
from hpsearch.training.events import Answer, EvalPoint, Event, Outcome, TrainResult, Warned
from hpsearch.training.kept import remove_all
from hpsearch.tuning import outcomes
from hpsearch.tuning.job_runner import STEP_LIMIT_S, JobRunner
from hpsearch.tuning.stopping import Reached

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
    micro_batches: int | None
    attempt: int = 0
    """Its number; 0 before the first one."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Times that its slot died, by the outcome of the attempt."""
    flops: float = 0.0
    """Up to its last evaluation, as are the seconds."""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"trial {self.work.trial.number} on seed {self.work.seed}"


@dataclass
class Confirmation:
    """Trains what `left_to_do` lists in the slots of `executor` and stores each result on its own.

    The caller holds the study's lease as `owner`. folder: the study's; a retraining keeps its log and, while it runs, its
    checkpoints below `confirm/`, from which the same call goes on after a crash. say: gets a line for each event. step_limit_s:
    after so long without a step a retraining's slot counts as hung.
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
    step_limit_s: float = STEP_LIMIT_S
    reached: Reached | None = None
    """The limit that stopped it."""
    _flops: float = 0.0
    """Of those that have ended."""
    _seconds: float = 0.0
    _waiting: deque[_Run] = field(default_factory=deque)
    _active: dict[int, _Run] = field(default_factory=dict)
    """By the number of the job; a retraining that is tried again gets another one."""
    _over: int = 0
    """Retrainings that are done, or cannot be."""
    _jobs: JobRunner = field(init=False)

    def __post_init__(self) -> None:
        executor, study, devices = self.executor, self.study, self.devices
        self._jobs = JobRunner(
            executor, study, self.cache_dir, devices, self.say, jobs="retrainings", step_limit_s=self.step_limit_s
        )

    @property
    def stopping(self) -> str:
        """Why it was stopped before its end; empty when it was not."""
        return self._jobs.stopping

    def stop(self, reason: str) -> None:
        """Pause the runs at their next step and return from `run`. Safe to call from a signal handler."""
        self._jobs.stop(reason)

    def run(self, work: Sequence[Retraining]) -> bool:
        """Do all of `work`; whether nothing was left for another call.

        Raises StoppedForNow when the disk is full, BadInput when the text is no longer the study's, and what the store
        raises when the lease or the study is gone.
        """
        self._waiting.extend(_Run(retraining, retraining.trial.micro_batches) for retraining in work)
        numbers = count_from()
        self.store.sit_out(self._jobs)
        try:
            while self._active or (self._waiting and not self.stopping):
                self._look_at_limit()
                if not self.stopping:
                    for slot in self._jobs.idle()[: len(self._waiting)]:
                        self._submit(slot, self._waiting.popleft(), next(numbers))
                self._jobs.pause_all()
                for number, said in self._jobs.messages():
                    if isinstance(said, Ended | Failed | Died):
                        if self._is_over(self._active.pop(number), said):
                            self._over += 1
                            self.say(f"  {self._over} of {len(work)} retrainings are done")
                    else:
                        self._on_event(number, said)
        finally:
            self.store.sit_out(None)
        return not self._waiting and not self.stopping and not self.failures

    def _look_at_limit(self) -> None:
        active = self._active.values()
        flops, seconds = sum(run.flops for run in active), sum(run.seconds for run in active)
        if not self.stopping and (reached := self.limit(self._flops + flops, self._seconds + seconds)):
            self.reached = reached
            self.stop(reached.reason)

    def _submit(self, slot: SlotInfo, run: _Run, number: int) -> None:
        folder = self.folder / "confirm" / run.work.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        run.attempt += 1
        task = self._jobs.task(
            number=number,
            attempt=run.attempt,
            config=run.work.config if self.own is None else run.work.trial.config,
            folder=folder,
            micro_batches=run.micro_batches,
            own=self.own and replace(self.own, seed=run.work.seed),
        )
        self._active[number] = run
        self.say(f"{run.name} in {slot.name}")
        self._jobs.submit(slot, task)

    def _on_event(self, number: int, event: Event) -> None:
        run = self._active[number]
        match event:
            case EvalPoint(flops=flops, seconds=seconds):
                run.flops, run.seconds = flops, seconds
                self._jobs.answer(number, Answer.PAUSE if self.stopping else Answer.CONTINUE)
            case Warned(text):
                self.say(f"{run.name}: {text}")

    def _is_over(self, run: _Run, said: Ended | Failed | Died) -> bool:
        """What a retraining comes to that has left its slot: whether it is over, and neither paused nor tried again."""
        match said:
            case Ended(result):
                if result.outcome in (Outcome.PAUSED, Outcome.STOPPED):
                    return False
                self._keep(run, result)
                return True
            case Failed(kind="disk-full" | "out-of-threads", message=text):
                raise StoppedForNow(f"{run.name}: {text}")
            case Failed(kind="bad-input", message=text):
                raise BadInput(f"{run.name}: {text}")
            case Failed(kind=kind, message=why):
                most = 1 if self.own else int(run.work.trial.config["batch_size"])
                parts = outcomes.smaller_parts(said, run.micro_batches, most) if kind == "out-of-memory" else None
                run.micro_batches = parts or run.micro_batches
                again = parts is not None  # Whatever else it failed of, it would fail of again.
            case Died() if self.stopping:
                return False
            case Died():
                run.deaths[outcomes.of_death(said)] += 1
                why, again = outcomes.how(said), not outcomes.poisoned(said, run.deaths[outcomes.of_death(said)])
        if again:
            self.say(f"{run.name}: {why}; it goes on from its last checkpoint")
            self._waiting.appendleft(run)
        else:
            self.failures.append(f"{run.name}: {why}")
            self.say(self.failures[-1])
        return not again

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
        self.say(f"{run.name}: {found}")
        remove_all(self.folder / "confirm" / work.folder_name / CHECKPOINTS)


def _training_flops(work: Retraining, iterations: int) -> float:
    return iterations * step_flops(TrialConfig.build(work.config))


def confirmable(
    ranked: Sequence[TrialRecord], default: TrialRecord | None, top: int, preferred: TrialRecord | None = None
) -> list[TrialRecord]:
    """The default and the `top` best, the default first, and `preferred` where it is none of them. ranked: best first."""
    best = {trial.number: trial for trial in [*ranked[:top], *([preferred] if preferred else [])]}
    chosen = [trial for number, trial in best.items() if default is None or number != default.number]
    return [*([default] if default is not None and default.config else []), *chosen]
