"""Trainers of retrainings, which cost nothing and do what the seed says. They run in real slot processes."""

from __future__ import annotations

import os
import signal
import time

from toy_trainers import Run, kills_its_process, point, steps_until_told  # noqa: F401 - one is for tests

from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, Outcome, TrainResult
from hpsearch.training.memory import OutOfMemory


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


def needs_many_parts(task: TrialTask) -> Run:
    """The loop chooses 8 parts, of which none fits; memory is enough for 32 parts, and on seed 2 for nothing."""
    parts = task.micro_batches or 8
    with (task.folder / "parts").open("a") as file:
        file.write(f"{parts}\n")
    if parts < 32 or task.config["seed"] == 2:
        raise OutOfMemory("too much", 1, parts)
    return (yield from by_seed(task))


def hangs_once(task: TrialTask) -> Run:
    """The first attempt takes no step after its first evaluation."""
    marker = task.folder / "hung"
    if not marker.exists():
        marker.touch()
        yield point(1, 9.0)
        time.sleep(1000)
    return (yield from by_seed(task))


def second_seed_waits(task: TrialTask) -> Run:
    """Seed 2 goes on until it is told to pause."""
    return (yield from (steps_until_told(task) if task.config["seed"] == 2 else by_seed(task)))
