"""`--sampler auto`: what is known beforehand first, then what the trials say.

After the prior's centre (trial 0) the first trials are drawn around it, mixed with draws from the whole space; then a model
proposes: a Gaussian process while the trials are few and there is one objective, else TPE. Some draws around the prior and
from the whole space stay in, so that neither a misleading prior nor a misled model can hold the search; where parameters are
many, so do mutations of the best.

Everything follows from the study's trials and its seed: a resumed study goes on as it would have.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna import Study, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.sampling.dedup import Sameness
from hpsearch.sampling.gp import FEW, Encoding, gaussian_process
from hpsearch.sampling.imputation import SO_FAR, FinalValue, _estimated_in_all, estimated, median_final
from hpsearch.space.baseline import prior_value
from hpsearch.space.parameters import Choices, Confidence, Law, Range, Searched, Setting
from hpsearch.space.space import SearchSpace

if TYPE_CHECKING:
    from hpsearch.sampling.transfer import Knowledge


START_UP = 8
"""Trials that told something before a model proposes."""
WIDE: dict[Confidence, float] = {"low": 0.5, "medium": 0.35, "high": 0.2}
"""Share of the start-up drawn from the whole space; the mean over the parameters with a prior."""
WIDTH: dict[Confidence, float] = {"low": 0.3, "medium": 0.2, "high": 0.1}
"""Standard deviation of a draw around a prior, as a part of the range (of its logarithm where it is searched so)."""
STAY: dict[Confidence, float] = {"low": 0.4, "medium": 0.6, "high": 0.8}
"""Probability that a draw around a prior takes the prior's choice itself."""
LATER_NEAR, LATER_WIDE = 0.2, 0.1
"""Shares once a model proposes: around the prior, falling as one over the trials, and from the whole space."""
MUTATED, MUTATIONS = 0.3, (1, 8)
"""Share of the best configuration with a few of its values drawn anew, in a space of very many parameters, and how few. A model
there takes for good whatever the first good ones had in common; random draws are too bad to tell otherwise, these are not."""
GP_LIMIT = 200
"""Trials up to which the Gaussian process proposes."""
GP_TRIALS = 150
"""Trials that it reads at most: fitting it costs the cube of their number."""
UNBROKEN = -0.1
"""How far within its constraints a trial is taken to be that has none."""
TRIES = 20
"""Draws of one value around a prior before the prior itself is taken, and of a configuration that was not tried yet."""


def mutated_share(parameters: int) -> float:
    """Of the trials once a model proposes, in a space of so many searched parameters."""
    return MUTATED * max(0.0, 1 - FEW / max(1, parameters))


def modelled_share(parameters: int) -> float:
    """Of the trials once a model proposes, late in a study: those that it does propose."""
    return 1 - LATER_WIDE - mutated_share(parameters)


