"""Real short runs in the slots of a study: how fast a step is, and what a trial costs beside its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from hpsearch.config import TrialConfig
from hpsearch.errors import StoppedForNow
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotMessage, TrialTask
from hpsearch.model.counting import step_flops
from hpsearch.scratch import temporary_folder
from hpsearch.space.space import SearchSpace
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Progress

MEASURE_S = 3.0
GLANCE_S = 0.4
"""Where the budget does not depend on the speed, and only the forecast does."""
WARM_STEPS = 3
MEASURE_STEPS = 8
"""At least so many steps after the warm ones, or as many as fit into SLOW_S."""
SLOW_S = 1.0
WHOLE_STEPS = 4
"""Of the whole run that is timed from its start to its end."""


@dataclass(frozen=True)
class Bench:
    """Where runs are measured: what a slot needs to know, with or without a study."""

    space: SearchSpace
    cache_dir: Path
    devices: tuple[str, ...]
    threads: int
    data_fingerprint: str


@dataclass(frozen=True)
class Measured:
    """One configuration in one slot, with all slots at work as they will be. Seconds of wall time."""

    config: TrialConfig
    step_s: float
    start_s: float = 0.0
    """From the task to the first step: text, model, optimizer."""
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    end_s: float = 0.0
    """From the last checkpoint to the end: the sample."""
    checkpoint_bytes: int = 0
    peak_bytes: int = 0
    """Of the slot's process, or of its device."""

    @property
    def flops_per_s(self) -> float:
        """Training FLOP/s."""
        return step_flops(self.config) / self.step_s


@dataclass
class _Watch:
    """What one slot has shown of the configuration in it."""

    config: TrialConfig
    steps_s: list[float] = field(default_factory=list)
    """Of each step after the warm ones."""
    failed: str = ""
    began: float = 0.0
    told: float = 0.0
    """When it said something last."""
    start_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    end_s: float = 0.0
    checkpoint_bytes: int = 0
    peak_bytes: int = 0

    @property
    def step_tokens(self) -> int:
        return self.config.batch_size * self.config.context_length

    @property
    def measured(self) -> Measured:
        return Measured(
            self.config,
            median(self.steps_s),  # A moment in which the machine did something else says nothing of a whole run.
            self.start_s,
            self.evaluation_s,
            self.checkpoint_s,
            self.end_s,
            self.checkpoint_bytes,
            self.peak_bytes,
        )


def measure_speed(bench: Bench, executor: Executor, baseline: TrialConfig, enough_s: float = MEASURE_S) -> float:
    """Training FLOP/s of one slot on the baseline configuration, with all slots at work as they will be.

    Raises BadInput when the baseline cannot be trained at all.
    """
    watches = _steps(bench, executor, [baseline] * len(executor.idle()), enough_s)
    for watch in watches:
        if watch.failed:
            raise bench.space.document.place.error(f"the baseline (the priors) {watch.failed}")
    return sum(watch.measured.flops_per_s for watch in watches) / len(watches)


def measure(bench: Bench, executor: Executor, configs: Sequence[TrialConfig], enough_s: float = GLANCE_S) -> list[Measured]:
    """Each configuration measured once, as many at a time as there are slots: its steps, then a short whole run.

    configs: their numbers of steps do not matter. Those that cannot be trained (memory) are left out.
    """
    slots = len(executor.idle())
    found = []
    for first in range(0, len(configs), slots):
        batch = list(configs[first : first + slots])
        busy = batch + [batch[-1]] * (slots - len(batch))  # All slots at work: they share memory and caches.
        watches = _steps(bench, executor, busy, enough_s)
        watches = _wholes(bench, executor, watches)
        found += [watch.measured for watch in watches[: len(batch)] if not watch.failed]
    return found


