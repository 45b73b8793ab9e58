"""The one process that owns a study: it asks, stores, decides and tells. Its `JobRunner` has the trials in the slots.

Whatever is durable is in the database before it is acted on (`ledger`), so that after `kill -9` of anything the same command
goes on. The one exception is an outage of the database: then evaluations are answered from memory and stored once it is back.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace

from hpsearch.errors import BadInput, StudyGone
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotInfo
from hpsearch.files import write_atomically
from hpsearch.scheduling.schedulers import make_scheduler
from hpsearch.space.serialize import to_yaml
from hpsearch.storage.records import (
    AttemptRecord,
    DecisionRecord,
    EndReason,
    Owner,
    PauseKind,
    RequestRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.transactions import storage_errors
from hpsearch.text import storable
from hpsearch.training.events import Answer, Began, CheckpointSaved, EvalPoint, Event, Outcome, Progress, TrainResult, Warned
from hpsearch.training.kept import step_name
from hpsearch.tuning import outcomes
from hpsearch.tuning.callbacks import Watcher
from hpsearch.tuning.early_stopping import Judge
from hpsearch.tuning.incumbent import Standing
from hpsearch.tuning.job_runner import GRACE_S, STEP_LIMIT_S, JobRunner
from hpsearch.tuning.lease import LEASE_S, RENEW_S
from hpsearch.tuning.stopping import Limits
from hpsearch.tuning.study import Study
from hpsearch.tuning.trial_store import Ledger

REQUESTS_S = 1.0
"""How often the requests of people at other terminals are read."""


@dataclass
class _Active:
    """A trial in a slot."""

    record: TrialRecord
    attempt: AttemptRecord
    progress: Progress | None = None
    stopped_by: EndReason | None = None
    """Why it was told to stop; None while it was not."""

    def left(self, outcome: str, reason: str) -> AttemptRecord:
        """Its attempt, ended."""
        return replace(self.attempt, outcome=outcome, reason=reason)


class Coordinator:
    """Works on one study until its total of trials is reached, it is asked to stop, or one of its limits is.

    step_limit_s: after so long without a step a trial's slot counts as hung.
    """

    def __init__(
        self,
        study: Study,
        executor: Executor,
        watcher: Watcher,
        owner: Owner,
        limits: Limits | None = None,
        *,
        step_limit_s: float = STEP_LIMIT_S,
    ) -> None:
        self._study, self._watcher, self._owner = study, watcher, owner
        self._limits = limits or Limits()
        self._jobs = JobRunner(executor, study.record, study.cache_dir, study.devices, watcher.note, step_limit_s=step_limit_s)
        self._ledger = Ledger(study, owner)
        self._judge = Judge(study, self._ledger, make_scheduler(study.record.scheduler, study.record.budget.evaluations))
        self._standing = Standing(study, self._limits)
        self._active: dict[int, _Active] = {}
        self._waiting: deque[TrialRecord] = deque()
        """Trials of an earlier coordinator, or of a slot that died, that go on before new ones start."""
        self._aside: dict[int, TrialRecord] = {}
        """Trials that the scheduler has paused."""
        self._paused = 0
        """Trials that were left for a later coordinator."""
        self._renewed = self._looked = time.monotonic()
        self._bad_input = ""
        """What is wrong with all trials at once, as a slot found it."""
        self.stopped_for_now = ""
        """A reason that passes (disk full), for the exit code."""
        self.limit = ""
        """The option whose limit stopped it; empty where something else did, or nothing."""

    @property
    def stopping(self) -> str:
        """Why the study was stopped before its end; empty when it was not."""
        return self._jobs.stopping

    def stop(self, reason: str) -> None:
        """Pause all running trials at their next step and return from `run`. Safe to call from a signal handler."""
        self._jobs.stop(reason)

    def run(self) -> str:
        """Work. Returns why the study ended, or an empty string when it was stopped and can be gone on with.

        Raises StudyGone when the study was deleted meanwhile, StudyOwned when another coordinator took it over.
        """
        self._study.store.sit_out(self._jobs)
        self._study.storage.sit_out(self._jobs)
        try:
            with storage_errors(self._study.storage.engine.url):
                return self._work()
        except KeyError:
            # Optuna's way to say that a row is missing; a bug of ours says it too.
            if self._study.exists():
                raise
            raise StudyGone(f"study '{self._study.record.name}' was deleted while it ran; nothing more was written") from None
        finally:
            self._study.store.sit_out(None)
            self._study.storage.sit_out(None)
            self._study.storage.write_freely()

    def _work(self) -> str:
        self._watcher.opened(self._study.record, self._study.store.trials(self._study.record.id))
        self._recover()
        while True:
            self._look_at_limits()
            self._jobs.pause_all()
            if not self.stopping:
                self._fill()
            if not self._active and (self.stopping or self._nothing_left()):
                break
            for number, said in self._jobs.messages():
                self._handle(self._active[number], said)
            self._look_at_requests()
            self._keep_lease()
        if self._bad_input:
            raise BadInput(f"study '{self._study.record.name}' is paused: {self._bad_input}")
        if self.stopping and (self._paused or self._aside or not self._nothing_left()):
            return ""
        for release in self._judge.drain():
            record = self._aside.pop(release.number)
            self._decide(record, release.rung, "prune", release.reason, release.decided_by)
            self._end(record.ended(TrialState.PRUNED, EndReason.NOT_PROMOTED, release.reason))
        asked = self._ledger.asked
        grid = asked < self._study.record.trials_target
        enough = self._standing.enough
        reason = enough or (f"all {asked} configurations of the grid were tried" if grid else f"{asked} trials are done")
        if enough:
            self._ledger.note_enough(self._standing.spent.ended)
        self._ledger.finish(reason)
        return reason

    # What there is to do

    def _nothing_left(self) -> bool:
        return not self._waiting and (bool(self._standing.enough) or self._ledger.asked >= self._study.total)

    def _fill(self) -> None:
        for slot in self._jobs.idle():
            record = self._next()
            if record is None:
                return
            self._start(record, slot)

    def _next(self) -> TrialRecord | None:
        """The trial that gets the next free slot; None when there is none."""
        if self._waiting:
            return self._waiting.popleft()
        while (release := self._judge.promote(last=self._nothing_left())) is not None:
            record = self._aside.pop(release.number, None)
            running = self._active.get(release.number)
            if record is not None or running is not None:
                self._decide(
                    record or running.record,  # type: ignore[union-attr]
                    release.rung,
                    "promote",
                    release.reason,
                    release.decided_by,
                )
                self._watcher.note(f"trial {release.number} {release.reason}")
            if record is not None:
                return record  # The other kind is still in its slot, on its way to a pause, and is queued when it is there.
        while not self._nothing_left():
            record = self._ledger.ask()
            if not record.state.ended:
                return record
            self._standing.count(record)
            self._watcher.ended(record, self._standing.best)
        return None

    def _start(self, record: TrialRecord, slot: SlotInfo) -> None:
        study = self._study
        from_iteration = self._begins_at(record)
        record = replace(record, state=TrialState.RUNNING, pause_kind=None, attempts=record.attempts + 1, reason="")
        attempt = AttemptRecord(
            record.number, record.attempts, slot.name, slot.host, slot.pid, started_at=0.0, from_iteration=from_iteration
        )
        self._ledger.start(record, attempt)
        folder = study.trial_folder(record.number)
        study.require_folder()
        folder.mkdir(parents=True, exist_ok=True)
        set_ = {name: value for name, value in record.config.items() if value is not None}
        document = {"data": study.record.data, "hyperparameters": set_}  # `hpsearch train --config` reads it.
        write_atomically(folder / "config.yaml", to_yaml(document))
        task = self._jobs.task(
            number=record.number,
            attempt=record.attempts,
            config=record.config,
            folder=folder,
            micro_batches=record.micro_batches,
            branch_rungs=self._judge.branch_rungs(record.config),
            known_rungs=record.rung,  # What an outage kept from being stored died with the coordinator that knew it.
            from_iteration=from_iteration,
            checkpoints=study.checkpoints_of(record.number),
            own=study.workload.run(),
        )
        self._active[record.number] = _Active(record, attempt)
        self._jobs.submit(slot, task)
        self._watcher.started(record, slot.name, from_iteration)

    def _begins_at(self, record: TrialRecord) -> int:
        """The step of the newest checkpoint that is still there, as far as can be told from here."""
        saved, study = self._ledger.checkpoints(record.number), self._study
        newest = max((each.iteration for each in saved), default=0)
        if study.files_elsewhere:
            return newest
        place = study.checkpoints_of(record.number) or study.trial_folder(record.number)
        files = ((each.iteration, study.folder / each.path, place / step_name(each.iteration)) for each in saved)
        there = max((step for step, path, other in files if path.exists() or other.exists()), default=0)
        if there < newest and not study.record.own:  # A trainer of one's own says so itself.
            self._watcher.note(f"trial {record.number}: the checkpoint of step {newest} is gone; {_onward(there)}")
        return there

    def _on_began(self, active: _Active, iteration: int) -> None:
        """The slot found other checkpoints than the coordinator thought."""
        expected = active.attempt.from_iteration
        active.attempt = replace(active.attempt, from_iteration=iteration)
        self._ledger.save(active.attempt)
        if iteration < expected:
            self._watcher.note(f"trial {active.record.number}: {_onward(iteration)}, and not from step {expected}")

    def _look_at_limits(self) -> None:
        running = [*(active.record for active in self._active.values()), *self._waiting, *self._aside.values()]
        if not self.stopping and (reached := self._limits.reached(self._standing.spent, running)):
            self.limit = reached.option
            self.stop(reached.reason)
        if reason := self._standing.enough_now():
            self._watcher.note(f"{reason}: no new trial starts")

    def _look_at_requests(self) -> None:
        """What people ask at other terminals."""
        if time.monotonic() - self._looked < REQUESTS_S:
            return
        requests = self._study.store.requests(self._study.record.id)
        for request in requests:
            self._obey(request)
        if requests:
            self._study.store.forget_requests(self._study.record.id, requests, token=self._owner.token)
        self._looked = time.monotonic()

    def _obey(self, request: RequestRecord) -> None:
        match request.kind:
            case "stop":
                self.stop("stopped from another terminal")
            case "enqueue":
                self._study.optuna.enqueue_trial(request.payload["params"], skip_if_exists=True)
                self._watcher.note("a configuration was enqueued from another terminal")
            case "prune":
                self._prune_by_hand(int(request.payload["number"]))

    def _prune_by_hand(self, number: int) -> None:
        reason = "pruned by hand"
        if active := self._active.get(number):
            active.record, active.stopped_by = replace(active.record, reason=reason), EndReason.PRUNED_BY_HAND
            self._decide(active.record, active.record.rung, "prune", reason, "a person")
            self._jobs.answer(number, Answer.STOP)
            return
        set_aside = self._aside.pop(number, None)
        for record in [set_aside] if set_aside else [each for each in self._waiting if each.number == number]:
            self._waiting = deque(each for each in self._waiting if each.number != number)
            self._decide(record, record.rung, "prune", reason, "a person")
            self._end(record.ended(TrialState.PRUNED, EndReason.PRUNED_BY_HAND, reason))

    # What the slots say

    def _handle(self, active: _Active, said: Event | Ended | Failed | Died) -> None:
        match said:
            case Ended(result):
                self._on_ended(active, result)
            case Failed():
                self._on_failed(active, said)
            case Died():
                self._on_died(active, said)
            case event:
                self._on_event(active, event)

    def _on_event(self, active: _Active, event: Event) -> None:
        match event:
            case Progress():
                self._watcher.progress(active.record, event)
            case EvalPoint():
                self._on_point(active, event)
            case CheckpointSaved():
                self._ledger.checkpoint(active.record, event)
            case Warned(text):
                self._watcher.note(f"trial {active.record.number}: {text}")
            case Began(iteration):
                self._on_began(active, iteration)

    def _on_point(self, active: _Active, point: EvalPoint) -> None:
        active.record = replace(
            active.record,
            rung=point.rung,
            iteration=point.iteration,
            tokens=point.tokens,
            flops=point.flops,
            seconds=point.seconds,
            metrics=point.metrics,
        )
        self._ledger.evaluated(active.record, point)
        verdict, end_reason = self._judge.verdict(active.record, point)
        if verdict.reason:
            rung = self._judge.rung(active.record.config, point.rung)
            self._decide(active.record, rung, verdict.action, verdict.reason, verdict.decided_by)
        if verdict.action != "continue":
            active.record, active.stopped_by = replace(active.record, reason=verdict.reason), end_reason
        self._watcher.evaluated(active.record, point)
        self._look_at_limits()
        answer = {"continue": Answer.CONTINUE, "pause": Answer.PAUSE, "prune": Answer.STOP}[verdict.action]
        if answer is Answer.CONTINUE and self.stopping:
            answer = Answer.PAUSE
        self._jobs.answer(active.record.number, answer)

    def _on_ended(self, active: _Active, result: TrainResult) -> None:
        record = active.record
        if result.outcome is Outcome.PAUSED:
            self._on_paused(active, result)
            return
        record = outcomes.ended(record, result, self._study.record.objectives, self._study.space, active.stopped_by)
        self._end(record, active.left(str(result.outcome), record.reason))

    def _on_paused(self, active: _Active, result: TrainResult) -> None:
        record = replace(active.record, iteration=result.iteration)
        if record.number in self._judge.paused:
            record = record.paused(PauseKind.BY_SCHEDULER, record.reason)
            self._leave(record, active.left("paused", record.reason))
            self._aside[record.number] = record
            self._standing.spent.set_aside(record.number)
            self._watcher.ended(record, self._standing.best)
        elif self.stopping:
            self._pause(active, self.stopping)
        else:  # Promoted while it was on its way to the pause.
            record = record.paused(PauseKind.BETWEEN_SLOTS, record.reason)
            self._leave(record, active.left("paused", "promoted"))
            self._waiting.append(record)

    def _on_failed(self, active: _Active, failed: Failed) -> None:
        if failed.kind in ("disk-full", "out-of-threads"):
            self.stopped_for_now = self.stopped_for_now or failed.message
        elif failed.kind == "bad-input":
            # Its config was checked here, so it is the text that changed: every other trial would fail of it too.
            self._bad_input = self._bad_input or failed.message
        if failed.kind in ("disk-full", "out-of-threads", "bad-input"):
            self.stop(failed.message)
            self._pause(active, failed.message)
            return
        if failed.kind == "out-of-memory":
            self._on_out_of_memory(active, failed)
            return
        if failed.traceback:
            log = self._study.trial_folder(active.record.number) / "error.txt"
            write_atomically(log, storable(failed.traceback))
        record = active.record.ended(TrialState.FAILED, EndReason.FAILED, failed.message)
        self._end(record, active.left("failed", failed.message))

    def _on_out_of_memory(self, active: _Active, failed: Failed) -> None:
        """Once more in smaller parts; then it is known how much too large the configuration is."""
        workload = self._study.workload
        record = outcomes.short_of_memory(
            active.record, failed, workload.parts(active.record.config), workload.memory_bytes(active.record.config)
        )
        left = active.left("out-of-memory", failed.message)
        if record.state.ended:
            self._end(record, left)
            return
        self._leave(record, left)
        self._watcher.note(f"trial {record.number}: {record.reason}")
        self._waiting.appendleft(record)

    def _on_died(self, active: _Active, died: Died) -> None:
        number = active.record.number
        if self._jobs.out_of_time:  # Killed from here, which says nothing about the trial.
            self._watcher.note(f"trial {number}: did not pause within {GRACE_S:.0f} s; it goes on from its last checkpoint")
            self._pause(active, self.stopping)
            return
        outcome = outcomes.of_death(died)
        record = outcomes.died(active.record, died, times=1 + self._ledger.attempts_that(outcome, number))
        how = outcomes.how(died)
        if record.state.ended:
            self._end(record, active.left(outcome, how))
            return
        self._leave(record, active.left(outcome, how))
        self._watcher.note(f"trial {number}: slot lost ({how}); it goes on from its last checkpoint")
        self._waiting.appendleft(record)

    # Ends

    def _decide(self, record: TrialRecord, rung: int, action: str, reason: str, decided_by: str) -> None:
        self._ledger.save(DecisionRecord(record.number, rung, action, reason, decided_by))

    def _leave(self, record: TrialRecord, attempt: AttemptRecord) -> None:
        """The trial is no longer in its slot."""
        self._ledger.save(record, attempt)
        self._active.pop(record.number, None)

    def _pause(self, active: _Active, reason: str) -> None:
        """The trial is left for a later coordinator."""
        aside = active.record.number in self._judge.paused  # Told to pause, and its slot was lost on the way.
        record = active.record.paused(PauseKind.BY_SCHEDULER if aside else PauseKind.INTERRUPTED, reason)
        self._leave(record, active.left("paused", reason))
        self._paused += 1
        self._watcher.ended(record, self._standing.best)

    def _end(self, record: TrialRecord, attempt: AttemptRecord | None = None) -> None:
        """The trial is over."""
        self._active.pop(record.number, None)
        self._ledger.end(record, attempt)
        self._judge.ended(record.number)
        self._standing.count(record)
        self._watcher.ended(record, self._standing.best)

    # After a crash

    def _recover(self) -> None:
        """Queue what an earlier coordinator left unfinished."""
        found = self._ledger.recover()
        self._judge.restore(found.points, found.decisions, found.ended, found.unfinished)
        for record in found.unfinished:
            if record.number in self._judge.paused:
                self._aside[record.number] = record
            else:
                self._waiting.append(record)
        self._standing.restore(found, self._aside, self._ledger.enough_before())
        requests = self._study.store.requests(self._study.record.id)
        stale = [request for request in requests if request.kind == "stop"]  # Meant for the coordinator before this one.
        self._study.store.forget_requests(self._study.record.id, stale, token=self._owner.token)
        self._standing.spent.wall_s = self._study.store.worked_s(self._study.record.id)

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if now - self._renewed > RENEW_S:
            self._study.store.renew(self._study.record.id, self._owner, LEASE_S)
            self._renewed = now


def _onward(iteration: int) -> str:
    return f"it goes on from step {iteration}" if iteration else "it begins anew"
