"""What a space says of one hyperparameter: a fixed value, a range, choices, or an expression over the others."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any, Literal, get_args

from hpsearch.config import HYPERPARAMETERS
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.space.expressions import Expression, Value
from hpsearch.space.yaml_nodes import Place

Law = Callable[["Searched", Mapping[str, Any]], float | None]
"""The value that a scaling law gives a parameter beside the settings that are known so far; None where none applies."""
_SIZE = (
    *(name for name, info in HYPERPARAMETERS.items() if info.section == "architecture"),
    *("sentence_loss_weight", "max_iters", "num_epochs", "optimizer"),
)
NEEDS: dict[str, tuple[str, ...]] = {
    "num_layers": (),
    "d_model": ("num_layers",),
    "batch_size": _SIZE,
    "learning_rate": (*_SIZE, "batch_size"),
    "weight_decay": (*_SIZE, "batch_size", "learning_rate"),
    "beta2": (*_SIZE, "batch_size"),
    "warmup_steps": (*_SIZE, "batch_size"),
}
"""The hyperparameters that `prior: auto` is for, and those whose values decide it."""

Setting = Value | None
"""A hyperparameter's value; None where it is off, or follows another (`num_groups`: as many as num_heads)."""

Settings = dict[str, Setting]
"""By canonical name."""

Confidence = Literal["low", "medium", "high"]
"""How far from its prior a value is first looked for."""

CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)

AUTO = "auto"
"""The prior that a scaling law gives (`workload.scaling_laws`)."""

MAX_GRID = 20_000
"""A range with more values than this counts as continuous where values are enumerated."""


def may_be_empty(info: Hyperparameter) -> bool:
    """Whether null is a value: it turns the hyperparameter off, or lets it follow another."""
    return info.optional or info.derived is not None


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    name: str
    """Canonical."""
    info: Hyperparameter = field(compare=False, repr=False)
    when: Expression | None = None
    """Where this holds, the parameter is part of a configuration."""
    place: Place = field(default=Place("<space>"), compare=False, repr=False)
    when_place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def may_be_absent(self) -> bool:
        """Whether there are configurations in which the hyperparameter has its default."""
        return self.when is not None


@dataclass(frozen=True, kw_only=True)
class Fixed(_Parameter):
    value: Setting

    @property
    def may_be_absent(self) -> bool:
        return self.when is not None or self.value is None

    def document(self) -> Any:
        return self.value if self.when is None else {"value": self.value, "when": self.when.text}


@dataclass(frozen=True, kw_only=True)
class Derived(_Parameter):
    expression: Expression

    def document(self) -> Any:
        return self.expression.text if self.when is None else {"value": self.expression.text, "when": self.when.text}

    def compute(self, lookup: Callable[[str], Value]) -> Value:
        """The value; for a whole-number hyperparameter rounded to the nearest (half up)."""
        value = self.expression.evaluate(lookup)
        if self.info.kind == "int":
            return value if isinstance(value, int) else math.floor(value + 0.5)  # type: ignore[operator]
        return float(value) if self.info.kind == "float" else value


