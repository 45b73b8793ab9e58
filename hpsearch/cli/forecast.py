"""`hpsearch price`: what a study would cost, measured on this machine before there is one."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import DataOption, DeviceOption, JsonOption, SetOption, SpaceOption, cache_dir, print_json
from hpsearch.errors import BadInput
from hpsearch.scratch import temporary_folder

if TYPE_CHECKING:
    from hpsearch.forecasting.forecast import Forecast, TrialCost


@app.command()
def price(
    space: SpaceOption = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Trials of the study.")] = 50,
    data: DataOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="KIND=AMOUNT", help="Per trial: device_seconds, flops, tokens, max_iters, num_epochs."
        ),
    ] = None,
    slots: Annotated[
        str, typer.Option("--slots", metavar="N|auto", help="Trials at a time; auto: one per GPU, else one per core.")
    ] = "auto",
    device: DeviceOption = "auto",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast time, tokens, FLOPs, disk and memory by short real runs. Creates no study and leaves nothing behind."""
    from hpsearch.cli.options import load
    from hpsearch.cli.run import require_space
    from hpsearch.cli.terminal import leave, say
    from hpsearch.execution.devices import choose_device
    from hpsearch.execution.local_executor import LocalExecutor
    from hpsearch.execution.resources import slot_count, slot_threads
    from hpsearch.forecasting.benchmark import Bench, measure_speed
    from hpsearch.forecasting.forecast import THOROUGH, draw_configs, forecast
    from hpsearch.training.memory import machine_memory
    from hpsearch.tuning.request import DEFAULT_SAMPLER, CheckedModel, Request, check, new_budget, require_trials
    from hpsearch.tuning.session import require_baseline_fits

    signal.signal(signal.SIGTERM, leave)
    require_trials(f"--trials {trials}", trials)
    chosen = load(require_space(space), settings, budget, data)
    if chosen.own:
        raise BadInput(f"--space {space}: only the runs of a trainer of your own tell its price; run a few trials first")
    devices = choose_device(device)
    count = slot_count(slots, devices)
    threads = slot_threads(count, devices)
    with temporary_folder("price") as nowhere:
        request = Request(
            space=chosen,
            name="price",
            trials=trials,
            storage_url="",
            studies_dir=nowhere,
            cache_dir=cache_dir(),
            devices=devices,
            threads=threads,
        )
        checked = check(request)
        assert isinstance(checked, CheckedModel)
        if devices[0] == "cpu":
            require_baseline_fits(chosen, checked, machine_memory())
        bench = Bench(chosen, request.cache_dir, devices, threads, checked.fingerprint)
        say(f"measuring up to {THOROUGH.shapes} shapes of the space in {count} slot{'s' if count > 1 else ''} ...")
        with contextlib.closing(LocalExecutor(count, threads)) as executor:
            speed = None
            if chosen.budget.kind == "device_seconds":
                speed = measure_speed(bench, executor, checked.baseline)
            record = new_budget(request, speed)
            sampler = DEFAULT_SAMPLER
            configs = draw_configs(chosen, lambda proposal: checked.workload.candidate(proposal, record), sampler=sampler)
            found = forecast(bench, executor, configs, trials, checked.corpus, sampler=sampler)
    if as_json:
        print_json(forecast_dict(found))
    else:
        print_forecast(found)


def forecast_dict(found: Forecast) -> dict[str, Any]:
    """The forecast as documented JSON: `trials`, `slots`, `rungs`, `seconds` (wall time of the study), `slowest_seconds`
    (the same if every trial is as the slowest), `tokens`, `flops` (training, as in budgets), `evaluation_flops` (beside it),
    `disk_bytes`, `memory_bytes` of all of it, `baseline_evaluations` (FLOPs of the baseline's evaluations over those of its
    training), `trial` (of the mean one), `by_rung` (of the mean one, up to each) and `shapes` (what was measured)."""
    from hpsearch.model.counting import count

    return {
        "trials": found.trials,
        "slots": found.slots,
        "rungs": found.rungs,
        "seconds": found.seconds,
        "slowest_seconds": found.slowest_seconds,
        "tokens": found.trials * found.trial.tokens,
        "flops": found.trials * found.trial.flops,
        "evaluation_flops": found.trials * found.trial.evaluation_flops,
        "baseline_evaluations": found.baseline_evaluations,
        "disk_bytes": found.disk_bytes,
        "memory_bytes": found.memory_bytes,
        "trial": asdict(found.trial),
        "by_rung": [{"rung": rung, **_without_disk(cost)} for rung, cost in enumerate(found.by_rung(), 1)],
        "shapes": [
            {
                "num_parameters": count(shape.config).num_parameters,
                "batch_tokens": shape.config.batch_size * shape.config.context_length,
                "flops_per_s": shape.flops_per_s,
                **{key: value for key, value in asdict(shape).items() if key != "config"},
            }
            for shape in found.shapes
        ],
    }


def print_forecast(found: Forecast) -> None:
    from hpsearch.cli.terminal import print_table
    from hpsearch.forecasting.forecast import dear_evaluations, note
    from hpsearch.model.counting import count
    from hpsearch.results.formatting import amount, duration

    print(f"{found.trials} trials, {found.slots} at a time: about {duration(found.seconds)} if none is pruned")
    print(f"        {duration(found.slowest_seconds)} if all are as the slowest")
    print(f"tokens  {amount(found.trials * found.trial.tokens, '')}")
    beside = amount(found.trials * found.trial.evaluation_flops, "FLOP")
    print(f"compute {amount(found.trials * found.trial.flops, 'FLOP')} of training; {beside} of evaluations, in no budget")
    print(f"disk    {amount(found.disk_bytes, 'B')} of checkpoints")
    print(f"memory  {amount(found.memory_bytes, 'B')} in all slots together, with the largest model that was measured")
    print("\nthe mean trial, up to each rung")
    rows = [
        [f"{rung}/{found.rungs}", duration(cost.seconds), amount(cost.tokens, ""), amount(cost.flops, "FLOP")]
        for rung, cost in enumerate(found.by_rung(), 1)
    ]
    print_table(["rung", "time", "tokens", "compute"], rows)
    print("\nwhat was measured")
    rows = [
        [
            f"{count(shape.config).num_parameters:,}",
            f"{shape.config.batch_size} x {shape.config.context_length}",
            f"{1000 * shape.step_s:.3g} ms",
            amount(shape.flops_per_s, "FLOP/s"),
            f"{shape.evaluation_s:.3g} s",
            f"{shape.checkpoint_s:.3g} s",
            f"{shape.start_s + shape.end_s:.3g} s",
            amount(shape.peak_bytes, "B"),
        ]
        for shape in found.shapes
    ]
    header = ["parameters", "batch", "step", "speed", "evaluation", "checkpoint", "start and sample", "memory"]
    print_table(header, rows)
    if dear := dear_evaluations(note(found)):
        print(f"\n{dear}")
    print(
        "\nTrials are forecast as random draws from the space at first, and then ever more as what scaling laws find best for "
        "the budget, where a search is likely to go. Pruning makes a study cheaper."
    )


def _without_disk(cost: TrialCost) -> dict[str, float]:
    return {name: value for name, value in asdict(cost).items() if name != "disk_bytes"}
