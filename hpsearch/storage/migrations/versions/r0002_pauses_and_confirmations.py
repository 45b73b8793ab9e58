"""Schedulers, constraints, confirmations, and requests of people at other terminals.

What stands here never changes again: it is how databases of this revision were made.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

_TABLE: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.add_column("hps_studies", sa.Column("scheduler", sa.String(255), nullable=False, server_default="none"))
    op.add_column("hps_studies", sa.Column("extras", sa.JSON))
    op.add_column("hps_trials", sa.Column("constraints", sa.JSON))
    op.add_column("hps_trials", sa.Column("micro_batches", sa.Integer))
    op.create_table(
        "hps_confirmations",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trial_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seed", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Double),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("flops", sa.Double),
        sa.Column("at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["study_id", "trial_number"], ["hps_trials.study_id", "hps_trials.number"], ondelete="CASCADE"),
        sqlite_with_rowid=False,
        **_TABLE,
    )
    op.create_table(
        "hps_requests",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("hps_studies.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        **_TABLE,
    )


def downgrade() -> None:
    op.drop_table("hps_requests")
    op.drop_table("hps_confirmations")
    for table, column in (
        ("hps_trials", "micro_batches"),
        ("hps_trials", "constraints"),
        ("hps_studies", "extras"),
        ("hps_studies", "scheduler"),
    ):
        op.drop_column(table, column)
