"""What the database remembers of a study: plain records, the same on every database. No SQL here.

Times are seconds since 1970 on the database's own clock (UTC); durations are seconds on the worker's monotonic clock.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hpsearch.objectives import OBJECTIVES

if TYPE_CHECKING:
    from hpsearch.hyperparameter import Hyperparameter


SCORED = "scoring"
"""Where a study's versions say how held-out text was scored; those before it say nothing."""

STUDY_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


class TrialState(enum.StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


class EndReason(enum.StrEnum):
    """Why a trial ended, for programs. `TrialRecord.reason` says it in a sentence, for people."""

    COMPLETED = "completed"
    INFEASIBLE = "infeasible"
    """It was trained, to the end or in part, and breaks a constraint."""
    DIVERGED = "diverged"
    """A loss or an objective was not finite."""
    PRUNED_BY_PRUNER = "pruned_by_pruner"
    PRUNED_BY_SCHEDULER = "pruned_by_scheduler"
    """Its learning curve left it too little chance to become the best."""
    NOT_PROMOTED = "not_promoted"
    """The scheduler had paused it, and the study ended."""
    PRUNED_BY_HAND = "pruned_by_hand"
    OUT_OF_MEMORY = "out_of_memory"
    """Also in smaller micro-batches."""
    FAILED = "failed"
    """Its trainer raised an error, or its program ended with one."""
    POISONED = "poisoned"
    """Too many of its slots died."""
    BAD_CONFIG = "bad_config"
    """An enqueued configuration that no trainer takes, or that the budget does not pay for."""
    ENDED_ELSEWHERE = "ended_elsewhere"
    """Another program ended it in Optuna."""


class PauseKind(enum.StrEnum):
    """What a paused trial waits for."""

    BY_SCHEDULER = "by_scheduler"
    """To be promoted, or to end with the study."""
    INTERRUPTED = "interrupted"
    """For a later coordinator: the study was stopped."""
    BETWEEN_SLOTS = "between_slots"
    """For the next free slot: its slot died, memory was short, or it was promoted on its way out of its slot."""


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """The compute that every trial of a study gets, frozen when the study is created."""

    kind: str
    """What was asked: device_seconds, flops, tokens, max_iters or num_epochs; steps of a trainer of one's own."""
    amount: float
    """In the unit of `kind`."""
    evaluations: int
    """Rungs of a whole trial."""
    flops: float | None = None
    """FLOPs per trial where `kind` is device_seconds (as measured) or flops."""
    flops_per_s: float | None = None
    """Speed of one slot on the baseline configuration, as measured when the study was created."""
    speed_config: str = ""
    """Device and threads on which it was measured."""


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """What was asked, frozen: a study resumes only with the same."""

    name: str
    space_text: str
    """The effective space as YAML, overrides included."""
    space_digest: str
    objectives: tuple[str, ...]
    data: dict[str, Any]
    """What trials train on (`DataConfig`); of a trainer of one's own its `command` or `function`."""
    data_fingerprint: str
    budget: BudgetRecord
    sampler: str
    pruner: str
    seed: int
    versions: dict[str, str]
    """Of hpsearch, torch, optuna, python."""
    host: str
    device: str
    threads: int
    """Threads of one slot; a CPU run repeats bit for bit only with the same number."""
    folder: str
    """Folder of the study below the studies folder: `<study id>-<name>`; not said until the store gave the id."""
    trials_target: int
    """Total of trials asked so far; the only field that a later run may raise."""
    id: int = 0
    created_at: float = 0.0
    finished_reason: str = ""
    """Why it ended; empty while it goes on or was interrupted."""
    scheduler: str = "none"
    """What pauses and promotes trials."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What was noted about the study since, by topic: `forecast`."""

    def __post_init__(self) -> None:
        """A folder in a row decides what is written and removed, so it is one of this study's id, whatever the row says."""
        if self.id and not re.fullmatch(rf"{self.id:04d}-{STUDY_NAME.pattern}", self.folder):
            name = self.name if STUDY_NAME.fullmatch(self.name) else "study"
            object.__setattr__(self, "folder", f"{self.id:04d}-{name}")

    @property
    def scoring(self) -> str:
        """The way in which held-out text was scored (`data.split.SCORING`)."""
        return self.versions.get(SCORED, "1")

    @property
    def own(self) -> bool:
        """Whether its trainer is not the built-in model. Then only its space knows the names in its configs."""
        return self.budget.kind == "steps"

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """What is known of a name in its configs."""
        from hpsearch.config import HYPERPARAMETERS  # Here: it brings pydantic, which `status` does not need.

        return None if self.own else HYPERPARAMETERS.get(name)

    def unit(self, objective: str) -> str:
        """Of an objective; empty where it has none."""
        known = None if self.own else OBJECTIVES.get(objective)
        return known.unit if known else ""

    def steps(self, trial: TrialRecord) -> int | None:
        """Of a whole run of a trial; None where it has no config."""
        return int(self.budget.amount) if self.own else trial.config.get("max_iters")


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial. `number` is Optuna's number of it."""

    number: int
    state: TrialState
    params: dict[str, Any]
    """What the sampler proposed."""
    config: dict[str, Any]
    """Every hyperparameter, concrete (`TrialConfig.concrete()`)."""
    proposed_by: str
    values: tuple[float, ...] | None = None
    """One per objective; None while unknown."""
    metrics: dict[str, float] = field(default_factory=dict)
    """All objectives that were measured at the end."""
    rung: int = 0
    iteration: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    """Why it was pruned, paused or failed, in a sentence. Nothing is decided by its text: see `end_reason`, `pause_kind`."""
    attempts: int = 0
    sample: str = ""
    num_parameters: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    """How far each constraint is broken, as a share of its bound; feasible at 0 or below."""
    micro_batches: int | None = None
    """Parts that a batch is computed in since memory was short; None: the trainer chooses."""
    told: bool = False
    """Whether Optuna knows the outcome; the outcome is stored first, so that a crash between the two loses nothing."""
    end_reason: EndReason | None = None
    """Why it ended; None while it has not."""
    pause_kind: PauseKind | None = None
    """What it waits for while it is paused; else None."""

    def ended(self, state: TrialState, end_reason: EndReason, reason: str = "") -> TrialRecord:
        """The trial after its end."""
        return replace(self, state=state, end_reason=end_reason, pause_kind=None, reason=reason)

    def paused(self, kind: PauseKind, reason: str) -> TrialRecord:
        """The trial after it left its slot, to go on later."""
        return replace(self, state=TrialState.PAUSED, pause_kind=kind, reason=reason)

    @property
    def value(self) -> float | None:
        return None if self.values is None else self.values[0]

    @property
    def feasible(self) -> bool:
        """Whether no constraint is broken."""
        return self.end_reason is not EndReason.INFEASIBLE and all(broken <= 0 for broken in self.constraints.values())


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One stay of a trial in a slot. Append-only: it is the proof that no trial was trained in two places at once."""

    trial_number: int
    attempt: int
    """1, 2, … within the trial."""
    slot: str
    host: str
    pid: int
    started_at: float
    from_iteration: int
    ended_at: float | None = None
    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PointRecord:
    """One evaluation of one trial (see training.events.EvalPoint)."""

    trial_number: int
    rung: int
    iteration: int
    tokens: int
    flops: float
    seconds: float
    train_loss: float
    metrics: dict[str, float]
    learning_rate: float
    grad_norm: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Why a trial went on, was pruned, paused or promoted at a rung."""

    trial_number: int
    rung: int
    action: str
    """continue, prune, pause, promote, fail."""
    reason: str
    decided_by: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    trial_number: int
    iteration: int
    path: str
    """Relative to the study's folder."""
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class ConfirmationRecord:
    """A trial's configuration trained once more, from another seed."""

    trial_number: int
    seed: int
    value: float
    """First objective; NaN when the run diverged."""
    metrics: dict[str, float]
    seconds: float
    flops: float
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What a person at another terminal asks of the coordinator."""

    id: int
    kind: str
    """stop, prune or enqueue."""
    payload: dict[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Owner:
    """The coordinator that holds a study's lease."""

    host: str
    pid: int
    process_start: float
    """When that process started on its host's clock: a process id alone is used again by the system."""
    token: str
    """Random; every write of the coordinator is fenced by it."""
    namespace: str = ""
    """Where `pid` means that process: a host name may be that of several containers. Empty where nobody knows."""
