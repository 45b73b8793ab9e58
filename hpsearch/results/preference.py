"""`--prefer`: which of the good trials is taken when the lowest value is not all that counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.results.formatting import finite
from hpsearch.results.view import StudyView
from hpsearch.storage.records import TrialRecord

Kind = Literal["first", "smallest", "fastest"]

FORMS = ("first", "smallest-within 1%", "fastest-within 1%")
SIZES = ("num_parameters", "flops_per_token")

_WITHIN = re.compile(r"(?P<kind>[a-z]+)-within[ =-]?(?P<share>[0-9.]+) ?%")


@dataclass(frozen=True, slots=True)
class Preference:
    """The best in the first objective, or the smallest or fastest among those near it."""

    kind: Kind = "first"
    within: float = 0.0
    """Share of the best value by which the first objective may be worse."""

    def __str__(self) -> str:
        return "first" if self.kind == "first" else f"{self.kind}-within {100 * self.within:g}%"


def parse_preference(word: str) -> Preference:
    """`first`, `smallest-within 1%` or `fastest-within 1%`. Raises BadInput with the nearest form."""
    text = " ".join(word.strip().lower().split())
    if text == "first":
        return Preference()
    found = _WITHIN.fullmatch(text)
    if found is None or found["kind"] not in ("smallest", "fastest"):
        name = text.split()[0].rstrip("0123456789.%=") if text else ""
        near = did_you_mean(name, ["first", "smallest-within", "fastest-within"])
        raise BadInput(f"--prefer '{word}': use {', '.join(FORMS[:-1])} or {FORMS[-1]}{near}")
    try:
        share = float(found["share"])
    except ValueError:
        raise BadInput(f"--prefer '{word}': {found['share']} is no number of percent; write for instance {FORMS[1]}") from None
    return Preference("smallest" if found["kind"] == "smallest" else "fastest", share / 100)


def pick(view: StudyView, prefer: Preference) -> TrialRecord:
    """The preferred trial among those that may be best. Raises BadInput where no trial is complete."""
    best = view.pick()
    if prefer.kind == "first":
        return best
    assert best.value is not None
    limit = best.value + prefer.within * abs(best.value)
    near = [trial for trial in view.ranked if trial.value is not None and trial.value <= limit]
    return min(near, key=measure_of(view, prefer.kind))  # Of equal ones the first, which has the lower value.


def measure_of(view: StudyView, kind: Kind) -> Callable[[TrialRecord], float]:
    """What is smallest or fastest: the second objective where it is of that sort, else parameters or training seconds."""
    second = view.study.objectives[1] if len(view.study.objectives) > 1 else ""
    if kind == "fastest":
        return lambda trial: trial.metrics.get("train_seconds", trial.seconds)
    if second in SIZES:
        return lambda trial: trial.values[1] if trial.values and finite(trial.values[1]) else float("inf")
    if view.study.own:
        raise BadInput("--prefer smallest: nobody knows the size of what a trainer of your own trains; use fastest-within")
    return lambda trial: trial.num_parameters
