"""What the trials of a study train. This is the one place that knows how a proposal becomes a config, and what a config weighs.

The built-in model needs a text, turns its budget into steps and counts parameters; a trainer of one's own is given what its
space says, and steps. Everything else of a search (coordinator, ledger, judge, samplers) is the same for both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpsearch.config import TrialConfig, evaluations_in
from hpsearch.errors import BadInput, did_you_mean
from hpsearch.execution.protocol import TRANSFORMER, FunctionTrainer, OwnRun, ProgramTrainer
from hpsearch.model.counting import count
from hpsearch.objectives import OBJECTIVES
from hpsearch.space.parameters import Law
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord
from hpsearch.trainers.command import OURS, placeholders
from hpsearch.trainers.function import TRAINER
from hpsearch.training.schedules import step_of
from hpsearch.workload.feasibility import Corpora, candidate, concrete, open_text, outside
from hpsearch.workload.scaling_laws import Laws, Text


@dataclass(frozen=True)
class Prepared:
    """A proposal as a trial."""

    config: dict[str, Any]
    """Every hyperparameter, concrete; None where it is off or without effect."""
    num_parameters: int = 0
    """0 where nobody knows."""


class Workload(Protocol):
    @property
    def trainer(self) -> str:
        """What slots load."""

    def run(self, seed: int = 0) -> OwnRun | None:
        """What a slot is told beside the config; None for the built-in model."""

    def prepare(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> Prepared:
        """A proposal as a trial. Raises BadInput where none can be made of it."""

    def require(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> None:
        """Raises BadInput where a proposal breaks a rule, a constraint or the budget."""

    def last(self, config: Mapping[str, Any]) -> int:
        """Steps of a whole run."""

    def rung(self, config: Mapping[str, Any], rung: int, evaluations: int) -> int:
        """The study's rung, of `evaluations`, of a trial's own."""

    def judged_by(self, objectives: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The objective that is known while a trial runs, empty where none is, and those that its cost is told by."""

    def flops_per_token(self, config: Mapping[str, Any]) -> float:
        """Of a configuration; only where `judged_by` names it."""

    def parts(self, config: Mapping[str, Any]) -> int:
        """The most parts that a batch can be computed in when memory is short; 1: it cannot be cut."""

    def memory_bytes(self, config: Mapping[str, Any]) -> int | None:
        """What a config needs by formula; None where nobody knows."""

    def law(self, budget: Callable[[], BudgetRecord]) -> Law | None:
        """What gives the automatic priors."""

    def require_seed(self) -> None:
        """Raises BadInput where a run cannot be repeated from another seed, as a confirmation does."""


