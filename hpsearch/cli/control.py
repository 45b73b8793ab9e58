"""Verbs that watch and steer a study from another terminal: watch, stop, resume, prune, enqueue.

One coordinator owns a study and alone writes its trials. These verbs leave requests in the database, which it reads about once
a second; a request that finds no coordinator waits for the next one, but for `stop`, which would stop that one.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    STUDIES_DIR,
    CheckpointsDirOption,
    DeviceOption,
    JsonOption,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    cache_dir,
    open_for_reading,
    parse_setting,
    print_json,
    same_place,
)
from hpsearch.cli.run import TimeoutOption, run
from hpsearch.cli.terminal import say, view
from hpsearch.errors import BadInput, did_you_mean
from hpsearch.files import write_atomically
from hpsearch.scratch import temporary_folder
from hpsearch.text import measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpsearch.space.parameters import Searched
    from hpsearch.space.space import SearchSpace
    from hpsearch.storage.records import StudyRecord, TrialRecord
    from hpsearch.storage.store import Store
    from hpsearch.training.events import EvalPoint, Progress

WAIT_POLL_S = 0.5


@app.command()
def watch(
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output for each change.")] = False,
) -> None:
    """Attach to a running study; Ctrl-C leaves it, and the study goes on."""
    from hpsearch.results.formatting import described
    from hpsearch.results.view import StudyView
    from hpsearch.tuning.follower import Follower

    store, record = open_for_reading(storage, studies_dir, study)
    slots = sum(attempt.ended_at is None for attempt in store.attempts(record.id))
    reason: str | None = None
    with contextlib.suppress(KeyboardInterrupt), JsonLines() if as_json else view(slots) as watcher:
        reason = Follower(store, record, watcher).follow()
    if reason is None:
        say(f"left; study '{record.name}' goes on")
        return
    if as_json:
        _line("closed", finished_reason=reason)
        return
    seen = StudyView.load(store, store.study(record.name), curves=False)
    if seen.best is not None and seen.best.value is not None:
        print(f"best: trial {seen.best.number}, {seen.objective} {measured(seen.best.value)}: {described(seen.best.params)}")
    place = same_place(storage, studies_dir)
    say(f"study '{record.name}' {f'is finished: {reason}' if reason else f'is not worked on; {_go_on(record, place)}'}")


@app.command()
def stop(
    study: StudyOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the study is left.")] = False,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Pause the running trials of a study and end the process that works on it; `resume` goes on."""
    store, record = open_for_reading(storage, studies_dir, study)
    owner = store.owner(record.id)
    if owner is None:
        say(f"nobody works on study '{record.name}'; there is nothing to stop")
        return
    store.request(record.id, "stop", {})
    say(f"asked process {owner.pid} on {owner.host} to pause study '{record.name}'")
    while wait and store.owner(record.id) == owner:
        time.sleep(WAIT_POLL_S)


@app.command()
def resume(
    study: StudyOption = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", metavar="N", help="Total of trials; by default that of before.", show_default=False),
    ] = None,
    slots: Annotated[
        str, typer.Option("--slots", metavar="N|auto", help="Trials at a time; auto: one per GPU, else one per core.")
    ] = "auto",
    device: DeviceOption = "auto",
    timeout: TimeoutOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    checkpoints_dir: CheckpointsDirOption = None,
    as_json: JsonOption = False,
) -> int:
    """Go on with a study as it was begun, from the space in its database."""
    store, record = open_for_reading(storage, studies_dir, study)
    store.close()
    if record.own:
        # What is in a database names no program to run.
        raise BadInput(f"study '{record.name}' has a trainer of your own: go on with the command that began it")
    with temporary_folder("resume") as folder:
        space = folder / "space.yaml"
        write_atomically(space, record.space_text)
        return run(
            space=str(space),
            trials=record.trials_target if trials is None else trials,
            study=record.name,
            storage=storage,
            studies_dir=studies_dir,
            checkpoints_dir=checkpoints_dir,
            slots=slots,
            device=device,
            timeout=timeout,
            as_json=as_json,
        )


