"""Work on one study from its start to its end: what `hpsearch run`, `hpsearch.run` and `hpsearch.tune` have in common."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hpsearch.errors import BadInput, ConfigError, HpsearchError, StorageUnreachable, StudyGone, StudyOwned
from hpsearch.execution.resources import Placement
from hpsearch.files import write_atomically
from hpsearch.results.formatting import amount, duration, searched_by
from hpsearch.results.view import StudyView
from hpsearch.space.edges import edges
from hpsearch.storage.engine import settle
from hpsearch.storage.leases import this_process
from hpsearch.storage.store import Store
from hpsearch.storage.urls import sqlite_file
from hpsearch.training.memory import disk_stops, require_memory
from hpsearch.tuning.callbacks import Watcher
from hpsearch.tuning.confirmation import Confirmation, Retraining, confirmable, fresh_seeds, left_to_do
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.job_runner import STEP_LIMIT_S
from hpsearch.tuning.lease import lease_kept
from hpsearch.tuning.request import Checked, CheckedModel, Request, check
from hpsearch.tuning.stopping import Cost, Limits, Reached
from hpsearch.tuning.study import Study, open_study
from hpsearch.tuning.trackers import Both, Tracking, require_trackers

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor
    from hpsearch.space.space import SearchSpace
    from hpsearch.storage.records import Owner, StudyRecord, TrialRecord

Say = Callable[[str], None]
Again = Callable[[int], None]
"""What a second signal does."""


@dataclass
class Worked:
    """What came of it."""

    study: Study
    ended: str
    """Why the study ended; empty when it was stopped and can be gone on with."""
    stopping: str
    """Why it was stopped; empty when it was not."""
    limit: str
    """The option whose limit stopped it; empty where something else did."""
    stopped_for_now: str
    """A reason that passes (disk full)."""
    signals: list[int]
    """That stopped it."""
    confirmation_signals: list[int]
    """That stopped its confirmation."""


def work(
    request: Request,
    where: Placement,
    watch: Callable[[int], AbstractContextManager[Watcher]],
    say: Say,
    *,
    limits: Limits | None = None,
    step_limit_s: float = STEP_LIMIT_S,
    confirm: tuple[int, int] | None = None,
    again: Again | None = None,
    trackers: Sequence[str] = (),
) -> Worked:
    """Create or resume the study of `request` and work on it until its total of trials is reached or something stops it.

    watch: the view, for a number of slots. confirm: how many of the best to confirm, and on how many seeds. again: what a
    second Ctrl-C does; by default it ends the process. trackers: names of TRACKERS. Raises what `check`, `open_study` and
    `Coordinator.run` raise.
    """
    with warnings.catch_warnings():
        # Optuna calls what it has had for years experimental; nothing that a user could do about it.
        warnings.filterwarnings("ignore", message=".*experimental")
        return _work(request, where, watch, say, limits, step_limit_s, confirm, again, trackers)


def require_baseline_fits(space: SearchSpace, checked: CheckedModel, memory_bytes: int) -> None:
    """Raises SpaceError where the memory never holds the baseline's training."""
    try:
        require_memory(checked.baseline, memory_bytes)
    except ConfigError as error:
        raise space.document.place.error(f"the baseline (the priors) cannot be trained: {error}") from None


