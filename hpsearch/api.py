"""The Python interface: load a space, run a study of the built-in model, tune a trainer of one's own.

`import hpsearch` has these names; nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import operator
import pickle
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from hpsearch.durations import duration_in
from hpsearch.errors import BadInput, NoTrialSucceeded, StoppedForNow, install
from hpsearch.execution.protocol import FunctionTrainer, ProgramTrainer
from hpsearch.execution.resources import on_this_machine
from hpsearch.paths import STUDIES_DIR, cache_dir
from hpsearch.results.study import Study
from hpsearch.space.bundled import find_space
from hpsearch.space.load import load_space as load_file
from hpsearch.space.load import override, parse_space, space_of
from hpsearch.space.space import SearchSpace
from hpsearch.storage.urls import storage_url
from hpsearch.tuning.request import require_trials

if TYPE_CHECKING:
    from hpsearch.tuning.callbacks import Watcher

Space = SearchSpace | Mapping[str, Any] | str | Path
"""A space: one that was loaded, a mapping as its file would have it, the path of a file, a bundled space's name, or the text
of a file (which has more than one line)."""

View = Literal["auto", "live", "lines", "none"]
"""`auto`: a live view in a notebook and on a terminal, else a line for each event."""


class Options(TypedDict, total=False):
    """What `run` and `tune` take besides; as the options of `hpsearch run`."""

    trials: int
    """Total of the study's trials, those already done included; 50."""
    study: str | None
    """Its name; by default the space's."""
    slots: int | Literal["auto"]
    """Trials at a time; `auto`: one per GPU, else one per core."""
    device: str
    """`auto`, `cpu`, `cuda`, `cuda:0`."""
    sampler: str | None
    pruner: str | None
    scheduler: str | None
    seed: int | None
    """Of the sampler."""
    timeout: float | str
    """Seconds in all, or "8h", "90m", after which the study is paused."""
    patience: float
    """Trials in a row without a better one, after which none starts."""
    step_limit: float | str
    """Seconds (or "10m") without a sign of life after which a slot counts as hung; 600."""
    confirm: bool
    """At the end, retrain the best `top` (3) and the baseline on `seeds` (5) fresh seeds."""
    top: int
    seeds: int
    storage: str | None
    """The database's URL; by default SQLite in `studies_dir`."""
    trackers: Sequence[str]
    """`tensorboard`, `mlflow`, `wandb`."""
    studies_dir: str | Path
    """Where studies keep their files; `studies`."""
    checkpoints_dir: str | Path | None
    """Where checkpoints are kept, a folder for each study and trial; by default with the trial."""
    view: View


def load_space(source: Space, *, own: bool = False) -> SearchSpace:
    """A checked search space. own: it is for a trainer of one's own, whether or not it says `trainer: own`.

    Raises BadInput with the place of what is wrong.
    """
    match source:
        case SearchSpace():
            return source
        case Mapping():
            return space_of(source, f"<{source.get('name') or 'space'}>", own=own)
        case str() if "\n" in source:
            return parse_space(source, own=own)
        case _:
            path, _ = find_space(str(source))
            return load_file(path, own=own)


def run(space: Space, *, data: str | None = None, **options: Unpack[Options]) -> Study:
    """Search with the built-in model, as `hpsearch run` does.

    data: another text than the space's. Raises what `tune` raises.
    """
    return _work(override(load_space(space), data={"text": data} if data is not None else None), None, options)


def tune(
    train: Callable[..., Iterator[Any]] | str | Sequence[str],
    space: Space,
    *,
    objective: str | None = None,
    direction: Literal["minimize", "maximize"] | None = None,
    steps: int | None = None,
    evaluations: int | None = None,
    **options: Unpack[Options],
) -> Study:
    """Search with a trainer of one's own: a generator function `train(config, run)`, or the command line of a program.

    train: yields `hpsearch.Evaluation`; `hpsearch.Run` says what it is told. Slots are processes, so it is a function of a
    module, or one that cloudpickle can carry (a notebook's; needs the extra `notebook`). A partial, a bound method or an object
    that can be called is as good, if it can be pickled. A text is a command as in
    `hpsearch run --command`. space: as for `load_space`, or a mapping of parameters alone. objective, direction, steps,
    evaluations: for a mapping that does not say them (`objective:`, `budget:`).

    Raises BadInput before anything is created; NoTrialSucceeded at the end when no trial did; KeyboardInterrupt after Ctrl-C,
    once all trials are paused: the same call goes on with them.
    """
    trainer = _program(train) if isinstance(train, str | Sequence) else _function(train)
    called = _unwrapped(train)
    plain = "program" if isinstance(trainer, ProgramTrainer) else getattr(called, "__name__", type(called).__name__)
    name = re.sub("[^A-Za-z0-9._-]+", "", str(plain))[:128] or "own"
    return _work(_own_space(space, name, objective, direction, steps, evaluations), trainer, options)


