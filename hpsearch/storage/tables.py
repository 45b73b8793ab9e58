"""Our tables, beside Optuna's in the same database. Their names start with `hps_`; column names are the records' fields.

The statements that make them are the migrations; `REVISION` is the one that these tables are at. A primary key starts with
the study and the trial, so that the reads of one trial or one study need no other index.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.types import TypeEngine

from hpsearch.errors import BadInput
from hpsearch.storage.records import BudgetRecord, EndReason, PauseKind, TrialState
from hpsearch.text import storable

REVISION = "0004"
VERSION_TABLE = "hps_alembic_version"  # Optuna's is `alembic_version`

metadata = MetaData()


def _finite(value: float | None) -> float | None:
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:  # A whole number beyond every float.
        return None


class Measured(TypeDecorator[float]):
    """A float that may be no number. MySQL stores neither NaN nor infinity, SQLite no NaN: both read as NaN everywhere."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        finite = _finite(value)
        return None if finite is None else float(finite)  # MySQL cuts a whole number of more than 65 digits.

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        return math.nan if value is None else value


class Metrics(TypeDecorator[dict[str, float]]):
    """Floats by name. JSON has no NaN: not finite is null, and reads as NaN."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[str, float] | None, dialect: Dialect) -> Any:
        return {storable(name): _finite(number) for name, number in (value or {}).items()}

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, float]:
        return {storable(name): math.nan if number is None else number for name, number in (value or {}).items()}


class Items(TypeDecorator[tuple[Any, ...]]):
    """A tuple, or NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> Any:
        return None if value is None else [_finite(item) if isinstance(item, float) else item for item in value]

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...] | None:
        return None if value is None else tuple(math.nan if item is None else item for item in value)


class Extras(TypeDecorator[dict[str, Any]]):
    """A JSON object; NULL, as in rows older than the column, is an empty one."""

    impl = JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any]:
        return value or {}