@dataclass(frozen=True)
class LanguageModel:
    """The built-in trainer. corpora: texts already open, filled as needed."""

    space: SearchSpace
    cache_dir: Path
    corpora: Corpora = dataclasses.field(default_factory=dict)
    trainer: str = TRANSFORMER

    def run(self, seed: int = 0) -> OwnRun | None:
        return None

    def prepare(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> Prepared:
        config = concrete(self.space, proposal, budget, self.cache_dir, self.corpora)
        broken = outside(self.space, config)
        if broken:
            raise BadInput(broken.sentence())
        return Prepared(config.concrete(), count(config).num_parameters)

    def require(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> None:
        self.candidate(proposal, budget)

    def candidate(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> TrialConfig:
        """The config of a proposal that may become a trial. Raises BadInput where it cannot be one."""
        return candidate(self.space, proposal, budget, self.cache_dir, self.corpora)

    def last(self, config: Mapping[str, Any]) -> int:
        return int(config["max_iters"])

    def rung(self, config: Mapping[str, Any], rung: int, evaluations: int) -> int:
        # A run of fewer steps than rungs has fewer of them. Its last one is the whole budget all the same, and no other one is
        # taken for a later part than it is.
        own = evaluations_in(config["max_iters"], config["eval_interval"])
        if own == evaluations:
            return rung
        if rung >= own:
            return evaluations
        part = evaluations * step_of(rung, config["max_iters"], config["eval_interval"]) / int(config["max_iters"])
        return min(evaluations - 1, max(1, math.floor(part + 1e-9)))

    def judged_by(self, objectives: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        watched = next((name for name in objectives if OBJECTIVES[name].known == "while training"), "")
        known = ("train_seconds", *(name for name in objectives if OBJECTIVES[name].known != "at the end"))
        return watched, tuple(name for name in objectives if name != watched and name in known)

    def flops_per_token(self, config: Mapping[str, Any]) -> float:
        return count(TrialConfig.build(config)).flops_per_token

    def parts(self, config: Mapping[str, Any]) -> int:
        return int(config["batch_size"])

    def memory_bytes(self, config: Mapping[str, Any]) -> int | None:
        return count(TrialConfig.build(config)).memory_bytes

    def law(self, budget: Callable[[], BudgetRecord]) -> Law | None:
        def text(settings: Mapping[str, Any]) -> Text:
            corpus = open_text(self.space, settings, self.cache_dir, self.corpora)
            return Text(corpus.tokenizer.vocab_size, corpus.windows_per_pass)

        return Laws(self.space, budget, text)

    def require_seed(self) -> None: ...


@dataclass(frozen=True)
class OwnTrainer:
    """A trainer of one's own, given by the command line or from Python and never by a file."""

    space: SearchSpace
    given: FunctionTrainer | ProgramTrainer
    trainer: str = TRAINER

    def run(self, seed: int = 0) -> OwnRun | None:
        assert self.space.budget.amount is not None
        return OwnRun(self.given, int(self.space.budget.amount), self.space.budget.evaluations, seed)

    def prepare(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> Prepared:
        self.require(proposal, budget)
        settings = self.space.settings(proposal)
        return Prepared({name: settings.get(name) for name in self.space.parameters})

    def require(self, proposal: Mapping[str, Any], budget: BudgetRecord) -> None:
        broken = self.space.violation(self.space.settings(proposal))
        if broken:
            raise BadInput(broken)

    def last(self, config: Mapping[str, Any]) -> int:
        assert self.space.budget.amount is not None
        return int(self.space.budget.amount)

    def rung(self, config: Mapping[str, Any], rung: int, evaluations: int) -> int:
        return rung

    def judged_by(self, objectives: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        return objectives[0], ()  # The others may not be reported each time.

    def flops_per_token(self, config: Mapping[str, Any]) -> float:
        raise AssertionError("nobody knows")

    def parts(self, config: Mapping[str, Any]) -> int:
        return 1

    def memory_bytes(self, config: Mapping[str, Any]) -> int | None:
        return None

    def law(self, budget: Callable[[], BudgetRecord]) -> Law | None:
        return None

    @property
    def data(self) -> dict[str, Any]:
        """What the study freezes of the trainer, in the place of a text."""
        if isinstance(self.given, ProgramTrainer):
            return {"command": self.given.line}
        return {"function": self.given.name}

    @property
    def fingerprint(self) -> str:
        """Of what is frozen; what the program or the function does is its owner's to keep."""
        return hashlib.sha256(json.dumps(self.data).encode()).hexdigest()

    @property
    def resumable(self) -> bool:
        """Whether a paused run can go on from where it was; of a function only it knows."""
        return isinstance(self.given, FunctionTrainer) or "resume" in placeholders(self.given.words)

    def require_seed(self) -> None:
        if isinstance(self.given, FunctionTrainer):
            return
        if "seed" not in placeholders(self.given.words) or "seed" in self.space.parameters:
            raise BadInput(
                "--confirm retrains on fresh seeds, and the command is not told one: add {seed} to it (in a space without a "
                "parameter of that name)"
            )

    def check(self, scheduler: str | None) -> None:
        """Raises BadInput for a command that cannot be run with this space."""
        if not isinstance(self.given, ProgramTrainer):
            return
        words, known = self.given.words, (*self.space.parameters, *OURS)
        named = placeholders(words)
        for name in named:
            if name not in known:
                hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
                raise BadInput(f"--command: {{{name}}} is no parameter of space '{self.space.name}'{hint}")
        if "config" not in named:
            told = self.space.closure([name for name in named if name in self.space.parameters])
            for parameter in self.space.searched:
                if parameter.name not in told:
                    raise BadInput(
                        f"--command: {parameter.name} is searched and the command is never told; add {{{parameter.name}}}, or "
                        "{config}, the path of a JSON file with all of them"
                    )
        if not placeholders(words[:1]) and shutil.which(words[0]) is None:
            raise BadInput(f"--command: '{words[0]}' is no program here; give its path, or install it")
        if scheduler not in (None, "none") and not self.resumable:
            raise BadInput(
                f"--scheduler {scheduler} pauses trials, and this command cannot go on with one: add {{resume}} to it (the "
                "newest checkpoint that the program reported), or use a pruner"
            )


def parse_command(word: str) -> ProgramTrainer:
    """`--command 'python train.py --lr {learning_rate}'`: words as a shell would split them, but no shell. Raises BadInput."""
    try:
        words = shlex.split(word)
    except ValueError as error:
        raise BadInput(f"--command {word}: {error}; quote it as for a shell") from None
    if not words:
        raise BadInput("--command is empty; give a program and its arguments")
    return ProgramTrainer(word)
