"""The final values that paused and stopped trials would have reached, estimated for a sampler's model."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.storage.records import EndReason

FinalValue = Callable[[FrozenTrial, Sequence[FrozenTrial]], float | None]
"""What a trial that was not finished would have come to, given the complete trials; None where nobody can tell."""
END_REASON = "end_reason"
"""User attribute of a trial that ended early (`EndReason`): the last value of one that diverged says nothing of its end."""
SO_FAR = "hpsearch:so_far"
"""System attribute of a trial of several objectives, for which Optuna takes no reports: `watched`, the index of the one that
has a curve, the `curve` by rung, and of the `others`, by index, what they come to."""


def median_final(trial: FrozenTrial, complete: Sequence[FrozenTrial]) -> float | None:
    """The last reported value times the median of what the complete trials came to from there, in proportion: a high loss falls
    by more until the end than a low one does. Where a value is not above 0, plus the median of what they gained."""
    if not trial.intermediate_values:
        return None
    step = max(trial.intermediate_values)
    value = trial.intermediate_values[step]
    ends = [(other.intermediate_values[step], other.values[0]) for other in complete if step in other.intermediate_values]
    if ends and min(value, *(min(pair) for pair in ends)) > 0:
        final = value * statistics.median(end / there for there, end in ends)
    else:
        final = value + (statistics.median(end - there for there, end in ends) if ends else 0.0)
    return final if math.isfinite(final) else None


def estimated(
    trials: Sequence[FrozenTrial],
    objectives: int,
    final_value: FinalValue = median_final,
    earlier: Sequence[FrozenTrial] = (),
) -> list[Sequence[float] | None]:
    """What each trial came to, or would have; None where nobody can tell. earlier: complete trials that say what is bad
    while none of `trials` is complete.

    With neither, what each of them had where all have been: of one objective that is enough to rank them.
    """
    complete = [each for each in trials if each.state is TrialState.COMPLETE]
    known = [list(each.values) for each in complete or earlier]
    if not known and objectives == 1:
        reached = min((max(each.intermediate_values) for each in trials if each.intermediate_values), default=0)
        final_value = functools.partial(_at, reached)
        so_far = (final_value(each, ()) for each in trials if not _lost(each))
        known = [[value] for value in so_far if value is not None]
    if not known:
        return [None] * len(trials)
    worst = [max(values[index] for values in known) for index in range(objectives)]
    return [_values(each, complete, worst, final_value) for each in trials]


def _estimated_in_all(
    trials: Sequence[FrozenTrial], objectives: int, final_value: FinalValue, earlier: Sequence[FrozenTrial]
) -> list[Sequence[float] | None]:
    """`estimated` for several objectives: the end of the one with a curve, beside what the others come to."""
    told = [each.system_attrs.get(SO_FAR) for each in trials]
    watched = next((each["watched"] for each in told if each), None)
    if watched is None:
        return estimated(trials, objectives, final_value, earlier)
    ends = estimated([_watched(each, so_far, watched) for each, so_far in zip(trials, told, strict=True)], 1, final_value)
    whole = [each.values for each in (*trials, *earlier) if each.state is TrialState.COMPLETE]
    worst = {str(index): max(values[index] for values in whole) for index in range(objectives)} if whole else {}
    found: list[Sequence[float] | None] = []
    for trial, so_far, end in zip(trials, told, ends, strict=True):
        if trial.state is TrialState.COMPLETE:
            found.append(list(trial.values))
            continue
        known = worst | (so_far["others"] if so_far else {}) | ({str(watched): end[0]} if end else {})
        least = so_far is not None or trial.state is TrialState.PRUNED
        found.append([known[str(index)] for index in range(objectives)] if least and len(known) == objectives else None)
    return found


def _watched(trial: FrozenTrial, so_far: Mapping[str, Any] | None, index: int) -> FrozenTrial:
    """The trial with its curve, as if the objective that has one were the only one."""
    return create_trial(
        state=trial.state,
        value=trial.values[index] if trial.state is TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={int(rung): value for rung, value in so_far["curve"].items()} if so_far else {},
        user_attrs=trial.user_attrs,
        constraints=trial.constraints or None,
    )


def _at(rung: int, trial: FrozenTrial, complete: Sequence[FrozenTrial]) -> float | None:
    """A trial's value at a rung, or at the last one before it."""
    step = max((each for each in trial.intermediate_values if each <= rung), default=None)
    value = math.inf if step is None else trial.intermediate_values[step]
    return value if math.isfinite(value) else None


def _lost(trial: FrozenTrial) -> bool:
    """Whether it diverged or broke a constraint."""
    diverged = trial.user_attrs.get(END_REASON) == EndReason.DIVERGED
    return diverged or any(value > 0 for value in trial.constraints.values())


def _values(
    trial: FrozenTrial, complete: Sequence[FrozenTrial], worst: Sequence[float], final_value: FinalValue
) -> Sequence[float] | None:
    """None where nothing is known: the trial failed, or runs and reported nothing yet."""
    if trial.state is TrialState.COMPLETE:
        return list(trial.values)
    if trial.state not in (TrialState.PRUNED, TrialState.RUNNING):
        return None
    if len(worst) == 1 and not _lost(trial):
        final = final_value(trial, complete)
        if final is not None:
            return [final]
    return worst if trial.state is TrialState.PRUNED else None