def _work(
    request: Request,
    where: Placement,
    watch: Callable[[int], AbstractContextManager[Watcher]],
    say: Say,
    limits: Limits | None,
    step_limit_s: float,
    confirm: tuple[int, int] | None,
    again: Again | None,
    trackers: Sequence[str],
) -> Worked:
    require_trackers(trackers)
    limits = limits or Limits()
    checked = check(request)
    if where.memory_bytes is not None and isinstance(checked, CheckedModel):
        require_baseline_fits(request.space, checked, where.memory_bytes)
    if confirm is not None:
        checked.workload.require_seed()
    owner = this_process()
    with _nothing_left_of_bad_input(request):
        opened = open_study(request, checked, owner)
        try:
            with (
                disk_stops(opened.folder, opened.folder),
                lease_kept(opened.store, opened.record.id, owner),
                _undone_if_impossible(opened),
                contextlib.closing(_slots(where, opened, confirm)) as slots,
            ):
                count = len(slots.idle())
                try:
                    announce(opened, checked, request.trials, count, slots, owner.token, say, confirm)
                except KeyboardInterrupt:
                    say(f"interrupted: study '{opened.record.name}' has not begun; the same command begins it")
                    raise
                with contextlib.ExitStack() as watching:
                    watcher = watching.enter_context(watch(count))
                    if trackers:
                        watcher = Both(watcher, watching.enter_context(Tracking(trackers, opened.folder, say)))
                    left_over = replace(limits, retrainings=_retrainings(confirm, opened.total), slots=max(1, count))
                    coordinator = Coordinator(opened, slots, watcher, owner, left_over, step_limit_s=step_limit_s)
                    with stop_on_signals(coordinator, again) as caught:
                        ended = coordinator.run()
                note_cost(opened, owner.token)
                interrupted: list[int] = []
                if confirm is not None and (ended or coordinator.limit) and not caught:
                    interrupted = _confirm(opened, slots, owner, *confirm, limits, step_limit_s, say, again)
        finally:
            # Where the database is away the lease ends by itself; what has been said of that counts.
            with contextlib.suppress(StudyGone, StudyOwned, StorageUnreachable):
                opened.store.release(opened.record.id, owner)
            settle()  # A notebook does not end with its study.
    return Worked(opened, ended, coordinator.stopping, coordinator.limit, coordinator.stopped_for_now, caught, interrupted)


def _retrainings(confirm: tuple[int, int] | None, trials: int) -> int:
    """How many the confirmation of a study will do at most: of the default beside the best."""
    top, seeds = confirm or (0, 0)
    return seeds * min(top + 1, trials)


def _slots(where: Placement, study: Study, confirm: tuple[int, int] | None) -> Executor:
    """The slots; none where the study is over, as they would be started to do nothing."""
    from hpsearch.execution.local_executor import LocalExecutor

    begun = study.record.budget.flops_per_s is not None or study.record.own
    if begun and confirm is None and _left(study) <= 0:
        return LocalExecutor(0, study.record.threads)
    return where.open(study.record.threads, study.workload.trainer)


def _left(study: Study) -> int:
    """Trials that have not ended yet."""
    return study.total - sum(trial.state.ended for trial in study.store.trials(study.record.id))


@contextlib.contextmanager
def _nothing_left_of_bad_input(request: Request) -> Iterator[None]:
    """The studies folder is there. It, and a database in a file, go again if they were made for a study that is refused."""
    folder, made = request.studies_dir, None
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--studies-dir {folder}: cannot be created ({error.strerror}); name another") from None
    try:
        file = sqlite_file(request.storage_url)
        made = file if file is not None and not file.exists() else None
        yield
    except BaseException as error:
        if made is not None and isinstance(error, BadInput):
            _remove_if_empty(request.storage_url, made)
        with contextlib.suppress(OSError):  # Not empty: another study was made there meanwhile.
            if new:
                folder.rmdir()
        raise


