"""What is asked of a study, validated before anything is created."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus
from hpsearch.errors import BadInput, ConfigError
from hpsearch.execution.protocol import FunctionTrainer, ProgramTrainer
from hpsearch.objectives import OBJECTIVES
from hpsearch.paths import require_writable
from hpsearch.sampling.samplers import make_sampler, require_learner
from hpsearch.sampling.warm_start import EarlierStudy, Source, read
from hpsearch.scheduling.pruners import make_pruner
from hpsearch.scheduling.schedulers import check_scheduler
from hpsearch.space.names import lookup
from hpsearch.space.parameters import Choices, Range
from hpsearch.space.space import SearchSpace
from hpsearch.space.yaml_nodes import Place
from hpsearch.storage.foreign_studies import others_directions
from hpsearch.storage.limits import longest_text, longest_value
from hpsearch.storage.records import STUDY_NAME, BudgetRecord
from hpsearch.storage.store import Store
from hpsearch.storage.urls import sqlite_file, sqlite_url
from hpsearch.workload.feasibility import Corpora, concrete, open_text, outside
from hpsearch.workload.workload import LanguageModel, OwnTrainer, Workload

MOST_TRIALS = 1_000_000
"""Of one study. Each is a row that every start reads; and a number's column on a server ends at 2^31."""

DEFAULT_SAMPLER = "auto"
DEFAULT_PRUNER = "median"
MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Request:
    """What `hpsearch run` was asked to do. None: not said, so the study's own (or the default) holds."""

    space: SearchSpace
    name: str
    trials: int
    storage_url: str
    studies_dir: Path
    cache_dir: Path
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    sampler: str | None = None
    pruner: str | None = None
    scheduler: str | None = None
    seed: int | None = None
    earlier: tuple[Source, ...] = ()
    """Studies whose trials inform the sampler. Empty: none, or those that the study was begun with."""
    trainer: FunctionTrainer | ProgramTrainer | None = None
    """Of one's own; the space is then one for such a trainer."""
    checkpoints_dir: Path | None = None
    """Where checkpoints go, a folder for each study and trial in it; None: in the trials' folders."""
    files_elsewhere: bool = False
    """Whether trials keep their files where this machine does not see them."""


@dataclass(frozen=True)
class Checked:
    """What is known of a request before anything is created."""

    workload: Workload
    data: dict[str, Any]
    """What trials train on: a text, or what a trainer of one's own is."""
    fingerprint: str
    earlier: tuple[EarlierStudy, ...] = ()
    """What a new study starts from."""


@dataclass(frozen=True, kw_only=True)
class CheckedModel(Checked):
    """The same of a study of the built-in model."""

    workload: LanguageModel
    baseline: TrialConfig
    corpus: Corpus


def check(request: Request) -> Checked:
    """Find everything that is wrong with a request before anything is written. Raises BadInput."""
    if request.seed is not None and not 0 <= request.seed <= MOST_SEED:
        raise BadInput(f"--seed {request.seed}: give a whole number from 0 to {MOST_SEED}")
    if not STUDY_NAME.fullmatch(request.name):
        raise BadInput(
            f"--study '{request.name[:140]}': a study's name has 1 to 128 characters out of letters, digits, '.', '_' and '-'"
        )
    space = request.space
    sampler = DEFAULT_SAMPLER if request.sampler is None else request.sampler
    make_sampler(sampler, space, 0, 0)
    if request.earlier:
        require_learner(sampler)
    make_pruner(DEFAULT_PRUNER if request.pruner is None else request.pruner, space.budget.evaluations)
    if len(space.objectives) > 1 and request.pruner not in (None, "none"):
        raise BadInput(
            f"--pruner {request.pruner}: Optuna's pruners know one objective, and there are {len(space.objectives)}; "
            "--scheduler halving compares trials in all of them"
        )
    check_scheduler("none" if request.scheduler is None else request.scheduler)
    if space.own or request.trainer is not None:
        return _check_own(request)
    _require_curve(request)
    _require_storage(request)  # The text last: it takes longest, and what is prepared of it is kept.
    proposal = space.prior()
    settings = space.settings(proposal)
    corpora: Corpora = {}
    corpus = open_text(space, settings, request.cache_dir, corpora)
    corpus.require(_longest_context(space), int(lookup("eval_iters", settings)))
    placeholder = new_budget(request, flops_per_s=1e12)
    try:
        baseline = concrete(space, proposal, placeholder, request.cache_dir, corpora)
    except ConfigError as error:
        raise space.document.place.error(f"the baseline (the priors) cannot be trained: {error}") from None
    broken = outside(space, baseline)
    if broken:
        raise _constraints_place(space).error(
            f"the baseline (the priors) is outside a constraint: {broken.sentence()}; change a prior"
        )
    begun = not request.earlier or _begun(request)
    earlier = () if begun else tuple(read(request.earlier, request.name, space))
    workload = LanguageModel(space, request.cache_dir, corpora)
    return CheckedModel(
        workload=workload,
        data=space.data.model_dump(mode="json"),
        fingerprint=corpus.data_fingerprint,
        earlier=earlier,
        baseline=baseline,
        corpus=corpus,
    )


