"""The compute that every trial gets, and what it means for one configuration: steps and evaluations.

Every trial of a study gets the same amount. Its unit is the same for all of them, so that a rung is the same fraction of the
budget for a small model that takes many steps and a large one that takes few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpsearch.config import interval_of
from hpsearch.errors import BadInput
from hpsearch.storage.records import BudgetRecord
from hpsearch.training.schedules import steps_for_epochs


def plan(budget: BudgetRecord, settings: Mapping[str, Any], *, step_flops: float, windows_per_pass: int) -> dict[str, float]:
    """`max_iters` and `eval_interval` of one configuration.

    settings: canonical hyperparameters, at least batch_size and context_length (and max_iters or num_epochs where the space
    searches those). step_flops: of one optimizer step, its update included. windows_per_pass: training sequences in one pass
    over the text.
    Raises BadInput when the budget does not pay for a step before each evaluation.
    """
    step_tokens = int(settings["batch_size"]) * int(settings["context_length"])
    match budget.kind:
        case "device_seconds" | "flops":
            assert budget.flops is not None, "the budget is frozen before the first trial"
            steps = budget.flops / step_flops
        case "tokens":
            steps = budget.amount / step_tokens
        case "num_epochs":
            passes = float(settings.get("num_epochs") or budget.amount)
            steps = steps_for_epochs(passes, windows_per_pass, int(settings["batch_size"]))
        case "max_iters":
            steps = float(settings.get("max_iters") or budget.amount)
        case other:
            raise AssertionError(other)
    return steps_and_interval(steps, budget.evaluations, exact=budget.kind in ("max_iters", "num_epochs"))


def steps_and_interval(steps: float, evaluations: int, *, exact: bool = False) -> dict[str, float]:
    """As many whole steps as are paid for, and the interval that puts `evaluations` evaluations at equal parts of them, the
    last one at the end. exact: the number of steps is what was asked for; a run of fewer steps has an evaluation after each.
    """
    max_iters = math.floor(steps + 1e-9)
    if max_iters < (1 if exact else evaluations):
        raise BadInput(
            f"the budget pays for {steps:.3g} steps and there are {evaluations} evaluations: "
            "give a larger --budget, or smaller batches and models"
        )
    return {"max_iters": max_iters, "eval_interval": interval_of(max_iters, evaluations)}


def parse_budget(word: str) -> dict[str, float]:
    """`--budget device_seconds=30` (or `flops=1e12,evaluations=5`) as the mapping that a space file would have."""
    found: dict[str, float] = {}
    for part in word.split(","):
        name, equals, amount = part.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not equals or not math.isfinite(value) or value <= 0:
            raise BadInput(f"--budget {word}: write it as device_seconds=15 (or flops, tokens, max_iters, num_epochs)")
        found[name.strip()] = value
    return found