def _work(space: SearchSpace, trainer: FunctionTrainer | ProgramTrainer | None, options: Options) -> Study:
    """Create or resume a study and work on it until it has all its trials."""
    from hpsearch.tuning.request import Request
    from hpsearch.tuning.session import work, write_results
    from hpsearch.tuning.stopping import Limits

    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(Options.__annotations__)}")
    trials, view = _whole("trials", options.get("trials", 50)), options.get("view", "auto")
    require_trials(f"trials={trials}", trials)
    seed = options.get("seed")
    timeout = options.get("timeout", math.inf)
    limits = Limits(
        timeout_s=math.inf if timeout in (None, math.inf) else duration_in("timeout", timeout),
        patience=options.get("patience", math.inf),
    )
    step_limit_s = duration_in("step_limit", options.get("step_limit", 600.0))
    confirm = (_whole("top", options.get("top", 3)), _whole("seeds", options.get("seeds", 5)))
    folder = Path(options.get("studies_dir", STUDIES_DIR))
    where = on_this_machine(str(options.get("slots", "auto")), options.get("device", "auto"))
    request = Request(
        space=space,
        name=options.get("study") or space.name,
        trials=trials,
        storage_url=storage_url(options.get("storage"), folder),
        studies_dir=folder,
        cache_dir=cache_dir(),
        devices=where.devices,
        threads=where.threads,
        sampler=options.get("sampler"),
        pruner=options.get("pruner"),
        scheduler=options.get("scheduler"),
        seed=None if seed is None else _whole("seed", seed),
        trainer=trainer,
        checkpoints_dir=Path(elsewhere) if (elsewhere := options.get("checkpoints_dir")) else None,
    )
    worked = work(
        request,
        where,
        lambda count: _watcher(view, count),
        (lambda text: None) if view == "none" else _say,
        limits=limits,
        step_limit_s=step_limit_s,
        confirm=confirm if options.get("confirm") else None,
        again=_interrupt,
        trackers=options.get("trackers", ()),
    )
    seen, _ = write_results(worked.study, ended=bool(worked.ended))
    worked.study.store.close()
    if worked.signals or worked.confirmation_signals:
        raise KeyboardInterrupt(f"study '{request.name}' is paused; the same call goes on with it")
    if worked.stopped_for_now:
        raise StoppedForNow(f"study '{request.name}' stopped: {worked.stopped_for_now}")
    if worked.ended and seen.best is None:
        reasons = sorted({trial.reason for trial in seen.trials if trial.reason})
        raise NoTrialSucceeded(f"study '{request.name}' is finished and no trial succeeded: {'; '.join(reasons[:3])}")
    return Study(request.name, request.storage_url, folder, seen)


def _whole(name: str, given: Any) -> int:
    """A whole number of any kind, numpy's too. Raises BadInput."""
    if not isinstance(given, bool):
        with contextlib.suppress(TypeError):
            return operator.index(given)
    raise BadInput(f"{name}={given!r}: give a whole number")


def _own_space(
    space: Space,
    name: str,
    objective: str | None,
    direction: str | None,
    steps: int | None,
    evaluations: int | None,
) -> SearchSpace:
    if isinstance(space, SearchSpace):
        if objective or direction or steps or evaluations:
            raise BadInput("objective, direction, steps and evaluations are part of a loaded space; give them there")
        return space
    if not isinstance(space, Mapping):
        if objective or direction or steps or evaluations:
            raise BadInput("objective, direction, steps and evaluations stand in the space's file; give them there")
        return load_space(space, own=True)
    whole: dict[str, Any] = dict(space) if "parameters" in space else {"parameters": dict(space)}
    whole.setdefault("name", name)
    if objective or direction:
        if "objective" in whole:
            raise BadInput("the space has an objective already; give it once")
        measured = objective or "value"
        whole["objective"] = {direction: measured} if direction else measured
    asked = {"steps": steps, "evaluations": evaluations}
    given = {key: count for key, count in asked.items() if count is not None}
    if given:
        if "budget" in whole:
            raise BadInput("the space has a budget already; give it once")
        whole["budget"] = given
    return load_space(whole, own=True)


def _program(train: str | Sequence[str]) -> ProgramTrainer:
    from hpsearch.workload.workload import parse_command

    return parse_command(train if isinstance(train, str) else shlex.join(train))


def _function(train: Callable[..., Any]) -> FunctionTrainer:
    """What is called, as a slot can have it: a function by its module; a partial, a method or an object, and what no module
    has, by value."""
    if not callable(train):
        raise BadInput(f"train is {train!r:.100}: give a generator function train(config, run), or a command line")
    inner = _unwrapped(train)
    module = getattr(inner, "__module__", None) or type(inner).__module__
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    full = f"{module}:{name}"
    if module != "__main__" and "<" not in name:
        with contextlib.suppress(ImportError, AttributeError):
            if FunctionTrainer(full).load() == train:
                return FunctionTrainer(full)
        with contextlib.suppress(Exception):  # cloudpickle can do more, and says what it cannot.
            pickled = pickle.dumps(train)
            if b"__main__" not in pickled:
                return FunctionTrainer(full, pickled)
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:
        raise BadInput(
            f"{full} is not in a module that a slot could import: put it at the top level of a module, or install cloudpickle, "
            f"which carries functions of a notebook ({install('notebook')})"
        ) from None
    try:
        return FunctionTrainer(full, cloudpickle.dumps(train))
    except Exception as error:  # Whatever the parts of an object raise when they are copied.
        raise BadInput(f"{full} cannot be sent to a slot: {error}; put it at the top level of a module") from None


def _unwrapped(train: Any) -> Any:
    """What a partial calls."""
    while isinstance(train, functools.partial):
        train = train.func
    return train


def _watcher(view: View, slots: int) -> AbstractContextManager[Watcher]:
    from rich.console import Console

    from hpsearch.console import LiveView, PlainLines
    from hpsearch.tuning.callbacks import Silent

    if view == "none":
        return contextlib.nullcontext(Silent())
    console = Console()
    if not console.is_jupyter:
        console = Console(stderr=True)
    lively = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
    if view == "live" or (view == "auto" and lively):
        return LiveView(slots, console)
    return PlainLines(slots)


def _say(text: str) -> None:
    from hpsearch.console import say

    say(text)


def _interrupt(_number: int) -> None:
    raise KeyboardInterrupt
