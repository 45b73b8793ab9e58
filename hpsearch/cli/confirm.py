"""`hpsearch confirm`: the best few trials and the default, trained once more on fresh seeds."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    SEEDS,
    STEP_LIMIT,
    STUDIES_DIR,
    TOP,
    DeviceOption,
    JsonOption,
    PreferOption,
    SeedsOption,
    StepLimitOption,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    TopOption,
    cache_dir,
    open_for_reading,
    print_json,
    require_counts,
    require_folder,
    storage_url,
)
from hpsearch.cli.placement import ExecutorOption, GpusPerSlotOption, RayAddressOption, SharedOption, placement
from hpsearch.cli.summary import print_verdict
from hpsearch.durations import duration_in
from hpsearch.errors import BadInput, NoTrialSucceeded, StudyGone, StudyOwned
from hpsearch.files import write_atomically

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor
    from hpsearch.results.view import StudyView
    from hpsearch.storage.records import Owner, StudyRecord
    from hpsearch.storage.store import Store
    from hpsearch.tuning.confirmation import Retraining


@app.command()
def confirm(
    study: StudyOption = None,
    top: TopOption = TOP,
    seeds: SeedsOption = SEEDS,
    prefer: PreferOption = None,
    slots: Annotated[
        str,
        typer.Option("--slots", metavar="N|auto", help="Runs at a time; auto: one per GPU, else as many as the cores hold."),
    ] = "auto",
    device: DeviceOption = "auto",
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    gpus_per_slot: GpusPerSlotOption = None,
    shared: SharedOption = None,
    step_limit: StepLimitOption = STEP_LIMIT,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    as_json: JsonOption = False,
) -> int:
    """Retrain the best few trials and the default on fresh seeds, and say whether the best really beats the default.

    With --prefer the trial that `export --prefer` would take is retrained too.
    """
    from hpsearch.cli.terminal import exit_code, leave, say
    from hpsearch.execution.protocol import TRANSFORMER
    from hpsearch.results.preference import parse_preference, pick
    from hpsearch.results.view import StudyView
    from hpsearch.storage.leases import this_process
    from hpsearch.tuning.lease import LEASE_S, lease_kept
    from hpsearch.tuning.session import to_retrain
    from hpsearch.tuning.study import require_same_scoring

    signal.signal(signal.SIGTERM, leave)
    require_counts(top, seeds)
    step_limit_s = duration_in("--step-limit", step_limit)
    store, record = open_for_reading(storage, studies_dir, study)
    if record.own:
        raise BadInput(
            f"study '{record.name}' has a trainer of your own, which this command does not know: give the same "
            "`hpsearch run` again, with --confirm"
        )
    seen = StudyView.load(store, record, curves=False)
    preferred = pick(seen, parse_preference(prefer or "first"))
    work = to_retrain(seen, top, seeds, preferred)
    where = placement(
        executor,
        slots,
        device,
        address=ray_address,
        gpus_per_slot=gpus_per_slot,
        shared=shared,
        studies_dir=studies_dir,
        threads=record.threads,  # The study's own, so that a run repeats.
        most=max(1, len(work)),
    )
    require_folder("--studies-dir", studies_dir)
    failures: list[str] = []
    caught: list[int] = []
    if work:
        require_same_scoring(record)
        owner = this_process()
        store.acquire(record.id, owner, LEASE_S)
        try:
            seen = StudyView.load(store, record, curves=False)
            work = to_retrain(seen, top, seeds, preferred)  # Now that nobody else adds to it.
            with (
                lease_kept(store, record.id, owner),
                contextlib.closing(where.open(record.threads, TRANSFORMER)) as open_slots,
            ):
                folder = studies_dir / record.folder
                caught, failures = retrain(store, record, open_slots, owner, folder, where.devices, work, step_limit_s)
        finally:
            with contextlib.suppress(StudyGone, StudyOwned):
                store.release(record.id, owner)
    else:
        say(f"study '{record.name}': all of it is stored already; more --seeds or a larger --top adds the difference")
    seen = StudyView.load(store, record)
    _refresh(seen, studies_dir, storage_url(storage, studies_dir))
    if as_json:
        print_json(confirmation_dict(seen, failures, interrupted=bool(caught)))
    else:
        print_verdict(seen)
    if caught:
        say("interrupted; the same command goes on from the last checkpoints")
        return exit_code(caught[0])
    if failures and len(failures) == len(work):
        raise NoTrialSucceeded(f"nothing could be retrained: {failures[0]}")
    return 0


def retrain(
    store: Store,
    record: StudyRecord,
    executor: Executor,
    owner: Owner,
    folder: Path,
    devices: tuple[str, ...],
    work: list[Retraining],
    step_limit_s: float,
) -> tuple[list[int], list[str]]:
    """Do the work. Returns the signals that came and what could not be retrained."""
    from hpsearch.cli.terminal import leave_at_once, say
    from hpsearch.tuning.confirmation import Confirmation
    from hpsearch.tuning.session import stop_on_signals

    say(f"confirming study '{record.name}': {len(work)} retraining{'s' if len(work) > 1 else ''} on fresh seeds")
    if devices[0].partition(":")[0] != record.device.partition(":")[0]:
        say(f"the study ran on {record.device} and this is {devices[0]}: values compare among themselves only")
    confirmation = Confirmation(store, record, executor, owner, folder, cache_dir(), devices, say, step_limit_s=step_limit_s)
    with stop_on_signals(confirmation, leave_at_once) as caught:
        confirmation.run(work)
    return (caught if confirmation.stopping else []), confirmation.failures


def confirmation_dict(view: StudyView, failures: list[str], *, interrupted: bool) -> dict[str, Any]:
    """The verdict as documented JSON, with `study`, `failures` (in a sentence each) and `complete`."""
    from hpsearch.results.verdict import verdict_dict

    whole = verdict_dict(view.verdict) if view.verdict else {}
    return {"study": view.study.name, "complete": not failures and not interrupted, "failures": failures, **whole}


def _refresh(view: StudyView, studies_dir: Path, url: str) -> None:
    """Write the files that `run` left at its end anew, now with the verdict; not before it has ended."""
    from hpsearch.export.config_file import best_config_yaml
    from hpsearch.results.view import axes
    from hpsearch.space.edges import edges
    from hpsearch.space.load import parse_space
    from hpsearch.tuning.session import started_from

    folder = studies_dir / view.study.folder
    if not view.study.finished_reason or view.best is None or not folder.is_dir():
        return
    from hpsearch.report.importance import study_of
    from hpsearch.report.page import write_report

    write_atomically(folder / "best.yaml", best_config_yaml(view, view.best))
    space = parse_space(view.study.space_text, f"study {view.study.name}")
    at_edge, told = edges(space, view.best.params), started_from(view.study)
    write_report(view, study_of(view, space), axes(space), folder / "report.html", edges=at_edge, earlier=told)
