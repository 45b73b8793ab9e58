"""The configuration that a study starts from: the priors, made to satisfy the rules."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from hpsearch.space.expressions import UnknownValue
from hpsearch.space.parameters import Choices, Law, Range, Searched, Setting, Settings, nearest

if TYPE_CHECKING:
    from hpsearch.space.space import SearchSpace

MAX_MOVES = 2_000
"""Configurations that are tried in place of a baseline that breaks a rule."""


def baseline(space: SearchSpace, law: Law | None = None) -> Settings:
    """The proposal made of the priors; where that breaks a rule, values that nobody gave are moved to the nearest that do
    not. When nothing near satisfies the rules, the unmoved proposal: the check then says what is wrong.

    law: gives the priors that are `auto`; without it they are the middle.
    """

    def start(parameter: Searched, settings: Settings) -> Setting:
        return prior_value(space, parameter, settings, law)

    first = space.propose(start)
    if space.violation(space.settings(first)) is None:
        return first
    involved = space.closure([*space.names.shape, *(name for rule in space.rules for name in rule.expression.names)])
    free = [each for each in space.searched if each.prior is None and each.name in involved and each.values]
    for most in (12, 6, 4, 3, 2, 1):
        near = {each.name: nearest(each, first.get(each.name), most) for each in free}
        if math.prod(len(values) for values in near.values()) <= MAX_MOVES:
            break
    for rank in sorted(itertools.product(*(range(len(values)) for values in near.values())), key=sum):
        moved = {name: values[index] for (name, values), index in zip(near.items(), rank, strict=True)}

        def choose(parameter: Searched, settings: Settings, moved: Settings = moved) -> Setting:
            return moved[parameter.name] if parameter.name in moved else start(parameter, settings)

        proposal = space.propose(choose)
        if space.violation(space.settings(proposal)) is None:
            return proposal
    return first


def prior_value(space: SearchSpace, parameter: Searched, settings: Settings, law: Law | None = None) -> Setting:
    """The centre of a parameter's prior beside `settings`: the value that is given; for `auto` the law's value, at the nearest
    end where that is outside the range, and the middle where there is no law; without a prior the hyperparameter's default if
    the parameter has it, else the middle."""
    if parameter.automatic:
        value = law(parameter, settings) if law else None
        return parameter.middle if value is None else parameter.snapped(value)
    if isinstance(parameter, Range) and isinstance(parameter.prior, int | float):
        return parameter.snapped(parameter.prior)
    if parameter.prior is not None:
        return parameter.prior
    if isinstance(parameter, Choices) and None in parameter.choices:
        return None
    try:
        default = space.names.lookup(parameter.name, settings)
    except UnknownValue:
        return parameter.middle
    if not parameter.contains(default):
        return parameter.middle
    return parameter.snapped(default) if isinstance(parameter, Range) else default  # type: ignore[arg-type]
