"""Numbers, durations and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpsearch.storage.records import StudyRecord, TrialRecord
from hpsearch.text import printable, shortened

if TYPE_CHECKING:
    from hpsearch.space.parameters import Searched

BRIEF = 60
"""Columns of a value where several stand in one line."""
CHOICES = 24
"""Choices that are told of a parameter."""


def told_range(parameter: Searched) -> str:
    """What is searched, for people."""
    from hpsearch.space.parameters import Choices

    if isinstance(parameter, Choices):
        more = len(parameter.choices) - CHOICES
        told = ", ".join(map(word, parameter.choices[:CHOICES]))
        return f"one of {told}{f' and {more} more' if more > 0 else ''}"
    step = f" in steps of {short(parameter.step)}" if parameter.step else ""
    return f"{short(parameter.low)} to {short(parameter.high)}{' (log)' if parameter.log else ''}{step}"


def word(value: Any) -> str:
    """A value as a space file writes it, cut as `brief`."""
    return "null" if value is None else brief(value)


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def short(value: Any) -> str:
    """A hyperparameter or a measurement for the eye: four digits, `3e-4`, `true`, a dash for nothing, printable in any case."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e4):
        return f"{int(value)}"
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.4g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return printable(str(value))


def duration(seconds: float) -> str:
    """75 → 1 min 15 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def searched_by(study: StudyRecord) -> str:
    """What chooses a study's trials and ends them early, for people: `sampler auto, scheduler halving`."""
    parts = {"sampler": study.sampler, "pruner": study.pruner, "scheduler": study.scheduler}
    return ", ".join(f"{part} {name}" for part, name in parts.items() if name != "none")


def described(params: Mapping[str, Any]) -> str:
    """What was proposed, in one line; what follows its default is left out, and so is the end of a long text."""
    return ", ".join(f"{printable(name)} {brief(value)}" for name, value in params.items() if value is not None)


def brief(value: Any) -> str:
    """`short`, cut at BRIEF columns."""
    return shortened(short(value), BRIEF) if isinstance(value, str | list | tuple | Mapping) else short(value)


def amount(value: float, unit: str) -> str:
    """A large count for the eye: `950 FLOP`, `3.4 PFLOP`."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} Z{unit}"


def in_few_words(trial: TrialRecord, baseline: TrialRecord | None, limit: int = 6) -> list[str]:
    """What the sampler proposed, as `name value`: first what differs from the baseline, `limit` of them at most."""
    usual = {} if baseline is None or baseline.number == trial.number else baseline.params
    names = sorted(trial.params, key=lambda name: name in usual and usual[name] == trial.params[name])
    words = [f"{printable(name)} {brief(trial.params[name])}" for name in names[:limit]]
    return [*words, f"and {len(names) - limit} more"] if len(names) > limit else words


def jsonable(value: Any) -> Any:
    """`value` as JSON has it: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value
