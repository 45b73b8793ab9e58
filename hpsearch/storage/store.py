"""The store: what every other room may read and write of studies. Records in, records out.

Each method is one short transaction. A write of a coordinator names the token of its lease and passes the fence in the same
transaction; it can be repeated without harm, so after a lost connection the same call is the right answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, Text, and_, case, cast, delete, func, insert, null, select, update
from sqlalchemy.exc import IntegrityError

from hpsearch.errors import BadInput, StudyGone, did_you_mean
from hpsearch.storage import leases, schema
from hpsearch.storage.engine import make_engine
from hpsearch.storage.foreign_studies import folder_named
from hpsearch.storage.records import (
    AttemptRecord,
    BudgetRecord,
    CheckpointRecord,
    ConfirmationRecord,
    DecisionRecord,
    Owner,
    PointRecord,
    RequestRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
)
from hpsearch.storage.tables import attempts, checkpoints, confirmations, decisions, points, requests, studies, trials
from hpsearch.storage.transactions import Database, Outage, now
from hpsearch.storage.upsert import Record, row_of, save
from hpsearch.storage.urls import masked, parse_url
from hpsearch.text import storable

R = TypeVar(
    "R",
    StudyRecord,
    TrialRecord,
    AttemptRecord,
    PointRecord,
    DecisionRecord,
    CheckpointRecord,
    ConfirmationRecord,
    RequestRecord,
)


def _of(table: Table, study_id: int, number: int | None) -> ColumnElement[bool]:
    """The rows of one trial, or of all trials, of a study."""
    mine = table.c.study_id == study_id
    return mine if number is None else and_(mine, table.c.trial_number == number)


class Store:
    """One database of studies. Open it with `Store.open`; safe in several threads; close it or use it in a `with`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, create: bool) -> Store:
        """The store in the database at `url`.

        create: make the tables where there are none (safe from many processes at once). Without it nothing is written,
        and a database without studies is BadInput. Raises BadInput for a URL, a file, a login or a schema that cannot be
        used, StorageUnreachable when nothing answers.
        """
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not create and not Path(parsed.database or "").exists():
            raise BadInput(f"no study yet in {masked(parsed)}; start one with `hpsearch run`")
        database = Database(make_engine(url))
        try:
            if create:
                schema.create(database)
            schema.verify(database)
        except BaseException:
            database.engine.dispose()
            raise
        return cls(database)

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The database's URL as it may be shown."""
        return masked(self._database.url)

    def sit_out(self, outage: Outage | None) -> None:
        """From now on, what the calling thread does here outlasts a database that does not answer; None: it does not.

        The thread must be the one that `outage` serves. Other threads fail at once, as without it.
        """
        self._database.sit_out(outage)

    def now(self) -> float:
        """Seconds since 1970 on the database's clock (UTC)."""
        return self._database.read(now)

    @contextlib.contextmanager
    def setup_lock(self) -> Iterator[None]:
        """Only one process at a time is inside: for creating Optuna's study, which races on every database."""
        with schema.setup_lock(self._database):
            yield

    # Studies

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        return self._select(StudyRecord, studies, order=(studies.c.id,))

    def find_study(self, name: str) -> StudyRecord | None:
        """The study called `name`, here or in the dashboard, where it can be given another name; None where there is none."""
        name = storable(name)  # A word of a command line may hold what no database takes, and no study is called so.
        found = self._select(StudyRecord, studies, studies.c.name == name)
        if not found:
            folder = self._database.read(lambda connection: folder_named(connection, name))
            found = self._select(StudyRecord, studies, studies.c.folder == folder) if folder else []
        return found[0] if found else None

    def study(self, name: str) -> StudyRecord:
        """The study called `name`. Raises BadInput that names the nearest one."""
        found = self.find_study(name)
        if found is not None:
            return found
        names = [record.name for record in self.studies()]
        if not names:
            raise BadInput(f"no study yet in {self.url}; start one with `hpsearch run`")
        near = did_you_mean(name, names)
        raise BadInput(f"no study '{name}' in {self.url}{near or '; list them with `hpsearch studies`'}")

    def create_study(self, record: StudyRecord) -> StudyRecord:
        """`record` as stored, with its id, folder and time; the one of that name that is already there, if there is one."""

        def work(connection: Connection) -> None:
            row = row_of(record) | {"created_at": now(connection), "folder": ""}
            del row["id"]
            (number,) = connection.execute(insert(studies).values(row)).inserted_primary_key or (0,)
            folder = f"{number:04d}-{record.name}"
            connection.execute(update(studies).where(studies.c.id == number).values(folder=folder))

        if self.find_study(record.name) is None:
            with contextlib.suppress(IntegrityError):  # another process was first
                self._database.write(work)
        return self.study(record.name)

    def raise_target(self, study_id: int, total: int, *, token: str) -> None:
        """Ask for `total` trials in all. A smaller total changes nothing; a larger one opens a finished study again."""
        smaller = and_(studies.c.id == study_id, studies.c.trials_target < total)
        statement = update(studies).where(smaller).values(trials_target=total, finished_reason="")
        self._fenced(study_id, token, lambda connection: connection.execute(statement))

    def finish(self, study_id: int, reason: str, *, token: str) -> None:
        """Say why the study ended; an empty reason says that it goes on."""
        statement = update(studies).where(studies.c.id == study_id).values(finished_reason=reason)
        self._fenced(study_id, token, lambda connection: connection.execute(statement))

    def set_budget(self, study_id: int, budget: BudgetRecord, *, token: str) -> None:
        """Freeze the budget once it is measured."""
        statement = update(studies).where(studies.c.id == study_id).values(budget=budget)
        self._fenced(study_id, token, lambda connection: connection.execute(statement))

    def set_extras(self, study_id: int, extras: dict[str, Any], *, token: str) -> None:
        """Replace what was noted about the study."""
        statement = update(studies).where(studies.c.id == study_id).values(extras=extras)
        self._fenced(study_id, token, lambda connection: connection.execute(statement))

    def delete_study(self, study_id: int) -> None:
        """Delete the study and all that belongs to it here; Optuna's study and the files are the caller's. Raises StudyGone."""

        there = False

        def work(connection: Connection) -> None:
            nonlocal there  # A second try, when the first one's answer was lost, finds nothing and is a success.
            there |= bool(connection.execute(delete(studies).where(studies.c.id == study_id)).rowcount)

        self._database.write(work)
        if not there:
            raise StudyGone(f"study {study_id} is gone: it was deleted")

    # The lease

    def acquire(self, study_id: int, owner: Owner, ttl_s: float) -> None:
        """Own the study for `ttl_s` seconds of the database's clock.

        An expired lease is taken over, and at once that of a process of this host that is dead. Raises StudyOwned, which
        names the host and the process, while another one works on it; StudyGone.
        """
        self._database.write(lambda connection: leases.acquire(connection, study_id, owner, ttl_s))

    def renew(self, study_id: int, owner: Owner, ttl_s: float) -> None:
        """Own the study for `ttl_s` seconds from now. Raises StudyOwned when another process took it, StudyGone."""
        self._database.write(lambda connection: leases.renew(connection, study_id, owner, ttl_s))

    def release(self, study_id: int, owner: Owner) -> None:
        """Give the study back. No error when it was lost before."""
        self._database.write(lambda connection: leases.release(connection, study_id, owner))

    def owner(self, study_id: int) -> Owner | None:
        """Who works on the study now. Raises StudyGone."""
        return self._database.read(lambda connection: leases.live_owner(connection, study_id))

    # What a coordinator writes

    def save(self, study_id: int, records: Iterable[Record], *, token: str) -> None:
        """Write all `records`, in their order, in one transaction, or none.

        A record whose key is there replaces it (of an attempt only its end is ever changed), so saving twice is saving
        once. Times that a record leaves open are the database's now. Raises StudyOwned and StudyGone.
        """
        batch = list(records)
        self._fenced(study_id, token, lambda connection: save(connection, study_id, batch))

    def add_trial(self, study_id: int, trial: TrialRecord, *, token: str) -> None:
        self.save(study_id, [trial], token=token)

    def update_trial(self, study_id: int, trial: TrialRecord, *, token: str) -> None:
        self.save(study_id, [trial], token=token)

    def start_attempt(self, study_id: int, attempt: AttemptRecord, *, token: str) -> None:
        self.save(study_id, [attempt], token=token)

    def end_attempt(self, study_id: int, number: int, attempt: int, outcome: str, reason: str = "", *, token: str) -> None:
        """End an attempt that has not ended; one that has keeps its outcome."""
        key = and_(
            attempts.c.study_id == study_id,
            attempts.c.trial_number == number,
            attempts.c.attempt == attempt,
            attempts.c.ended_at.is_(None),
        )

        def work(connection: Connection) -> None:
            end = {"ended_at": now(connection), "outcome": outcome, "reason": reason}
            connection.execute(update(attempts).where(key).values(end))

        self._fenced(study_id, token, work)

    def close_attempts(self, study_id: int, outcome: str, reason: str, *, token: str) -> None:
        """End every attempt that has not ended: their coordinator is gone, and its slots with it."""
        open_ones = and_(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))

        def work(connection: Connection) -> None:
            end = {"ended_at": now(connection), "outcome": outcome, "reason": reason}
            connection.execute(update(attempts).where(open_ones).values(end))

        self._fenced(study_id, token, work)

    def add_points(self, study_id: int, new: Sequence[PointRecord], *, token: str) -> None:
        self.save(study_id, new, token=token)

    def add_decision(self, study_id: int, decision: DecisionRecord, *, token: str) -> None:
        self.save(study_id, [decision], token=token)

    def add_checkpoint(self, study_id: int, checkpoint: CheckpointRecord, *, token: str) -> None:
        self.save(study_id, [checkpoint], token=token)

    def add_confirmation(self, study_id: int, confirmation: ConfirmationRecord, *, token: str) -> None:
        self.save(study_id, [confirmation], token=token)

    def forget_checkpoints(self, study_id: int, number: int, iterations: Iterable[int] | None = None, *, token: str) -> None:
        """Forget those of `iterations`; without it, all of the trial's."""
        gone = _of(checkpoints, study_id, number)
        if iterations is not None:
            gone = and_(gone, checkpoints.c.iteration.in_(list(iterations)))
        self._fenced(study_id, token, lambda connection: connection.execute(delete(checkpoints).where(gone)))

    # What is asked of a coordinator

    def request(self, study_id: int, kind: str, payload: dict[str, Any]) -> None:
        """Ask the study's coordinator for something. Needs no lease: whoever can write to the database can steer a study."""

        def work(connection: Connection) -> None:
            row = {"study_id": study_id, "kind": kind, "payload": payload, "at": now(connection)}
            connection.execute(insert(requests).values(row))

        self._database.write(work)

    def requests(self, study_id: int) -> list[RequestRecord]:
        """What was asked and not yet done, oldest first."""
        return self._select(RequestRecord, requests, requests.c.study_id == study_id, order=(requests.c.id,))

    def forget_requests(self, study_id: int, done: Iterable[RequestRecord], *, token: str) -> None:
        """Forget requests that were done."""
        gone = and_(requests.c.study_id == study_id, requests.c.id.in_([request.id for request in done]))
        self._fenced(study_id, token, lambda connection: connection.execute(delete(requests).where(gone)))

    # Reading

    def trials(self, study_id: int, states: Iterable[TrialState] | None = None) -> list[TrialRecord]:
        """The study's trials by number; only those in `states` where given."""
        which: ColumnElement[bool] = trials.c.study_id == study_id
        if states is not None:
            which = and_(which, trials.c.state.in_(list(states)))
        return self._select(TrialRecord, trials, which, order=(trials.c.number,))

    def outlines(self, study_id: int) -> list[TrialRecord]:
        """The study's trials by number, with what is counted, ranked and added up of them; all else is empty."""
        names = (
            "number",
            "state",
            "proposed_by",
            "values",
            "tokens",
            "flops",
            "seconds",
            "reason",
            "constraints",
            "end_reason",
        )
        left_out: dict[str, Any] = {"params": {}, "config": {}}
        # Hardly any trial has constraints, and decoding an empty object for each of thousands is half of all decoding here.
        some = case((cast(trials.c.constraints, Text) == "{}", null()), else_=trials.c.constraints).label("constraints")
        columns = (some if name == "constraints" else trials.c[name] for name in names)
        statement = select(*columns).where(trials.c.study_id == study_id).order_by(trials.c.number)
        rows = self._database.read(lambda connection: connection.execute(statement).all())
        return [TrialRecord(**dict(zip(names, row, strict=True)), **left_out) for row in rows]

    def trial(self, study_id: int, number: int) -> TrialRecord:
        """Trial `number`. Raises BadInput that says how many there are."""
        # A number beyond any column's is an error of some drivers'.
        one = (trials.c.study_id == study_id, trials.c.number == number)
        found = self._select(TrialRecord, trials, *one) if number < 2**31 else []
        if found:
            return found[0]
        total = sum(self.counts(study_id).values())
        raise BadInput(f"no trial {number}; " + (f"there are {total}, from 0" if total else "the study has none yet"))

    def counts(self, study_id: int) -> dict[TrialState, int]:
        """How many trials are in each state; cheap however many there are."""
        statement = select(trials.c.state, func.count()).where(trials.c.study_id == study_id).group_by(trials.c.state)
        rows = self._database.read(lambda connection: connection.execute(statement).all())
        return dict.fromkeys(TrialState, 0) | {row[0]: row[1] for row in rows}

    def worked_s(self, study_id: int) -> float:
        """Seconds in which at least one trial was in a slot, by attempts that have ended."""
        spans = select(attempts.c.started_at, attempts.c.ended_at).where(
            attempts.c.study_id == study_id, attempts.c.ended_at.is_not(None)
        )
        in_order = spans.order_by(attempts.c.started_at)
        total = until = 0.0
        for start, end in self._database.read(lambda connection: connection.execute(in_order).all()):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def attempts(self, study_id: int, number: int | None = None) -> list[AttemptRecord]:
        return self._of_trial(AttemptRecord, attempts, study_id, number, "attempt")

    def points(self, study_id: int, number: int | None = None) -> list[PointRecord]:
        """The evaluations by trial and rung."""
        return self._of_trial(PointRecord, points, study_id, number, "rung")

    def decisions(self, study_id: int, number: int | None = None) -> list[DecisionRecord]:
        """The decisions by trial, rung and time."""
        return self._of_trial(DecisionRecord, decisions, study_id, number, "rung", "at")

    def confirmations(self, study_id: int, number: int | None = None) -> list[ConfirmationRecord]:
        """The confirmations by trial and seed."""
        return self._of_trial(ConfirmationRecord, confirmations, study_id, number, "seed")

    def checkpoints(self, study_id: int, number: int | None = None) -> list[CheckpointRecord]:
        """The checkpoints by trial and iteration."""
        return self._of_trial(CheckpointRecord, checkpoints, study_id, number, "iteration")

    # Inside

    def _fenced(self, study_id: int, token: str, work: Callable[[Connection], object]) -> None:
        def whole(connection: Connection) -> None:
            leases.fence(connection, study_id, token)
            work(connection)

        self._database.write(whole)

    def _select(self, kind: type[R], table: Table, *where: ColumnElement[bool], order: tuple[Any, ...] = ()) -> list[R]:
        columns = [table.c[field.name] for field in dataclasses.fields(kind)]
        statement = select(*columns).where(*where).order_by(*order)
        rows = self._database.read(lambda connection: connection.execute(statement).all())
        return [kind(*row) for row in rows]

    def _of_trial(self, kind: type[R], table: Table, study_id: int, number: int | None, *order: str) -> list[R]:
        by = (table.c.trial_number, *(table.c[name] for name in order))
        return self._select(kind, table, _of(table, study_id, number), order=by)
