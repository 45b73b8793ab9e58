"""Verbs that read: studies, status, trials, show."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli import streams
from hpsearch.cli.app import app
from hpsearch.cli.options import (
    STUDIES_DIR,
    JsonOption,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    load_view,
    open_for_reading,
    open_store,
    print_json,
    require_writable,
)
from hpsearch.cli.terminal import print_table
from hpsearch.errors import BadInput
from hpsearch.files import write_atomically
from hpsearch.text import TOLD, measured, printable, shortened

if TYPE_CHECKING:
    from hpsearch.results.view import StudyView
    from hpsearch.storage.records import PointRecord, TrialRecord


SPARK = 10
"""Characters of a curve in a table."""
GOES_ON = "the same `hpsearch run` goes on with it; where a limit was reached, with a larger one"
"""Of a study that has not ended. Why it was left is known only to the process that left it."""
NARROW = 100
"""Columns of a terminal below which the table of trials leaves out what matters least, so that the reason is whole."""


@app.command()
def studies(storage: StorageOption = None, studies_dir: StudiesDirOption = STUDIES_DIR, as_json: JsonOption = False) -> None:
    """List the studies of a storage."""
    from hpsearch.results.formatting import short
    from hpsearch.results.view import StudyView, status_dict

    store = open_store(storage, studies_dir)
    views = [StudyView.summary(store, record) for record in store.studies()]
    if as_json:
        print_json([status_dict(view) for view in views])
        return
    rows = [
        [
            view.study.name,
            f"{sum(trial.state.ended for trial in view.trials)}/{view.study.trials_target}",
            view.study.objectives[0],
            short(view.best.value) if view.best else "-",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(view.study.created_at)),
        ]
        for view in views
    ]
    print_table(["study", "trials", "objective", "best", "created"], rows)


@app.command()
def status(
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    as_json: JsonOption = False,
) -> None:
    """How a study stands: counts, the best so far and its config."""
    from hpsearch.results.formatting import described, duration, searched_by
    from hpsearch.results.view import StudyView, status_dict

    store, record = open_for_reading(storage, studies_dir, study)
    view = StudyView.summary(store, record)
    owner = store.owner(record.id)
    if as_json:
        running_in = {"host": owner.host, "pid": owner.pid} if owner else None
        print_json(status_dict(view) | {"owner": running_in, "edges": at_edge(view)})
        return
    counts = ", ".join(f"{count} {state}" for state, count in view.counts.items() if count)
    ended = sum(trial.state.ended for trial in view.trials)
    print(f"study    {record.name} ({', '.join(record.objectives)}; {searched_by(record)})")
    print(f"trials   {ended} of {record.trials_target}: {counts or 'none yet'}")
    proposers = Counter(trial.proposed_by for trial in view.trials)
    if proposers:
        print(f"proposed {', '.join(f'{count} by {name}' for name, count in proposers.items())}")
    if owner:
        print(f"owner    running on {owner.host}, process {owner.pid}")
    else:
        print(f"owner    nobody works on it; {record.finished_reason or GOES_ON}")
    if view.best is not None and view.best.value is not None:
        print(f"best     trial {view.best.number}: {record.objectives[0]} {measured(view.best.value)}")
        print(f"         {described(view.best.params)}")
        for told in at_edge(view):
            print(f"         {told}")
    if "earlier" in record.extras:
        from hpsearch.sampling.warm_start import kept  # Here: it brings numpy, and most studies have none.

        for earlier in kept(record):
            first, *rest = earlier.sentences(record)
            print(f"earlier  {first}", *(f"         {told}" for told in rest), sep="\n")
    if view.baseline is not None and view.baseline.value is not None:
        print(f"baseline trial 0: {record.objectives[0]} {measured(view.baseline.value)}")
    if len(record.objectives) > 1 and view.front:
        for index, trial in enumerate(view.front):
            print(f"{'' if index else 'front':9}trial {trial.number}: {told_values(view, trial)}")
    if view.verdict is not None:
        print(f"verdict  {view.verdict.sentences[0]}")
    print(f"spent    {duration(sum(trial.seconds for trial in view.trials))} of training in all slots")
    noted = record.extras.get("forecast", {})
    if noted.get("error") is not None:
        expected, took = duration(noted["expected_s"]), duration(noted["actual_s"])
        print(f"forecast {expected} for what was done, which took {took} ({100 * noted['error']:+.0f} %)")


def told_values(view: StudyView, trial: TrialRecord) -> str:
    """All objectives of a complete trial, by name."""
    from hpsearch.results.formatting import short

    return ", ".join(f"{name} {short(value)}" for name, value in zip(view.study.objectives, trial.values or (), strict=False))


def at_edge(view: StudyView) -> list[str]:
    """What is to be said of the best trial's values at the edge of what was searched."""
    from hpsearch.space.edges import edges
    from hpsearch.space.load import parse_space

    if view.best is None:
        return []
    return edges(parse_space(view.study.space_text, f"study {view.study.name}"), view.best.params)


