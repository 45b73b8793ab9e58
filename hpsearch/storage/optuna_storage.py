"""Optuna's storage for a coordinator: its calls outlast a database that does not answer, are safe to make twice, and what
they write passes the fence of the study's lease.

Optuna wraps it in its own cache, as every RDBStorage. An answer can be lost after the server has committed, so a second try
must find what the first one did: attributes and intermediate values replace, a parameter that is there is left, and what
Optuna itself would do twice or refuse is here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event, func, select, update
from sqlalchemy.exc import IntegrityError

from hpsearch.errors import BadInput, StudyGone
from hpsearch.storage import leases
from hpsearch.storage.engine import _listen, _options, make_engine
from hpsearch.storage.foreign_studies import MARK, marked_as
from hpsearch.storage.records import StudyRecord
from hpsearch.storage.transactions import Database, Outage
from hpsearch.storage.urls import masked, optuna_url

if TYPE_CHECKING:
    from hpsearch.storage.records import StudyRecord


T = TypeVar("T")


class PatientStorage(RDBStorage):
    """RDBStorage whose calls are tried again while the database is locked, and through an outage where `sit_out` names one."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        super().__init__(url, engine_kwargs=engine_kwargs)
        self._database = Database(self.engine)
        self._lease: tuple[int, str] | None = None
        self._writing = False
        event.listen(self.scoped_session, "after_begin", self._begun)

    def write_under(self, study_id: int, token: str) -> None:
        """From now on, write only while the lease of our study of that id has that token; else StudyOwned, StudyGone."""
        self._lease = study_id, token

    def write_freely(self) -> None:
        """As other programs do: notes are left when the lease is released."""
        self._lease = None

    def name_of(self, record: StudyRecord) -> str | None:
        """What Optuna calls a study of ours; None where it has none of it.

        Another name than ours once it was renamed in the dashboard, which makes a new study of the old one, with its marks.
        """
        from optuna.storages._rdb.models import StudyModel, StudyUserAttributeModel

        def work(connection: Connection) -> str | None:
            attributes = select(StudyModel.study_name, StudyUserAttributeModel.value_json).join(
                StudyUserAttributeModel, StudyUserAttributeModel.study_id == StudyModel.study_id
            )
            marked = connection.execute(
                attributes.where(StudyUserAttributeModel.key == MARK).order_by(StudyModel.study_id)
            ).all()
            mine = [name for name, value in marked if value == marked_as(record.folder)]
            if mine:
                return record.name if record.name in mine else str(mine[0])
            # One that an older hpsearch made has no mark.
            others = {name for name, _ in marked}
            found = connection.execute(select(StudyModel.study_id).where(StudyModel.study_name == record.name)).first()
            return record.name if found and record.name not in others else None

        return self._database.read(work)

    def id_of(self, record: StudyRecord) -> int:
        """Optuna's id of a study of ours. Raises KeyError where it has none of it."""
        name = self.name_of(record)
        if name is None:
            raise KeyError(record.name)
        return int(self.get_study_id_from_name(name))

    def rename_study(self, study_id: int, name: str) -> None:
        """Give Optuna's study another name, and leave all else of it. Raises KeyError, DuplicatedStudyError."""
        from optuna.storages._rdb.models import StudyModel

        def work(connection: Connection) -> int:
            return connection.execute(
                update(StudyModel).where(StudyModel.study_id == study_id).values(study_name=name)
            ).rowcount

        self.get_study_name_from_id(study_id)  # KeyError. (MySQL counts no row that has the name already.)
        try:
            self._database.write(work)
        except IntegrityError:
            raise DuplicatedStudyError(f"another study is called '{name}'") from None

    def sit_out(self, outage: Outage | None) -> None:
        """As `Store.sit_out`."""
        self._database.sit_out(outage)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """A new trial; the one that a lost answer was about, where there is one.

        That is a trial newer than all that there were before the first try, in the same state and with the same attributes:
        only the coordinator makes trials that run. A server that commits only after the second try has looked still
        leaves a trial RUNNING that nobody trains; the next coordinator adopts it.
        """
        from optuna.storages._rdb.models import TrialModel

        newest = self._database.read(
            lambda connection: connection.execute(
                select(func.coalesce(func.max(TrialModel.trial_id), -1)).where(TrialModel.study_id == study_id)
            ).scalar_one()
        )
        state = TrialState.RUNNING if template_trial is None else template_trial.state
        attributes = {} if template_trial is None else template_trial.system_attrs
        make: Callable[..., FrozenTrial] = super()._create_new_trial

        def attempt(again: bool) -> FrozenTrial:
            if again:
                for trial in self._get_trials(study_id, None, set(), newest):
                    if trial.state is state and trial.system_attrs == attributes and not trial.params:
                        return trial
            return make(study_id, template_trial)

        return self._trying(attempt)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a second try that finds the trial in `state` already is a success."""
        write = super().set_trial_state_values

        def attempt(again: bool) -> bool:
            try:
                return bool(write(trial_id, state, values) or (again and self.get_trial(trial_id).state is state))
            except UpdateFinishedTrialError:
                if again and self.get_trial(trial_id).state is state:
                    return True
                raise

        return self._trying(attempt)

    def _get_best_trial_id(self, study_id: int, direction: StudyDirection) -> int:
        """The best feasible trial, as Optuna's study has it; of all trials where none is. The dashboard asks the storage."""
        theirs = super()._get_best_trial_id
        best = self._database.patiently(lambda: theirs(study_id, direction))
        if _feasible(self.get_trial(best)):
            return best
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        sign = -1 if direction is StudyDirection.MAXIMIZE else 1
        order = {trial._trial_id: sign * trial.value for trial in complete if _feasible(trial) and trial.value is not None}
        return min(order, key=order.__getitem__, default=best)

    def _trying(self, attempt: Callable[[bool], T]) -> T:
        """Write by calling `attempt` patiently; its argument says whether it was called before."""
        again = False

        def once() -> T:
            nonlocal again
            before, again = again, True
            return attempt(before)

        with self._fenced():
            return self._database.patiently(once)

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[None]:
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    def _begun(self, _session: object, _transaction: object, connection: Connection) -> None:
        """Pass the fence first in each of Optuna's transactions that write: before it can stumble over what a new owner did."""
        if self._writing and self._lease is not None:
            leases.fence(connection, *self._lease)


