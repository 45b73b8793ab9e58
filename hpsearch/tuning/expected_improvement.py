"""`--min-gain`: whether one more trial is expected to bring enough, after Jones, Schonlau and Welch, "Efficient Global
Optimization of Expensive Black-Box Functions" (J. Global Optimization 13, 1998), who stop when the largest expected
improvement falls below a share of the best value.

A Gaussian process with noise is fitted to what the trials showed. What counts as the best is its own mean at the best of the
trials, not the lowest of their noisy values; and the rule must hold for the study as it was one and two trials ago as well,
since one fit can be too sure of itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import BadInput
from hpsearch.sampling.auto import near
from hpsearch.sampling.gp import Surrogate
from hpsearch.space.parameters import Searched, Setting, Settings
from hpsearch.space.space import SearchSpace
from hpsearch.text import measured

LEAST = 12
PER_PARAMETER = 4
"""Trials that told something before the rule may say anything: LEAST, or so many for each searched parameter."""
IN_A_ROW = 3
MOST = 200
"""Trials that are read: the best half and the newest."""
CANDIDATES = 1500
"""Configurations at which the improvement is looked for: half from the whole space, half around the best of the trials."""
BEST = 5
_FORM = re.compile(r"(?P<amount>[0-9.eE+-]+) ?(?P<percent>%?)")


@dataclass(frozen=True)
class MinGain:
    """The least expected improvement for which a trial is worth it: a share of the best value, or in the objective's unit."""

    amount: float
    share: bool

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.share else f"{self.amount:g}"

    def least(self, best: float) -> float:
        return self.amount * abs(best) if self.share else self.amount


def parse_min_gain(word: str) -> MinGain:
    """`0.5%` or `0.002`. Raises BadInput."""
    found = _FORM.fullmatch(word.strip())
    try:
        amount = float(found["amount"]) if found else math.nan
    except ValueError:
        amount = math.nan
    if found is None or not 0 < amount < math.inf:
        raise BadInput(
            f"--min-gain {word}: give a share of the best value, as 0.5%, or a number in the objective's unit, as 0.002"
        )
    share = bool(found["percent"])
    return MinGain(amount / 100 if share else amount, share)


def not_worth_it(seen: Sequence[FrozenTrial], space: SearchSpace, limit: MinGain) -> str:
    """Why no new trial is worth it; empty while one is.

    seen: the study's trials as a model sees them (`sampling.auto.evidence`), oldest first, of one objective.
    """
    told = [trial for trial in seen if trial.state is TrialState.COMPLETE]
    if len(told) < max(LEAST, PER_PARAMETER * len(space.searched)) + IN_A_ROW - 1:
        return ""
    said = ""
    for without in range(IN_A_ROW):
        best, gain = expected_gain(told[: len(told) - without], space)
        if gain >= limit.least(best):
            return ""
        said = said or (
            f"a better trial is not expected: by {gain:.2g} at most, after {len(told)} trials, where the best is about "
            f"{measured(best)} (--min-gain {limit})"
        )
    return said


def expected_gain(told: Sequence[FrozenTrial], space: SearchSpace) -> tuple[float, float]:
    """The model's mean at the best of the trials, and the largest expected improvement on it in the space."""
    from scipy.special import ndtr  # Here: few studies ask for it, and none should wait for scipy at its start.

    told = _fewer(told)
    model = Surrogate(space, [trial.params for trial in told], [trial.values[0] for trial in told])
    best = float(model.predict([trial.params for trial in told])[0].min())
    mean_K, sd_K = model.predict(_candidates(told, space))
    z_K = (best - mean_K) / sd_K
    gain_K = (best - mean_K) * ndtr(z_K) + sd_K * np.exp(-0.5 * z_K**2) / math.sqrt(2 * math.pi)
    return best, float(gain_K.max())


def _fewer(told: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    ranked = sorted(range(len(told)), key=lambda index: told[index].values[0])
    best = set(ranked[: MOST // 2])
    newest = [index for index in range(len(told)) if index not in best][-MOST // 2 :]
    return [told[index] for index in sorted(best | set(newest))]


def _candidates(told: Sequence[FrozenTrial], space: SearchSpace) -> list[Settings]:
    random, best = Random(0), sorted(told, key=lambda trial: trial.values[0])[:BEST]

    def around(centre: dict[str, Any]) -> Callable[[Searched, Settings], Setting]:
        def choose(parameter: Searched, _: Settings) -> Setting:
            given = parameter.name in centre and centre[parameter.name] is not None
            return near(parameter, centre[parameter.name], random, "high") if given else parameter.draw(random)

        return choose

    wide = [space.propose(lambda parameter, _: parameter.draw(random)) for _ in range(CANDIDATES // 2)]
    return wide + [space.propose(around(best[index % len(best)].params)) for index in range(CANDIDATES // 2)]
