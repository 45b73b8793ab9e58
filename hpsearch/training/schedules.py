"""When a run evaluates, saves and logs, and which learning rate each of its steps has. No torch here.

`iteration` counts finished optimizer steps: 0 before the first one, `max_iters` after the last.
"""

from __future__ import annotations

import math

from hpsearch.config import TrialConfig, evaluations_in

WSD_DECAY_FRACTION = 0.2
"""Share of `lr_decay_iters`, at its end, in which `wsd` decays (arXiv:2405.18392 finds 10 to 20 % enough)."""

BRANCH_SHARE = 0.1
"""Steps of a decay branch, as a part of those before it."""


def learning_rate_at(iteration: int, config: TrialConfig) -> float:
    """Learning rate of the step that follows `iteration` finished ones.

    Warm-up: peak * (iteration + 1) / (warmup_steps + 1), so that the first step already moves and `warmup_steps` is the
    first iteration at the peak. Then `cosine` (arXiv:1608.03983) and `linear` fall from there to peak * lr_decay_ratio at
    lr_decay_iters; `wsd` (arXiv:2404.06395) holds the peak and falls linearly over the last WSD_DECAY_FRACTION of
    lr_decay_iters; all three stay at the ratio afterwards. `constant` stays at the peak.
    """
    peak, warmup, end = config.learning_rate, config.warmup_steps, config.lr_decay_iters
    if iteration < warmup:
        return peak * (iteration + 1) / (warmup + 1)
    if config.lr_schedule == "constant":
        return peak
    start = _wsd_decay_start(config) if config.lr_schedule == "wsd" else warmup
    if iteration >= end:
        share = 0.0
    elif iteration <= start:
        share = 1.0
    else:
        share = (end - iteration) / (end - start)
        if config.lr_schedule == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
    return peak * (config.lr_decay_ratio + (1 - config.lr_decay_ratio) * share)


def branch_rates(iteration: int, config: TrialConfig) -> list[float]:
    """Learning rates of a short decay after `iteration` steps: WSD's own, in BRANCH_SHARE as many steps, at least one.

    Empty where there is nothing to branch off from: for other schedules, and once the run's own decay has begun.
    """
    if config.lr_schedule != "wsd" or not 0 < iteration <= _wsd_decay_start(config):
        return []
    steps = max(1, round(BRANCH_SHARE * iteration))
    rate, least = learning_rate_at(iteration, config), config.lr_decay_ratio
    return [rate * (least + (1 - least) * (steps - step) / steps) for step in range(steps)]


def _wsd_decay_start(config: TrialConfig) -> float:
    return max(config.warmup_steps, config.lr_decay_iters * (1 - WSD_DECAY_FRACTION))


def evaluation_due(iteration: int, config: TrialConfig) -> bool:
    """Whether the held-out loss is measured after `iteration` steps.

    The k-th time after k * eval_interval steps, rounded, and the last time after max_iters. One that would come less than half
    an interval before the last is left out.
    """
    return due(iteration, config.max_iters, config.eval_interval)


def save_due(iteration: int, config: TrialConfig) -> bool:
    """Whether a checkpoint is written after `iteration` steps: the rule of `evaluation_due` with save_interval."""
    return due(iteration, config.max_iters, config.save_interval)


def rung_at(iteration: int, config: TrialConfig) -> int:
    """How many evaluations are due up to `iteration`: the rung of the one due there, 0 before the first."""
    return due_up_to(iteration, config.max_iters, config.eval_interval)


def evaluations(config: TrialConfig) -> int:
    """Evaluations of a whole run: its number of rungs."""
    return evaluations_in(config.max_iters, config.eval_interval)


def step_of(rung: int, max_iters: int, interval: float) -> int:
    """Steps after which evaluation `rung`, from 1, comes."""
    # An interval is maybe a fraction that a float cannot hold; what is beyond nine decimals decides no half.
    return max_iters if rung >= evaluations_in(max_iters, interval) else round(round(rung * interval, 9))


def due_up_to(iteration: int, max_iters: int, interval: float) -> int:
    """Evaluations up to `iteration` steps; see `evaluation_due`."""
    rung = min(evaluations_in(max_iters, interval), math.floor(iteration / interval) + 1)
    return rung if step_of(rung, max_iters, interval) <= iteration else rung - 1


def due(iteration: int, max_iters: int, interval: float) -> bool:
    """Whether an evaluation comes after `iteration` steps; see `evaluation_due`."""
    return 0 < iteration <= max_iters and iteration == step_of(due_up_to(iteration, max_iters, interval), max_iters, interval)


def steps_for_epochs(num_epochs: float, windows_per_pass: int, batch_size: int) -> int:
    """Optimizer steps in which every training sequence is seen num_epochs times, the last step maybe going beyond."""
    return math.ceil(num_epochs * windows_per_pass / batch_size)
