"""The trials that came to nothing, by what went wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpsearch.results.view import StudyView
from hpsearch.storage.records import EndReason, TrialRecord, TrialState

_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """Trials that ended for the same reason, but for the numbers in it."""

    kind: str
    """failed, diverged or infeasible."""
    reason: str
    """As the first of them says it."""
    trials: tuple[int, ...]


def failures(view: StudyView) -> list[Failure]:
    """What failed, diverged or broke a constraint, the most frequent reason first."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in view.trials:
        kind = _kind(trial)
        if kind:
            groups.setdefault((kind, _NUMBER.sub("0", trial.reason)), []).append(trial)
    found = [
        Failure(kind, members[0].reason or "no reason was given", tuple(trial.number for trial in members))
        for (kind, _), members in groups.items()
    ]
    return sorted(found, key=lambda each: -len(each.trials))


def _kind(trial: TrialRecord) -> str:
    if trial.state is TrialState.FAILED:
        return "failed"
    if not trial.state.ended:
        return ""
    if not trial.feasible:
        return "infeasible"
    return "diverged" if trial.end_reason is EndReason.DIVERGED else ""
