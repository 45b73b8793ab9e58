"""Which proposals of a space would train the same model, so that a search can look further."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from hpsearch.errors import BadInput
from hpsearch.space.expressions import UnknownValue
from hpsearch.space.parameters import Range, Searched, Setting
from hpsearch.space.space import SearchSpace

PARTS = 1000
"""Parts of a range (of its logarithm where it is searched so): values of one part are the same to a search. A Gaussian process
asks for the end of a range again but for its last bit."""


class Sameness:
    """What proposals of a space come to: `num_groups: null` beside 4 heads is 4 groups."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._known: dict[int, Hashable] = {}

    def key(self, proposal: Mapping[str, Any]) -> Hashable:
        """Equal for proposals that train the same model."""
        try:
            settings = self._space.settings(proposal)
        except BadInput:  # A derived value cannot be computed: a rule will say so.
            return tuple(sorted((name, str(value)) for name, value in proposal.items()))
        return tuple(self._told(parameter, settings) for parameter in self._space.searched)

    def keys(self, trials: Iterable[FrozenTrial]) -> set[Hashable]:
        """Of one study's trials, but those that wait for their values; the ended ones are remembered."""
        found = set()
        for trial in trials:
            if not trial.params:
                continue
            key = self._known.get(trial.number) or self.key(trial.params)
            if trial.state.is_finished():
                self._known[trial.number] = key
            found.add(key)
        return found

    def _told(self, parameter: Searched, settings: Mapping[str, Setting]) -> Hashable:
        """None where it is no part of the configuration, is off, or follows what only the budget knows."""
        value = settings.get(parameter.name)
        if isinstance(parameter, Range):
            return round(PARTS * parameter.part(value)) if isinstance(value, int | float) else None
        if parameter.name not in settings:
            return None
        try:
            return self._space.names.lookup(parameter.name, settings)
        except UnknownValue:
            return None
