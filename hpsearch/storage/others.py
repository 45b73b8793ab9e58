"""Studies of other programs in the same database: what Optuna's own tables say where ours say nothing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from hpsearch.storage.engine import make_engine, parse_url
from hpsearch.storage.tables import VERSION_TABLE, studies
from hpsearch.storage.transactions import Database

_theirs = table("studies", column("study_id"), column("study_name"))
_directions = table("study_directions", column("study_id"), column("objective"), column("direction"))


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
        .where(_theirs.c.study_name == name)
        .order_by(_directions.c.objective)
    )
    directions = [str(direction).lower() for direction in found.scalars()]
    # Ours are made before Optuna's: one that is ours is found here by now.
    mine = tables.has_table(VERSION_TABLE) and connection.execute(select(studies.c.id).where(studies.c.name == name)).first()
    return [] if mine else directions