def _remove_if_empty(url: str, file: Path) -> None:
    """Remove a database that this process made, unless another one has begun a study there meanwhile."""
    with contextlib.suppress(HpsearchError), Store.open(url, create=False) as store, store.setup_lock():
        if not store.studies():
            for suffix in ("", "-wal", "-shm"):
                Path(f"{file}{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def _undone_if_impossible(study: Study) -> Iterator[None]:
    """Bad input that only the machines could find leaves no study behind."""
    try:
        yield
    except BadInput:
        if not study.store.trials(study.record.id):
            study.discard()
        raise


@contextlib.contextmanager
def stop_on_signals(coordinator: Coordinator | Confirmation, again: Again | None = None) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM pause the work; a second one calls `again`. Elsewhere than in the main thread nothing is caught."""
    caught: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if caught:
            (again or os._exit)(number)
        caught.append(number)
        coordinator.stop("interrupted" if number == signal.SIGINT else "terminated")

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What it will cost, and what it did


def announce(
    study: Study,
    checked: Checked,
    asked: int,
    slots: int,
    executor: Executor,
    token: str,
    say: Say,
    confirm: tuple[int, int] | None = None,
) -> None:
    """Measure the machine if that was not done for this study, and say what the study will cost.

    asked: the total of trials that was asked for. confirm: how many of the best will be confirmed, and on how many seeds.
    """
    record = study.record
    verb = "resuming" if study.resumed else "new"
    say(f"study: {verb} '{record.name}' in {study.folder} ({searched_by(record)})")
    if asked < record.trials_target:
        say(f"--trials {asked}: the study's total is {record.trials_target} already, and only grows; it goes on to that")
    if not isinstance(checked, CheckedModel):
        return  # Only its own runs tell what a trainer of one's own costs.
    for told in checked.corpus.split.notes:
        say(told)
    from hpsearch.forecasting.benchmark import GLANCE_S, MEASURE_S, Bench, measure_speed
    from hpsearch.forecasting.forecast import dear_evaluations, draw_configs, effort_for, forecast, note, trial_flops
    from hpsearch.sampling.samplers import FeasibleSampler
    from hpsearch.workload.scaling_laws import clamped

    bench = Bench(study.space, study.cache_dir, study.devices, study.record.threads, study.record.data_fingerprint)
    if record.budget.flops_per_s is None:
        say(f"measuring the speed of {slots} slot{'s' if slots > 1 else ''} on {record.device} ...")
        seconds = MEASURE_S if record.budget.kind == "device_seconds" else GLANCE_S
        speed = measure_speed(bench, executor, checked.baseline, seconds)
        study.freeze_budget(speed, f"{record.device}, {record.threads} thread(s), {slots} slot(s)", token)
        say(f"speed: {amount(speed, 'FLOP/s')} a slot")
    sampler = study.optuna.sampler
    if isinstance(sampler, FeasibleSampler) and sampler.law and not study.resumed:
        for told in clamped(study.space, sampler.law):
            say(told)
    for told in started_from(record):
        say(told)
    left = _left(study)
    if left <= 0:
        return
    noted = record.extras.get("forecast", {})
    if (noted.get("trials"), noted.get("slots")) != (study.total, slots):
        configs = draw_configs(
            study.space, lambda proposal: checked.workload.candidate(proposal, study.record.budget), sampler=record.sampler
        )
        rate = study.record.budget.flops_per_s
        study_s = study.total * trial_flops(configs[0]) / rate / slots if rate else math.inf
        effort = effort_for(study_s)
        found = forecast(bench, executor, configs, study.total, checked.corpus, sampler=record.sampler, effort=effort)
        noted = note(found)
        study.store.set_extras(record.id, {**record.extras, "forecast": noted}, token=token)
    say(cost(noted, left, retrainings=_retrainings(confirm, study.total)))
    if dear := dear_evaluations(noted):
        say(dear)


def started_from(record: StudyRecord) -> list[str]:
    """What a person is told of the studies that `--from` named: what of them is used, and how."""
    from hpsearch.sampling.warm_start import kept

    return [told for earlier in kept(record) for told in earlier.sentences(record)]


def cost(noted: Mapping[str, Any], left: int, *, retrainings: int = 0) -> str:
    part = left / noted["trials"]
    again = duration(retrainings / noted["trials"] * noted["seconds"])
    most = part * noted.get("slowest_seconds", 0.0)
    slowest = f", {duration(most)} if all are as the slowest" if most > 1.25 * part * noted["seconds"] else ""
    read = noted.get("evaluation_flops")
    measured = f" whose evaluations cost {amount(read, 'FLOP')} more" if read else ""
    then = f"; then up to {retrainings} retrainings to confirm, about {again} more" if retrainings else ""
    return (
        f"cost: {left} trials, {noted['slots']} at a time, none pruned: about {duration(part * noted['seconds'])}{slowest}; "
        f"{noted['tokens']:,.0f} tokens and {amount(noted['flops'], 'FLOP')} a trial (the mean), "
        f"{noted['rungs']} rungs{measured}, "
        f"up to {amount(part * noted['disk_bytes'], 'B')} of disk, {amount(noted['memory_bytes'], 'B')} of memory{then}"
    )


def note_cost(study: Study, token: str) -> None:
    """Store how far the forecast was off."""
    from hpsearch.forecasting.forecast import compared

    record = study.store.study(study.record.name)
    if "forecast" in record.extras:
        trials, worked_s = study.store.trials(record.id), study.store.worked_s(record.id)
        extras = {**record.extras, "forecast": compared(record.extras["forecast"], record, trials, worked_s)}
        study.store.set_extras(record.id, extras, token=token)


# At the end


def to_retrain(view: StudyView, top: int, seeds: int, preferred: TrialRecord | None = None) -> list[Retraining]:
    """What `--top` and `--seeds` ask for and the store does not have yet; of `preferred` too, whatever its rank."""
    trials = confirmable(view.ranked, view.baseline, top, preferred) if view.ranked else []
    return left_to_do(trials, fresh_seeds(view.trials, seeds), view.confirmations)


def _confirm(
    study: Study,
    executor: Executor,
    owner: Owner,
    top: int,
    seeds: int,
    limits: Limits,
    step_limit_s: float,
    say: Say,
    again: Again | None,
) -> list[int]:
    """Retrain the best few and the default on fresh seeds, within what the limits leave. Returns the signals that came
    meanwhile."""
    record = study.store.study(study.record.name)
    view = StudyView.load(study.store, record, curves=False)
    work = to_retrain(view, top, seeds)
    if not work:
        return []
    say(f"confirming study '{record.name}': {len(work)} retraining{'s' if len(work) > 1 else ''} on fresh seeds")
    earlier_s = sum(run.seconds for run in view.confirmations)
    flops = sum(trial.flops for trial in view.trials) + sum(run.flops for run in view.confirmations)
    seconds = sum(trial.seconds for trial in view.trials) + earlier_s
    wall_s, began = study.store.worked_s(record.id) + earlier_s / max(1, len(executor.idle())), time.monotonic()

    def limit(more_flops: float, more_s: float) -> Reached | None:
        return limits.reached_by(Cost(flops + more_flops, seconds + more_s, wall_s + time.monotonic() - began))

    confirmation = Confirmation(
        study.store,
        record,
        executor,
        owner,
        study.folder,
        study.cache_dir,
        study.devices,
        say,
        own=study.workload.run(),
        limit=limit,
        step_limit_s=step_limit_s,
    )
    with stop_on_signals(confirmation, again) as caught:
        confirmation.run(work)
    if confirmation.reached:
        say(
            f"the confirmation is paused: {confirmation.reached.reason}; the same command goes on with it, given a larger "
            f"{confirmation.reached.option}"
        )
    return caught if confirmation.stopping else []


def write_results(study: Study, *, ended: bool) -> tuple[StudyView, list[str]]:
    """Write what a study leaves behind: `best.yaml`, and its report once it has ended.

    Returns how it stands, and what is to be said of values at the edge of what was searched.
    """
    from hpsearch.export.config_file import best_config_yaml
    from hpsearch.report.page import write_report
    from hpsearch.results.view import axes

    seen = StudyView.load(study.store, study.store.study(study.record.name))
    at_edge = edges(study.space, seen.best.params) if seen.best is not None else []
    with disk_stops(study.folder, study.folder):
        if seen.best is not None:
            write_atomically(study.folder / "best.yaml", best_config_yaml(seen, seen.best))
        if ended:
            told = started_from(seen.study)
            write_report(seen, study.optuna, axes(study.space), study.folder / "report.html", edges=at_edge, earlier=told)
    return seen, at_edge
