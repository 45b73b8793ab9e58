"""The schedulers by name."""

from __future__ import annotations

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.scheduling.curve_stopping import CurveStopper
from hpsearch.scheduling.halving import Halving
from hpsearch.scheduling.protocol import Scheduler

SCHEDULERS = ("none", "halving", "halving_only")
"""`halving_only` has no curve model."""


def check_scheduler(name: str) -> None:
    """Raises BadInput with the nearest name."""
    if name not in SCHEDULERS:
        raise BadInput(f"unknown scheduler '{name}'{did_you_mean(name, SCHEDULERS)} ({', '.join(SCHEDULERS)})")


def make_scheduler(name: str, evaluations: int) -> Scheduler | None:
    """The scheduler of `--scheduler NAME` for trials of `evaluations` rungs; None where trials just run."""
    check_scheduler(name)
    if name == "none":
        return None
    halving = Halving(evaluations)
    return CurveStopper(halving, evaluations) if name == "halving" else halving
