"""What a custom trainer is given and yields: `Run`, `Evaluation`, `Checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpsearch.config import interval_of
from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, Event, TrainResult
from hpsearch.training.schedules import due

Said = Generator[Event, Answer, TrainResult]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a trainer measured after `step` steps.

    step: finished steps, in whatever unit the study's budget counts them. value: the (first) objective, unless `metrics` has it
    under its own name, which counts; `value` is then a metric of that name. metrics: whatever else was measured; of several
    objectives all of them, by name, at once or in several evaluations of one step. checkpoint: a file or folder that this run
    can go on from, whole on disk; without one the run, once paused or lost, goes on from an earlier one, or begins anew.
    Numbers may be those of numpy and torch.
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
    """Whole steps between two evaluations, rounded down where the steps do not divide evenly: a trainer that evaluates so
    often, and after its last step, misses none that the study wants; more are welcome, and pass as signs of life."""
    evaluations: int
    """That the study hears of, at equal parts of the steps; `evaluation_due` says where."""
    trial: int
    """The trial's number."""
    seed: int
    """0 in a search, others when a result is confirmed. A trainer that ignores it cannot be confirmed."""
    device: str
    """`cpu`, `cuda:0`."""
    threads: int

    def evaluation_due(self, step: int) -> bool:
        """Whether the study wants to hear of an evaluation after `step` steps; of the last step it always does."""
        return due(step, self.steps, interval_of(self.steps, self.evaluations))


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
        evaluations=own.evaluations,
        trial=task.number,
        seed=own.seed,
        device=task.device,
        threads=task.threads,
    )
