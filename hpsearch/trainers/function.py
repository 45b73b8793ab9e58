"""A Python generator function as a trainer."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from hpsearch.execution.protocol import FunctionTrainer, ProgramTrainer, TrialTask
from hpsearch.trainers.reporter import Journal
from hpsearch.trainers.user import Checkpoint, Evaluation, Said, run_of
from hpsearch.training import heartbeat
from hpsearch.training.events import Answer, Outcome

TRAINER = "hpsearch.trainers.function:train"
"""What a slot loads."""


def train(task: TrialTask) -> Said:
    """Run the trainer that a task names."""
    assert task.own is not None
    match task.own.trainer:
        case FunctionTrainer():
            return (yield from _function(task, task.own.trainer))
        case ProgramTrainer():
            from hpsearch.trainers.command import program

            return (yield from program(task, task.own.trainer))


def _function(task: TrialTask, trainer: FunctionTrainer) -> Said:
    function = trainer.load()
    heartbeat.beat()  # Importing what it needs is over.
    journal = Journal(task)
    yield from journal.begin()
    if journal.over:
        return (yield from journal.end())
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
    return (yield from journal.end())
