"""Samplers by name, drawn so that every proposal satisfies the rules of the space.

Optuna asks a sampler for one parameter after another; a rule such as `d_model % num_heads == 0` can only be judged on a
whole configuration. `FeasibleSampler` therefore draws whole configurations from an Optuna sampler and draws again while a
rule is broken: no trial number is spent on a configuration that cannot be trained.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.space.parameters import Searched
from hpsearch.space.space import SearchSpace


def suggest(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """The configuration of a trial that the study asked for, parameter by parameter; also sets it in Optuna's storage."""
    distributions = space.distributions()
    return space.propose(lambda parameter, _: _suggest(trial, parameter.name, distributions[parameter.name]))


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
        case _:
            raise AssertionError(distribution)


DRAWS = 8
"""Draws from the sampler itself before the last one is repaired: parameters redrawn at random, first one, then more."""

REPAIRS = 50
"""Tries with the same number of redrawn parameters."""

RANDOM_DRAWS = 20_000
"""Draws of everything at random before a space counts as one whose rules nothing satisfies."""


Violation = Callable[[Mapping[str, Any]], str | None]
"""Why a proposal cannot be trained; None where it can."""


def make_sampler(
    name: str, space: SearchSpace, seed: int, trials_so_far: int, violation: Violation | None = None
) -> FeasibleSampler:
    """The sampler of `--sampler NAME`. violation: by default that of the space's rules.

    trials_so_far: proposals already made in the study; a resumed study then goes on with fresh random numbers instead of
    repeating the first ones. Raises BadInput with the nearest name.
    """
    if name not in SAMPLERS:
        raise BadInput(f"unknown sampler '{name}'{did_you_mean(name, SAMPLERS)} ({', '.join(SAMPLERS)})")
    if name == "cmaes" and len(space.objectives) > 1:
        raise BadInput(f"--sampler cmaes: it knows one objective only, and there are {len(space.objectives)}; use tpe")
    fresh = int(np.random.SeedSequence([seed, trials_so_far]).generate_state(1)[0])
    return FeasibleSampler(SAMPLERS[name](space, seed, fresh), space, fresh, violation)


