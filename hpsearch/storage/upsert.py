"""Writing records, so that writing them twice is writing them once.

By primary key instead of each database's own upsert: the fence has locked the study, so nobody writes in between.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, delete, func, insert, select, update

from hpsearch.storage.records import (
    AttemptRecord,
    CheckpointRecord,
    ConfirmationRecord,
    DecisionRecord,
    PointRecord,
    StudyRecord,
    TrialRecord,
)
from hpsearch.storage.tables import attempts, checkpoints, confirmations, decisions, points, trials
from hpsearch.storage.transactions import now

Record = TrialRecord | AttemptRecord | PointRecord | DecisionRecord | CheckpointRecord | ConfirmationRecord

_REPLACED: dict[type, Table] = {
    PointRecord: points,
    DecisionRecord: decisions,
    CheckpointRecord: checkpoints,
    ConfirmationRecord: confirmations,
}


def row_of(record: Record | StudyRecord) -> dict[str, Any]:
    """Column values by name; nested records stay as they are."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def save(connection: Connection, study_id: int, records: Sequence[Record]) -> None:
    """Write `records` in their order. A time left open is the database's now."""
    time = now(connection)
    for kind, run in itertools.groupby(records, type):
        rows = [row_of(record) | {"study_id": study_id} for record in run]
        if kind is TrialRecord:
            for row in rows:
                _save_trial(connection, row, time)
        elif kind is AttemptRecord:
            for row in rows:
                _save_attempt(connection, row, time)
        else:
            if kind in (DecisionRecord, ConfirmationRecord):
                rows = [row | {"at": row["at"] or time} for row in rows]
            _replace(connection, _REPLACED[kind], rows)


def _save_trial(connection: Connection, row: dict[str, Any], time: float) -> None:
    key = and_(trials.c.study_id == row["study_id"], trials.c.number == row["number"])
    new = row | {"started_at": row["started_at"] or time}
    changed = row | {"started_at": row["started_at"] or func.coalesce(trials.c.started_at, time)}
    if row["state"].ended:
        new["ended_at"] = row["ended_at"] or time
        changed["ended_at"] = row["ended_at"] or func.coalesce(trials.c.ended_at, time)
    if not connection.execute(update(trials).where(key).values(changed)).rowcount:
        connection.execute(insert(trials).values(new))


def _save_attempt(connection: Connection, row: dict[str, Any], time: float) -> None:
    key = and_(*(column == row[column.name] for column in attempts.primary_key))
    end = {"ended_at": row["ended_at"], "outcome": row["outcome"], "reason": row["reason"]}
    if row["outcome"] and end["ended_at"] is None:
        end["ended_at"] = time
    if connection.execute(select(attempts.c.attempt).where(key)).one_or_none() is None:
        connection.execute(insert(attempts).values(row | end | {"started_at": row["started_at"] or time}))
    else:
        new = end if end["ended_at"] is not None else {}
        new = new | {"from_iteration": row["from_iteration"]}  # The slot may know better than its coordinator did.
        connection.execute(update(attempts).where(key, attempts.c.ended_at.is_(None)).values(new))


def _replace(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    names = [column.name for column in table.primary_key]
    latest = {tuple(row[name] for name in names): row for row in rows}
    same = and_(*(table.c[name] == bindparam(f"key_{name}") for name in names))
    connection.execute(delete(table).where(same), [{f"key_{name}": row[name] for name in names} for row in latest.values()])
    connection.execute(insert(table), list(latest.values()))
