"""`hpsearch run`: create or resume a study and work on it until its total of trials is reached."""

from __future__ import annotations

import math
import shlex
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    SEEDS,
    STEP_LIMIT,
    STUDIES_DIR,
    TOP,
    CheckpointsDirOption,
    DataOption,
    DeviceOption,
    JsonOption,
    SeedsOption,
    SetOption,
    SpaceOption,
    StepLimitOption,
    StorageOption,
    StudiesDirOption,
    TopOption,
    cache_dir,
    load,
    print_json,
    require_folder,
    same_place,
    storage_url,
)
from hpsearch.cli.placement import ExecutorOption, GpusPerSlotOption, RayAddressOption, SharedOption, placement
from hpsearch.cli.terminal import exit_code, leave, leave_at_once, load_forest, load_importance, say, view
from hpsearch.durations import duration_in
from hpsearch.errors import BadInput, NoTrialSucceeded, StoppedForNow
from hpsearch.text import TOLD, shortened

if TYPE_CHECKING:
    from hpsearch.results.view import StudyView
    from hpsearch.tuning.session import Worked
    from hpsearch.tuning.study import Study

TimeoutOption = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help="Stop after so long in all: 8h, 90m, 1h30m, or seconds; resumable."),
]


@app.command()
def run(
    space: SpaceOption = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Total of trials, those already done included.")] = 50,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="By default the space's name.")] = None,
    data: DataOption = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="LINE",
            help="A program of your own instead of the built-in model: 'python train.py --lr {learning_rate}'. It prints JSON "
            "lines with a step and a value.",
        ),
    ] = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    checkpoints_dir: CheckpointsDirOption = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="auto (default), tpe, random, gp, cmaes, qmc or grid.", show_default=False)
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            "--pruner",
            help="median (default), percentile, patient, hyperband, successive_halving or none.",
            show_default=False,
        ),
    ] = None,
    slots: Annotated[
        str, typer.Option("--slots", metavar="N|auto", help="Trials at a time; auto: one per GPU, else one per core.")
    ] = "auto",
    device: DeviceOption = "auto",
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    gpus_per_slot: GpusPerSlotOption = None,
    shared: SharedOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="KIND=AMOUNT",
            help="Per trial: device_seconds, flops, tokens, max_iters, num_epochs (--command: steps).",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            help="none (default), halving (sets trials aside and promotes them), halving_only.",
            show_default=False,
        ),
    ] = None,
    timeout: TimeoutOption = None,
    budget_flops: Annotated[
        float | None, typer.Option("--budget-flops", metavar="FLOPS", help="Stop when all trials have cost so much; resumable.")
    ] = None,
    budget_hours: Annotated[
        str | None,
        typer.Option("--budget-hours", metavar="HOURS", help="The same in hours that slots have trained: 8, or 8h, 2d."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", metavar="N", help="End after N trials in a row without a better one.")
    ] = None,
    min_gain: Annotated[
        str | None,
        typer.Option(
            "--min-gain", metavar="SHARE", help="End when no improvement above this is expected: 0.5% of the best, or 0.002."
        ),
    ] = None,
    step_limit: StepLimitOption = STEP_LIMIT,
    earlier: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="STUDY", help="An earlier study that informs the sampler: NAME, or URL#NAME; may be repeated."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the sampler; 0 by default.", show_default=False)] = None,
    settings: SetOption = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="At the end, or when a limit is near, retrain the best few and the default on fresh seeds. Limits hold for "
            "both.",
        ),
    ] = False,
    top: TopOption = TOP,
    seeds: SeedsOption = SEEDS,
    tracker: Annotated[
        list[str] | None,
        typer.Option("--tracker", metavar="NAME", help="Also tell tensorboard, mlflow or wandb (offline); may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Search: create or resume a study and work on it until it has N trials."""
    from hpsearch.cli.options import require_counts
    from hpsearch.sampling.warm_start import parse_source
    from hpsearch.tuning.expected_improvement import parse_min_gain
    from hpsearch.tuning.request import Request, require_trials
    from hpsearch.tuning.session import work
    from hpsearch.tuning.stopping import Limits
    from hpsearch.workload.workload import parse_command

    signal.signal(signal.SIGTERM, leave)  # Until the coordinator works, there is nothing to pause.
    require_trials(f"--trials {trials}", trials)
    chosen_space = require_space(space)
    if budget_flops is not None and not 0 < budget_flops < math.inf:
        raise BadInput(f"--budget-flops {budget_flops}: give a number of FLOPs above 0")
    step_limit_s = duration_in("--step-limit", step_limit)
    if patience is not None and patience < 1:
        raise BadInput(f"--patience {patience}: give a number of trials from 1")
    require_counts(top, seeds)
    limits = Limits(
        timeout_s=math.inf if timeout is None else duration_in("--timeout", timeout),
        flops=budget_flops or math.inf,
        slot_hours=math.inf if budget_hours is None else duration_in("--budget-hours", budget_hours, "h"),
        patience=patience or math.inf,
        min_gain=parse_min_gain(min_gain) if min_gain is not None else None,
    )
    trainer = None if command is None else parse_command(command)
    chosen = load(chosen_space, settings, budget, data, own=trainer is not None)
    if limits.min_gain and len(chosen.objectives) > 1:
        raise BadInput("--min-gain: with several objectives there is no one improvement; use --patience")
    where = placement(
        executor, slots, device, address=ray_address, gpus_per_slot=gpus_per_slot, shared=shared, studies_dir=studies_dir
    )
    own_url = storage_url(storage, studies_dir)
    request = Request(
        space=chosen,
        name=chosen.name if study is None else study,
        trials=trials,
        storage_url=own_url,
        studies_dir=studies_dir,
        cache_dir=cache_dir(),
        devices=where.devices,
        threads=where.threads,
        sampler=sampler,
        pruner=pruner,
        scheduler=scheduler,
        seed=seed,
        trainer=trainer,
        checkpoints_dir=checkpoints_dir,
        files_elsewhere=shared is not None,
        earlier=tuple(parse_source(word, own_url) for word in earlier or ()),
    )
    require_folder("--studies-dir", studies_dir)
    if checkpoints_dir is not None:
        if shared is not None:
            raise BadInput(f"--checkpoints-dir {checkpoints_dir}: --shared says where checkpoints are; leave one out")
        require_folder("--checkpoints-dir", checkpoints_dir)
    worked = work(
        request,
        where,
        view,
        say,
        limits=limits,
        step_limit_s=step_limit_s,
        confirm=(top, seeds) if confirm else None,
        again=leave_at_once,
        trackers=tracker or (),
    )
    code = finish(
        worked,
        same_place(storage, studies_dir),
        confirm=(top, seeds) if confirm else None,
        as_json=as_json,
    )
    if worked.confirmation_signals:
        say("the confirmation is paused; the same command goes on with it")
        return exit_code(worked.confirmation_signals[0])
    return code


def require_space(word: str | None) -> str:
    """Raises BadInput with the spaces that there are where none is named."""
    if word is not None:
        return word
    from hpsearch.space.bundled import bundled_spaces, spaces_nearby

    here = [str(path) for path in spaces_nearby()]
    nearby = f"; here: {', '.join(here)}" if here else ""
    example = here[0] if here else "lm"
    raise BadInput(
        f"what is to be searched? Name a space with --space: bundled: {', '.join(bundled_spaces())}{nearby}; for instance "
        f"`hpsearch run --space {shlex.quote(example)}` (`hpsearch space check {shlex.quote(example)}` says what it searches)"
    )


def finish(worked: Worked, place: str, *, confirm: tuple[int, int] | None, as_json: bool) -> int:
    """Write what a finished study leaves behind, say how it stands, and choose the exit code.

    place: options by which another command finds the study. confirm: how many of the best were to be confirmed at its end, and
    on how many seeds.
    """
    from hpsearch.cli.summary import print_summary, warnings_of
    from hpsearch.results.view import status_dict
    from hpsearch.tuning.session import write_results

    study, ended, caught = worked.study, worked.ended, worked.signals
    if ended:
        load_importance()
        load_forest()
    seen, at_edge = write_results(study, ended=bool(ended))
    record = seen.study
    if ended:
        show_on_dashboard(study, seen, at_edge)
        done = sum(trial.state.ended for trial in seen.trials)
        if done < record.trials_target:
            more = "; a larger --trials goes on" if done < study.total else ""
            say(f"ended after {done} of {record.trials_target} trials: {ended}{more}")
    warnings = warnings_of(seen, at_edge, place)
    if as_json:
        print_json(status_dict(seen) | {"warnings": warnings})
    elif seen.best is not None:
        from hpsearch.report.importance import importance_of

        searched = [parameter.name for parameter in study.space.searched]
        importance = importance_of(study.optuna, searched) if ended else {}
        print_summary(seen, searched, importance, warnings, study.folder, place)
    if worked.stopped_for_now:
        raise StoppedForNow(f"study '{record.name}' stopped: {worked.stopped_for_now}")
    if caught and not ended:
        say(f"study '{record.name}' is paused; the same command goes on with it")
        return exit_code(caught[0])
    if not ended:
        # A limit is a total over all runs: the same command would stop at once.
        goes_on = (
            f"it goes on with a larger {worked.limit}, or without it" if worked.limit else "the same command goes on with it"
        )
        say(f"study '{record.name}' is paused: {worked.stopping}; {goes_on}")
        if confirm is not None and worked.limit and seen.verdict is None:
            again = f"hpsearch confirm --study {record.name} --top {confirm[0]} --seeds {confirm[1]}{place}"
            now = f"; `{again}` does it now" if seen.best is not None and not record.own else ""
            say(f"nothing was confirmed within the limit{now}")
        return 0
    if seen.best is None:
        reasons = sorted({shortened(trial.reason, TOLD) for trial in seen.trials if trial.reason})
        raise NoTrialSucceeded(f"study '{record.name}' is finished and no trial succeeded: {'; '.join(reasons[:3])}")
    return 0


def show_on_dashboard(study: Study, view: StudyView, at_edge: list[str]) -> None:
    """Leave notes and figures for optuna-dashboard; the study is finished whether or not that is possible."""
    from hpsearch.results.view import axes
    from hpsearch.service.notes import show_study

    try:
        show_study(view, study.optuna, axes(study.space), study.folder.parent, edges=at_edge)
    except Exception as error:
        say(f"no notes for optuna-dashboard: {error}; `hpsearch dashboard` tries again")
