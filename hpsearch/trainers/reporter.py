"""Trainers of one's own: what a training function is given and yields, and how a slot runs it.

A function is a generator `train(config, run)`. It yields an `Evaluation` after each measurement, with the checkpoint that it
can go on from where it writes one, and `None` as a sign of life. To pause or to prune it the slot closes it at a yield
(`GeneratorExit`), so that its `finally` and `with` blocks run. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import time
from collections.abc import Generator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hpsearch.config import interval_of
from hpsearch.execution.protocol import TrialTask
from hpsearch.files import write_atomically
from hpsearch.objectives import NEGATED
from hpsearch.text import message
from hpsearch.trainers.user import Checkpoint, Evaluation, Said
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
from hpsearch.training.schedules import due_up_to

RESUME = "resume.json"
"""In a trial's folder: the checkpoints that its trainer reported, oldest first."""
KEPT = 3
"""Checkpoints that are remembered: the newest may have been removed, or never written whole."""

MOST_METRICS = 1_000
"""Names that a run may measure; what it reports beyond them is left out, with a warning."""
LONGEST_NAME = 250
"""Characters of a metric's name that are kept."""
LARGEST_STEP = 2**53
"""Every database and every JSON reader has whole numbers up to it."""

MOST_FILES = 10_000


class Journal:
    """What a trainer says, as the events of a trial: steps become rungs, and checkpoints are remembered in its folder.

    What is said of one step is collected until all objectives of the study are there: then it is an evaluation. One that still
    lacks some is told as it is when the next step is reported, or the run ends. Of two values for one step the first counts,
    and what comes after a later step was reported does not. So a curve and a trial's final value cannot differ.
    """

    def __init__(self, task: TrialTask) -> None:
        assert task.own is not None
        self._task, self._own = task, task.own
        self._began = time.monotonic()
        self._heard: set[str] = set()
        """Names that it reported."""
        self._noted = _read(task.folder / RESUME)
        there = [entry for entry in self._noted if _whereabouts(task.folder, entry).exists()]
        self.warning = ""
        """What a person should know before the run begins."""
        if len(there) < len(self._noted) and self._noted[-1] not in there:
            later = f"it goes on from step {there[-1]['step']}" if there else "it begins anew"
            self.warning = f"the checkpoint of step {self._noted[-1]['step']} is gone: {later}"
        self._noted = there
        newest = there[-1] if there else _BEGINNING
        self.resume = None if not there else Checkpoint(newest["step"], str(_whereabouts(task.folder, newest)))
        """The newest checkpoint that is still there."""
        self._seconds = float(newest["seconds"])
        """Of the stays before, up to that checkpoint."""
        self.step: int = newest["step"]
        """Steps so far."""
        self._rung: int = newest["rung"]
        self._values: dict[str, float] = dict(newest["values"])
        """The newest of each name."""
        self._at: int = newest.get("at", newest["step"])
        """The step of the newest evaluation."""
        self._here: dict[str, float] = dict(newest.get("here", {}))
        """What was measured there."""
        self._here_s = self._seconds
        self._aside: tuple[int, dict[str, float]] = (0, {})
        """What was reported for a step without an objective: it may be the first part of an evaluation."""
        self._warned: set[str] = set()
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

    @property
    def silent(self) -> bool:
        """Whether nothing was reported at all."""
        return not self._heard

    def hear(self, said: Evaluation | Checkpoint) -> Generator[Event, Answer, Answer]:
        """Tell the coordinator. Returns what the run is to do. Raises ValueError for what cannot be."""
        step = _whole(said.step)
        asked = Answer.CONTINUE
        measured = isinstance(said, Evaluation) and (said.value is not None or bool(said.metrics))
        if isinstance(said, Evaluation) and measured:
            asked = yield from self._evaluated(step, said)
        self.step = max(self.step, step)
        path = said.path if isinstance(said, Checkpoint) else said.checkpoint
        if path is not None and not self.diverged:
            asked = _both(asked, (yield self._saved(step, Path(path))))
        elif not measured:
            asked = _both(asked, (yield Progress(step, 0.0, 0.0, 0.0)))
        return asked

    def end(self) -> Said:
        """The run returned of itself."""
        if (yield from self._tell()) is Answer.STOP:
            return self.result(Outcome.STOPPED)
        return self.result(Outcome.COMPLETE)

    def result(self, outcome: Outcome) -> TrainResult:
        """How the run ended. Raises ValueError for one that ended well without having measured the objectives."""
        missing = [name for name in self._task.objectives if name not in self._values]
        if outcome is Outcome.COMPLETE and missing:
            names = " and ".join(name.removeprefix(NEGATED) for name in missing)
            reported = f"; it reported {', '.join(sorted(self._heard)[:10])}" if self._heard else ""
            raise ValueError(f"it ended without a value of {names}{reported}")
        step = self.resume.step if outcome is Outcome.PAUSED and self.resume else self.step
        if outcome is Outcome.PAUSED and not self.resume:
            step = 0
        return TrainResult(outcome, step, reason=self.diverged, metrics=dict(self._values))

    def _evaluated(self, step: int, said: Evaluation) -> Generator[Event, Answer, Answer]:
        metrics = yield from self._metrics(said)
        if step > self._own.steps:
            yield from self._warn(f"it goes beyond its budget of {self._own.steps} steps; what it measures there is left out")
            return (yield Progress(step, 0.0, 0.0, 0.0))
        measured = [name for name in self._task.objectives if name in metrics]
        if measured and step < self._at:
            yield from self._warn("it reports steps that are over; what it measures there is left out")
            return (yield Progress(step, 0.0, 0.0, 0.0))
        for name in measured:
            if not math.isfinite(metrics[name]):
                self.diverged = f"{name.removeprefix(NEGATED)} is {metrics[name]} at step {step}"
                self.step = max(self.step, step)
                return Answer.STOP
        asked = Answer.CONTINUE
        if measured and step > self._at:
            asked = yield from self._tell()
            if asked is Answer.STOP:
                return asked
            self._at, self._here, self._here_s = step, {}, self._elapsed()
            if self._aside[0] == step:
                metrics = self._aside[1] | metrics
        elif not measured and step != self._at:
            self._aside = (step, metrics if step != self._aside[0] else metrics | self._aside[1])
        if step == self._at:
            if any(name in self._here and self._here[name] != metrics[name] for name in measured):
                names = " and ".join(name.removeprefix(NEGATED) for name in measured)
                yield from self._warn(f"it reports {names} more than once for one step: the first value counts")
            self._here = metrics | self._here
            self._values |= self._here
            self._note_again()
        if all(name in self._here for name in self._task.objectives):
            return _both(asked, (yield from self._tell()))
        return _both(asked, (yield Progress(step, 0.0, 0.0, 0.0)))

    def _tell(self) -> Generator[Event, Answer, Answer]:
        """Tell the newest evaluation, unless that is done, or it is no later part of the budget than the one before."""
        rung = due_up_to(self._at, self._own.steps, interval_of(self._own.steps, self._own.evaluations))
        if rung <= self._rung or self._task.objectives[0] not in self._here:
            return Answer.CONTINUE
        self._rung = rung
        # Nothing is known of tokens, FLOPs, learning rates and gradients, and the database has no way to say so.
        asked = yield EvalPoint(
            rung=rung,
            iteration=self._at,
            tokens=0,
            flops=0.0,
            seconds=self._here_s,
            train_loss=0.0,
            metrics=dict(self._here),
            learning_rate=0.0,
            grad_norm=0.0,
            tokens_per_s=0.0,
        )
        self._note_again()
        return asked

    def _metrics(self, said: Evaluation) -> Generator[Event, Answer, dict[str, float]]:
        """What was measured under the names of the study. What is not finite and no objective is left out, and so are names
        beyond MOST_METRICS."""
        reported = {str(name): _number(str(name), value) for name, value in said.metrics.items()}
        first = self._task.objectives[0].removeprefix(NEGATED)
        if said.value is not None:
            reported.setdefault("value" if first in reported else first, _number("value", said.value))
        metrics: dict[str, float] = {}
        for name in self._task.objectives:
            plain = name.removeprefix(NEGATED)
            if plain in reported:
                metrics[plain] = reported[plain]
                metrics[name] = -reported[plain] if name != plain else reported[plain]
            elif name in reported:
                metrics[name] = reported[name]
        self._heard.update(metrics)
        for name, value in reported.items():
            kept = message(name, LONGEST_NAME)
            if name in metrics or not math.isfinite(value):
                continue
            if kept not in self._heard and len(self._heard) >= MOST_METRICS:
                yield from self._warn(f"it reports more than {MOST_METRICS} metrics; those after them are left out")
                break
            self._heard.add(kept)
            metrics[kept] = value
        return {name: value for name, value in metrics.items() if name in self._task.objectives or math.isfinite(value)}

    def _warn(self, text: str) -> Generator[Event, Answer, None]:
        """Once for each text."""
        if text not in self._warned:
            self._warned.add(text)
            yield Warned(text)

    def _note_again(self) -> None:
        """More is known of the step of the newest checkpoint."""
        if self._noted and self._noted[-1]["step"] == self._at:
            self._note(self._noted[-1] | self._standing)

    @property
    def _standing(self) -> dict[str, Any]:
        """What a later stay goes on with, beside a checkpoint."""
        return {"rung": self._rung, "values": self._values, "at": self._at, "here": self._here}

    def _saved(self, step: int, path: Path) -> CheckpointSaved:
        path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays a link
        if not path.exists():
            raise ValueError(f"the checkpoint of step {step} is not there: {path}")
        shown = str(path.relative_to(self._task.folder)) if path.is_relative_to(self._task.folder) else str(path)
        self._note({"step": step, "path": shown, "seconds": self._elapsed()} | self._standing)
        self.resume = Checkpoint(step, str(path))
        return CheckpointSaved(step, str(path), "", _size(path))

    def _note(self, entry: dict[str, Any]) -> None:
        """Remember a checkpoint; those of its own and of later steps are no longer what they were."""
        self._noted = [*(before for before in self._noted if before["step"] < entry["step"]), entry][-KEPT:]
        write_atomically(self._task.folder / RESUME, json.dumps(self._noted))

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._began