@app.command()
def trials(
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    format: Annotated[
        str | None, typer.Option("--format", metavar="csv|parquet", help="A table, a row a trial.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the table goes; csv by default to standard output.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the trials of a study."""
    from hpsearch.results.formatting import described, short
    from hpsearch.results.sparkline import levels_for, sparkline
    from hpsearch.results.tables import Columns
    from hpsearch.results.view import trial_dict

    if format is not None or out is not None:
        if as_json:
            raise BadInput("--json and a table are two forms; keep one")
        write_table(lambda: load_view(storage, studies_dir, study, curves=False), format or "csv", out)
        return
    view = load_view(storage, studies_dir, study, curves=not as_json)
    if as_json:
        print_json([trial_dict(trial) for trial in view.trials])
        return
    levels = levels_for(sys.stdout.encoding)
    objectives = view.study.objectives
    before, after = ["trial", "state"], ["curve", "rung", "seconds", "by", "reason, or what was proposed"]
    columns = Columns((*before, *after))
    header = [*before, *(columns.add("objective", name) for name in objectives), *after]
    rows = [
        [
            str(trial.number),
            str(trial.state),
            *("-" if value is None else short(value) for value in trial.values or [None] * len(objectives)),
            sparkline(curve_of(view, trial.number), SPARK, levels),
            f"{trial.rung}/{view.study.budget.evaluations}",
            f"{trial.seconds:.1f}",
            trial.proposed_by,
            shortened(trial.reason, TOLD) or described(trial.params),
        ]
        for trial in view.trials
    ]
    if sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW:
        curve = header.index("curve")
        header, *rows = [[*row[:curve], row[curve + 1], row[-1]] for row in [header, *rows]]
    print_table(header, rows)


def curve_of(view: StudyView, number: int) -> list[float]:
    """What the trial's learning curve shows, evaluation by evaluation."""
    return [point.metrics.get(view.curve_metric, math.nan) for point in view.curve(number)]


def write_table(load: Callable[[], StudyView], format: str, out: Path | None) -> None:
    """The table of `hpsearch trials`. Raises BadInput before the study is read for a form or a file that cannot be."""
    from hpsearch.results.tables import to_csv, write_parquet

    if format not in ("csv", "parquet"):
        raise BadInput(f"--format {format}: use csv or parquet")
    if out is not None:
        require_writable(out)
    elif format == "parquet":
        raise BadInput("--format parquet: it is no text; name a file with --out FILE")
    if format == "parquet":
        assert out is not None
        write_parquet(load(), out)
    elif out is None:
        streams.document(to_csv(load()))
    else:
        write_atomically(out, to_csv(load()))


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The trial's number.")],
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    as_json: JsonOption = False,
) -> None:
    """One trial: config, curve, decisions, attempts, parameter groups, and why it ended."""
    from hpsearch.results.view import trial_dict

    view = load_view(storage, studies_dir, study)
    trial = view.pick(number)
    folder = studies_dir / view.study.folder / "trials" / f"{number:04d}"
    groups = parameter_groups(folder)
    if as_json:
        document = trial_dict(trial)
        document["points"] = [point_dict(point) for point in view.curve(number)]
        document["attempts_history"] = [dataclass_dict(attempt) for attempt in view.attempts if attempt.trial_number == number]
        document["decisions"] = [dataclass_dict(decision) for decision in view.decisions if decision.trial_number == number]
        document["parameter_groups"] = groups
        print_json(document)
        return
    show_trial(view, trial, groups)


def show_trial(view: StudyView, trial: TrialRecord, groups: list[dict[str, Any]]) -> None:
    from hpsearch.results.formatting import described, short
    from hpsearch.results.sparkline import levels_for, sparkline
    from hpsearch.results.tables import Columns

    name = view.study.objectives[0]
    value = f", {name} {measured(trial.value)}" if trial.value is not None else ""
    print(f"trial {trial.number} of '{view.study.name}': {trial.state}{value}; proposed by {trial.proposed_by}")
    if trial.reason:
        print(f"reason: {printable(trial.reason)}")
    print(f"proposed: {described(trial.params)}")
    if view.study.own:
        print(f"steps {trial.iteration} of {view.study.steps(trial)}; {trial.seconds:.1f} s")
    else:
        print(f"parameters: {trial.num_parameters:,}; tokens {trial.tokens:,}; {trial.flops:.3g} FLOP; {trial.seconds:.1f} s")
    print("\nconfig")
    for key, setting in trial.config.items():
        if setting is not None:
            print(f"  {printable(key):30} {short(setting)}")
    points = view.curve(trial.number)
    if points:
        curve = sparkline(curve_of(view, trial.number), 2 * SPARK, levels_for(sys.stdout.encoding))
        print(f"\nevaluations  {curve}")
        metrics = sorted({name for point in points for name in point.metrics})
        before: dict[str, Callable[[PointRecord], str]] = {
            "tokens": lambda point: f"{point.tokens}",
            "train_loss": lambda point: measured(point.train_loss),
        }
        after: dict[str, Callable[[PointRecord], str]] = {
            "learning_rate": lambda point: short(point.learning_rate),
            "tokens/s": lambda point: f"{point.tokens_per_s:.0f}",
        }
        if view.study.own:
            before, after = {}, {"seconds": lambda point: f"{point.seconds:.1f}"}
        rows = [
            [
                str(point.rung),
                str(point.iteration),
                *(cell(point) for cell in before.values()),
                *(measured(point.metrics[metric]) if metric in point.metrics else "-" for metric in metrics),
                *(cell(point) for cell in after.values()),
            ]
            for point in points
        ]
        columns, objectives = Columns(("rung", "step", *before, *after)), view.study.objectives
        named = [columns.add("objective" if metric in objectives else "metrics", metric) for metric in metrics]
        print_table(["rung", "step", *before, *named, *after], rows)
    decisions = [decision for decision in view.decisions if decision.trial_number == trial.number]
    if decisions:
        print("\ndecisions")
        rows = [
            [str(decision.rung), decision.action, decision.decided_by, shortened(decision.reason, TOLD)]
            for decision in decisions
        ]
        print_table(["rung", "action", "decided by", "reason"], rows)
    if groups:
        print("\nparameter groups")
        print_table(list(groups[0]), [[short(group[key]) for key in groups[0]] for group in groups])
    attempts = [attempt for attempt in view.attempts if attempt.trial_number == trial.number]
    if attempts:
        print("\nattempts")
        rows = [
            [
                str(a.attempt),
                a.slot,
                a.host,
                str(a.pid),
                str(a.from_iteration),
                a.outcome or "running",
                shortened(a.reason, TOLD),
            ]
            for a in attempts
        ]
        print_table(["attempt", "slot", "host", "process", "from step", "outcome", "reason"], rows)
    if trial.sample:
        print("\nsample")
        print("\n".join(f"  {line}" for line in trial.sample.splitlines()))


def parameter_groups(folder: Path) -> list[dict[str, Any]]:
    """What the optimizer decays and what not, as the trial's log says; empty when there is no log here."""
    import json

    log = folder / "log.jsonl"
    if not log.exists():
        return []
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # A line that a killed slot left half written.
                entry = json.loads(line)
                if "groups" in entry:
                    return list(entry["groups"])
    return []


def point_dict(point: Any) -> dict[str, Any]:
    document = dataclass_dict(point)
    return {key: value for key, value in document.items() if key != "trial_number"}


def dataclass_dict(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)
