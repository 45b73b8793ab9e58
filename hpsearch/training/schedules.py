"""When a run evaluates, saves and logs, and which learning rate each of its steps has. No torch here.

`iteration` counts finished optimizer steps: 0 before the first one, `max_iters` after the last.
"""

from __future__ import annotations

import math

from hpsearch.config import TrialConfig

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

    At every eval_interval and at max_iters. One that would come less than half an interval before the last is left out.
    """
    return _due(iteration, config.eval_interval, config.max_iters)


def save_due(iteration: int, config: TrialConfig) -> bool:
    """Whether a checkpoint is written after `iteration` steps: the rule of `evaluation_due` with save_interval."""
    return _due(iteration, config.save_interval, config.max_iters)


def rung_at(iteration: int, config: TrialConfig) -> int:
    """How many evaluations are due up to `iteration`: the rung of the one due there, 0 before the first."""
    total = evaluations(config)
    return total if iteration >= config.max_iters else min(iteration // config.eval_interval, total - 1)


def evaluations(config: TrialConfig) -> int:
    """Evaluations of a whole run: its number of rungs."""
    return evaluations_in(config.max_iters, config.eval_interval)


def evaluations_in(max_iters: int, eval_interval: int) -> int:
    return max(0, (2 * max_iters - eval_interval) // (2 * eval_interval)) + 1


def _due(iteration: int, interval: int, last: int) -> bool:
    return iteration == last or (0 < iteration < last and iteration % interval == 0 and 2 * (last - iteration) >= interval)


def steps_for_epochs(num_epochs: float, windows_per_pass: int, batch_size: int) -> int:
    """Optimizer steps in which every training sequence is seen num_epochs times, the last step maybe going beyond."""
    return math.ceil(num_epochs * windows_per_pass / batch_size)
