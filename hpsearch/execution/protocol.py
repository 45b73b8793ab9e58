"""What a coordinator and its slots say to one another; the same for local processes and for a cluster.

A slot trains one trial at a time. It knows neither Optuna nor SQL: it gets a `TrialTask`, sends the run's events, and obeys
the answer to each evaluation. A trainer is any generator function of the form `trainer(task) -> Generator[Event, Answer,
TrainResult]`, named as `module:function` by the program (never by a YAML file).
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpsearch.training.events import Answer, Event, TrainResult

TRANSFORMER = "hpsearch.trainers.transformer:transformer"
"""The built-in trainer."""


@dataclass(frozen=True, slots=True)
class FunctionTrainer:
    """A training function of one's own (see `hpsearch.trainers.reporter`)."""

    name: str
    """`module:function`."""
    pickled: bytes = b""
    """The function itself, by cloudpickle, where no module that a slot could import has it."""

    def load(self) -> Callable[..., Any]:
        """The function. For slots only: it imports, and runs, what the user named."""
        import importlib
        import pickle

        if self.pickled:
            function: Callable[..., Any] = pickle.loads(self.pickled)
            return function
        module, _, attributes = self.name.partition(":")
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
        function = found
        return function


@dataclass(frozen=True, slots=True)
class ProgramTrainer:
    """A program of one's own (see `hpsearch.trainers.command`)."""

    line: str
    """Its command line, with placeholders, as one would type it in a shell."""

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.line))


@dataclass(frozen=True, slots=True)
class OwnRun:
    """What a trainer of one's own is told beside a config."""

    trainer: FunctionTrainer | ProgramTrainer
    steps: int
    """Of a whole run."""
    evaluations: int
    """Rungs of a whole run; divides `steps`."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrialTask:
    """One stay of a trial in a slot."""

    number: int
    """Of the trial; below 0 for a measurement, which leaves nothing behind."""
    attempt: int
    config: dict[str, Any]
    """Hyperparameters as `TrialConfig.build` takes them; budget-dependent ones included."""
    data: dict[str, Any]
    """`DataConfig` as a mapping."""
    data_fingerprint: str
    """The slot refuses a text with another one: it changed since the study began."""
    folder: Path
    """The trial's folder; checkpoints in it are gone on from."""
    cache_dir: Path
    device: str
    threads: int
    objectives: tuple[str, ...]
    micro_batches: int | None = None
    """Parts that a batch is computed in; None: the trainer chooses by the free memory."""
    branch_rungs: tuple[int, ...] = ()
    """Evaluations at which a WSD run is also measured after a short decay on the side."""
    known_rungs: int | None = None
    """Evaluations of the trial that are stored; None: all there were."""
    from_iteration: int | None = None
    """Where its coordinator thinks that it begins, so that it is told by `Began` where that is not so."""
    checkpoints: Path | None = None
    """Where a person's command says that its checkpoints go; None: where its config says, in `folder`."""
    step_limit_s: float | None = None
    """A trainer that takes no step for so long is hung: its slot leaves its stacks in `folder / "stacks.txt"` and dies."""
    silence_s: float | None = None
    """A slot ends when its coordinator has not been heard of for so long: another one may have its trial by then."""
    own: OwnRun | None = None
    """Only of a trainer of one's own, whose `config` has what its space names."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way to a slot."""

    answer: Answer
    rung: int | None
    """Of the evaluation that it answers; None when it comes unasked, between evaluations."""


class Killed(Exception):
    """What trained for a slot was killed, as the slot might have been: the trial goes on from its last checkpoint, and one that
    this happens to again and again is poisoned."""


SHORT = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What the system says when it starts no more processes or threads."""


class NoRoom(Exception):
    """No process or thread could be started, which passes: another program may have taken what there is."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run returned."""

    result: TrainResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The run raised. The slot is alive and takes the next task."""

    kind: str
    """`bad-input`, `disk-full` (a disk or a folder that is gone, too), `out-of-threads` (no thread or process can be started),
    `out-of-memory`, `killed` or `error`."""
    message: str
    """One line."""
    traceback: str = ""
    shortfall_bytes: int = 0
    """Of `out-of-memory`: what was asked for beyond what was free, as far as the error says; at least 1."""
    micro_batches: int = 1
    """Of `out-of-memory`: the parts that a batch was computed in."""


@dataclass(frozen=True, slots=True)
class Died:
    """The slot's process is gone (killed, crashed, hung, out of host memory). The executor already starts another one."""

    exit_code: int | None
    reason: str = ""
    """What is known beside the exit code: `no step for 600 s (stacks in stacks.txt)`, `its node left the cluster`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The slot has loaded its trainer. Between executor and slot only: a coordinator does not see it."""


@dataclass(frozen=True, slots=True)
class SlotMessage:
    slot: str
    number: int
    """Of the trial that the slot works on."""
    body: Event | Ended | Failed | Died


@dataclass(frozen=True, slots=True)
class SlotInfo:
    name: str
    host: str
    pid: int


class Executor(Protocol):
    """A fixed number of slots. All calls come from the coordinator's one thread."""

    def idle(self) -> Sequence[SlotInfo]:
        """Slots that could take a task now."""

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        """Give an idle slot a task."""

    def answer(self, slot: str, answer: Answer) -> None:
        """Answer the evaluation that the slot waits on; PAUSE and STOP may also come unasked, between evaluations."""

    def kill(self, slot: str) -> None:
        """End the slot's process. A trial in it is reported as `Died`, and another process takes its place."""

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        """What the slots said, oldest first; waits up to timeout_s when there is nothing yet.

        Raises SlotsUnable when no slot process gets as far as its first trial.
        """

    def close(self) -> None:
        """End all slots. Nothing that they had not checkpointed is kept."""
