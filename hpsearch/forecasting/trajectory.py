"""Where a search goes: from random configurations to those that are good for the budget, which seldom cost what the mean does.

Before anything is trained only published laws know which those are. They rank configurations for a forecast of time, and
nothing else: a loss that they say is not shown, and no trial is chosen by it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput
from hpsearch.model.counting import count
from hpsearch.objectives import OBJECTIVES
from hpsearch.sampling.auto import START_UP
from hpsearch.sampling.samplers import LEARNERS
from hpsearch.space.parameters import Searched, Setting, Settings
from hpsearch.space.space import SearchSpace

CRITICAL_TOKENS = 2000
"""Tokens of a step that make a million tokens worth half of what they are worth in small steps. With it the mean steps of a
trial are about those of the searches of benchmarks/search.jsonl and of the README's first command (benchmarks/RESULTS.md)."""

PARTS = 8
"""Values of a range that are compared, from its low to its high end."""


def drifts(sampler: str, objectives: Sequence[str]) -> bool:
    """Whether a search goes to low losses: its sampler learns, and a loss is all that it wants to be low."""
    return sampler in LEARNERS and len(objectives) == 1 and OBJECTIVES[objectives[0]].known == "while training"


def likely_loss(config: TrialConfig) -> float:
    """Nats a token, less those that no model can save: 482 / N^0.348 + 2085 / D^0.366, N parameters but those of tables, D the
    tokens trained on, over 1 + B / B_crit where a step has B, B_crit growing as D^0.462.

    Source: Chinchilla as fitted again, arXiv:2404.10102; what large batches waste, arXiv:1812.06162; the exponent of their
    critical size, Power Lines, arXiv:2505.13738.
    """
    step_tokens = config.batch_size * config.context_length
    tokens = config.max_iters * step_tokens
    critical = CRITICAL_TOKENS * math.pow(tokens / 1e6, 0.462)
    worth = tokens / (1 + step_tokens / critical)
    return 482 / math.pow(count(config).non_embedding_parameters, 0.348) + 2085 / math.pow(worth, 0.366)


def improved(
    space: SearchSpace, make: Callable[[Mapping[str, Any]], TrialConfig], proposal: Settings, names: Sequence[str]
) -> TrialConfig:
    """The config of a proposal whose parameters of `names` are changed, one after another, for as long as laws like it better.

    Draws of a large space hold none of its best corner, where a search that learns from one trial to the next soon is.
    """
    best, changed = make(proposal), True
    while changed:
        changed = False
        for parameter in space.searched:
            if parameter.name not in names:
                continue
            for value in {parameter.at(min(part / PARTS, 0.999999)): None for part in range(PARTS + 1)}:
                with contextlib.suppress(BadInput):  # A rule is broken, or the budget too small.
                    other = _changed(space, proposal, parameter.name, value)
                    config = make(other)
                    if likely_loss(config) < likely_loss(best):
                        proposal, best, changed = other, config, True
    return best


def _changed(space: SearchSpace, given: Settings, name: str, value: Setting) -> Settings:
    """The proposal `given` with another value of one parameter; what is searched only then has its middle."""

    def choose(parameter: Searched, _: Settings) -> Setting:
        return value if parameter.name == name else given.get(parameter.name, parameter.middle)

    return space.propose(choose)


def course(ranked: Sequence[int], trials: int, random: Random, *, drifting: bool) -> list[int]:
    """For each of `trials` trials, which configuration it is like: the baseline (0), then one of `ranked`, best first.

    After a drifting search's first trials the nth is like the best of n random ones.
    """
    order = [0]
    for number in range(1, trials):
        choices = number if drifting and number >= START_UP else 1
        # The least of so many uniform numbers, at once.
        least = 1 - math.pow(1 - random.random(), 1 / choices)
        order.append(ranked[int(least * len(ranked))] if ranked else 0)
    return order
