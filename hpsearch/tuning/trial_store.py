"""What outlasts the coordinator: our rows and Optuna's, written in an order that survives a crash at any point.

An outcome is stored here before Optuna is told of it; what an earlier coordinator left between the two is made good by
`recover`. Every write, Optuna's too, is fenced by the lease's token and can be repeated without harm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState as OptunaState

from hpsearch.errors import BadInput
from hpsearch.files import inside
from hpsearch.sampling.imputation import END_REASON, SO_FAR
from hpsearch.sampling.samplers import PROPOSED_BY, suggest
from hpsearch.storage.records import (
    AttemptRecord,
    CheckpointRecord,
    DecisionRecord,
    EndReason,
    Owner,
    PointRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.upsert import Record
from hpsearch.text import storable
from hpsearch.training.events import CheckpointSaved, EvalPoint
from hpsearch.training.kept import checkpoint_folder, remove_all
from hpsearch.tuning.study import Study

ENOUGH = "enough"
"""Where the study's record has, among its extras, when no more trials were worth it."""


@dataclass(frozen=True)
class Recovered:
    """What a new coordinator finds."""

    unfinished: list[TrialRecord]
    ended: list[TrialRecord]
    """In the order in which they ended."""
    points: list[PointRecord]
    decisions: list[DecisionRecord]
    """In the order in which they were made."""


