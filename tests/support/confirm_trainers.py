"""Trainers of retrainings, which cost nothing and do what the seed says. They run in real slot processes."""

from __future__ import annotations

import os
import signal

from toy_trainers import Run, point, steps_until_told

from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, Outcome, TrainResult


def by_seed(task: TrialTask) -> Run:
    """A value that the configuration and the seed decide; each attempt leaves a line in its folder."""
    with (task.folder / "attempts").open("a") as attempts:
        attempts.write(f"{task.attempt}\n")
    value = float(task.config["learning_rate"]) + 0.01 * task.config["seed"]
    answer = yield point(1, value, iteration=task.config["max_iters"])
    if answer is not Answer.CONTINUE:
        return TrainResult(Outcome.PAUSED, 1)
    metrics = {"val_loss": value, "val_bpb": value, "train_seconds": 2.5}
    return TrainResult(Outcome.COMPLETE, task.config["max_iters"], metrics=metrics)


def eventful(task: TrialTask) -> Run:
    """Seed 2 diverges, seed 3 kills its slot once, seed 4 is short of memory once, seed 5 always raises."""
    seed, marker = task.config["seed"], task.folder / "been"
    again = marker.exists()
    marker.touch()
    if seed == 2:
        return TrainResult(Outcome.DIVERGED, 3, reason="the loss was nan at step 3")
    if seed == 3 and not again:
        yield point(1, 9.0)
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 4 and task.micro_batches is None:
        raise MemoryError("too much")
    if seed == 5:
        raise ValueError("a bug")
    return (yield from by_seed(task))


def second_seed_waits(task: TrialTask) -> Run:
    """Seed 2 goes on until it is told to pause."""
    return (yield from (steps_until_told(task) if task.config["seed"] == 2 else by_seed(task)))
