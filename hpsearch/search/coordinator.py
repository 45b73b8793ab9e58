"""The one process that owns a study: it asks, dispatches, stores, decides and tells.

Whatever is durable is in the database before it is acted on, so that after `kill -9` of anything the same command goes on: an
outcome is stored before Optuna is told of it, and a trial that was running goes on from its newest checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.trial import TrialState as OptunaState

from hpsearch.errors import BadInput, StudyGone
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotInfo, SlotMessage, TrialTask
from hpsearch.model.counting import count
from hpsearch.search.samplers import suggest
from hpsearch.search.study import LEASE_S, Study, outside
from hpsearch.search.watcher import Watcher
from hpsearch.space.canonical import to_yaml
from hpsearch.storage.records import (
    AttemptRecord,
    CheckpointRecord,
    DecisionRecord,
    Owner,
    PointRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.transactions import storage_errors
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Event, Outcome, Progress, TrainResult, Warned

POLL_S = 0.2
RENEW_S = LEASE_S / 5
MAX_DEATHS = 3
"""Slots that one trial may take with it before it counts as poisoned."""


@dataclass
class _Active:
    """A trial in a slot."""

    record: TrialRecord
    slot: str


class Coordinator:
    """Works on one study until its total of trials is reached, it is asked to stop, or its time is over.

    timeout_s: after this long no trial starts and the running ones are paused; None for no limit.
    """

    def __init__(
        self, study: Study, executor: Executor, watcher: Watcher, owner: Owner, *, timeout_s: float | None = None
    ) -> None:
        self._study, self._executor, self._watcher, self._owner = study, executor, watcher, owner
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._active: dict[int, _Active] = {}
        self._waiting: deque[TrialRecord] = deque()
        """Trials of an earlier coordinator, or of a slot that died, that go on before new ones start."""
        self._best: TrialRecord | None = None
        self._asked = 0
        self._paused = 0
        """Trials that were left for a later coordinator."""
        self._stopping = ""
        """Why no trial starts any more; empty while they do."""
        self._optuna_ids: dict[int, int] = {}
        self._renewed = time.monotonic()
        self._bad_input = ""
        """What is wrong with all trials at once, as a slot found it."""
        self.stopped_for_now = ""
        """A reason that passes (disk full), for the exit code."""

    def stop(self, reason: str) -> None:
        """Pause all running trials at their next step and return from `run`. Safe to call from a signal handler."""
        self._stopping = self._stopping or reason

    def run(self) -> str:
        """Work. Returns why the study ended, or an empty string when it was stopped and can be gone on with.

        Raises StudyGone when the study was deleted meanwhile, StudyOwned when another coordinator took it over.
        """
        try:
            with storage_errors(self._study.storage.engine.url):
                return self._work()
        except KeyError:
            # Optuna's way to say that a row is missing; a bug of ours says it too.
            if self._study.exists():
                raise
            raise StudyGone(f"study '{self._study.record.name}' was deleted while it ran; nothing more was written") from None

    def _work(self) -> str:
        self._watcher.opened(self._study.record, self._study.store.trials(self._study.record.id))
        self._recover()
        asked_to_pause = False
        while True:
            if time.monotonic() > self._deadline:
                self.stop("the time limit was reached")
            if self._stopping and not asked_to_pause:
                for active in self._active.values():
                    self._executor.answer(active.slot, Answer.PAUSE)
                asked_to_pause = True
                self._watcher.note(f"{self._stopping}: pausing the running trials (interrupt once more to end at once)")
            if not self._stopping:
                self._fill()
            if not self._active and (self._stopping or self._nothing_left()):
                break
            for message in self._executor.messages(POLL_S):
                self._handle(message)
            self._keep_lease()
        if self._bad_input:
            raise BadInput(f"study '{self._study.record.name}' is paused: {self._bad_input}")
        if self._stopping and (self._paused or not self._nothing_left()):
            return ""
        grid = self._asked < self._study.record.trials_target
        reason = f"all {self._asked} configurations of the grid were tried" if grid else f"{self._asked} trials are done"
        self._study.store.finish(self._study.record.id, reason, token=self._owner.token)
        return reason

    # What there is to do

    def _nothing_left(self) -> bool:
        return not self._waiting and self._asked >= self._study.total

    def _fill(self) -> None:
        for slot in self._executor.idle():
            if self._waiting:
                self._start(self._waiting.popleft(), slot)
            elif self._nothing_left():
                return
            else:
                record = self._propose(self._study.optuna.ask())
                if not record.state.ended:
                    self._start(record, slot)

    def _propose(self, trial: optuna.Trial) -> TrialRecord:
        """The configuration of a trial that Optuna numbered, stored as running."""
        study = self._study
        proposal = suggest(trial, study.space)
        self._optuna_ids[trial.number] = trial._trial_id
        self._asked += 1
        fixed = "fixed_params" in study.storage.get_trial(trial._trial_id).system_attrs
        proposed_by = ("prior" if trial.number == 0 else "enqueued") if fixed else study.record.sampler
        record = TrialRecord(trial.number, TrialState.RUNNING, proposal, {}, proposed_by)
        try:
            config = study.config(proposal, trial.number)
            broken = outside(study.space, config)
        except BadInput as error:
            broken = str(error)
        if broken:  # Only an enqueued configuration can be one that no model has, or that the budget does not pay for.
            record = replace(record, state=TrialState.FAILED, reason=broken)
            study.store.add_trial(study.record.id, record, token=self._owner.token)
            self._tell(record)
            self._watcher.ended(record, self._best)
            return record
        record = replace(record, config=config.concrete(), num_parameters=count(config).num_parameters)
        study.store.add_trial(study.record.id, record, token=self._owner.token)
        study.storage.set_trial_user_attr(trial._trial_id, "num_parameters", record.num_parameters)
        return record

    def _start(self, record: TrialRecord, slot: SlotInfo) -> None:
        study = self._study
        checkpoints = study.store.checkpoints(study.record.id, record.number)
        from_iteration = max((checkpoint.iteration for checkpoint in checkpoints), default=0)
        record = replace(record, state=TrialState.RUNNING, attempts=record.attempts + 1, reason="")
        attempt = AttemptRecord(
            record.number, record.attempts, slot.name, slot.host, slot.pid, started_at=0.0, from_iteration=from_iteration
        )
        study.store.save(study.record.id, [record, attempt], token=self._owner.token)
        folder = study.trial_folder(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in record.config.items() if value is not None}
        document = {"data": study.record.data, "hyperparameters": config}  # `hpsearch train --config` reads it.
        (folder / "config.yaml").write_text(to_yaml(document), encoding="utf-8")
        index = int(slot.name.rpartition("-")[2]) if slot.name.rpartition("-")[2].isdecimal() else 0
        task = TrialTask(
            number=record.number,
            attempt=record.attempts,
            config=config,
            data=study.record.data,
            data_fingerprint=study.record.data_fingerprint,
            folder=folder,
            cache_dir=study.cache_dir,
            device=study.devices[index % len(study.devices)],
            threads=study.record.threads,
            objectives=study.record.objectives,
        )
        self._active[record.number] = _Active(record, slot.name)
        self._executor.submit(slot, task)
        self._watcher.started(record, slot.name, from_iteration)

    # What the slots say

    def _handle(self, message: SlotMessage) -> None:
        active = self._active[message.number]
        match message.body:
            case Ended(result):
                self._on_ended(active, result)
            case Failed():
                self._on_failed(active, message.body)
            case Died(exit_code):
                self._on_died(active, exit_code)
            case event:
                self._on_event(active, event)

    def _on_event(self, active: _Active, event: Event) -> None:
        study = self._study
        match event:
            case Progress():
                self._watcher.progress(active.record, event)
            case EvalPoint():
                self._on_point(active, event)
            case CheckpointSaved():
                saved = CheckpointRecord(
                    active.record.number, event.iteration, self._relative(event.path), event.sha256, event.size
                )
                study.store.add_checkpoint(study.record.id, saved, token=self._owner.token)
            case Warned(text):
                self._watcher.note(f"trial {active.record.number}: {text}")

    def _on_point(self, active: _Active, point: EvalPoint) -> None:
        study, number = self._study, active.record.number
        study.store.add_points(
            study.record.id,
            [
                PointRecord(
                    number,
                    point.rung,
                    point.iteration,
                    point.tokens,
                    point.flops,
                    point.seconds,
                    point.train_loss,
                    point.metrics,
                    point.learning_rate,
                    point.grad_norm,
                    point.tokens_per_s,
                )
            ],
            token=self._owner.token,
        )
        active.record = replace(
            active.record,
            rung=point.rung,
            iteration=point.iteration,
            tokens=point.tokens,
            flops=point.flops,
            seconds=point.seconds,
            metrics=point.metrics,
        )
        study.store.update_trial(study.record.id, active.record, token=self._owner.token)
        reason = self._prune_reason(number, point)
        if reason:
            decision = DecisionRecord(number, point.rung, "prune", reason, study.record.pruner)
            study.store.add_decision(study.record.id, decision, token=self._owner.token)
            active.record = replace(active.record, reason=reason)
        self._watcher.evaluated(active.record, point)
        self._executor.answer(active.slot, Answer.STOP if reason else Answer.PAUSE if self._stopping else Answer.CONTINUE)

    def _prune_reason(self, number: int, point: EvalPoint) -> str:
        """Report the evaluation to Optuna, and why the pruner ends the trial here; empty when it goes on."""
        study = self._study
        value = point.metrics.get(study.objective)
        if value is None or not math.isfinite(value) or not study.prunable:
            return ""
        study.storage.set_trial_intermediate_value(self._optuna_ids[number], point.rung, value)
        if point.iteration == self._active[number].record.config["max_iters"]:
            return ""  # It has cost all that it can.
        if not study.optuna.pruner.prune(study.optuna, study.storage.get_trial(self._optuna_ids[number])):
            return ""
        return f"{study.record.pruner} pruner at rung {point.rung} of {study.record.budget.evaluations}: {value:.4f}"

    def _on_ended(self, active: _Active, result: TrainResult) -> None:
        record = active.record
        match result.outcome:
            case Outcome.PAUSED:
                self._leave(active, "paused", self._stopping)
                self._pause(replace(record, state=TrialState.PAUSED, reason=self._stopping))
                return
            case Outcome.STOPPED:
                state, reason = TrialState.PRUNED, record.reason
            case Outcome.DIVERGED:
                # Pruned, not failed: a sampler ignores failures and would propose this rate again.
                state, reason = TrialState.PRUNED, f"diverged: {result.reason}"
            case Outcome.COMPLETE:
                state, reason = TrialState.COMPLETE, ""
        metrics = record.metrics | result.metrics
        values = tuple(metrics[name] for name in self._study.record.objectives if name in metrics)
        finite = len(values) == len(self._study.record.objectives) and all(map(math.isfinite, values))
        if state is TrialState.COMPLETE and not finite:
            state, reason = TrialState.PRUNED, "diverged: the final evaluation is not finite"
        record = replace(
            record,
            state=state,
            reason=reason,
            iteration=result.iteration,
            metrics=metrics,
            values=values if finite else None,
            sample=result.sample,
        )
        self._end(active, record, str(result.outcome))

    def _on_failed(self, active: _Active, failed: Failed) -> None:
        if failed.kind == "disk-full":
            self.stopped_for_now = self.stopped_for_now or failed.message
        elif failed.kind == "bad-input":
            # Its config was checked here, so it is the text that changed: every other trial would fail of it too.
            self._bad_input = self._bad_input or failed.message
        if failed.kind in ("disk-full", "bad-input"):
            self.stop(failed.message)
            self._leave(active, "paused", failed.message)
            self._pause(replace(active.record, state=TrialState.PAUSED, reason=failed.message))
            return
        if failed.traceback:
            log = self._study.trial_folder(active.record.number) / "error.txt"
            log.write_text(failed.traceback, encoding="utf-8")
        self._end(active, replace(active.record, state=TrialState.FAILED, reason=failed.message), "failed")

    def _on_died(self, active: _Active, exit_code: int | None) -> None:
        number, store, study_id = active.record.number, self._study.store, self._study.record.id
        how = f"its process ended with {exit_code}" if exit_code is None or exit_code >= 0 else f"killed by signal {-exit_code}"
        deaths = 1 + sum(attempt.outcome == "died" for attempt in store.attempts(study_id, number))
        if deaths >= MAX_DEATHS:
            reason = f"poisoned: its slot died {deaths} times, the last time {how}"
            self._end(active, replace(active.record, state=TrialState.FAILED, reason=reason), "died")
            return
        self._leave(active, "died", how)
        waiting = replace(active.record, state=TrialState.PAUSED, reason=f"slot lost: {how}")
        store.update_trial(study_id, waiting, token=self._owner.token)
        self._watcher.note(f"trial {number}: slot lost ({how}); it goes on from its last checkpoint")
        self._waiting.appendleft(waiting)

    # Ends

    def _pause(self, record: TrialRecord) -> None:
        """The trial is left for a later coordinator."""
        self._paused += 1
        self._study.store.update_trial(self._study.record.id, record, token=self._owner.token)
        self._watcher.ended(record, self._best)

    def _leave(self, active: _Active, outcome: str, reason: str) -> None:
        """The trial is no longer in its slot."""
        record = active.record
        self._study.store.end_attempt(
            self._study.record.id, record.number, record.attempts, outcome, reason, token=self._owner.token
        )
        del self._active[record.number]

    def _end(self, active: _Active, record: TrialRecord, outcome: str) -> None:
        """The trial is over: stored first, told second, tidied last."""
        self._leave(active, outcome, record.reason)
        self._study.store.update_trial(self._study.record.id, record, token=self._owner.token)
        self._tell(record)
        self._compare(record)
        self._watcher.ended(record, self._best)

    def _compare(self, record: TrialRecord) -> None:
        """Remember the best complete trial; of equal ones the first."""
        if record.state is TrialState.COMPLETE and record.value is not None:
            best = self._best.value if self._best is not None else None
            if best is None or record.value < best:
                self._best = record

    def _tell(self, record: TrialRecord) -> None:
        study = self._study
        trial_id = self._optuna_ids[record.number]
        if record.reason:
            study.storage.set_trial_user_attr(trial_id, "reason", record.reason)
        match record.state:
            case TrialState.COMPLETE:
                study.optuna.tell(record.number, list(record.values or ()), skip_if_finished=True)
            case TrialState.PRUNED:
                study.optuna.tell(record.number, state=OptunaState.PRUNED, skip_if_finished=True)
            case _:
                study.optuna.tell(record.number, state=OptunaState.FAIL, skip_if_finished=True)
        study.store.update_trial(study.record.id, replace(record, told=True), token=self._owner.token)
        if record.state is not TrialState.COMPLETE:
            # It will never go on, and its weights are of no use.
            shutil.rmtree(study.trial_folder(record.number) / "checkpoints", ignore_errors=True)
            self._remove_checkpoints(record.number)
            study.store.forget_checkpoints(study.record.id, record.number, token=self._owner.token)

    def _remove_checkpoints(self, number: int) -> None:
        """Those that a `save_dir` put elsewhere: file by file, as the folder may hold other things."""
        for saved in self._study.store.checkpoints(self._study.record.id, number):
            path = self._study.folder / saved.path
            for useless in (path, path.with_name(f"{path.name}.sha256"), path.with_name("best.safetensors")):
                with contextlib.suppress(OSError):
                    useless.unlink()

    # After a crash

    def _recover(self) -> None:
        """Bring our rows and Optuna's to the same state, and queue what an earlier coordinator left unfinished."""
        study = self._study
        study.store.close_attempts(study.record.id, "lost", "the coordinator ended", token=self._owner.token)
        records = {record.number: record for record in study.store.trials(study.record.id)}
        for frozen in study.optuna.get_trials(deepcopy=False):
            self._optuna_ids[frozen.number] = frozen._trial_id
            if frozen.state is OptunaState.WAITING:
                continue
            record = records.get(frozen.number)
            if record is None and frozen.state is OptunaState.RUNNING:
                # Numbered by Optuna, and the crash came before it was stored here: it keeps its number.
                record = self._propose(optuna.Trial(study.optuna, frozen._trial_id))
                if not record.state.ended:
                    self._waiting.append(record)
                continue
            self._asked += 1
            if record is None:
                continue
            if record.state.ended:
                self._compare(record)
                if not record.told:
                    self._tell(record)
            elif frozen.state.is_finished():
                # Another program ended it in Optuna, where it cannot be opened again.
                told = replace(record, state=TrialState.FAILED, reason="ended by another program", told=True)
                study.store.update_trial(study.record.id, told, token=self._owner.token)
            else:
                self._waiting.append(record)

    # Small things

    def _relative(self, path: str) -> str:
        try:
            return str(Path(path).relative_to(self._study.folder))
        except ValueError:
            return os.path.abspath(path)  # noqa: PTH100 - a save_dir outside the study's folder

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if now - self._renewed > RENEW_S:
            self._study.store.renew(self._study.record.id, self._owner, LEASE_S)
            self._renewed = now
