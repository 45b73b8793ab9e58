"""A study: what was asked, frozen, with the database rows and the folder that belong to it."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch import __version__
from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus
from hpsearch.errors import BadInput, ConfigError, StoppedForNow, StudyGone
from hpsearch.execution.protocol import FunctionTrainer, ProgramTrainer
from hpsearch.files import write_atomically
from hpsearch.objectives import OBJECTIVES
from hpsearch.places import require_writable
from hpsearch.search.earlier import NOTED, EarlierStudy, Source, kept, read, require_same
from hpsearch.search.proposals import Corpora, concrete, open_text, outside
from hpsearch.search.pruning import make_pruner
from hpsearch.search.samplers import FeasibleSampler, enqueue_baseline, make_sampler, require_learner
from hpsearch.search.scheduling import check_scheduler
from hpsearch.search.transfer import Knowledge
from hpsearch.search.workload import LanguageModel, OwnTrainer, Prepared, Workload
from hpsearch.space.parameters import Choices, Range
from hpsearch.space.source import Place
from hpsearch.space.space import SearchSpace
from hpsearch.space.values import lookup
from hpsearch.storage.engine import optuna_storage, sqlite_file, sqlite_url
from hpsearch.storage.limits import longest_text, longest_value
from hpsearch.storage.others import MARK, others_directions
from hpsearch.storage.records import STUDY_NAME, BudgetRecord, Owner, StudyRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.storage.transactions import storage_errors

if TYPE_CHECKING:
    import optuna

    from hpsearch.storage.patient import PatientStorage


def _lease_s() -> float:
    word = os.environ.get("HPSEARCH_LEASE_S", "30")
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 5 <= seconds <= 3600:
        raise BadInput(f"HPSEARCH_LEASE_S={word}: give a number of seconds from 5 to 3600, the same on all machines")
    return seconds


LEASE_S = _lease_s()
"""A coordinator that has not renewed its lease for this long may be taken over by another one. `HPSEARCH_LEASE_S`."""

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


@dataclass
class Study:
    """An open study. Only its coordinator writes through it."""

    record: StudyRecord
    space: SearchSpace
    store: Store
    optuna: optuna.Study
    storage: PatientStorage
    folder: Path
    cache_dir: Path
    resumed: bool
    workload: Workload
    devices: tuple[str, ...] = ("cpu",)
    checkpoints_dir: Path | None = None
    files_elsewhere: bool = False

    @property
    def objective(self) -> str:
        """The first objective: what is reported at each rung and pruned on."""
        return self.record.objectives[0]

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def require_folder(self) -> None:
        """Raises StoppedForNow where the study's folder was taken away or replaced while it is worked on."""
        if not self.folder.is_dir():
            raise StoppedForNow(f"{self.folder}: the study's folder is gone; bring it back, then run the same command again")

    def checkpoints_of(self, number: int) -> Path | None:
        """Where a trial's checkpoints go by a person's command; None where the config says."""
        place = self.checkpoints_dir
        return None if place is None else place / self.folder.name / "trials" / f"{number:04d}"

    def prepare(self, proposal: Mapping[str, Any]) -> Prepared:
        """A proposal as a trial, under the study's budget. Raises BadInput where none can be made of it."""
        return self.workload.prepare(proposal, self.record.budget)

    def violation(self, proposal: Mapping[str, Any]) -> str | None:
        """Why a proposal cannot be a trial: a rule or constraint that it breaks, or a budget that does not pay for it."""
        try:
            self.workload.require(proposal, self.record.budget)
        except BadInput as error:
            return str(error)
        return None

    @property
    def total(self) -> int:
        """Trials of the whole study: its target, or what the sampler can propose. Known once the budget is frozen."""
        assert isinstance(self.optuna.sampler, FeasibleSampler)
        return self.optuna.sampler.limit(self.record.trials_target)

    def exists(self) -> bool:
        """Whether Optuna still has the study; its dashboard can delete it at any moment."""
        return self.storage.name_of(self.record) is not None

    def discard(self) -> None:
        """Undo the creation of a study that turned out to be impossible before its first trial."""
        self.storage.delete_study(self.storage.id_of(self.record))
        self.store.delete_study(self.record.id)
        remove_study(self.folder)

    def freeze_budget(self, flops_per_s: float, speed_config: str, token: str) -> None:
        """Note the speed that was measured, and turn device-seconds into FLOPs with it, once and for all trials."""
        budget = self.record.budget
        flops = budget.amount * flops_per_s if budget.kind == "device_seconds" else budget.flops
        measured = replace(budget, flops=flops, flops_per_s=flops_per_s, speed_config=speed_config)
        self.store.set_budget(self.record.id, measured, token=token)
        self.record = replace(self.record, budget=measured)
        self.write_files()

    def write_files(self) -> None:
        """`space.yaml` and `study.json` for people; the database is what counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "space.yaml", self.record.space_text)
        write_atomically(self.folder / "study.json", json.dumps(asdict(self.record), indent=2) + "\n")


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
        raise _constraints_place(space).error(f"the baseline (the priors) is outside a constraint: {broken}; change a prior")
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


def remove_study(folder: Path) -> bool:
    """Remove a study's folder with all that is in it; whether it is gone. Of a link to one elsewhere only the link goes."""
    if folder.is_symlink():
        folder.unlink()
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


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