class AutoSampler(samplers.BaseSampler):
    """Whole configurations; `source` says what made the last one.

    law: the automatic priors. priors: whether to draw around the priors at all (without, start-up draws are all wide).
    knowledge: of earlier studies, which shortens the start-up; their best configurations are trained first.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        law: Law | None = None,
        priors: bool = True,
        final_value: FinalValue = median_final,
        knowledge: Knowledge | None = None,
    ) -> None:
        self._space, self._seed, self._law, self._final_value = space, seed, law, final_value
        self._knowledge = knowledge
        self._distributions = space.distributions()
        self._encoding, self._sameness = Encoding(space), Sameness(space)
        given = [parameter.confidence for parameter in space.searched if parameter.confidence is not None]
        self._wide = statistics.mean(WIDE[each] for each in given) if given and priors else 1.0
        self._conditional = any(parameter.when for parameter in space.searched)
        self._number, self._draws, self._random = -1, 0, random.Random(seed)
        self.source = ""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Called again for the same trial it draws again: a rule was broken."""
        if trial.number != self._number:
            self._number, self._draws = trial.number, 0
            self._random = random.Random(int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]))
            self._first = self._choose(study, trial)
        self._draws += 1
        self.source = self._first
        if self.source == "earlier":
            if self._draws == 1 and self._knowledge:
                return self._knowledge.first()[trial.number - 1]
            self.source = "model"
        tried = self._sameness.keys(other for other in study.get_trials(deepcopy=False) if other.number != trial.number)
        if self.source == "model":
            modelled = self._modelled(study, trial, tried)
            if modelled is not None:
                return modelled
            self.source = "wide"
        best = self._a_best(study, trial) if self.source == "mutation" else {}
        for _ in range(TRIES):
            if best:
                anew = self._random.sample(sorted(best), min(len(best), self._random.randint(*MUTATIONS)))
                kept = {name: value for name, value in best.items() if name not in anew}
                proposal = self._space.propose(functools.partial(self._mutated, kept))
            else:
                proposal = self._space.propose(self._near if self.source == "near-prior" else self._anywhere)
            if self._sameness.key(proposal) not in tried:
                break
            self._draws += 1
        return proposal

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # What a configuration that is partly given leaves open once its conditions are known.
        parameter = next(each for each in self._space.searched if each.name == param_name)
        return parameter.draw(self._random)

    def _choose(self, study: Study, trial: FrozenTrial) -> str:
        if self._knowledge and 0 < trial.number <= len(self._knowledge.first()):
            return "earlier"
        told = sum(  # Also by those that are paused, or in the middle of their training.
            other.state in (TrialState.COMPLETE, TrialState.PRUNED)
            or bool(other.intermediate_values)
            or SO_FAR in other.system_attrs
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
        )
        if self._knowledge and told < START_UP:
            told = min(START_UP, told + len(self._knowledge.trials(study.get_trials(deepcopy=False))))
        if told < START_UP:
            # Evenly spread, so that a short study gets its share of both.
            wide = math.floor((trial.number + 1) * self._wide) > math.floor(trial.number * self._wide)
            return "wide" if wide else "near-prior"
        chance = self._random.random()
        if chance < LATER_WIDE:
            return "wide"
        near = LATER_NEAR * START_UP / told * (self._wide < 1)
        if chance < LATER_WIDE + near:
            return "near-prior"
        return "mutation" if chance < LATER_WIDE + near + mutated_share(len(self._space.searched)) else "model"

    # Draws without a model

    def _anywhere(self, parameter: Searched, settings: Mapping[str, Any]) -> Setting:
        if self._number >= START_UP or self._draws > 1:
            return parameter.draw(self._random)
        # A Latin hypercube: so few independent draws leave large parts of most ranges untried.
        parts = list(range(START_UP))
        random.Random(f"{self._seed} {parameter.name}").shuffle(parts)
        return parameter.at((parts[self._number] + self._random.random()) / START_UP)

    def _near(self, parameter: Searched, settings: dict[str, Setting]) -> Setting:
        if parameter.confidence is None:
            return parameter.draw(self._random)
        return near(parameter, prior_value(self._space, parameter, settings, self._law), self._random)

    def _a_best(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """The parameters of the trial that is best by one of the objectives; none while nothing is known of any."""
        seen = evidence(study, trial, self._final_value, self._knowledge)
        index = self._random.randrange(len(study.directions))
        told = [each for each in seen if each.state is TrialState.COMPLETE]
        return min(told, key=lambda each: each.values[index]).params if told else {}

    def _mutated(self, kept: Mapping[str, Any], parameter: Searched, settings: dict[str, Setting]) -> Setting:
        if parameter.name in kept:
            value: Setting = kept[parameter.name]
            return value
        around = self._wide < 1 and self._random.random() < 0.5
        return self._near(parameter, settings) if around else parameter.draw(self._random)

    # A model of what the trials showed

    def _modelled(self, study: Study, trial: FrozenTrial, tried: Collection[Hashable]) -> dict[str, Any] | None:
        """None where the model has nothing new to say."""
        seen = evidence(study, trial, self._final_value, self._knowledge)
        gaussian = len(study.directions) == 1 and len(seen) <= GP_LIMIT and self._draws == 1
        for name in ("gp", "tpe") if gaussian else ("tpe",):
            derived = optuna.create_study(directions=study.directions, sampler=samplers.RandomSampler(seed=0))
            derived.add_trials([self._encoding.encoded(each) for each in _fewer(seen)] if name == "gp" else seen)
            asked = derived._storage.get_trial(derived.ask()._trial_id)
            model = self._model(name)
            known = model.infer_relative_search_space(derived, asked)
            drawn = model.sample_relative(derived, asked, known)
            if name == "gp":
                drawn = self._encoding.decoded(drawn)
            proposal = self._space.propose(functools.partial(self._from, drawn))
            # What is seen may be of earlier studies too, and they need not be repeated here.
            if self._sameness.key(proposal) not in tried and all(proposal != other.params for other in seen):
                self.source = name
                return proposal
        return None

    def _from(self, drawn: Mapping[str, Any], parameter: Searched, settings: Mapping[str, Any]) -> Setting:
        return drawn[parameter.name] if parameter.name in drawn else parameter.draw(self._random)

    def _model(self, name: str) -> samplers.BaseSampler:
        """A fresh one for each proposal: it must not depend on what was proposed before a resumption."""
        seed = self._random.getrandbits(32)
        if name == "gp":
            return gaussian_process(len(self._space.searched), seed)
        # Only group=True keeps modelling parameters that some trials do not have.
        return samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, group=self._conditional)