@dataclass(frozen=True, kw_only=True)
class Range(_Parameter):
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    """None: every value (of a whole-number hyperparameter, every whole number)."""
    prior: int | float | Literal["auto"] | None = None
    confidence: Confidence | None = None
    """None without a prior."""

    @property
    def automatic(self) -> bool:
        """Whether a scaling law gives the prior."""
        return self.prior == AUTO

    @property
    def whole(self) -> bool:
        return self.info.kind == "int"

    def document(self) -> Any:
        told: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            told["log"] = True
        return told | _given(step=self.step) | _prior(self) | _given(when=self.when and self.when.text)

    @functools.cached_property
    def values(self) -> tuple[int | float, ...] | None:
        """Every value, or None where there are too many to list."""
        if self.step is None and not self.whole:
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        if count > MAX_GRID:
            return None
        kind = int if self.whole else float
        return tuple(kind(low + index * step) for index in range(count))

    def contains(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def snapped(self, value: int | float) -> int | float:
        """The nearest value that the range has."""
        value = min(max(value, self.low), self.high)
        if self.step is not None:
            low, step = Decimal(str(self.low)), Decimal(str(self.step))
            value = float(low + round((Decimal(str(value)) - low) / step) * step)
        return round(value) if self.whole else float(value)

    @property
    def middle(self) -> int | float:
        return self.snapped(math.sqrt(self.low) * math.sqrt(self.high) if self.log else self.low / 2 + self.high / 2)

    def at(self, part: float) -> int | float:
        """The value at a part, from 0 up to but not 1, of the range (of its logarithm where it is searched so)."""
        if self.log:
            return self.snapped(math.exp(math.log(self.low) + part * (math.log(self.high) - math.log(self.low))))
        if self.values is not None:
            return self.values[int(part * len(self.values))]
        return self.snapped(self.low + part * (self.high - self.low))

    def part(self, value: int | float) -> float:
        """Where a value is in the range, from 0 to 1, in the scale in which it is searched; the middle of a single value."""
        low, high, at = float(self.low), float(self.high), float(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5

    def draw(self, random: Random) -> int | float:
        if self.log:
            return self.snapped(math.exp(random.uniform(math.log(self.low), math.log(self.high))))
        if self.whole:
            return int(self.low) + random.randrange((int(self.high) - int(self.low)) // int(self.step or 1) + 1) * int(
                self.step or 1
            )
        return self.snapped(random.uniform(self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class Choices(_Parameter):
    choices: tuple[Setting, ...]
    prior: Setting = None
    confidence: Confidence | None = None
    """None without a prior."""

    @property
    def automatic(self) -> bool:
        """Whether a scaling law gives the prior; of a text, `auto` is itself."""
        return self.prior == AUTO and self.info.kind != "str"

    @property
    def may_be_absent(self) -> bool:
        return self.when is not None or None in self.choices

    def document(self) -> Any:
        return {"choices": list(self.choices)} | _prior(self) | _given(when=self.when and self.when.text)

    @property
    def values(self) -> tuple[Setting, ...]:
        return self.choices

    def contains(self, value: object) -> bool:
        return value in self.choices

    def snapped(self, value: int | float) -> Setting:
        """The choice nearest to a number above 0, by their ratio; the middle where no choice is such a number."""
        numbers = [each for each in self.choices if isinstance(each, int | float) and each > 0]
        return min(numbers, key=lambda each: abs(math.log(each / value))) if numbers else self.middle

    @functools.cached_property
    def ordered(self) -> tuple[int | float, ...] | None:
        """The choices from the smallest to the largest where all are numbers, so that nearness means something; else None."""
        numbers = [each for each in self.choices if isinstance(each, int | float) and not isinstance(each, bool)]
        return tuple(sorted(numbers)) if len(numbers) == len(self.choices) else None

    @property
    def middle(self) -> Setting:
        return self.choices[(len(self.choices) - 1) // 2]

    def at(self, part: float) -> Setting:
        """The choice at a part, from 0 up to but not 1, of the list."""
        return self.choices[int(part * len(self.choices))]

    def draw(self, random: Random) -> Setting:
        return random.choice(self.choices)


Parameter = Fixed | Range | Choices | Derived
Searched = Range | Choices


def nearest(parameter: Searched, start: Setting, most: int) -> list[Setting]:
    """The `most` values nearest to `start`, nearest first; empty where the values cannot be listed."""
    values = list(parameter.values or ())
    index = values.index(start) if start in values else len(values) // 2
    return [values[each] for each in sorted(range(len(values)), key=lambda each: abs(each - index))[:most]]


def _prior(parameter: Searched) -> dict[str, Any]:
    if parameter.confidence is None:
        return {}
    return {"prior": parameter.prior} | ({} if parameter.confidence == "medium" else {"confidence": parameter.confidence})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
