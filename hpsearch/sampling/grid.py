"""Every configuration of a discrete space, once."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from hpsearch.errors import BadInput
from hpsearch.space.parameters import Searched
from hpsearch.space.space import SearchSpace

Violation = Callable[[Mapping[str, Any]], str | None]
"""Why a proposal cannot be trained; None where it can."""


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
