"""Trainers of one's own: what a training function is given and yields, and how a slot runs it.

A function is a generator `train(config, run)`. It yields an `Evaluation` after each measurement, with the checkpoint that it
can go on from where it writes one, and `None` as a sign of life. To pause or to prune it the slot closes it at a yield
(`GeneratorExit`), so that its `finally` and `with` blocks run. No torch here.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.execution.protocol import FunctionTrainer, ProgramTrainer, TrialTask
from hpsearch.files import write_atomically
from hpsearch.objectives import NEGATED
from hpsearch.training import heartbeat
from hpsearch.training.events import (
    Answer,
    Began,
    CheckpointSaved,
    EvalPoint,
    Event,
    Outcome,
    Progress,
    TrainResult,
    Warned,
)

TRAINER = "hpsearch.execution.own:train"
"""What a slot loads."""
RESUME = "resume.json"
"""In a trial's folder: the checkpoints that its trainer reported, oldest first."""
KEPT = 3
"""Checkpoints that are remembered: the newest may have been removed, or never written whole."""

Said = Generator[Event, Answer, TrainResult]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a trainer measured after `step` steps.

    step: finished steps, in whatever unit the study's budget counts them. value: the objective. metrics: whatever else was
    measured; of several objectives all of them, by name. checkpoint: a file or folder that this run can go on from, whole on
    disk; without one the run, once paused or lost, goes on from an earlier one, or begins anew.
    """

    step: int
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file or folder, whole on disk, that the run can go on from after `step` steps."""

    step: int
    path: str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Run:
    """One stay of a trial in a slot, as its training function sees it."""

    folder: Path
    """The trial's own, which outlasts this stay: checkpoints and logs go here."""
    resume: Path | None
    """The checkpoint to go on from; None at the beginning."""
    resume_step: int
    """Steps that were finished there; 0 at the beginning."""
    steps: int
    """Of a whole run: the study's budget."""
    eval_interval: int
    """Steps between two evaluations that the study hears of; more are welcome, and pass as signs of life."""
    trial: int
    """The trial's number."""
    seed: int
    """0 in a search, others when a result is confirmed. A trainer that ignores it cannot be confirmed."""
    device: str
    """`cpu`, `cuda:0`."""
    threads: int


def train(task: TrialTask) -> Said:
    """Run the trainer that a task names."""
    assert task.own is not None
    match task.own.trainer:
        case FunctionTrainer():
            return (yield from _function(task, task.own.trainer))
        case ProgramTrainer():
            from hpsearch.execution.program import program

            return (yield from program(task, task.own.trainer))


def run_of(task: TrialTask, resume: Checkpoint | None) -> Run:
    """The run of a task."""
    own = task.own
    assert own is not None
    return Run(
        folder=task.folder,
        resume=None if resume is None else Path(resume.path),
        resume_step=0 if resume is None else resume.step,
        steps=own.steps,
        eval_interval=own.steps // own.evaluations,
        trial=task.number,
        seed=own.seed,
        device=task.device,
        threads=task.threads,
    )


def _function(task: TrialTask, trainer: FunctionTrainer) -> Said:
    function = trainer.load()
    heartbeat.beat()  # Importing what it needs is over.
    journal = Journal(task)
    yield from journal.begin()
    if journal.over:
        return journal.result(Outcome.COMPLETE)
    generator = function(dict(task.config), run_of(task, journal.resume))
    if not isinstance(generator, Generator | Iterator):
        raise TypeError(f"{trainer.name} returned {type(generator).__name__}: a training function is a generator and yields")
    try:
        for said in generator:
            if said is None:
                asked = heartbeat.beat()
            elif isinstance(said, Evaluation | Checkpoint):
                asked = yield from journal.hear(said)
            else:
                raise TypeError(f"{trainer.name} yielded {type(said).__name__}: yield hpsearch.Evaluation, Checkpoint or None")
            if journal.diverged:
                return journal.result(Outcome.DIVERGED)
            if asked is not Answer.CONTINUE:
                return journal.result(Outcome.PAUSED if asked is Answer.PAUSE else Outcome.STOPPED)
    finally:
        if isinstance(generator, Generator):
            generator.close()
    return journal.result(Outcome.COMPLETE)


