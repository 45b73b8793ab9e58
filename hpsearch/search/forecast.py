"""What a study will cost, before it starts: the speed of this machine, measured, and the budget."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hpsearch.config import TrialConfig
from hpsearch.errors import StoppedForNow
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, TrialTask
from hpsearch.model.counting import count
from hpsearch.search.study import Study
from hpsearch.training.events import Answer, Progress

MEASURE_S = 3.0
GLANCE_S = 1.0
"""Where the budget does not depend on the speed, and only the forecast does."""
WARM_STEPS = 3
MEASURE_STEPS = 8
"""At least so many steps after the warm ones, however slow the device is."""

START_S = 0.4
"""Seconds from the end of a trial to the first step of the next one in the same slot: model, optimizer, sample, checkpoint."""


@dataclass(frozen=True)
class Forecast:
    """Of the baseline configuration; pruning makes the real study cheaper, other sizes make it dearer or cheaper."""

    trials: int
    slots: int
    rungs: int
    tokens_per_trial: int
    flops_per_trial: float
    trial_seconds: float
    """Training and evaluations of one whole trial."""
    disk_bytes: int

    @property
    def seconds(self) -> float:
        """If no trial is pruned."""
        return self.trials * self.trial_seconds / self.slots


def forecast(study: Study, trials: int, slots: int, flops_per_s: float) -> Forecast:
    """The cost of `trials` more trials like the baseline."""
    baseline = study.config(study.space.prior(), 0)
    counts = count(baseline)
    tokens = baseline.max_iters * baseline.batch_size * baseline.context_length
    rungs = study.record.budget.evaluations
    evaluations = rungs * study.held_out_tokens(baseline) * counts.forward_flops_per_token
    seconds = (tokens * counts.flops_per_token + evaluations) / flops_per_s + START_S
    # A checkpoint holds weights and two moments; the best weights are kept beside them.
    kept = counts.num_parameters * 4 * (3 * baseline.max_save_num + 1)
    return Forecast(trials, slots, rungs, tokens, tokens * counts.flops_per_token, seconds, trials * kept)


def measure_speed(study: Study, executor: Executor, baseline: TrialConfig) -> float:
    """Training FLOP/s of one slot on the baseline configuration, with all slots at work as they will be.

    baseline: its number of steps does not matter.
    Raises BadInput when the baseline cannot be trained at all.
    """
    enough_s = MEASURE_S if study.record.budget.kind == "device_seconds" else GLANCE_S
    never = 10**9
    endless = {"max_iters": never, "eval_interval": never, "save_interval": never, "lr_decay_iters": never, "log_interval": 1}
    # The rate changes no speed, and a baseline that diverges would end before it is measured.
    harmless = {"learning_rate": 1e-12, "save_dir": None, "log_file": None}
    config = {name: value for name, value in (baseline.concrete() | endless | harmless).items() if value is not None}
    step_flops = count(baseline).flops_per_token * baseline.batch_size * baseline.context_length
    rates: dict[str, float] = {}
    begun: dict[str, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="hpsearch-measure-", ignore_cleanup_errors=True) as folder:
        slots = list(executor.idle())
        for index, slot in enumerate(slots):
            task = TrialTask(
                number=-1 - index,
                attempt=1,
                config=config,
                data=study.record.data,
                data_fingerprint=study.record.data_fingerprint,
                folder=Path(folder) / slot.name,
                cache_dir=study.cache_dir,
                device=study.devices[index % len(study.devices)],
                threads=study.record.threads,
                objectives=study.record.objectives,
            )
            task.folder.mkdir()
            executor.submit(slot, task)
        running = {slot.name for slot in slots}
        while running:
            for message in executor.messages(1.0):
                match message.body:
                    case Progress(iteration=iteration) if iteration >= WARM_STEPS:
                        now = time.monotonic()
                        since_iteration, since = begun.setdefault(message.slot, (iteration, now))
                        if now - since > enough_s and iteration - since_iteration >= MEASURE_STEPS:
                            rates.setdefault(message.slot, (iteration - since_iteration) / (now - since))
                        if len(rates) == len(slots):  # Only then: until the last one is measured, all are busy.
                            for name in running:
                                executor.answer(name, Answer.STOP)
                    case Failed(kind="disk-full", message=text):
                        raise StoppedForNow(text)
                    case Failed(message=text):
                        raise study.space.document.place.error(f"the baseline (the priors) cannot be trained: {text}")
                    case Died(exit_code=code):
                        raise study.space.document.place.error(
                            f"the baseline (the priors) kills its process (exit code {code})"
                        )
                    case Ended(result) if message.slot not in rates:
                        raise study.space.document.place.error(
                            f"the baseline (the priors) cannot be trained: {result.reason or 'it ended at once'}"
                        )
                    case Ended():
                        running.discard(message.slot)
    return step_flops * sum(rates.values()) / len(rates)
