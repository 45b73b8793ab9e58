"""Follow a study from another process: what its coordinator writes, as the events that its own watcher would get."""

from __future__ import annotations

import time

from hpsearch.storage.records import PointRecord, StudyRecord, TrialRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.training.events import EvalPoint
from hpsearch.tuning.callbacks import Watcher

POLL_S = 1.0
SHARE = 0.1
"""Most of the time that may be spent reading: a large study is read less often."""


class Follower:
    """Reads one study again and again, and tells `watcher` what is new. It writes nothing."""

    def __init__(self, store: Store, study: StudyRecord, watcher: Watcher) -> None:
        self._store, self._study, self._watcher = store, study, watcher
        self._known: dict[int, TrialRecord] = {}
        self._rungs: dict[int, int] = {}

    def follow(self) -> str:
        """Follow until nobody works on the study. Returns why it ended, an empty string when it can be gone on with.

        Raises StudyGone when it is deleted meanwhile.
        """
        trials = self._store.trials(self._study.id)
        self._watcher.opened(self._study, trials)
        self._known = {trial.number: trial for trial in trials if trial.state.ended}
        while True:
            began = time.monotonic()
            # Asked before the trials are read: what the owner wrote before it left is then seen.
            owner = self._store.owner(self._study.id)
            self._read()
            if owner is None:
                return self._store.study(self._study.name).finished_reason
            spent = time.monotonic() - began
            time.sleep(max(POLL_S - spent, spent / SHARE))

    def _read(self) -> None:
        for trial in self._store.trials(self._study.id):
            before = self._known.get(trial.number)
            if before == trial:
                continue
            if trial.attempts > (before.attempts if before else 0):
                self._started(trial)
            for point in self._store.points(self._study.id, trial.number):
                if point.rung > self._rungs.get(trial.number, 0):
                    self._rungs[trial.number] = point.rung
                    self._watcher.evaluated(trial, eval_point(point))
            if trial.state is not TrialState.RUNNING and (before is None or before.state is not trial.state):
                self._known[trial.number] = trial
                self._watcher.ended(trial, self._best())
            self._known[trial.number] = trial

    def _started(self, trial: TrialRecord) -> None:
        attempts = self._store.attempts(self._study.id, trial.number)
        slot, start = (attempts[-1].slot, attempts[-1].from_iteration) if attempts else ("no slot", 0)
        self._watcher.started(trial, slot, start)

    def _best(self) -> TrialRecord | None:
        complete = [trial for trial in self._known.values() if trial.state is TrialState.COMPLETE and trial.feasible]
        return min((trial for trial in complete if trial.value is not None), key=_rank, default=None)


def _rank(trial: TrialRecord) -> tuple[float, int]:
    assert trial.value is not None
    return trial.value, trial.number


def eval_point(point: PointRecord) -> EvalPoint:
    """The event that a stored point came from."""
    return EvalPoint(
        rung=point.rung,
        iteration=point.iteration,
        tokens=point.tokens,
        flops=point.flops,
        seconds=point.seconds,
        train_loss=point.train_loss,
        metrics=point.metrics,
        learning_rate=point.learning_rate,
        grad_norm=point.grad_norm,
        tokens_per_s=point.tokens_per_s,
    )
