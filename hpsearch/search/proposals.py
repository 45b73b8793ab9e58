"""What a proposal becomes under a study's budget: a concrete config, or the reason why it cannot be a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.errors import BadInput
from hpsearch.model.counting import count, step_flops
from hpsearch.search import budget as budgets
from hpsearch.space.space import SearchSpace
from hpsearch.space.values import lookup
from hpsearch.storage.records import BudgetRecord

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
    plan = budgets.plan(
        budget,
        settings | {"batch_size": draft.batch_size, "context_length": draft.context_length},
        step_flops=step_flops(draft),
        windows_per_pass=corpus.windows_per_pass(draft.context_length),
    )
    if space.parameters.get("eval_interval"):
        plan["eval_interval"] = draft.eval_interval  # Given beside max_iters: the evaluations follow from it.
    whole = plan | space.settings(proposal, plan) | {"vocab_size": corpus.tokenizer.vocab_size}
    return TrialConfig.build(whole)


def candidate(
    space: SearchSpace, proposal: Mapping[str, Any], budget: BudgetRecord, cache_dir: Path, corpora: Corpora
) -> TrialConfig:
    """`concrete`, for a proposal that may break a rule or a constraint. Raises BadInput where it does."""
    broken = space.violation(space.settings(proposal))
    if broken is None:
        config = concrete(space, proposal, budget, cache_dir, corpora)
        broken = outside(space, config)
        if broken is None:
            return config
    raise BadInput(broken)


def outside(space: SearchSpace, config: TrialConfig) -> str | None:
    """The constraint that a config is outside of by formula, in a sentence; None where there is none."""
    return broken(space, asdict(count(config))) if space.constraints else None


def broken(space: SearchSpace, measures: Mapping[str, float]) -> str | None:
    """The constraint that is broken, in a sentence; None where there is none among those that were measured."""
    for name, bound in space.constraints.items():
        value = measures.get(name)
        if value is None:
            continue
        if bound.max is not None and value > bound.max:
            return f"{name} is {_told(value)} and constrained to at most {_told(bound.max)}"
        if bound.min is not None and value < bound.min:
            return f"{name} is {_told(value)} and constrained to at least {_told(bound.min)}"
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