def _has_curve(space: SearchSpace) -> bool:
    """Whether any objective is known before a trial ends. (A trainer of one's own reports what it likes.)"""
    return space.own or any(OBJECTIVES[name].known == "while training" for name in space.objectives)


def _require_curve(request: Request) -> None:
    """Refuse what judges trials while they run where there is nothing to judge them by."""
    for option, given in (("--pruner", request.pruner), ("--scheduler", request.scheduler)):
        if given not in (None, "none") and not _has_curve(request.space):
            raise BadInput(
                f"{option} {given}: {' and '.join(request.space.objectives)} tells nothing while a trial trains; leave it "
                "out, or add an objective that does, such as val_loss"
            )


def _check_own(request: Request) -> Checked:
    space, place = request.space, request.space.document.place
    if request.trainer is None:
        raise place.error(
            "this space is for a trainer of your own (trainer: own): give the program with --command, or use hpsearch.tune"
        )
    if not space.own:
        raise place.error("this space is for the built-in model; one for a trainer of your own says `trainer: own`")
    if request.earlier:
        raise BadInput("--from: only studies of the built-in model learn from one another; leave it out")
    if request.checkpoints_dir is not None:
        raise BadInput("--checkpoints-dir: a trainer of your own keeps its checkpoints where it likes; leave it out")
    workload = OwnTrainer(space, request.trainer)
    workload.check(request.scheduler)
    _require_storage(request)
    return Checked(workload, workload.data, workload.fingerprint)


def _begun(request: Request) -> bool:
    """Whether the study is there already, so that nothing is read for it a second time."""
    try:
        with Store.open(request.storage_url, create=False) as store:
            return store.find_study(request.name) is not None
    except BadInput:
        return False  # No table yet; what is wrong otherwise is found when it is opened.


def _require_storage(request: Request) -> None:
    """Refuse a database that cannot be used or not hold the space, and the name of a study that another program made in it."""
    _require_room(request)
    default = request.studies_dir / "hpsearch.db"
    if not request.storage_url:
        return  # Only a price is asked for.
    if request.storage_url == sqlite_url(default) and not default.exists():
        return  # It is made, with its folder, when all else is known.
    file = sqlite_file(request.storage_url)
    if file is not None and not file.exists():  # To open one that is there, and close it, would end this process's locks.
        require_writable(file)
    theirs = others_directions(request.storage_url, request.name)
    if theirs:
        raise BadInput(
            f"study '{request.name}' was made by another program in this database, to {' and '.join(theirs)}; "
            "start another study with --study NAME"
        )


def _require_room(request: Request) -> None:
    """Refuse a space that the database cannot hold. Raises SpaceError."""
    from optuna.distributions import distribution_to_json

    space = request.space
    if not request.storage_url:
        return  # Only a price is asked for.
    if request.storage_url == sqlite_url(request.studies_dir / "hpsearch.db"):
        return  # SQLite has no such limits, and the folder of this file may not exist yet.
    most, text = longest_value(request.storage_url), longest_text(request.storage_url)
    if most is None or text is None:
        return
    advice = "shorten them, or use PostgreSQL or SQLite"
    distributions = space.distributions()
    proposal = 2
    for parameter in space.searched:
        choices = [len(json.dumps(each)) for each in getattr(parameter, "choices", ())]
        proposal += len(json.dumps(parameter.name)) + max(choices, default=24) + 4
        size = len(distribution_to_json(distributions[parameter.name]))
        if size > most:
            raise parameter.place.error(
                f"the choices of {parameter.name} take {size:,} bytes, and MySQL keeps {most:,}; {advice}"
            )
    if proposal > most:
        raise space.document.place.error(f"a configuration takes up to {proposal:,} bytes, and MySQL keeps {most:,}; {advice}")
    size = len(space.to_yaml().encode())
    if size > text:
        raise space.document.place.error(f"the space takes {size:,} bytes, and MySQL is given {text:,} at most; {advice}")


def _constraints_place(space: SearchSpace) -> Place:
    return space.document.places.get("constraints", space.document.place)


def new_budget(request: Request, flops_per_s: float | None = None) -> BudgetRecord:
    """The budget as asked; device-seconds are FLOPs once the speed is known."""
    asked = request.space.budget
    flops = None
    if asked.kind == "flops":
        flops = asked.amount
    elif asked.kind == "device_seconds" and flops_per_s is not None and asked.amount is not None:
        flops = asked.amount * flops_per_s
    return BudgetRecord(asked.kind, asked.amount or 0.0, asked.evaluations, flops, flops_per_s)


def _longest_context(space: SearchSpace) -> int:
    match space.parameters.get("context_length"):
        case Range(high=high):
            return int(high)
        case Choices(choices=choices):
            return max(int(choice) for choice in choices if choice is not None)
        case _:
            return int(lookup("context_length", space.settings(space.prior())))


def require_trials(told: str, trials: int) -> None:
    """Raises BadInput for a total of trials that no study has. told: how it was given."""
    if not 1 <= trials <= MOST_TRIALS:
        raise BadInput(f"{told}: a study has at least 1 trial, and at most {MOST_TRIALS:,}")