class Ledger:
    """The rows of one study, as its coordinator writes them."""

    def __init__(self, study: Study, owner: Owner) -> None:
        self._study, self._token, self._id = study, owner.token, study.record.id
        self._optuna_ids: dict[int, int] = {}

    @property
    def asked(self) -> int:
        """Trials that have been proposed."""
        return len(self._optuna_ids)

    # A trial's life

    def ask(self) -> TrialRecord:
        """The next trial with its configuration, stored as running; or failed, when none can be trained from it."""
        return self._adopt(self._study.optuna.ask())

    def start(self, record: TrialRecord, attempt: AttemptRecord) -> None:
        self.save(record, attempt)

    def checkpoint(self, record: TrialRecord, event: CheckpointSaved) -> None:
        self.save(CheckpointRecord(record.number, event.iteration, self._relative(event.path), event.sha256, event.size))

    def evaluated(self, record: TrialRecord, point: EvalPoint) -> None:
        """An evaluation, and the trial as it stands after it."""
        self.save(
            record,
            PointRecord(
                record.number,
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
            ),
        )

    def report(self, record: TrialRecord, rung: int, value: float) -> optuna.trial.FrozenTrial:
        """Give Optuna an evaluation; its view of the trial after that."""
        trial_id = self._optuna_ids[record.number]
        self._study.storage.set_trial_intermediate_value(trial_id, rung, value)
        return self._study.storage.get_trial(trial_id)

    def remember(self, record: TrialRecord, watched: int, rung: int, value: float, others: Mapping[str, float]) -> None:
        """Leave an evaluation of several objectives where samplers find it."""
        trial_id = self._optuna_ids[record.number]
        so_far = self._study.storage.get_trial_system_attrs(trial_id).get(SO_FAR, {"curve": {}})
        curve = {**so_far["curve"], str(rung): value}
        told: dict[str, Any] = {"watched": watched, "curve": curve, "others": dict(others)}
        self._study.storage.set_trial_system_attr(trial_id, SO_FAR, told)

    def end(self, record: TrialRecord, attempt: AttemptRecord | None = None) -> None:
        """The trial is over: stored first, told second, tidied last."""
        self.save(record, *([attempt] if attempt else []))
        self._tell(record)

    def save(self, *records: Record) -> None:
        """Write all of them, or none."""
        self._study.store.save(self._id, records, token=self._token)

    def checkpoints(self, number: int) -> list[CheckpointRecord]:
        return self._study.store.checkpoints(self._id, number)

    def attempts_that(self, outcome: str, number: int) -> int:
        """How many of the trial's attempts ended so."""
        return sum(attempt.outcome == outcome for attempt in self._study.store.attempts(self._id, number))

    def finish(self, reason: str) -> None:
        self._study.store.finish(self._id, reason, token=self._token)

    def note_enough(self, ended: int) -> None:
        """Remember at how many ended trials of which total no more were worth it."""
        study = self._study.store.study(self._study.record.name)
        extras = {**study.extras, ENOUGH: {"ended": ended, "total": study.trials_target}}
        self._study.store.set_extras(self._id, extras, token=self._token)

    def enough_before(self) -> int:
        """Ended trials at which no more were worth it, where a larger total was asked for since; 0 where there was nothing."""
        noted = self._study.record.extras.get(ENOUGH)
        return int(noted["ended"]) if noted and noted["total"] < self._study.record.trials_target else 0

    # After a crash

    def recover(self) -> Recovered:
        """Bring our rows and Optuna's to the same state, and say what an earlier coordinator left."""
        study = self._study
        study.store.close_attempts(self._id, "lost", "the coordinator ended", token=self._token)
        records = {record.number: record for record in study.store.trials(self._id)}
        unfinished: list[TrialRecord] = []
        ended: list[TrialRecord] = []
        for frozen in study.optuna.get_trials(deepcopy=False):
            if frozen.state is OptunaState.WAITING:
                continue
            record = records.get(frozen.number)
            if record is None and frozen.state is OptunaState.RUNNING:
                # The crash came before it was stored here.
                record = self._adopt(optuna.Trial(study.optuna, frozen._trial_id))
                (ended if record.state.ended else unfinished).append(record)
                continue
            self._optuna_ids[frozen.number] = frozen._trial_id
            if record is None:
                continue
            if record.state.ended:
                if not record.told:
                    self._tell(record)
                ended.append(record)
            elif frozen.state.is_finished():
                # Another program ended it in Optuna, where it cannot be opened again.
                failed = record.ended(TrialState.FAILED, EndReason.ENDED_ELSEWHERE, "ended by another program")
                told = replace(failed, told=True)
                self.save(told)
                ended.append(told)
            else:
                unfinished.append(record)
        ended.sort(key=lambda record: (record.ended_at or 0.0, record.number))
        points = study.store.points(self._id) if study.record.scheduler != "none" else []
        decisions = sorted(study.store.decisions(self._id), key=lambda decision: decision.at)
        return Recovered(unfinished, ended, points, decisions)

    # Inside

    def _adopt(self, trial: optuna.Trial) -> TrialRecord:
        """The configuration of a trial that Optuna numbered, stored as running."""
        study = self._study
        proposal = suggest(trial, study.space)
        self._optuna_ids[trial.number] = trial._trial_id
        attributes = study.storage.get_trial_system_attrs(trial._trial_id)
        record = TrialRecord(trial.number, TrialState.RUNNING, proposal, {}, self._proposer(trial.number, attributes))
        try:
            prepared = study.prepare(proposal)
        except BadInput as error:
            # Only an enqueued configuration can be one that no model has, or that the budget does not pay for.
            record = record.ended(TrialState.FAILED, EndReason.BAD_CONFIG, str(error))
            self.end(record)
            return record
        record = replace(record, config=prepared.config, num_parameters=prepared.num_parameters)
        self.save(record)
        if record.num_parameters:
            study.storage.set_trial_user_attr(trial._trial_id, "num_parameters", record.num_parameters)
        return record

    def _proposer(self, number: int, attributes: Mapping[str, Any]) -> str:
        """What proposed a trial: the prior, a person, or the sampler (a part of it, where it says so)."""
        if "fixed_params" in attributes:
            return "prior" if number == 0 else "enqueued"
        return str(attributes.get(PROPOSED_BY, self._study.record.sampler))

    def _tell(self, record: TrialRecord) -> None:
        study = self._study
        with contextlib.suppress(UpdateFinishedTrialError):  # The crash came between telling it and noting that.
            self._describe(record)
        match record.state:
            case TrialState.COMPLETE:
                study.optuna.tell(record.number, list(record.values or ()), skip_if_finished=True)
            case TrialState.PRUNED:
                study.optuna.tell(record.number, state=OptunaState.PRUNED, skip_if_finished=True)
            case _:
                study.optuna.tell(record.number, state=OptunaState.FAIL, skip_if_finished=True)
        self.save(replace(record, told=True))
        if record.state is not TrialState.COMPLETE:
            # It will never go on, and its weights are of no use.
            if study.record.own:
                self._remove_own_checkpoints(record.number)
            else:
                self._remove_checkpoints(record)
            study.store.forget_checkpoints(self._id, record.number, token=self._token)

    def _describe(self, record: TrialRecord) -> None:
        """What Optuna's trial carries beside its values; UpdateFinishedTrialError where it was told already."""
        study = self._study
        trial_id = self._optuna_ids[record.number]
        if record.reason:
            study.storage.set_trial_user_attr(trial_id, "reason", storable(record.reason))
            study.storage.set_trial_user_attr(trial_id, END_REASON, record.end_reason)
        for name, value in record.constraints.items():
            study.storage.set_trial_system_attr(trial_id, f"constraints:{name}", value)
        if record.constraints:  # The dashboard reads the older form only, and would show an infeasible trial as best.
            study.storage.set_trial_system_attr(trial_id, "constraints", list(record.constraints.values()))

    def _remove_checkpoints(self, record: TrialRecord) -> None:
        """Those that the built-in trainer wrote: file by file, as the folder may hold other things."""
        number, study = record.number, self._study
        with contextlib.suppress(BadInput):  # A link that leads out of the trial's folder: nothing of ours is behind it.
            remove_all(
                checkpoint_folder(record.config.get("save_dir"), study.trial_folder(number), study.checkpoints_of(number))
            )

    def _remove_own_checkpoints(self, number: int) -> None:
        """Those that a trainer of one's own reported, as far as they are in the trial's folder: others may be anyone's."""
        trial = Path("trials", f"{number:04d}")
        for saved in self.checkpoints(number):
            try:  # A row is no proof of where a file is.
                path = inside(self._study.trial_folder(number), str(Path(saved.path).relative_to(trial)))
            except ValueError:
                continue
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _relative(self, path: str) -> str:
        try:
            return storable(str(Path(path).relative_to(self._study.folder)))
        except ValueError:
            return storable(os.path.abspath(path))  # noqa: PTH100 - outside the study's folder
