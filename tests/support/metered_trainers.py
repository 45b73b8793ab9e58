"""Trainers with a clock of their own: what a step takes follows from the configuration, so no test depends on a machine."""

from __future__ import annotations

from toy_trainers import Run, point

from hpsearch.config import TrialConfig
from hpsearch.execution.protocol import TrialTask
from hpsearch.model.counting import count
from hpsearch.training.events import Answer, CheckpointSaved, Outcome, Progress, TrainResult


def step_seconds(config: TrialConfig) -> float:
    return 0.01 * config.num_layers + 1e-8 * count(config).flops_per_token * config.batch_size * config.context_length


def checkpoint_bytes(config: TrialConfig) -> int:
    return 12 * count(config).num_parameters


def metered(task: TrialTask, hiccup: float = 1.0) -> Run:
    """Says that each step takes `step_seconds`, every fourth `hiccup` times that."""
    config = TrialConfig.build(task.config)
    for iteration in range(1, config.max_iters + 1):
        took_s = step_seconds(config) * (hiccup if iteration % 4 == 0 else 1.0)
        speed = config.batch_size * config.context_length / took_s
        if (yield Progress(iteration, 1.0, 1e-3, speed)) is Answer.STOP:
            return TrainResult(Outcome.STOPPED, iteration)
    yield point(1, 1.0, iteration=config.max_iters)
    yield CheckpointSaved(config.max_iters, "none", "0" * 64, checkpoint_bytes(config))
    return TrainResult(Outcome.COMPLETE, config.max_iters, peak_memory=1_000_000 * config.num_layers)


def metered_with_hiccups(task: TrialTask) -> Run:
    """The same, but every fourth step takes three times as long."""
    return (yield from metered(task, hiccup=3.0))


def large_ones_need_memory(task: TrialTask) -> Run:
    if task.config["num_layers"] > 2:
        raise MemoryError("too much")
    return (yield from metered(task))


def nothing_trains(task: TrialTask) -> Run:
    yield Progress(1, 1.0, 1e-3, 1.0)
    raise ValueError("a bug")
