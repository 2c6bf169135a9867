"""runs of pipelines of one's own about a subject, found by an index"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NAMED = sa.text("subject IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_own_runs_subject",
        "own_runs",
        ["owner_id", "subject", "run_id"],
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_own_runs_subject", "own_runs")
