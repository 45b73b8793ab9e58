"""What must hold of a study's tables after any fault: read with plain SQL, apart from the code that wrote them."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from hpsearch.storage.engine import make_engine

ENDED = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
"""Our name of a state, and Optuna's."""


@dataclass(frozen=True)
class Snapshot:
    """Where the trials stood at one moment: by number, the attempts begun and the iteration of the newest checkpoint."""

    attempts: Mapping[int, int]
    checkpoints: Mapping[int, int]


def rows(storage_url: str, statement: str, **values: object) -> list[dict[str, Any]]:
    """The result of one SELECT."""
    with _Reader(storage_url) as reader:
        return reader.rows(statement, **values)


def count(storage_url: str, table: str) -> int:
    """Rows of `table`; 0 where it is not there yet."""
    with _Reader(storage_url) as reader:
        if not reader.has(table):
            return 0
        (row,) = reader.rows(f"SELECT count(*) AS n FROM {table}")
        return int(row["n"])


def snapshot(storage_url: str, study: str) -> Snapshot:
    """To be taken before a fault, for `assert_nothing_lost` to compare with."""
    with _Reader(storage_url) as reader:
        study_id = reader.study_id(study)
        begun = reader.rows(
            "SELECT trial_number, max(attempt) AS newest FROM hps_attempts WHERE study_id = :study GROUP BY trial_number",
            study=study_id,
        )
        saved = reader.rows(
            "SELECT trial_number, max(iteration) AS newest FROM hps_checkpoints WHERE study_id = :study GROUP BY trial_number",
            study=study_id,
        )
    return Snapshot(
        {row["trial_number"]: row["newest"] for row in begun}, {row["trial_number"]: row["newest"] for row in saved}
    )


def assert_nothing_lost(storage_url: str, study: str, total: int, *, before: Iterable[Snapshot] = ()) -> None:
    """The finished `study` has the trials 0 … total-1, each ended once, here and in Optuna's tables, with equal values.

    No attempt is open, those of one trial are numbered without a gap, never overlap, and never go back to an iteration before
    the one that they had begun from. before: snapshots taken while the study ran; no attempt that began after one of them
    began before the newest checkpoint that the trial had then. A SQLite file is sound.
    """
    with _Reader(storage_url) as reader:
        study_id = reader.study_id(study)
        ours = reader.rows(
            "SELECT number, state, ended_at, told, attempts FROM hps_trials WHERE study_id = :study ORDER BY number",
            study=study_id,
        )
        attempts = reader.rows(
            "SELECT * FROM hps_attempts WHERE study_id = :study ORDER BY trial_number, attempt", study=study_id
        )
        theirs = reader.rows(
            "SELECT t.number, t.state, t.trial_id, t.datetime_complete FROM trials t JOIN studies s ON s.study_id = t.study_id "
            "WHERE s.study_name = :study ORDER BY t.number",
            study=study,
        )
        if reader.dialect == "sqlite":
            assert reader.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
            assert reader.rows("PRAGMA foreign_key_check") == []
    assert [row["number"] for row in ours] == list(range(total)), "our trial numbers"
    assert [row["number"] for row in theirs] == list(range(total)), "Optuna's trial numbers"
    for mine, optunas in zip(ours, theirs, strict=True):
        number = mine["number"]
        assert mine["state"] in ENDED, f"trial {number} is {mine['state']}: {mine}"
        assert optunas["state"] == ENDED[mine["state"]], f"trial {number}: {mine} here, {optunas} in Optuna"
        assert mine["ended_at"] is not None, f"trial {number} has no end"
        assert optunas["datetime_complete"] is not None, f"trial {number} has no end in Optuna"
        assert mine["told"], f"trial {number} was not told"
    _assert_attempts(attempts, {row["number"]: row["attempts"] for row in ours})
    for earlier in before:
        for row in attempts:
            number = row["trial_number"]
            if row["attempt"] > earlier.attempts.get(number, 0):
                assert row["from_iteration"] >= earlier.checkpoints.get(number, 0), f"trained again from before: {row}"


def assert_one_at_a_time(study_folder: Path) -> None:
    """No trial was ever trained in two places, by what the processes that trained it logged: times and iterations only grow,
    but where one says that it starts. Lines that a death tore say nothing, nor of what was written into them."""
    logs = sorted(study_folder.glob("trials/*/log.jsonl"))
    assert logs, f"no logs in {study_folder}"
    for log in logs:
        reached, at = 0, ""
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                reached = 0
                continue
            if entry["event"] == "start":
                reached = entry["iteration"]
            iteration = entry.get("iteration", reached)  # A checkpoint that is passed over is at none.
            assert iteration >= reached, f"{log}: {entry['event']} at {iteration} after {reached}"
            assert entry["time"] >= at, f"{log}: {entry['event']} at {entry['time']} after {at}"
            reached, at = iteration, entry["time"]


def _assert_attempts(rows: list[dict[str, Any]], counted: Mapping[int, int]) -> None:
    of_trial: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_trial[row["trial_number"]].append(row)
    for number, attempts in of_trial.items():
        assert [row["attempt"] for row in attempts] == list(range(1, counted[number] + 1)), f"attempts of trial {number}"
        for row in attempts:
            assert row["ended_at"] is not None, f"open: {row}"
            assert row["outcome"], f"no outcome: {row}"
            assert row["ended_at"] >= row["started_at"], f"ended before it began: {row}"
        for earlier, later in itertools.pairwise(attempts):
            assert later["started_at"] >= earlier["ended_at"], f"in two places at once: {earlier} and {later}"
            assert later["from_iteration"] >= earlier["from_iteration"], f"went back: {earlier} and {later}"


class _Reader:
    """A connection for reading, and the rows as dictionaries."""

    def __init__(self, storage_url: str) -> None:
        self._engine = make_engine(storage_url)
        self._connection: Connection = self._engine.connect()
        self.dialect = self._engine.dialect.name

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._engine.dispose()

    def rows(self, statement: str, **values: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(text(statement), values).mappings()]

    def has(self, table: str) -> bool:
        return inspect(self._connection).has_table(table)

    def study_id(self, study: str) -> int:
        (row,) = self.rows("SELECT id FROM hps_studies WHERE name = :study", study=study)
        return int(row["id"])
