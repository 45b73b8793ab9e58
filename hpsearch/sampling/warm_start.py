"""`--from STUDY`: what the trials of earlier studies say, read once and kept in the new study's own record.

A trial is taken when this space could have proposed its configuration; the others are counted with the reason. What is kept
is enough to go on when the other database is gone. Trials that are taken inform the sampler (`sampling.transfer`) and nothing
else: they have no number here, are never best, and Optuna is not told of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import BadInput, ConfigError
from hpsearch.space.names import lookup
from hpsearch.space.parameters import Choices, Searched, Setting
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord, PointRecord, StudyRecord, TrialRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.storage.urls import masked, parse_url, sqlite_url
from hpsearch.workload.feasibility import outside

BUDGET_DECIDES = frozenset({"max_iters", "num_epochs", "eval_interval", "lr_decay_iters", "save_interval"})

MOST = 200
"""Trials that are kept of one study: the best one and others spread evenly over the ranks."""
SAME_BUDGET = 0.05
"""Budgets that differ by no more are one: a machine's measured speed does."""
NOTED = "earlier"
"""Where the study's record has them, among its extras."""


@dataclass(frozen=True)
class Source:
    """A study as `--from` names it."""

    url: str
    name: str
    here: bool
    """Whether it is in the new study's own database."""

    @property
    def place(self) -> str:
        """The database as it may be kept and shown; empty for the new study's own."""
        return "" if self.here else masked(self.url)

    def __str__(self) -> str:
        return self.name if self.here else f"{self.place}#{self.name}"


def parse_source(word: str, own_url: str) -> Source:
    """`NAME`, `URL#NAME` or `FILE#NAME`. Raises BadInput."""
    place, hash_sign, name = word.rpartition("#")
    if not hash_sign:
        if "://" in word or not word:
            raise BadInput(f"--from {masked(word)}: name the study too, as in --from sqlite:///old/hpsearch.db#lm")
        return Source(own_url, name, here=True)
    if not place or not name:
        raise BadInput(f"--from {masked(place)}#{name}: write NAME, or URL#NAME for a study of another database")
    url = place if "://" in place else sqlite_url(Path(place))
    if "://" not in place and not Path(place).is_file():
        raise BadInput(f"--from {word}: there is no file {place}")
    return Source(url, name, here=_same_place(url, own_url))


def _same_place(one: str, other: str) -> bool:
    if one == other:
        return True
    first, second = parse_url(one), parse_url(other)
    if first.get_backend_name() == "sqlite" == second.get_backend_name():
        return Path(str(first.database)).resolve() == Path(str(second.database)).resolve()
    return masked(first) == masked(second)


@dataclass(frozen=True)
class EarlierTrial:
    """A configuration that this space could have proposed, and what came of it in its own study."""

    params: dict[str, Any]
    values: list[float]
    """This study's objectives; of a trial that was not finished, what it would have come to."""
    complete: bool = True


@dataclass(frozen=True)
class EarlierStudy:
    """What is kept of one earlier study."""

    study: str
    storage: str
    """Its database, without a password; empty for the study's own."""
    data_fingerprint: str
    data: dict[str, Any]
    """How its text was prepared; without the text's place."""
    eval_iters: int
    budget: dict[str, Any]
    """As a BudgetRecord."""
    found: int
    """Trials that it had."""
    left_out: dict[str, int]
    """Why trials were not taken, and how many each time."""
    trials: list[EarlierTrial]
    digest: str
    """sha256 of the trials."""
    scoring: str = "1"
    """As a StudyRecord's."""

    @property
    def label(self) -> str:
        return f"{self.storage}#{self.study}" if self.storage else self.study

    def differs(self, study: StudyRecord) -> list[str]:
        """Why its values cannot stand beside the study's own; empty where they can."""
        other = BudgetRecord(**self.budget)
        reasons = []
        if self.data_fingerprint != study.data_fingerprint:
            reasons.append("another text")
        if self.data != prepared(study) or self.eval_iters != eval_iters_of(study.space_text):
            reasons.append("another preparation of the text")
        if self.scoring != study.scoring:
            reasons.append("another way of scoring")
        if not _same_amount(other, study.budget):
            reasons.append("another budget")
        if "train_seconds" in study.objectives:
            reasons.append("seconds of another time")
        return reasons

    def sentences(self, study: StudyRecord) -> list[str]:
        """What a person is told: how much is used and how, and what is not, why."""
        differs = self.differs(study)
        how = f"by their ranks ({', '.join(differs)})" if differs else "with their values (same text, same budget)"
        told = [f"from {self.label}: {len(self.trials)} of {self.found} trials inform the sampler, {how}"]
        if self.left_out:
            why = "; ".join(f"{reason} ({number})" for reason, number in self.left_out.items())
            count = sum(self.left_out.values())
            told.append(f"from {self.label}: {count} {'trial is' if count == 1 else 'trials are'} left out: {why}")
        return told