def evidence(
    study: Study, trial: FrozenTrial | None, final_value: FinalValue = median_final, knowledge: Knowledge | None = None
) -> list[FrozenTrial]:
    """The study's trials but `trial`, as a model should see them, after those of earlier studies.

    Optuna's Gaussian process drops pruned trials, and its TPE ranks them behind all others: here a trial that was not
    finished counts with the value that it would have come to, and one that diverged or broke a constraint with the worst.
    """
    left_out = None if trial is None else trial.number
    others = [each for each in study.get_trials(deepcopy=False) if each.number != left_out and each.params]
    constrained = any(each.constraints for each in others)
    earlier = knowledge.trials(others, {"broken": UNBROKEN} if constrained else None) if knowledge else []
    estimate = estimated if len(study.directions) == 1 else _estimated_in_all
    found = estimate(others, len(study.directions), final_value, earlier)
    if not earlier and not any(found):
        return []
    seen = list(earlier)
    for other, values in zip(others, found, strict=True):
        if values is None and other.state is not TrialState.RUNNING:
            continue
        # One number: trials that were not finished lack some constraints, and Optuna wants the same of all.
        broken = {"broken": max(other.constraints.values(), default=UNBROKEN)} if constrained and values else None
        seen.append(
            create_trial(
                state=TrialState.COMPLETE if values else TrialState.RUNNING,
                values=values,
                params=other.params,
                distributions=other.distributions,
                constraints=broken,
            )
        )
    return seen


def near(parameter: Searched, centre: Setting, random: random.Random, confidence: Confidence | None = None) -> Setting:
    """A draw around the centre of a prior, as wide as its confidence is low, in the scale in which it is searched.

    confidence: by default that of the parameter's prior.
    """
    confidence = confidence or parameter.confidence
    assert confidence is not None
    if isinstance(parameter, Choices):
        others = [each for each in parameter.choices if each != centre]
        return centre if not others or random.random() < STAY[confidence] else random.choice(others)
    assert isinstance(centre, int | float)
    low, high = _scaled(parameter, parameter.low), _scaled(parameter, parameter.high)
    for _ in range(TRIES):
        drawn = random.gauss(_scaled(parameter, centre), WIDTH[confidence] * (high - low))
        if low <= drawn <= high:
            return parameter.snapped(math.exp(drawn) if parameter.log else drawn)
    return centre


def _scaled(parameter: Range, value: int | float) -> float:
    return math.log(value) if parameter.log else float(value)


def _fewer(seen: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The best half and the newest of the others; what still runs stays."""
    running = [each for each in seen if each.state is TrialState.RUNNING]
    ended = [index for index, each in enumerate(seen) if each.state is not TrialState.RUNNING]
    best = set(sorted(ended, key=lambda index: seen[index].values[0])[: GP_TRIALS // 2])
    newest = [index for index in ended if index not in best][-GP_TRIALS // 2 :]
    return [seen[index] for index in sorted(best | set(newest))] + running
