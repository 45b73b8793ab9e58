"""Pruners by name. The step that they see is the rung, the same fraction of the budget for every trial."""

from __future__ import annotations

import math
from collections.abc import Callable

from optuna import pruners

from hpsearch.errors import BadInput, did_you_mean

FIRST_DECISION = 0.25
"""Part of the budget before which no trial is pruned, except for divergence: earlier rankings mislead (on published runs of
215M parameters the rank correlation between 11 % of the tokens and all of them is 0.35; Step Law's data, arXiv:2503.04715)."""

STARTUP_TRIALS = 3
"""Whole trials before a pruner that compares with a median or percentile may decide."""


def first_rung(evaluations: int) -> int:
    """The first rung at which a trial may be pruned."""
    return max(1, math.ceil(FIRST_DECISION * evaluations))


def make_pruner(name: str, evaluations: int) -> pruners.BasePruner:
    """The pruner of `--pruner NAME` for trials of `evaluations` rungs. Raises BadInput with the nearest name."""
    if name not in PRUNERS:
        raise BadInput(f"unknown pruner '{name}'{did_you_mean(name, PRUNERS)} ({', '.join(PRUNERS)})")
    return PRUNERS[name](first_rung(evaluations), evaluations)


def _median(first: int, evaluations: int) -> pruners.BasePruner:
    return pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first)


PRUNERS: dict[str, Callable[[int, int], pruners.BasePruner]] = {
    "median": _median,
    "percentile": lambda first, evaluations: pruners.PercentilePruner(
        25.0, n_startup_trials=STARTUP_TRIALS, n_warmup_steps=first
    ),
    "successive_halving": lambda first, evaluations: pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2),
    "hyperband": lambda first, evaluations: pruners.HyperbandPruner(
        min_resource=first, max_resource=evaluations, reduction_factor=2
    ),
    # A trial that stands above the median and no longer gets better by itself.
    "patient": lambda first, evaluations: pruners.PatientPruner(_median(first, evaluations), patience=1),
    "none": lambda first, evaluations: pruners.NopPruner(),
}