class Budget(TypeDecorator[BudgetRecord]):
    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: BudgetRecord | None, dialect: Dialect) -> Any:
        return None if value is None else dataclasses.asdict(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> BudgetRecord:
        return BudgetRecord(**value)


class State(TypeDecorator[TrialState]):
    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: TrialState | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrialState | None:
        return None if value is None else TrialState(value)


class Word(TypeDecorator[enum.StrEnum]):
    """A member of an enumeration, or NULL."""

    impl = String(32)
    cache_ok = True

    def __init__(self, kind: type[enum.StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: enum.StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> enum.StrEnum | None:
        return None if value is None else self.kind(value)


class Prose(TypeDecorator[str]):
    """Any text. A model writes what it likes: PostgreSQL takes no NUL character, and no database half a surrogate pair."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Line(TypeDecorator[str]):
    """A text of at most `length` characters, of which servers take no more: the rest of a longer one is left out."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)[: self.length]


class Name(Line):
    """What a row is looked up by: never cut, as a longer text is another name."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Whole(TypeDecorator[int]):
    """A whole number that a column of so many bits has, on every database. Raises BadInput for another one."""

    impl: type[TypeEngine[int]] | TypeEngine[int] = BigInteger
    cache_ok = True

    def __init__(self, bits: int = 64) -> None:
        super().__init__()
        self.bits = bits
        if bits == 32:
            self.impl = Integer()

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is not None and not -(2 ** (self.bits - 1)) <= value < 2 ** (self.bits - 1):
            told = str(value) if abs(value) < 10**30 else f"of {len(f'{abs(value):x}') * 4} bits"
            raise BadInput(f"the whole number {told} cannot be stored: a database holds {self.bits} bits")
        return value


studies = Table(
    "hps_studies",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", Name(128), nullable=False, unique=True),
    Column("space_text", Prose, nullable=False),
    Column("space_digest", Line(255), nullable=False),
    Column("objectives", Items, nullable=False),
    Column("data", JSON, nullable=False),
    Column("data_fingerprint", Line(255), nullable=False),
    Column("budget", Budget, nullable=False),
    Column("sampler", Line(255), nullable=False),
    Column("pruner", Line(255), nullable=False),
    Column("seed", Whole(), nullable=False),
    Column("versions", JSON, nullable=False),
    Column("host", Line(255), nullable=False),
    Column("device", Line(255), nullable=False),
    Column("threads", Whole(32), nullable=False),
    Column("folder", Line(255), nullable=False),
    Column("trials_target", Whole(32), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finished_reason", Prose, nullable=False),
    Column("scheduler", Line(255), nullable=False),
    Column("extras", Extras),
    # The lease. In the study's row, because the lock on that row is what orders a coordinator's writes and a take-over.
    Column("lease_host", Line(255)),
    Column("lease_pid", Whole()),
    Column("lease_process_start", Double),
    Column("lease_namespace", Line(255)),
    Column("lease_token", Line(255)),
    Column("lease_expires_at", Double),
    sqlite_autoincrement=True,  # the id of a deleted study must not come again: its folder may still be there
)

trials = Table(
    "hps_trials",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", State, nullable=False),
    Column("params", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("proposed_by", Line(255), nullable=False),
    Column("values", Items),
    Column("metrics", Metrics, nullable=False),
    Column("rung", Whole(32), nullable=False),
    Column("iteration", Whole(), nullable=False),
    Column("tokens", Whole(), nullable=False),
    Column("flops", Measured),
    Column("seconds", Measured),
    Column("reason", Prose, nullable=False),
    Column("attempts", Whole(32), nullable=False),
    Column("sample", Prose, nullable=False),
    Column("num_parameters", Whole(), nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("constraints", Metrics),
    Column("micro_batches", Whole(32)),
    Column("told", Boolean, nullable=False),
    Column("end_reason", Word(EndReason)),
    Column("pause_kind", Word(PauseKind)),
    Index("hps_trials_by_state", "study_id", "state"),
)


def _of_trial(name: str, *columns: Column[Any]) -> Table:
    """A table of rows that belong to a trial."""
    return Table(
        name,
        metadata,
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("trial_number", Integer, primary_key=True, autoincrement=False),
        *columns,
        ForeignKeyConstraint(["study_id", "trial_number"], [trials.c.study_id, trials.c.number], ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )


attempts = _of_trial(
    "hps_attempts",
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("slot", Line(255), nullable=False),
    Column("host", Line(255), nullable=False),
    Column("pid", Whole(), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("from_iteration", Whole(), nullable=False),
    Column("ended_at", Double),
    Column("outcome", Line(255), nullable=False),
    Column("reason", Prose, nullable=False),
)

points = _of_trial(
    "hps_points",
    Column("rung", Whole(32), primary_key=True, autoincrement=False),
    Column("iteration", Whole(), nullable=False),
    Column("tokens", Whole(), nullable=False),
    Column("flops", Measured),
    Column("seconds", Measured),
    Column("train_loss", Measured),
    Column("metrics", Metrics, nullable=False),
    Column("learning_rate", Measured),
    Column("grad_norm", Measured),
    Column("tokens_per_s", Measured),
)

decisions = _of_trial(
    "hps_decisions",
    Column("rung", Whole(32), primary_key=True, autoincrement=False),
    Column("action", Line(16), primary_key=True),
    Column("reason", Prose, nullable=False),
    Column("decided_by", Line(255), nullable=False),
    Column("at", Double, nullable=False),
)

confirmations = _of_trial(
    "hps_confirmations",
    Column("seed", Whole(), primary_key=True, autoincrement=False),
    Column("value", Measured),
    Column("metrics", Metrics, nullable=False),
    Column("seconds", Measured),
    Column("flops", Measured),
    Column("at", Double, nullable=False),
)

requests = Table(
    "hps_requests",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study_id", Integer, ForeignKey(studies.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Line(16), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("at", Double, nullable=False),
)

checkpoints = _of_trial(
    "hps_checkpoints",
    Column("iteration", Whole(), primary_key=True, autoincrement=False),
    Column("path", Prose, nullable=False),
    Column("sha256", Line(64), nullable=False),
    Column("size", Whole(), nullable=False),
)