_BEGINNING: dict[str, Any] = {"step": 0, "seconds": 0.0, "rung": 0, "values": {}}


def _both(asked: Answer, told: Answer) -> Answer:
    """Of two answers the one that is to be obeyed."""
    return told if asked is Answer.CONTINUE or told is Answer.STOP else asked


def _whole(step: Any) -> int:
    """A number of steps, also numpy's and torch's. Raises ValueError."""
    whole: int | None = None
    if not isinstance(step, bool | str | bytes):
        try:
            whole = operator.index(step)
        except TypeError:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                whole = int(step) if float(step).is_integer() else None
    if whole is None or not 0 <= whole <= LARGEST_STEP:
        raise ValueError(f"step is {message(repr(step), 100)}: give the number of finished steps, from 0 to 2**53")
    return whole


def _number(name: str, value: Any) -> float:
    """A measurement, also numpy's and torch's; one that no float holds is infinite. Raises ValueError."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{message(name, 100)} is {message(repr(value), 100)}, which is no number") from None


def _read(path: Path) -> list[dict[str, Any]]:
    """What was remembered of a trial's checkpoints, oldest first; an entry that cannot have been written here is left out."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in noted if _is_entry(entry)] if isinstance(noted, list) else []


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    counts = [entry.get("step"), entry.get("rung"), entry.get("at", 0)]
    tables = [entry.get("values"), entry.get("here", {})]
    return (
        all(type(count) is int and 0 <= count <= LARGEST_STEP for count in counts)
        and all(isinstance(table, dict) and all(type(each) is float for each in table.values()) for table in tables)
        and isinstance(entry.get("path"), str)
        and (Path(entry["path"]).is_absolute() or ".." not in Path(entry["path"]).parts)
        and type(entry.get("seconds")) is float
    )


def _whereabouts(folder: Path, entry: Mapping[str, Any]) -> Path:
    return folder / str(entry["path"])


def _size(path: Path) -> int:
    """Bytes of a checkpoint; of one of very many files those of the first MOST_FILES. A file may go meanwhile."""
    files = (
        [path]
        if path.is_file()
        else islice((Path(folder, name) for folder, _, names in os.walk(path) for name in names), MOST_FILES)
    )
    size = 0
    for each in files:
        with contextlib.suppress(OSError):
            size += each.stat().st_size
    return size