def _steps(bench: Bench, executor: Executor, configs: Sequence[TrialConfig], enough_s: float) -> list[_Watch]:
    """How long a step of each takes, one in each slot, all until the last one is measured."""
    never = 10**9
    endless = {"max_iters": never, "eval_interval": never, "save_interval": never, "lr_decay_iters": never}
    watches = {slot.name: _Watch(config) for slot, config in zip(executor.idle(), configs, strict=True)}

    def enough(watch: _Watch) -> bool:
        seconds = sum(watch.steps_s)
        return bool(watch.failed) or (seconds > enough_s and (len(watch.steps_s) >= MEASURE_STEPS or seconds > SLOW_S))

    for message in _events(bench, executor, watches, endless):
        watch = watches[message.slot]
        match message.body:
            case Progress(iteration=iteration, tokens_per_s=speed) if iteration > WARM_STEPS:
                # By its own clock, which leaves out the words between the steps.
                watch.steps_s.append(watch.step_tokens / speed)
            case Ended(result) if not watch.steps_s:
                watch.failed = f"cannot be trained: {result.reason or 'it ended at once'}"
        if all(map(enough, watches.values())):
            for name in watches:
                executor.answer(name, Answer.STOP)
    return list(watches.values())


def _wholes(bench: Bench, executor: Executor, timed: Sequence[_Watch]) -> list[_Watch]:
    """A whole run of a few steps of each, with what it costs beside its steps."""
    short = dict.fromkeys(("max_iters", "eval_interval", "save_interval", "lr_decay_iters"), WHOLE_STEPS)
    watches = {slot.name: replace(watch) for slot, watch in zip(executor.idle(), timed, strict=True)}
    for watch in watches.values():
        watch.began = time.monotonic()
    for message in _events(bench, executor, {name: watch for name, watch in watches.items() if not watch.failed}, short):
        watch, now = watches[message.slot], time.monotonic()
        match message.body:
            case Progress() if not watch.start_s:
                watch.start_s = max(1e-9, now - watch.began - watch.measured.step_s)
            case EvalPoint():
                watch.evaluation_s = now - watch.told
                executor.answer(message.slot, Answer.CONTINUE)
            case CheckpointSaved(size=size):
                watch.checkpoint_s, watch.checkpoint_bytes = now - watch.told, size
            case Ended(result):
                watch.end_s, watch.peak_bytes = now - watch.told, result.peak_memory
        watch.told = now
    return list(watches.values())


def _events(bench: Bench, executor: Executor, watches: Mapping[str, _Watch], changes: dict[str, int]) -> Iterator[SlotMessage]:
    """What the runs say, one in each slot of `watches`, until all have ended. A watch knows whether its run failed."""
    # The rate changes no speed, and a baseline that diverges would end before it is measured.
    harmless = {"learning_rate": 1e-12, "save_dir": None, "log_file": None, "log_interval": 1}
    with temporary_folder("measure") as folder:
        for index, slot in enumerate([slot for slot in executor.idle() if slot.name in watches]):
            settings = watches[slot.name].config.concrete() | changes | harmless
            task = TrialTask(
                number=-1 - index,
                attempt=1,
                config={name: value for name, value in settings.items() if value is not None},
                data=bench.space.data.model_dump(mode="json"),
                data_fingerprint=bench.data_fingerprint,
                folder=folder / slot.name,
                cache_dir=bench.cache_dir,
                device=bench.devices[index % len(bench.devices)],
                threads=bench.threads,
                objectives=bench.space.objectives,
            )
            task.folder.mkdir()
            executor.submit(slot, task)
        running = set(watches)
        while running:
            for message in executor.messages(1.0):
                match message.body:
                    case Failed(kind="disk-full" | "out-of-threads", message=text):
                        raise StoppedForNow(text)
                    case Failed(message=text):
                        watches[message.slot].failed = f"cannot be trained: {text}"
                    case Died(exit_code=code):
                        watches[message.slot].failed = f"kills its process (exit code {code})"
                yield message
                if isinstance(message.body, Ended | Failed | Died):
                    running.discard(message.slot)
