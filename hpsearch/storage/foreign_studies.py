"""Studies of other programs in the same database: what Optuna's own tables say where ours say nothing."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from hpsearch.storage.engine import make_engine
from hpsearch.storage.tables import VERSION_TABLE, studies
from hpsearch.storage.transactions import Database
from hpsearch.storage.urls import parse_url
from hpsearch.text import storable

_theirs = table("studies", column("study_id"), column("study_name"))
_attributes = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
_directions = table("study_directions", column("study_id"), column("objective"), column("direction"))


MARK = "hpsearch:study"
"""User attribute of Optuna's study with the folder of ours, by which it is known under any name."""


def marked_as(folder: str) -> str:
    """The mark of our study in that folder, as Optuna's table has it."""
    return json.dumps(folder)


def folder_named(connection: Connection, name: str) -> str | None:
    """The folder of our study whose name in Optuna's tables is `name`; None where there is none."""
    if not inspect(connection).has_table("study_user_attributes"):
        return None
    found = connection.execute(
        select(_attributes.c.value_json)
        .join_from(_theirs, _attributes, _theirs.c.study_id == _attributes.c.study_id)
        .where(_theirs.c.study_name == storable(name), _attributes.c.key == MARK)
    ).scalar()
    return None if found is None else str(json.loads(found))


def others_directions(url: str, name: str) -> list[str]:
    """Directions of Optuna's study `name` where it is not one of ours; empty where there is none. Writes nothing.

    Raises BadInput and StorageUnreachable for a database that cannot be used.
    """
    parsed = parse_url(url)
    engine = make_engine(url)
    try:
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
            return []  # To connect would make it.
        return Database(engine).read(lambda connection: _read(connection, name))
    finally:
        engine.dispose()


def _read(connection: Connection, name: str) -> list[str]:
    tables = inspect(connection)
    if not tables.has_table("study_directions"):
        return []
    found = connection.execute(
        select(_directions.c.direction)
        .join_from(_theirs, _directions, _theirs.c.study_id == _directions.c.study_id)
        .where(_theirs.c.study_name == storable(name))
        .order_by(_directions.c.objective)
    )
    directions = [str(direction).lower() for direction in found.scalars()]
    if not directions or not tables.has_table(VERSION_TABLE):
        return directions
    # Ours are made before Optuna's: one that is ours is found here by now, if by the name that it was given later.
    ours = (studies.c.name == name) | (studies.c.folder == folder_named(connection, name))
    return [] if connection.execute(select(studies.c.id).where(ours)).first() else directions