class Journal:
    """What a trainer says, as the events of a trial: steps become rungs, and checkpoints are remembered in its folder."""

    def __init__(self, task: TrialTask) -> None:
        assert task.own is not None
        self._task, self._own = task, task.own
        self._interval = task.own.steps // task.own.evaluations
        self._began = time.monotonic()
        self._values: dict[str, float]
        self._heard: set[str] = set()
        self._noted = _read(task.folder / RESUME)
        there = [entry for entry in self._noted if _whereabouts(task.folder, entry).exists()]
        self.warning = ""
        """What a person should know before the run begins."""
        if len(there) < len(self._noted) and self._noted[-1] not in there:
            later = f"it goes on from step {there[-1]['step']}" if there else "it begins anew"
            self.warning = f"the checkpoint of step {self._noted[-1]['step']} is gone: {later}"
        self._noted = there
        newest = there[-1] if there else None
        self.resume = None if newest is None else Checkpoint(newest["step"], str(_whereabouts(task.folder, newest)))
        """The newest checkpoint that is still there."""
        self._seconds = 0.0 if newest is None else float(newest["seconds"])
        """Of the stays before, up to that checkpoint."""
        self.step = 0 if newest is None else int(newest["step"])
        """Steps so far."""
        self._rung = 0 if newest is None else int(newest["rung"])
        self._values = {} if newest is None else dict(newest["values"])
        self._beyond = False
        self.diverged = ""
        """Why the run is not worth going on with."""

    @property
    def over(self) -> bool:
        """Whether the newest checkpoint is the end of the run, so that nothing is left to do."""
        return self.step >= self._own.steps and all(name in self._values for name in self._task.objectives)

    def begin(self, *, resumes: bool = True) -> Generator[Event, Answer, None]:
        """Tell where the run begins, where that is not what the coordinator thought. resumes: it is told its checkpoint."""
        if self.warning:
            yield Warned(self.warning)
        step = self.step if resumes or self.over else 0
        if self._task.from_iteration not in (None, step):
            yield Began(step)

    def hear(self, said: Evaluation | Checkpoint) -> Generator[Event, Answer, Answer]:
        """Tell the coordinator. Returns what the run is to do."""
        step = said.step
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"step is {step!r}: give the number of finished steps, a whole number from 0")
        asked = Answer.CONTINUE
        if isinstance(said, Evaluation) and (said.value is not None or said.metrics):
            asked = yield from self._evaluated(said)
        self.step = max(self.step, step)
        path = said.path if isinstance(said, Checkpoint) else said.checkpoint
        if path is not None:
            told = yield self._saved(step, Path(path))
            asked = told if asked is Answer.CONTINUE else asked
        elif not isinstance(said, Evaluation) or (said.value is None and not said.metrics):
            told = yield Progress(step, 0.0, 0.0, 0.0)
            asked = told if asked is Answer.CONTINUE else asked
        return asked

    def result(self, outcome: Outcome) -> TrainResult:
        """How the run ended. Raises ValueError for one that ended well without having measured the objectives."""
        missing = [name for name in self._task.objectives if name not in self._values]
        if outcome is Outcome.COMPLETE and missing:
            names = " and ".join(name.removeprefix(NEGATED) for name in missing)
            reported = f"; it reported {', '.join(sorted(self._heard))}" if self._heard else ""
            raise ValueError(f"it ended without a value of {names}{reported}")
        step = self.resume.step if outcome is Outcome.PAUSED and self.resume else self.step
        if outcome is Outcome.PAUSED and not self.resume:
            step = 0
        return TrainResult(outcome, step, reason=self.diverged, metrics=dict(self._values))

    def _evaluated(self, said: Evaluation) -> Generator[Event, Answer, Answer]:
        if said.step > self._own.steps:
            if not self._beyond:
                self._beyond = True
                yield Warned(f"it goes beyond its budget of {self._own.steps} steps; what it measures there does not count")
            return (yield Progress(said.step, 0.0, 0.0, 0.0))
        metrics = self._metrics(said)
        self._heard.update(said.metrics)
        if self._task.objectives[0] not in metrics:
            return (yield Progress(said.step, 0.0, 0.0, 0.0))
        for name in self._task.objectives:
            if name in metrics and not math.isfinite(metrics[name]):
                self.diverged = f"{name.removeprefix(NEGATED)} is {metrics[name]} at step {said.step}"
                self.step = max(self.step, said.step)
                return Answer.STOP
        self._values |= metrics
        rung = said.step // self._interval
        if rung <= self._rung:
            return (yield Progress(said.step, 0.0, 0.0, 0.0))
        self._rung = rung
        # Nothing is known of tokens, FLOPs, learning rates and gradients, and the database has no way to say so.
        return (
            yield EvalPoint(
                rung=rung,
                iteration=said.step,
                tokens=0,
                flops=0.0,
                seconds=self._elapsed(),
                train_loss=0.0,
                metrics=metrics,
                learning_rate=0.0,
                grad_norm=0.0,
                tokens_per_s=0.0,
            )
        )

    def _metrics(self, said: Evaluation) -> dict[str, float]:
        """What was measured under the names of the study. What is not finite and no objective is left out."""
        first = self._task.objectives[0]
        metrics = {name: _number(name, value) for name, value in said.metrics.items()}
        if said.value is not None:
            metrics[first.removeprefix(NEGATED)] = _number("value", said.value)
        for name in self._task.objectives:
            if name.startswith(NEGATED) and (plain := name.removeprefix(NEGATED)) in metrics:
                metrics[name] = -metrics[plain]
        return {name: value for name, value in metrics.items() if name in self._task.objectives or math.isfinite(value)}

    def _saved(self, step: int, path: Path) -> CheckpointSaved:
        path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays a link
        if not path.exists():
            raise ValueError(f"the checkpoint of step {step} is not there: {path}")
        shown = str(path.relative_to(self._task.folder)) if path.is_relative_to(self._task.folder) else str(path)
        self._noted = [entry for entry in self._noted if entry["step"] < step]
        entry = {"step": step, "path": shown, "seconds": self._elapsed(), "rung": self._rung, "values": self._values}
        self._noted = [*self._noted, entry][-KEPT:]
        write_atomically(self._task.folder / RESUME, json.dumps(self._noted))
        self.resume = Checkpoint(step, str(path))
        return CheckpointSaved(step, str(path), "", _size(path))

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, which is no number") from None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in noted if _sound(entry)] if isinstance(noted, list) else []


def _sound(entry: Any) -> bool:
    """Whether an entry is one that was written here: it lies in a folder that others can write too."""
    kinds = {"step": int, "path": str, "seconds": int | float, "rung": int, "values": dict}
    if not isinstance(entry, dict) or any(not isinstance(entry.get(name), kind) for name, kind in kinds.items()):
        return False
    return Path(entry["path"]).is_absolute() or ".." not in Path(entry["path"]).parts


def _whereabouts(folder: Path, entry: Mapping[str, Any]) -> Path:
    return folder / str(entry["path"])


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)
