"""The namespace of process ids that a lease's owner is in.

What stands here never changes again: it is how databases of this revision were made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("hps_studies", sa.Column("lease_namespace", sa.String(255)))


def downgrade() -> None:
    op.drop_column("hps_studies", "lease_namespace")