class FeasibleSampler(samplers.BaseSampler):
    """Whole configurations from `inner` that break no rule."""

    def __init__(self, inner: samplers.BaseSampler, space: SearchSpace, seed: int, violation: Violation | None = None) -> None:
        self._inner, self._space = inner, space
        self._violation = violation or (lambda proposal: space.violation(space.settings(proposal)))
        if isinstance(inner, GridSampler):
            inner.violation = self._violation
        self._distributions = space.distributions()
        self._random = samplers.RandomSampler(seed=seed)
        self._choose = random.Random(seed)

    def limit(self, most: int) -> int:
        """Trials, `most` at most, after which there is nothing left to propose; only a grid comes to an end."""
        return len(self._inner.points(most)) if isinstance(self._inner, GridSampler) else most

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A whole feasible configuration: the parameters that are active in it and their values."""
        known = self._inner.infer_relative_search_space(study, trial)
        # What was enqueued, or set by a coordinator before it was killed, stays as it is, and the rest must go with it.
        given = trial.system_attrs.get("fixed_params", {}) | trial.params
        proposal: dict[str, Any] = {}
        # A Gaussian process is slow to draw from, and draws the same again.
        for _ in range(1 if isinstance(self._inner, samplers.GPSampler) else DRAWS):
            proposal = self._complete(self._inner, study, trial, self._inner.sample_relative(study, trial, known) | given)
            if self._violation(proposal) is None:
                return proposal
        names = [parameter.name for parameter in self._space.searched if parameter.name not in given]
        for changed in range(1, len(names) + 1):
            for _ in range(REPAIRS if given or changed < len(names) else RANDOM_DRAWS):
                redrawn = self._choose.sample(names, changed)
                kept = {name: value for name, value in proposal.items() if name not in redrawn}
                repaired = self._complete(self._random, study, trial, kept)
                if self._violation(repaired) is None:
                    return repaired
        if given:
            return proposal  # Nothing goes with it: the trial fails, and its reason says what is wrong.
        raise self._space.document.place.error(
            f"in {RANDOM_DRAWS} random draws no configuration satisfied the rules; widen a range"
        )

    def _complete(
        self, sampler: samplers.BaseSampler, study: Study, trial: FrozenTrial, drawn: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`drawn` without the parameters whose condition does not hold, and with those that it lacks."""
        return self._space.propose(
            lambda parameter, _: (
                drawn[parameter.name]
                if parameter.name in drawn
                else sampler.sample_independent(study, trial, parameter.name, self._distributions[parameter.name])
            )
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Only for what an enqueued configuration leaves open in a way that the draw above did not foresee.
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
        self._random.reseed_rng()


class GridSampler(samplers.BaseSampler):
    """Every configuration of a discrete space once, in a random order that is the same each time.

    Optuna's own grid knows neither conditions nor rules and would spend trials on what they leave out.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        for parameter in space.searched:
            distribution = space.distributions()[parameter.name]
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                raise BadInput(f"--sampler grid: {parameter.name} has endless values; give it a step or choices")
        points = [point for point in _grid(space) if space.violation(space.settings(point)) is None]
        random.Random(seed).shuffle(points)
        self._unjudged, self._points = iter(points), list[dict[str, Any]]()
        self.violation: Violation = lambda _: None

    def points(self, most: int) -> list[dict[str, Any]]:
        """The first `most` that can be trials, or all there are.

        Judged when needed: a grid is long, and the budget, which may not pay for some, is measured after it is made.
        """
        while len(self._points) < most and (point := next(self._unjudged, None)) is not None:
            if self.violation(point) is None:
                self._points.append(point)
        return self._points[:most]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        seen = {_key(other.params) for other in study.get_trials(deepcopy=False) if other.number < trial.number}
        # The points seen, and one more; what was enqueued may be none of them.
        for point in self.points(len(seen) + 1):
            if _key(point) not in seen:
                return point
        raise AssertionError("asked for more trials than `limit`")

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("a point of the grid holds every active parameter")


MAX_GRID = 100_000


def _grid(space: SearchSpace) -> list[dict[str, Any]]:
    """Every combination of the searched parameters, conditions obeyed."""
    distributions = space.distributions()
    points: list[dict[str, Any]] = [{}]
    for parameter in space.searched:
        name, values = parameter.name, _values(distributions[parameter.name])
        points = [point | {name: value} for point in points for value in (values if name in space.active(point) else [None])]
        if len(points) > MAX_GRID:
            raise BadInput(f"--sampler grid: more than {MAX_GRID} configurations at '{name}'; use fewer choices, or tpe")
    # Of a point, what its conditions leave active.
    return [space.propose(functools.partial(_pick, point)) for point in points]


def _pick(point: Mapping[str, Any], parameter: Searched, _: Mapping[str, Any]) -> Any:
    return point[parameter.name]


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    assert distribution.step is not None
    steps = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + index * distribution.step for index in range(steps + 1)]


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in params.items()))


def _tpe(space: SearchSpace, seed: int, fresh: int) -> samplers.BaseSampler:
    # Only group=True keeps modelling parameters that some trials do not have.
    return samplers.TPESampler(seed=fresh, multivariate=True, group=any(p.when for p in space.searched))


SAMPLERS: dict[str, Callable[[SearchSpace, int, int], samplers.BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda space, seed, fresh: samplers.RandomSampler(seed=fresh),
    "gp": lambda space, seed, fresh: samplers.GPSampler(seed=fresh, warn_independent_sampling=False),
    "cmaes": lambda space, seed, fresh: samplers.CmaEsSampler(seed=fresh, warn_independent_sampling=False),
    "qmc": lambda space, seed, fresh: samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "grid": lambda space, seed, fresh: GridSampler(space, seed),
}
