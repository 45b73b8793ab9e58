"""The value of a hyperparameter beside others, for expressions and messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hpsearch.config import HYPERPARAMETERS
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.space.expressions import UnknownValue, Value


def lookup(
    name: str,
    settings: Mapping[str, Any],
    unknown: Collection[str] = (),
    infos: Mapping[str, Hyperparameter] = HYPERPARAMETERS,
) -> Value:
    """The value of a hyperparameter beside `settings`: its own, else what its default follows, else its default.

    Raises UnknownValue where only the budget knows it, where it is off, and for `unknown` names.
    """
    if name in unknown:
        raise UnknownValue(name)
    value = settings.get(name)
    if value is None:
        info = infos[name]
        if info.derived == "budget":
            raise UnknownValue(name)
        value = lookup(info.derived, settings, unknown, infos) if info.derived else info.default
    if value is None:
        raise UnknownValue(name)
    result: Value = value
    return result


def told(names: Iterable[str], settings: Mapping[str, Any], infos: Mapping[str, Hyperparameter] = HYPERPARAMETERS) -> str:
    """`d_model 128, num_heads 3`"""
    parts = []
    for name in dict.fromkeys(names):
        try:
            parts.append(f"{name} {lookup(name, settings, infos=infos)}")
        except UnknownValue:
            parts.append(f"{name} not known")
    return ", ".join(parts)
