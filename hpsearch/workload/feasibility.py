"""What a proposal becomes under a study's budget: a concrete config, or the reason why it cannot be a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hpsearch.config import TrialConfig, interval_of
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.errors import BadInput
from hpsearch.model.counting import count, step_flops
from hpsearch.space.names import lookup
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord
from hpsearch.training.schedules import steps_for_epochs

Corpora = dict[tuple[int, str], Corpus]
"""The corpora of one space by all that may differ between its trials: vocab_size, which only BPE asks for, and architecture,
whose special tokens are rows of the vocabulary too."""


def concrete(
    space: SearchSpace,
    proposal: Mapping[str, Any],
    budget: BudgetRecord,
    cache_dir: Path,
    corpora: Corpora,
) -> TrialConfig:
    """The concrete config of `proposal`: derived values, the tokenizer's size and what the budget decides.

    corpora: texts already open; filled as needed.
    """
    settings = space.settings(proposal)
    corpus = open_text(space, settings, cache_dir, corpora)
    settings["vocab_size"] = corpus.tokenizer.vocab_size
    draft = TrialConfig.build({"max_iters": 1} | settings)
    length = plan(
        budget,
        settings | {"batch_size": draft.batch_size, "context_length": draft.context_length},
        step_flops=step_flops(draft),
        windows_per_pass=corpus.windows_per_pass(draft.context_length),
    )
    if space.parameters.get("eval_interval"):
        length["eval_interval"] = draft.eval_interval  # Given beside max_iters: the evaluations follow from it.
    whole = length | space.settings(proposal, length) | {"vocab_size": corpus.tokenizer.vocab_size}
    return TrialConfig.build(whole)


def candidate(
    space: SearchSpace, proposal: Mapping[str, Any], budget: BudgetRecord, cache_dir: Path, corpora: Corpora
) -> TrialConfig:
    """`concrete`, for a proposal that may break a rule or a constraint. Raises BadInput where it does."""
    rule = space.violation(space.settings(proposal))
    if rule is not None:
        raise BadInput(rule)
    config = concrete(space, proposal, budget, cache_dir, corpora)
    constraint = outside(space, config)
    if constraint is not None:
        raise BadInput(constraint.sentence())
    return config


@dataclass(frozen=True, slots=True)
class BrokenConstraint:
    """A constraint of the space, and what was counted or measured outside of it."""

    name: str
    side: Literal["min", "max"]
    """Which bound is broken."""
    bound: float
    value: float

    def sentence(self) -> str:
        most = "at most" if self.side == "max" else "at least"
        return f"{self.name} is {_told(self.value)} and constrained to {most} {_told(self.bound)}"


def outside(space: SearchSpace, config: TrialConfig) -> BrokenConstraint | None:
    """The constraint that a config is outside of by formula; None where there is none."""
    return broken(space, asdict(count(config))) if space.constraints else None


def broken(space: SearchSpace, measures: Mapping[str, float]) -> BrokenConstraint | None:
    """The first constraint that is broken; None where there is none among those that were measured."""
    for name, bound in space.constraints.items():
        value = measures.get(name)
        if value is None:
            continue
        if bound.max is not None and value > bound.max:
            return BrokenConstraint(name, "max", bound.max, value)
        if bound.min is not None and value < bound.min:
            return BrokenConstraint(name, "min", bound.min, value)
    return None


def _told(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def constraint_values(space: SearchSpace, config: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, float]:
    """How far each constraint of the space is broken, as a share of its bound; feasible at 0 or below.

    metrics: of the finished trial, for what is known only after training. One that was not measured is left out.
    """
    if not space.constraints:
        return {}
    counts = asdict(count(TrialConfig.build({name: value for name, value in config.items() if value is not None})))
    values = {}
    for name, bound in space.constraints.items():
        value = metrics.get(name, counts.get(name))
        if value is None:
            continue
        over = -math.inf if bound.max is None else (value - bound.max) / abs(bound.max or 1.0)
        under = -math.inf if bound.min is None else (bound.min - value) / abs(bound.min or 1.0)
        values[name] = max(over, under)
    return values


def open_text(space: SearchSpace, settings: Mapping[str, Any], cache_dir: Path, corpora: Corpora) -> Corpus:
    """The text of a space with the vocabulary and the architecture of `settings`; kept in `corpora`."""
    vocab_size, architecture = int(lookup("vocab_size", settings)), str(lookup("architecture", settings))
    key = (vocab_size, architecture)
    if key not in corpora:
        corpora[key] = open_corpus(space.data, vocab_size=vocab_size, architecture=architecture, cache_dir=cache_dir)
    return corpora[key]


def plan(budget: BudgetRecord, settings: Mapping[str, Any], *, step_flops: float, windows_per_pass: int) -> dict[str, float]:
    """`max_iters` and `eval_interval` of one configuration.

    settings: canonical hyperparameters, at least batch_size and context_length (and max_iters or num_epochs where the space
    searches those). step_flops: of one optimizer step, its update included. windows_per_pass: training sequences in one pass
    over the text.
    Raises BadInput when the budget does not pay for a step before each evaluation.
    """
    step_tokens = int(settings["batch_size"]) * int(settings["context_length"])
    match budget.kind:
        case "device_seconds" | "flops":
            assert budget.flops is not None, "the budget is frozen before the first trial"
            steps = budget.flops / step_flops
        case "tokens":
            steps = budget.amount / step_tokens
        case "num_epochs":
            passes = float(settings.get("num_epochs") or budget.amount)
            steps = steps_for_epochs(passes, windows_per_pass, int(settings["batch_size"]))
        case "max_iters":
            steps = float(settings.get("max_iters") or budget.amount)
        case other:
            raise AssertionError(other)
    return steps_and_interval(steps, budget.evaluations, exact=budget.kind in ("max_iters", "num_epochs"))


def steps_and_interval(steps: float, evaluations: int, *, exact: bool = False) -> dict[str, float]:
    """As many whole steps as are paid for, and the interval that puts `evaluations` evaluations at equal parts of them, the
    last one at the end. exact: the number of steps is what was asked for; a run of fewer steps has an evaluation after each.
    """
    max_iters = math.floor(steps + 1e-9)
    if max_iters < (1 if exact else evaluations):
        raise BadInput(
            f"the budget pays for {steps:.3g} steps and there are {evaluations} evaluations: "
            "give a larger --budget, or smaller batches and models"
        )
    return {"max_iters": max_iters, "eval_interval": interval_of(max_iters, evaluations)}


def parse_budget(word: str) -> dict[str, float]:
    """`--budget device_seconds=30` (or `flops=1e12,evaluations=5`) as the mapping that a space file would have."""
    found: dict[str, float] = {}
    for part in word.split(","):
        name, equals, amount = part.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not equals or not math.isfinite(value) or value <= 0:
            raise BadInput(
                f"--budget {word}: write it as device_seconds=15 (or flops, tokens, max_iters, "
                "num_epochs; steps of a custom trainer)"
            )
        found[name.strip()] = value
    return found
