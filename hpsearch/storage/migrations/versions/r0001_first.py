"""The first tables: studies with their lease, trials, attempts, points, decisions, checkpoints.

What stands here never changes again: it is how databases of this revision were made.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

# MySQL's plain TEXT ends at 64 KiB.
_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

# MySQL's default collation takes `LM` and `lm` for one name.
_TABLE: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


def _of_trial(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        _key("study_id"),
        _key("trial_number"),
        *columns,
        sa.ForeignKeyConstraint(["study_id", "trial_number"], ["hps_trials.study_id", "hps_trials.number"], ondelete="CASCADE"),
        sqlite_with_rowid=False,
        **_TABLE,
    )


def upgrade() -> None:
    op.create_table(
        "hps_studies",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("space_text", _TEXT, nullable=False),
        sa.Column("space_digest", sa.String(255), nullable=False),
        sa.Column("objectives", sa.JSON, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("data_fingerprint", sa.String(255), nullable=False),
        sa.Column("budget", sa.JSON, nullable=False),
        sa.Column("sampler", sa.String(255), nullable=False),
        sa.Column("pruner", sa.String(255), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("device", sa.String(255), nullable=False),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("folder", sa.String(255), nullable=False),
        sa.Column("trials_target", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_reason", _TEXT, nullable=False),
        sa.Column("lease_host", sa.String(255)),
        sa.Column("lease_pid", sa.BigInteger),
        sa.Column("lease_process_start", sa.Double),
        sa.Column("lease_token", sa.String(255)),
        sa.Column("lease_expires_at", sa.Double),
        sqlite_autoincrement=True,
        **_TABLE,
    )
    op.create_table(
        "hps_trials",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("hps_studies.id", ondelete="CASCADE"), primary_key=True),
        _key("number"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("proposed_by", sa.String(255), nullable=False),
        sa.Column("values", sa.JSON),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("iteration", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("flops", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("sample", _TEXT, nullable=False),
        sa.Column("num_parameters", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Index("hps_trials_by_state", "study_id", "state"),
        **_TABLE,
    )
    _of_trial(
        "hps_attempts",
        _key("attempt"),
        sa.Column("slot", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("from_iteration", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.String(255), nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
    )
    _of_trial(
        "hps_points",
        _key("rung"),
        sa.Column("iteration", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("flops", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("train_loss", sa.Double),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("learning_rate", sa.Double),
        sa.Column("grad_norm", sa.Double),
        sa.Column("tokens_per_s", sa.Double),
    )
    _of_trial(
        "hps_decisions",
        _key("rung"),
        sa.Column("action", sa.String(16), primary_key=True),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("decided_by", sa.String(255), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    _of_trial(
        "hps_checkpoints",
        sa.Column("iteration", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for name in ("hps_checkpoints", "hps_decisions", "hps_points", "hps_attempts", "hps_trials", "hps_studies"):
        op.drop_table(name)
