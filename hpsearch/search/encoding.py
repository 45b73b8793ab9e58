"""A space as a Gaussian process can read it: it knows neither conditions nor that 32 lies between 24 and 48."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, create_trial

from hpsearch.space.parameters import Choices
from hpsearch.space.space import SearchSpace


class Encoding:
    """Optuna's trials of a space, with the rank of each choice where choices are numbers, and all parameters in all trials."""

    def __init__(self, space: SearchSpace) -> None:
        self._ordered = {
            each.name: each.ordered for each in space.searched if isinstance(each, Choices) and each.ordered is not None
        }
        self._middle = {each.name: each.middle for each in space.searched}
        self._distributions = space.distributions() | {
            name: IntDistribution(0, len(ordered) - 1) for name, ordered in self._ordered.items()
        }

    def encoded(self, trial: FrozenTrial) -> FrozenTrial:
        """With the middle for the parameters that it does not have."""
        return create_trial(
            state=trial.state,
            values=trial.values,
            params={name: self._code(name, value) for name, value in (self._middle | trial.params).items()},
            distributions=self._distributions,
            constraints=trial.constraints or None,
        )

    def _code(self, name: str, value: Any) -> Any:
        return self._ordered[name].index(value) if name in self._ordered else value

    def decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._ordered[name][value] if name in self._ordered else value for name, value in params.items()}
