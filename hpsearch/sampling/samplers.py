"""Samplers by name, drawn so that every proposal satisfies the rules of the space.

Optuna asks a sampler for one parameter after another; a rule such as `d_model % num_heads == 0` can only be judged on a
whole configuration. `FeasibleSampler` therefore draws whole configurations from an Optuna sampler and draws again while a
rule is broken: no trial number is spent on a configuration that cannot be trained.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.sampling.auto import AutoSampler
from hpsearch.sampling.grid import GridSampler, Violation
from hpsearch.sampling.imputation import FinalValue, median_final
from hpsearch.sampling.transfer import Knowledge
from hpsearch.space.parameters import Law
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


PROPOSED_BY = "hpsearch:proposed_by"
"""System attribute of Optuna's trial that says what proposed it: `prior`, `earlier`, `near-prior`, `wide`, `mutation`, `gp`,
`tpe`, or the plain sampler's name."""

LEARNERS = ("auto", "auto_wide", "tpe", "gp")
"""The samplers that earlier studies can inform: the others learn from no trial, or (cmaes) from the study's own only."""

MODELLERS = ("auto", "auto_wide", "gp")
"""Those that fit a Gaussian process for their proposals, which takes time; `auto` where there is one objective."""

BASELINE = "hpsearch:baseline"
"""User attribute of an enqueued trial that is to be the baseline."""


def enqueue_baseline(study: Study) -> None:
    """Make the configuration of all priors the study's next trial.

    Its values are filled in when it is asked for: an automatic prior depends on the budget, and device-seconds are measured
    after the study was created.
    """
    study.enqueue_trial({}, user_attrs={BASELINE: True})


def make_sampler(
    name: str,
    space: SearchSpace,
    seed: int,
    trials_so_far: int,
    violation: Violation | None = None,
    *,
    law: Law | None = None,
    final_value: FinalValue = median_final,
    knowledge: Knowledge | None = None,
) -> FeasibleSampler:
    """The sampler of `--sampler NAME`. violation: by default that of the space's rules. law: gives the automatic priors.
    final_value: what `auto` takes an unfinished trial for. knowledge: of earlier studies, for one of the LEARNERS.

    trials_so_far: proposals already made in the study; a resumed study then goes on with fresh random numbers instead of
    repeating the first ones. Raises BadInput with the nearest name.
    """
    if name not in SAMPLERS:
        raise BadInput(f"unknown sampler '{name}'{did_you_mean(name, SAMPLERS)} ({', '.join(SAMPLERS)})")
    if name == "cmaes" and len(space.objectives) > 1:
        raise BadInput(f"--sampler cmaes: it knows one objective only, and there are {len(space.objectives)}; use tpe")
    fresh = int(np.random.SeedSequence([seed, trials_so_far]).generate_state(1)[0])
    inner = SAMPLERS[name](Setup(space, seed, fresh, law, final_value, knowledge))
    return FeasibleSampler(name, inner, space, fresh, violation, law, knowledge)


def require_learner(name: str) -> None:
    """Raises BadInput for a sampler that trials of earlier studies cannot inform."""
    if name not in LEARNERS:
        raise BadInput(f"--from: the sampler {name} learns nothing from earlier studies; use {', '.join(LEARNERS)}")


class FeasibleSampler(samplers.BaseSampler):
    """Whole configurations from `inner` that break no rule."""

    def __init__(
        self,
        name: str,
        inner: samplers.BaseSampler,
        space: SearchSpace,
        seed: int,
        violation: Violation | None = None,
        law: Law | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self._name, self._inner, self._space, self._law, self._knowledge = name, inner, space, law, knowledge
        self._violation = violation or (lambda proposal: space.violation(space.settings(proposal)))
        if isinstance(inner, GridSampler):
            inner.violation = self._violation
        self._distributions = space.distributions()
        self._random = samplers.RandomSampler(seed=seed)
        self._choose = random.Random(seed)

    @property
    def law(self) -> Law | None:
        """What gives the automatic priors."""
        return self._law

    def limit(self, most: int) -> int:
        """Trials, `most` at most, after which there is nothing left to propose; only a grid comes to an end."""
        return len(self._inner.points(most)) if isinstance(self._inner, GridSampler) else most

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A whole feasible configuration: the parameters that are active in it and their values."""
        # What was enqueued, or set by a coordinator before it was killed, stays as it is, and the rest must go with it.
        given = trial.system_attrs.get("fixed_params", {}) | trial.params
        if BASELINE in trial.user_attrs:
            proposal, source = self._baseline(study, trial, given), "prior"
        else:
            proposal = self._propose(study, trial, given)
            source = self._inner.source if isinstance(self._inner, AutoSampler) else self._name
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSED_BY, source)
        return proposal

    def _baseline(self, study: Study, trial: FrozenTrial, given: Mapping[str, Any]) -> dict[str, Any]:
        baseline = self._complete(self._random, study, trial, {**self._space.prior(self._law), **given})
        if self._law is None or self._violation(baseline) is None:
            return baseline
        # What the laws say cannot be trained here: a batch that the memory or the budget does not allow.
        return self._complete(self._random, study, trial, {**self._space.prior(), **given})

    def _propose(self, study: Study, trial: FrozenTrial, given: Mapping[str, Any]) -> dict[str, Any]:
        if self._knowledge and not isinstance(self._inner, AutoSampler):  # That one asks for itself.
            study, trial = self._knowledge.beside(study, trial)
        known = self._inner.infer_relative_search_space(study, trial)
        proposal: dict[str, Any] = {}
        # A Gaussian process is slow to draw from, and draws the same again.
        for _ in range(1 if isinstance(self._inner, samplers.GPSampler) else DRAWS):
            proposal = self._complete(self._inner, study, trial, {**self._inner.sample_relative(study, trial, known), **given})
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


@dataclass(frozen=True)
class Setup:
    """What a sampler is made for."""

    space: SearchSpace
    seed: int
    """Of the study."""
    fresh: int
    """Of what is still to come of the study: another one after each resumption."""
    law: Law | None = None
    final_value: FinalValue = median_final
    knowledge: Knowledge | None = None


def _tpe(setup: Setup) -> samplers.BaseSampler:
    # Only group=True keeps modelling parameters that some trials do not have.
    return samplers.TPESampler(seed=setup.fresh, multivariate=True, group=any(p.when for p in setup.space.searched))


def _auto(setup: Setup, priors: bool = True) -> samplers.BaseSampler:
    return AutoSampler(
        setup.space, setup.seed, law=setup.law, priors=priors, final_value=setup.final_value, knowledge=setup.knowledge
    )


SAMPLERS: dict[str, Callable[[Setup], samplers.BaseSampler]] = {
    "auto": _auto,
    "auto_wide": functools.partial(_auto, priors=False),
    "tpe": _tpe,
    "random": lambda setup: samplers.RandomSampler(seed=setup.fresh),
    "gp": lambda setup: samplers.GPSampler(seed=setup.fresh, warn_independent_sampling=False),
    "cmaes": lambda setup: samplers.CmaEsSampler(seed=setup.fresh, warn_independent_sampling=False),
    "qmc": lambda setup: samplers.QMCSampler(seed=setup.seed, scramble=True, warn_independent_sampling=False),
    "grid": lambda setup: GridSampler(setup.space, setup.seed),
}
"""`auto_wide` is `auto` without its draws around the priors, to measure what they bring."""