@app.command()
def prune(
    number: Annotated[int, typer.Argument(metavar="N", help="The trial's number.")],
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """End a running or paused trial as pruned by hand."""
    store, record = open_for_reading(storage, studies_dir, study)
    trial = store.trial(record.id, number)
    if trial.state.ended:
        raise BadInput(
            f"trial {number} of study '{record.name}' has ended ({trial.state}); only a running or paused one can be"
        )
    store.request(record.id, "prune", {"number": number})
    say(f"trial {number}: to be pruned {_when(store, record, same_place(storage, studies_dir))}")


@app.command()
def enqueue(
    settings: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A searched parameter; the others are the baseline's.")
    ],
    study: StudyOption = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Give a study a configuration to try next."""
    from hpsearch.results.formatting import described
    from hpsearch.space.load import parse_space

    store, record = open_for_reading(storage, studies_dir, study)
    space = parse_space(record.space_text, f"study {record.name}")
    trials = store.trials(record.id)
    params = proposal(space, settings, next((trial.params for trial in trials if trial.number == 0), {}))
    if (studies_dir / record.folder).is_dir():  # Elsewhere the text may not be here, and only the coordinator can tell.
        require_trainable(space, params, record, settings)
    store.request(record.id, "enqueue", {"params": params})
    place = same_place(storage, studies_dir)
    say(f"{described(params)}: to be tried {_when(store, record, place)}")
    if record.finished_reason or sum(trial.state.ended for trial in trials) >= record.trials_target:
        more = f"`hpsearch resume --study {record.name} --trials N{place}`"
        say(f"the study has its {record.trials_target} trials; more with {more}")


def proposal(space: SearchSpace, words: list[str], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of `--set` words, with the baseline's values for what they leave open. Raises BadInput.

    baseline: trial 0's; empty while there is none, and the priors' are taken without the scaling laws.
    """
    given: dict[str, Any] = {}
    searched = {parameter.name: parameter for parameter in space.searched}
    for word in words:
        written, text = parse_setting(word)
        name = space.names.aliases.get(written, written)
        if name not in searched:
            fixed = "; it is not searched in this study" if name in space.parameters else did_you_mean(name, searched)
            raise BadInput(f"--set {word}: '{written}' is no searched parameter{fixed}")
        given[name] = _value(space, searched[name], word, text)
    prior: dict[str, Any] = {**space.prior(), **baseline}
    params = space.propose(
        lambda parameter, _: (
            given[parameter.name] if parameter.name in given else prior.get(parameter.name, _default(parameter))
        )
    )
    for name in given:
        if name not in params:
            when = searched[name].when
            raise BadInput(f"--set {name}: it does nothing here: it needs {when.text if when else 'another choice'}")
    broken = space.violation(space.settings(params))
    if broken:
        raise BadInput(f"{_set(words)}: {broken}")
    return params


def require_trainable(space: SearchSpace, params: Mapping[str, Any], record: StudyRecord, words: list[str]) -> None:
    """Raises BadInput where no trial can be made of `params`: here it costs no trial's number."""
    from hpsearch.workload.workload import LanguageModel

    measured = record.budget.kind != "device_seconds" or record.budget.flops is not None
    if record.own or not measured:
        return
    try:
        LanguageModel(space, cache_dir()).require(params, record.budget)
    except BadInput as error:
        raise BadInput(f"{_set(words)}: {error}") from None


def _set(words: list[str]) -> str:
    return f"--set {' --set '.join(words)}"


def _value(space: SearchSpace, parameter: Searched, word: str, text: str) -> Any:
    """What a word says, read as in the space's file, among the values of the parameter."""
    from hpsearch.errors import SpaceError
    from hpsearch.space.parameters import Range
    from hpsearch.space.parse import read_given
    from hpsearch.space.yaml_nodes import Place, Scalar, read_word

    place = Place("--set")
    try:
        node = read_word(text, place.path)
        if isinstance(parameter, Range):
            value = None
            with contextlib.suppress(SpaceError):  # A word that is no number is out of the range like any other.
                value = read_given(space.names, parameter.info, node)
            if value is None or not parameter.contains(value) or parameter.snapped(value) != value:  # type: ignore[arg-type]
                step = f" in steps of {parameter.step}" if parameter.step else ", whole numbers" if parameter.whole else ""
                raise BadInput(f"--set {word}: {parameter.name} is searched from {parameter.low} to {parameter.high}{step}")
            return value
        # A text that looks like a number, and was written in quotes, is found by its word.
        for given in (node, Scalar(text, place)):
            with contextlib.suppress(SpaceError):
                value = read_given(space.names, parameter.info, given)
                if value in parameter.choices:
                    return parameter.choices[parameter.choices.index(value)]
    except SpaceError as error:
        raise BadInput(f"--set {word}: {error.message}") from None
    raise BadInput(f"--set {word}: {parameter.name} is one of {', '.join(map(str, parameter.choices))}")


def _default(parameter: Searched) -> Any:
    prior = parameter.prior
    return parameter.middle if prior is None or prior == "auto" else prior


def _when(store: Store, record: StudyRecord, place: str) -> str:
    return "in a moment" if store.owner(record.id) else f"when the study goes on; {_go_on(record, place)}"


def _go_on(record: StudyRecord, place: str) -> str:
    """place: options by which another command finds the study."""
    return f"`hpsearch resume --study {record.name}{place}` goes on with it"


class JsonLines:
    """A watcher that prints each change as one line of JSON."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        ended = sum(trial.state.ended for trial in trials)
        _line("opened", study=study.name, trials_target=study.trials_target, trials_ended=ended)

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        _line(
            "started", trial=trial.number, attempt=trial.attempts, slot=slot, from_iteration=from_iteration, params=trial.params
        )

    def progress(self, trial: TrialRecord, progress: Progress) -> None: ...

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        metrics = {name: value if math.isfinite(value) else None for name, value in point.metrics.items()}
        _line("evaluated", trial=trial.number, rung=point.rung, iteration=point.iteration, metrics=metrics)

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        best_number = best.number if best else None
        _line("ended", trial=trial.number, state=str(trial.state), value=trial.value, reason=trial.reason, best=best_number)

    def note(self, text: str) -> None:
        _line("note", text=text)


def _line(event: str, **facts: Any) -> None:
    print_json({"event": event} | facts, indent=None)