def kept(study: StudyRecord) -> list[EarlierStudy]:
    """What the record of a study keeps of earlier ones."""
    return [
        EarlierStudy(**{**noted, "trials": [EarlierTrial(**trial) for trial in noted["trials"]]})
        for noted in study.extras.get(NOTED, [])
    ]


def require_same(asked: Sequence[Source], study: StudyRecord) -> None:
    """Refuse to go on with a study from others than it was begun with. Asking for none is asking for the same."""
    begun = {(each.storage, each.study) for each in kept(study)}
    if asked and {(source.place, source.name) for source in asked} != begun:
        names = " ".join(f"--from {each.label}" for each in kept(study))
        how = f"with {names}" if names else "without it"
        raise BadInput(
            f"--from {' --from '.join(map(str, asked))}: study '{study.name}' was begun {how}; "
            "leave the option out, or start another study with --study NAME"
        )


def read(sources: Sequence[Source], name: str, space: SearchSpace) -> list[EarlierStudy]:
    """What the studies say that a new study called `name` starts from. Writes nothing.

    Raises BadInput for a study that is not there, is named twice, is the new one itself, or has no trial that fits.
    """
    found: list[EarlierStudy] = []
    for source in sources:
        if any((each.storage, each.study) == (source.place, source.name) for each in found):
            raise BadInput(f"--from {source}: named twice; its trials would count twice")
        if source.here and source.name == name:
            raise BadInput(f"--from {source}: a study cannot start from itself; name the new one with --study NAME")
        file = make_url(source.url).database if source.url.startswith("sqlite") else None
        if file and not Path(file).is_file():
            raise BadInput(f"--from {source}: no study yet in {masked(source.url)}")
        try:
            with Store.open(source.url, create=False) as store:
                study = store.study(source.name)
                trials, points = store.trials(study.id), store.points(study.id)
        except BadInput as error:
            raise BadInput(f"--from {source}: {error}") from None
        found.append(_taken(source, study, trials, points, space))
    return found


def _taken(
    source: Source, study: StudyRecord, trials: Sequence[TrialRecord], points: Sequence[PointRecord], space: SearchSpace
) -> EarlierStudy:
    left_out: dict[str, tuple[str, int]] = {}
    fitting: list[tuple[TrialRecord, dict[str, Setting]]] = []
    for trial in trials:
        try:
            _require_told(trial, space.objectives)
            fitting.append((trial, proposal_of(trial, space)))
        except Misfit as misfit:
            first, count = left_out.get(misfit.kind, (str(misfit), 0))
            left_out[misfit.kind] = (first, count + 1)
    taken = _valued(fitting, points, space)
    if unknown := len(fitting) - len(taken):
        left_out["unknown"] = ("nothing to compare a trial with that was not finished", unknown)
    why = dict(left_out.values())
    if not taken:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in why.items()) or "it has none"
        raise BadInput(f"--from {source}: none of its {len(trials)} trials can be used: {reasons}")
    taken = spread_over_ranks(taken, MOST)
    text = json.dumps([dataclasses.asdict(trial) for trial in taken], sort_keys=True)
    return EarlierStudy(
        study=source.name,
        storage=source.place,
        data_fingerprint=study.data_fingerprint,
        data=prepared(study),
        eval_iters=eval_iters_of(study.space_text),
        budget=dataclasses.asdict(study.budget),
        found=len(trials),
        left_out=why,
        trials=taken,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        scoring=study.scoring,
    )


