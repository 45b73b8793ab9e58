"""A search space: what is searched, what is fixed, and the rules between them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from hpsearch.config import DataConfig
from hpsearch.space import serialize, yaml_nodes
from hpsearch.space.baseline import baseline
from hpsearch.space.expressions import Expression, ExpressionError, UnknownValue, Value
from hpsearch.space.names import Names
from hpsearch.space.parameters import NEEDS, Choices, Derived, Fixed, Law, Parameter, Range, Searched, Setting, Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

BudgetKind = Literal["device_seconds", "flops", "tokens", "max_iters", "num_epochs", "steps"]
"""`steps`: those that a trainer of one's own counts."""
Choose = Callable[[Searched, Settings], Setting]
"""Picks a value for a searched parameter, beside the settings so far."""

MAX_ENUMERATED = 20_000
DRAWS = 2_000


@dataclass(frozen=True)
class BudgetSpec:
    """What every trial may spend. `amount` is in the kind's unit; None where max_iters or num_epochs is searched."""

    kind: BudgetKind
    amount: float | None
    evaluations: int
    """Evaluations per trial, the last one at its end."""


@dataclass(frozen=True)
class Bound:
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Rule:
    expression: Expression
    place: yaml_nodes.Place = field(compare=False, repr=False)


@dataclass(frozen=True)
class SearchSpace:
    """A checked space; `load_space` and `parse_space` make it."""

    name: str
    objectives: tuple[str, ...]
    data: DataConfig
    budget: BudgetSpec
    parameters: dict[str, Parameter]
    """By canonical name, in the order of the file."""
    rules: tuple[Rule, ...]
    constraints: dict[str, Bound]
    document: yaml_nodes.Mapping = field(compare=False, repr=False)
    """What it was read from."""
    names: Names = field(compare=False, repr=False)

    @property
    def own(self) -> bool:
        """Whether it is for a trainer of one's own."""
        return self.names.own

    @functools.cached_property
    def searched(self) -> tuple[Searched, ...]:
        """In an order in which a parameter comes after those that its `when` and its automatic prior depend on."""
        return tuple(parameter for parameter in self._ordered if isinstance(parameter, Range | Choices))

    def propose(self, choose: Choose, budget: Mapping[str, float] | None = None) -> Settings:
        """Walk through the searched parameters in order, asking `choose` for each one that is active; the proposal."""
        proposal: Settings = {}

        def keep(parameter: Searched, settings: Settings) -> Setting:
            proposal[parameter.name] = choose(parameter, settings)
            return proposal[parameter.name]

        self._settle(keep, budget)
        return proposal

    def active(self, proposal: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the searched parameters that are part of a configuration with these values of the others."""
        return tuple(self.propose(lambda parameter, _: proposal.get(parameter.name)))

    def prior(self, law: Law | None = None) -> Settings:
        """The baseline's proposal: `prior` where given, else the hyperparameter's default where the space has it, else the
        middle. Values that nobody gave are moved to the nearest listed ones that satisfy the rules.

        law: gives the priors that are `auto` (`hpsearch.workload.scaling_laws.Laws`); without it they are the middle.
        """
        return dict(self._baseline) if law is None or not self.automatic else baseline(self, law)

    @functools.cached_property
    def automatic(self) -> tuple[Searched, ...]:
        """The parameters with `prior: auto`."""
        return tuple(parameter for parameter in self.searched if parameter.automatic)

    def settings(self, proposal: Mapping[str, Any], budget: Mapping[str, float] | None = None) -> Settings:
        """Fixed, proposed and derived values together, of active parameters only.

        budget: what the study's budget gives this trial, such as `{"max_iters": 500, "eval_interval": 50}`; without it,
        derived values that depend on it are left out. Raises SpaceError where a derived value cannot be computed.
        """
        return self._settle(lambda parameter, _: proposal.get(parameter.name), budget)

    def violation(self, settings: Mapping[str, Any]) -> str | None:
        """Why these settings cannot be trained, or None. Rules about the budget are checked once it is in `settings`."""
        broken = self.broken_rule(settings)
        if broken:
            return broken[1]
        misfit = self.names.misfit(settings)
        return None if misfit is None else str(misfit)

    def broken_rule(self, settings: Mapping[str, Any]) -> tuple[Rule, str] | None:
        """The first rule that does not hold, and a sentence with the values."""
        told = self.names.told
        for rule, undecided in self._rules:
            if not undecided <= settings.keys():
                continue
            try:
                if not rule.expression.evaluate(lambda name: self.names.lookup(name, settings)):
                    return rule, f"{rule.expression.text} does not hold: {told(rule.expression.names, settings)}"
            except UnknownValue:
                continue
            except ExpressionError as error:
                names = rule.expression.names
                return rule, f"{rule.expression.text} cannot be computed ({error}): {told(names, settings)}"
        return None

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions of everything searched, by name."""
        from hpsearch.space.distributions import distribution

        return {parameter.name: distribution(parameter) for parameter in self.searched}

    @functools.cached_property
    def _baseline(self) -> Settings:
        return baseline(self)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of what the space means: its name, comments, order of keys, aliases and spelling of numbers do not count."""
        content = {key: value for key, value in self.content().items() if key != "name"}
        content["require"] = sorted(content.get("require", []))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def content(self) -> dict[str, Any]:
        """The whole space as plain data, every default written out."""
        return serialize.content(self)

    def to_yaml(self) -> str:
        """The canonical form; reading it gives an equal space."""
        return serialize.to_yaml(self.content())

    def differences(self, other: SearchSpace) -> list[str]:
        """What `other` says otherwise, one sentence each: `learning_rate: high 0.001 → 0.01`."""
        return serialize.differences(self.content(), other.content())

    # How values depend on each other

    def resolved(self, names: Iterable[str]) -> list[str]:
        """The parameters of this space that decide `names`: themselves, or what their default follows."""
        found: list[str] = []
        for written in names:
            name: str | None = written
            while name is not None and name != "budget":
                if name in self.parameters:
                    found.append(name)
                    if not self.parameters[name].may_be_absent:
                        break
                name = self.names.infos[name].derived
        return found

    def closure(self, names: Iterable[str]) -> set[str]:
        """All parameters that have a say in `names`."""
        found: set[str] = set()
        waiting = self.resolved(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.resolved(_mentioned(self.parameters[name]))
        return found

    def reach(self, names: Iterable[str]) -> set[str]:
        """All names that have a say in `names`, whether or not the space has them as parameters."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found or name == "budget":
                continue
            found.add(name)
            info = self.names.infos.get(name)
            if info is not None and info.derived:
                waiting.append(info.derived)
            if name in self.parameters:
                waiting += _mentioned(self.parameters[name])
        return found

    def varies(self, name: str) -> bool:
        """Whether trials can have different values of `name`."""
        return any(isinstance(self.parameters[each], Range | Choices) for each in self.closure([name]))

    def undecided(self, names: Iterable[str]) -> set[str]:
        """What the values of `names` depend on that only the budget decides: max_iters, eval_interval, both or none."""
        found: set[str] = set()
        for written in [*names, *(name for each in self.closure(names) for name in _mentioned(self.parameters[each]))]:
            name = written
            while name not in self.parameters and (follows := self.names.infos[name].derived):
                if follows == "budget":
                    found.add(name)
                    break
                name = follows
        return found

    @functools.cached_property
    def _rules(self) -> tuple[tuple[Rule, set[str]], ...]:
        """Each with what only the budget decides of it."""
        return tuple((rule, self.undecided(rule.expression.names)) for rule in self.rules)

    @functools.cached_property
    def _ordered(self) -> tuple[Parameter, ...]:
        """As in the file, but each after what it depends on."""
        ordered: dict[str, Parameter] = {}

        def add(name: str, children: tuple[str, ...]) -> None:
            parameter = self.parameters[name]
            if name in children:
                cycle = " → ".join((*children[children.index(name) :], name))
                raise parameter.place.error(f"values that need each other: {cycle}; give one of them a value of its own")
            if name not in ordered:
                automatic = isinstance(parameter, Range | Choices) and parameter.automatic
                # What decides an automatic prior is drawn before what it is the prior of.
                for parent in self.resolved((*_mentioned(parameter), *(NEEDS[name] if automatic else ()))):
                    add(parent, (*children, name))
                ordered[name] = parameter

        for name in self.parameters:
            add(name, ())
        return tuple(ordered.values())

    def _settle(
        self, choose: Choose, budget: Mapping[str, float] | None = None, only: Collection[str] | None = None
    ) -> Settings:
        settings: Settings = dict(budget or {})
        unknown: set[str] = set()

        def value(name: str) -> Value:
            return self.names.lookup(name, settings, unknown)

        for parameter in self._ordered:
            name = parameter.name
            if name in settings or (only is not None and name not in only):
                continue
            try:
                if parameter.when is not None and not parameter.when.evaluate(value):
                    continue
                match parameter:
                    case Fixed():
                        settings[name] = parameter.value
                    case Derived():
                        settings[name] = parameter.compute(value)
                    case Range() | Choices():
                        settings[name] = choose(parameter, settings)
            except UnknownValue:
                if isinstance(parameter, Derived):
                    unknown.add(name)
            except ExpressionError as error:
                names = (*(parameter.when.names if parameter.when else ()), *_mentioned(parameter))
                told = self.names.told(names, settings)
                raise parameter.place.error(
                    f"{name} cannot be computed with {told}: {error}; change the expression or the ranges"
                ) from None
        return settings

    def cases(self, names: Iterable[str], most: int = MAX_ENUMERATED) -> Iterator[Settings]:
        """Settings of `names` and what decides them: every combination where there are at most `most`, else random draws
        (always the same ones)."""
        only = self.closure(names)
        free = [parameter for parameter in self.searched if parameter.name in only]
        grids = [parameter.values for parameter in free]
        if self.countable(names, most):
            for combination in itertools.product(*(grid or () for grid in grids)):
                picked = dict(zip((parameter.name for parameter in free), combination, strict=True))
                yield self._settle(lambda parameter, _, picked=picked: picked[parameter.name], only=only)  # type: ignore[misc]
        else:
            random = Random(0)
            for _ in range(DRAWS):
                yield self._settle(lambda parameter, _: parameter.draw(random), only=only)

    def countable(self, names: Iterable[str], most: int = MAX_ENUMERATED) -> bool:
        """Whether `cases` lists every combination."""
        only = self.closure(names)
        grids = [parameter.values for parameter in self.searched if parameter.name in only]
        return all(grid is not None for grid in grids) and math.prod(len(grid or ()) for grid in grids) <= most


def _mentioned(parameter: Parameter) -> tuple[str, ...]:
    own = parameter.expression.names if isinstance(parameter, Derived) else ()
    return (*(parameter.when.names if parameter.when else ()), *own)
