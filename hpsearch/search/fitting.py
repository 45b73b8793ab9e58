"""Whether a space could have proposed the configuration of a trial of another study."""

from __future__ import annotations

import math

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import ConfigError
from hpsearch.search.proposals import outside
from hpsearch.space.parameters import Choices, Searched, Setting
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import TrialRecord

BUDGET_DECIDES = frozenset({"max_iters", "num_epochs", "eval_interval", "lr_decay_iters", "save_interval"})


class Misfit(Exception):
    """A trial that is not taken; `kind` is the same for trials that are left out for one reason."""

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(told)
        self.kind = kind


def proposal_of(trial: TrialRecord, space: SearchSpace) -> dict[str, Setting]:
    """The proposal of `space` that gives the trial's configuration, apart from what the budget decides.

    Raises Misfit where there is none: a value outside what is searched, another value of what is fixed here, a rule or a
    constraint that it breaks.
    """

    def choose(parameter: Searched, _: dict[str, Setting]) -> Setting:
        value = trial.params.get(parameter.name, trial.config.get(parameter.name))
        side = beyond(parameter, value)
        if side:
            raise Misfit(f"{parameter.name} {side}", f"{parameter.name} {_short(value)} {side}")
        return value

    proposal = space.propose(choose)
    settings = space.settings(proposal)
    if broken := space.broken_rule(settings):
        rule, told = broken
        raise Misfit(rule.expression.text, told)
    try:
        config = TrialConfig.build({"max_iters": 1} | settings | {"vocab_size": trial.config["vocab_size"]})
    except ConfigError as error:
        raise Misfit(str(error), str(error)) from None
    searched = {parameter.name for parameter in space.searched}
    ours = config.concrete()
    for name, info in HYPERPARAMETERS.items():
        if name in searched or name in BUDGET_DECIDES or name == "vocab_size" or info.fixed or info.section == "generation":
            continue
        theirs = trial.config.get(name)
        if theirs != ours.get(name) and not space.undecided([name]):
            raise Misfit(f"{name} differs", f"{name} is {_short(theirs)} there and {_short(ours.get(name))} here")
    if broken_bound := outside(space, config):
        raise Misfit(broken_bound.partition(" ")[0], broken_bound)
    return proposal


def beyond(parameter: Searched, value: object) -> str:
    """How a value is outside what is searched: `is above high 0.001`; empty where it is inside."""
    if isinstance(parameter, Choices):
        return "" if parameter.contains(value) else f"is not among the choices {', '.join(map(_short, parameter.choices))}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    if value < parameter.low:
        return f"is below low {_short(parameter.low)}"
    if value > parameter.high:
        return f"is above high {_short(parameter.high)}"
    if not math.isclose(parameter.snapped(value), value, rel_tol=1e-9, abs_tol=1e-12):
        return f"is between the steps of {_short(parameter.step)}" if parameter.step else "is no whole number"
    return ""


def _short(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
