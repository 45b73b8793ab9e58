"""A study: what was asked, frozen, with the database rows and the folder that belong to it."""

from __future__ import annotations

import json
import platform
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch import __version__
from hpsearch.data.split import SCORING
from hpsearch.errors import BadInput, StoppedForNow, StudyGone
from hpsearch.files import write_atomically
from hpsearch.sampling.samplers import FeasibleSampler, enqueue_baseline, make_sampler
from hpsearch.sampling.transfer import Knowledge
from hpsearch.sampling.warm_start import NOTED, kept, require_same
from hpsearch.scheduling.pruners import make_pruner
from hpsearch.space.space import SearchSpace
from hpsearch.storage.foreign_studies import MARK
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.records import SCORED, Owner, StudyRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.storage.transactions import storage_errors
from hpsearch.tuning.lease import LEASE_S
from hpsearch.tuning.request import DEFAULT_PRUNER, DEFAULT_SAMPLER, Checked, Request, _has_curve, new_budget
from hpsearch.workload.workload import Prepared, Workload

if TYPE_CHECKING:
    import optuna

    from hpsearch.storage.optuna_storage import PatientStorage


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


def remove_study(folder: Path) -> bool:
    """Remove a study's folder with all that is in it; whether it is gone. Of a link to one elsewhere only the link goes."""
    if folder.is_symlink():
        folder.unlink()
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


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
            **({} if request.space.own else {SCORED: SCORING}),
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
    require_same_scoring(record)
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


def require_same_scoring(record: StudyRecord) -> None:
    """Refuse to train for a study whose values come from another way of scoring held-out text. Raises BadInput."""
    if not record.own and record.scoring != SCORING:
        raise BadInput(
            f"study '{record.name}' was made by an earlier hpsearch, which scored held-out text in another way: new values "
            "would not compare with its own. It can be read, reported and exported; start another study with --study NAME"
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