def _valued(
    fitting: Sequence[tuple[TrialRecord, dict[str, Setting]]], points: Iterable[PointRecord], space: SearchSpace
) -> list[EarlierTrial]:
    """What each trial came to, or would have: as `auto` sees the trials of a study."""
    from optuna.trial import TrialState as OptunaState
    from optuna.trial import create_trial

    from hpsearch.sampling.imputation import END_REASON, estimated

    first = space.objectives[0]
    curves: dict[int, dict[int, float]] = {}
    for point in points:
        if math.isfinite(value := point.metrics.get(first, math.nan)):
            curves.setdefault(point.trial_number, {})[point.rung] = value
    frozen = []
    for trial, proposal in fitting:
        whole = trial.state is TrialState.COMPLETE
        known = space.distributions()
        each = create_trial(
            state=OptunaState.COMPLETE if whole else OptunaState.PRUNED,
            values=_measured(trial, space.objectives) if whole else None,
            params=proposal,
            distributions={name: known[name] for name in proposal},
            intermediate_values=curves.get(trial.number, {}),
            user_attrs={END_REASON: trial.end_reason},
            # Of an unfinished trial only a lack of memory; of a finished one this study judges for itself.
            constraints=None if whole else trial.constraints or None,
        )
        frozen.append(each)
    values = estimated(frozen, len(space.objectives))
    return [
        EarlierTrial(dict(each.params), [float(value) for value in found], each.state is OptunaState.COMPLETE)
        for each, found in zip(frozen, values, strict=True)
        if found is not None
    ]


def spread_over_ranks(trials: list[EarlierTrial], most: int) -> list[EarlierTrial]:
    """`most` of them: the best, and others spread evenly over the ranks."""
    if len(trials) <= most:
        return trials
    ranked = sorted(range(len(trials)), key=lambda index: trials[index].values[0])
    chosen = {ranked[round(place * (len(ranked) - 1) / max(1, most - 1))] for place in range(most)}
    return [trials[index] for index in sorted(chosen)]


def prepared(study: StudyRecord) -> dict[str, Any]:
    return {key: value for key, value in study.data.items() if key != "text"}


@functools.cache
def eval_iters_of(space_text: str) -> int:
    """Held-out batches of an evaluation; the same for all trials of a study."""
    from hpsearch.space.load import parse_space

    space = parse_space(space_text)
    return int(lookup("eval_iters", space.settings(space.prior())))


def _same_amount(one: BudgetRecord, other: BudgetRecord) -> bool:
    if (one.flops is None) != (other.flops is None):
        return False
    if one.flops is not None and other.flops is not None:
        return abs(one.flops - other.flops) <= SAME_BUDGET * other.flops
    return one.kind == other.kind and abs(one.amount - other.amount) <= SAME_BUDGET * other.amount


def _require_told(trial: TrialRecord, objectives: Sequence[str]) -> None:
    if trial.state is TrialState.FAILED:
        raise Misfit("failed", "failed")
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        raise Misfit("unfinished", "not ended yet")
    if trial.state is TrialState.COMPLETE and not all(map(math.isfinite, _measured(trial, objectives))):
        missing = [name for name in objectives if not math.isfinite(trial.metrics.get(name, math.nan))]
        raise Misfit(f"measure {missing}", f"{missing[0]}, the objective of this study, was not measured")


def _measured(trial: TrialRecord, objectives: Sequence[str]) -> list[float]:
    return [trial.metrics.get(name, math.nan) for name in objectives]


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
        raise Misfit(broken_bound.name, broken_bound.sentence())
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