def open_study(request: Request, checked: Checked, owner: Owner) -> Study:
    """Create the study, or open the one of that name if it is the same, and take its lease.

    Raises BadInput with the difference when it is another one, StudyOwned when another coordinator works on it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = Store.open(request.storage_url, create=True)
    record = store.find_study(request.name)
    resumed = record is not None
    if record is None:
        record = store.create_study(_new_record(request, checked))
    _require_same(request, checked, record)
    _require_files(request, store, record)
    store.acquire(record.id, owner, LEASE_S)
    if request.trials > record.trials_target:
        store.raise_target(record.id, request.trials, token=owner.token)
        record = replace(record, trials_target=request.trials)
    storage = optuna_storage(request.storage_url)
    storage.write_under(record.id, owner.token)
    with storage_errors(storage.engine.url):
        return _open(request, checked, store, record, storage, resumed)


def _open(
    request: Request, checked: Checked, store: Store, record: StudyRecord, storage: PatientStorage, resumed: bool
) -> Study:
    import optuna

    with store.setup_lock():
        study = optuna.create_study(
            study_name=storage.name_of(record) or record.name,
            storage=storage,
            directions=["minimize"] * len(record.objectives),
            load_if_exists=True,
            pruner=make_pruner(record.pruner, record.budget.evaluations),
        )
    asked = len(study.get_trials(deepcopy=False))
    if resumed and asked == 0 and store.trials(record.id):
        raise StudyGone(
            f"study '{record.name}' was deleted by another program; "
            f"`hpsearch delete --study {record.name}` removes what is left of it"
        )
    study.set_metric_names(list(record.objectives))
    study.set_user_attr(MARK, record.folder)
    if asked == 0:
        enqueue_baseline(study)
    opened = Study(
        record=record,
        space=request.space,
        store=store,
        optuna=study,
        storage=storage,
        folder=request.studies_dir / record.folder,
        cache_dir=request.cache_dir,
        resumed=resumed,
        workload=checked.workload,
        devices=request.devices,
        checkpoints_dir=request.checkpoints_dir and request.checkpoints_dir.absolute(),
        files_elsewhere=request.files_elsewhere,
    )
    law = opened.workload.law(lambda: opened.record.budget)
    earlier = kept(record)
    knowledge = Knowledge(earlier, lambda: opened.record, request.space) if earlier else None
    study.sampler = make_sampler(
        record.sampler, request.space, record.seed, asked, opened.violation, law=law, knowledge=knowledge
    )
    opened.write_files()
    return opened


def new_budget(request: Request, flops_per_s: float | None = None) -> BudgetRecord:
    """The budget as asked; device-seconds are FLOPs once the speed is known."""
    asked = request.space.budget
    flops = None
    if asked.kind == "flops":
        flops = asked.amount
    elif asked.kind == "device_seconds" and flops_per_s is not None and asked.amount is not None:
        flops = asked.amount * flops_per_s
    return BudgetRecord(asked.kind, asked.amount or 0.0, asked.evaluations, flops, flops_per_s)


def _new_record(request: Request, checked: Checked) -> StudyRecord:
    return StudyRecord(
        name=request.name,
        space_text=request.space.to_yaml(),
        space_digest=request.space.digest,
        objectives=request.space.objectives,
        data=checked.data,
        data_fingerprint=checked.fingerprint,
        budget=new_budget(request),
        sampler=request.sampler or DEFAULT_SAMPLER,
        pruner=request.pruner or _default_pruner(request),
        scheduler=request.scheduler or "none",
        seed=request.seed or 0,
        versions={
            "hpsearch": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "optuna", "numpy", "tokenizers")},
        },
        host=socket.gethostname(),
        device=request.devices[0].partition(":")[0],
        threads=request.threads,
        folder="",
        trials_target=request.trials,
        extras={NOTED: [asdict(each) for each in checked.earlier]} if checked.earlier else {},
    )


def _default_pruner(request: Request) -> str:
    alone = request.scheduler in (None, "none") and len(request.space.objectives) == 1
    return DEFAULT_PRUNER if alone and _has_curve(request.space) else "none"


def _require_same(request: Request, checked: Checked, record: StudyRecord) -> None:
    """Refuse to resume a study with anything that would make its trials incomparable."""
    from hpsearch.space.load import parse_space

    if record.space_digest != request.space.digest:
        old = parse_space(record.space_text, f"study {record.name}")
        changes = old.differences(request.space) or ["its text"]
        raise BadInput(
            f"{request.space.document.place.path}: study '{record.name}' was made with another space ({'; '.join(changes[:4])}"
            f"{'; …' if len(changes) > 4 else ''}); put the old values back, or start another study with --study NAME"
        )
    if request.space.own and record.data != checked.data:
        before, now = (" ".join(f"{kind} {what}" for kind, what in data.items()) for data in (record.data, checked.data))
        raise BadInput(
            f"study '{record.name}' was made with another trainer ({before}, now {now}); give that one again, or start another "
            "study with --study NAME"
        )
    if record.data_fingerprint != checked.fingerprint:
        raise BadInput(
            f"study '{record.name}' was made with another text (fingerprint {record.data_fingerprint[:12]}, now "
            f"{checked.fingerprint[:12]}); bring the old text back, or start another study with --study NAME"
        )
    require_same(request.earlier, record)
    for option, asked, frozen in (
        ("--sampler", request.sampler, record.sampler),
        ("--pruner", request.pruner, record.pruner),
        ("--scheduler", request.scheduler, record.scheduler),
        ("--seed", request.seed, record.seed),
    ):
        if asked is not None and asked != frozen:
            raise BadInput(
                f"{option} {asked}: study '{record.name}' was made with {option} {frozen}; "
                "leave the option out, or start another study with --study NAME"
            )


def _require_files(request: Request, store: Store, record: StudyRecord) -> None:
    """Refuse to go on with unfinished trials where their checkpoints are not: they would start again without a word."""
    folder = request.studies_dir / record.folder
    unfinished = [state for state in TrialState if not state.ended]
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; move it away: the files of study '{record.name}' go there")
    if not folder.is_dir() and store.trials(record.id, unfinished):
        raise BadInput(
            f"--studies-dir {request.studies_dir}: study '{record.name}' has unfinished trials and its folder {record.folder} "
            "is not here; name the folder where it is, or make an empty one to start those trials again"
        )


def _longest_context(space: SearchSpace) -> int:
    match space.parameters.get("context_length"):
        case Range(high=high):
            return int(high)
        case Choices(choices=choices):
            return max(int(choice) for choice in choices if choice is not None)
        case _:
            return int(lookup("context_length", space.settings(space.prior())))
