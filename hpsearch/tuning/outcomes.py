"""What becomes of a trial when it leaves its slot: its record after the end, a lack of memory, or the death of its slot.

`smaller_parts`, `of_death` and `poisoned` hold for the retrainings of a confirmation too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hpsearch.execution.protocol import Died, Failed
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import EndReason, PauseKind, TrialRecord, TrialState
from hpsearch.training.events import Outcome, TrainResult
from hpsearch.workload.feasibility import broken, constraint_values

MAX_DEATHS = 3
"""Slots that one trial may take with it before it counts as poisoned."""
MAX_LOSSES = 20
"""Machines that may go from under one trial."""
PARTS = 4
"""Into so many times as many micro-batches a batch is cut after memory was short: once, so it should do."""


def ended(
    record: TrialRecord,
    result: TrainResult,
    objectives: Sequence[str],
    space: SearchSpace,
    stopped_by: EndReason | None = None,
) -> TrialRecord:
    """The trial after its run said how it ended, other than paused. stopped_by: why it was told to stop; `record.reason` says
    it in a sentence."""
    match result.outcome:
        case Outcome.STOPPED:
            state, end_reason, reason = TrialState.PRUNED, stopped_by or EndReason.PRUNED_BY_SCHEDULER, record.reason
        case Outcome.DIVERGED:
            # Pruned, not failed: a sampler ignores failures and would propose this rate again.
            state, end_reason, reason = TrialState.PRUNED, EndReason.DIVERGED, f"diverged: {result.reason}"
        case _:
            state, end_reason, reason = TrialState.COMPLETE, EndReason.COMPLETED, ""
    clock = {} if space.own else {"train_seconds": record.seconds}
    metrics = clock | record.metrics | result.metrics
    values = tuple(metrics[name] for name in objectives if name in metrics)
    finite = len(values) == len(objectives) and all(map(math.isfinite, values))
    if state is TrialState.COMPLETE and not finite:
        state, end_reason = TrialState.PRUNED, EndReason.DIVERGED
        reason = "diverged: the final evaluation is not finite"
    constraints = constraint_values(space, record.config, metrics)
    if state is TrialState.COMPLETE and (constraint := broken(space, metrics)):
        end_reason, reason = EndReason.INFEASIBLE, f"infeasible: {constraint.sentence()}"
    return replace(
        record.ended(state, end_reason, reason),
        iteration=result.iteration,
        metrics=metrics,
        values=values if finite else None,
        sample=result.sample,
        constraints=constraints,
    )


def short_of_memory(record: TrialRecord, failed: Failed, most: int, memory_bytes: int | None) -> TrialRecord:
    """Once more in smaller parts; then it is known how much too large the configuration is.

    most: the most parts that a batch can be cut into. memory_bytes: what the configuration needs; None: nobody knows.
    """
    parts = smaller_parts(failed, record.micro_batches, most)
    if record.micro_batches is None and parts is not None:
        reason = f"out of memory: goes on with each batch in {parts} parts"
        return replace(record.paused(PauseKind.BETWEEN_SLOTS, reason), micro_batches=parts)
    short = max(1, failed.shortfall_bytes)
    smaller = f", also with each batch in {failed.micro_batches} parts" if most > 1 else ""
    reason = f"out of memory{smaller}: {failed.message}"
    # Pruned with a broken constraint, not failed: a sampler then learns how much too large it is.
    pruned = record.ended(TrialState.PRUNED, EndReason.OUT_OF_MEMORY, reason)
    return replace(pruned, constraints={"memory_bytes": short / (memory_bytes or short)})


def smaller_parts(failed: Failed, given: int | None, most: int) -> int | None:
    """Into how many parts each batch is cut after memory was short; None where more parts are not possible.

    given: the parts that the task asked for; None: the trainer chose. most: the most parts that a batch can be cut into.
    """
    before = max(failed.micro_batches, given or 1)
    parts = min(most, PARTS * before)
    return parts if parts > before else None


def of_death(died: Died) -> str:
    """The outcome of the attempt whose slot died."""
    # A machine that goes takes whatever trial is there with it, which says little about that trial.
    return "node-lost" if died.exit_code is None else "died"


def how(died: Died) -> str:
    """A slot's end in a few words."""
    code = died.exit_code
    return died.reason or (f"killed by signal {-code}" if code is not None and code < 0 else f"its process ended with {code}")


def poisoned(death: Died, times: int) -> bool:
    """Whether a job whose slot died is not tried again. times: that it died in this way, this one included."""
    return times >= (MAX_LOSSES if of_death(death) == "node-lost" else MAX_DEATHS)


def died(record: TrialRecord, death: Died, times: int) -> TrialRecord:
    """The trial whose slot died: it goes on in another one, or is poisoned. times: that it happened, this one included."""
    outcome = of_death(death)
    if poisoned(death, times):
        lost = "died" if outcome == "died" else "was lost"
        reason = f"poisoned: its slot {lost} {times} times, the last time {how(death)}"
        return record.ended(TrialState.FAILED, EndReason.POISONED, reason)
    return record.paused(PauseKind.BETWEEN_SLOTS, f"slot lost: {how(death)}")