def _feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _patient(name: str, *, writes: bool) -> Callable[..., Any]:
    theirs = getattr(RDBStorage, name)

    @functools.wraps(theirs)
    def method(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        with self._fenced() if writes else contextlib.nullcontext():
            return self._database.patiently(lambda: theirs(self, *arguments, **named))

    return method


# What Optuna's study and its cache call while trials run; a method that calls another of these is patient through it.
_WRITES = (
    "set_study_user_attr",
    "set_study_system_attr",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
_OTHERS = (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial",
    "_get_trials",
)
for _name in (*_WRITES, *_OTHERS):
    setattr(PatientStorage, _name, _patient(_name, writes=_name in _WRITES))


def load_optuna(url: str, record: StudyRecord) -> Any:
    """Optuna's own study, for what is to be shown by its dashboard. Raises StudyGone where another program deleted it."""
    import optuna

    pass

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna_storage(url)
    name = storage.name_of(record)
    if name is None:
        raise StudyGone(
            f"study '{record.name}' was deleted by another program; "
            f"`hpsearch delete --study {record.name}` removes what is left of it"
        )
    return optuna.load_study(study_name=name, storage=storage)


def optuna_storage(url: str) -> PatientStorage:
    """Optuna's storage in the same database, with the same engine options; makes its tables where there are none.

    Every transaction on SQLite is immediate: Optuna's read rows before they write them. Raises BadInput for what cannot be
    used and for tables of another Optuna (naming `hpsearch db upgrade`), StorageUnreachable when nothing answers.
    """
    from hpsearch.storage.optuna_storage import PatientStorage
    from hpsearch.storage.schema import setup_lock
    from hpsearch.storage.transactions import Database, storage_errors

    database = Database(make_engine(url))
    try:
        # RDBStorage looks for its tables and then makes them: two processes would both make them.
        with setup_lock(database), storage_errors(database.url):
            storage = PatientStorage(optuna_url(database.url), engine_kwargs=_options(database.url))
    except RuntimeError as error:
        raise BadInput(
            f"{masked(url)}: its Optuna tables belong to another version of Optuna; "
            f"run `hpsearch db upgrade` or install that version ({error})"
        ) from None
    finally:
        database.engine.dispose()
    _listen(storage.engine, always_immediate=True)
    storage.engine.dispose()  # its first connections were made without the listeners
    return storage
