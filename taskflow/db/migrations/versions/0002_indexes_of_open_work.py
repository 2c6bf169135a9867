"""indexes by which a list of tasks and the search for cancelled runs cost the same however many rows there are"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CANCELLED = sa.text("finished_at IS NULL AND cancel_requested_at IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_tasks_owner_created", "tasks", ["owner_id", "created_at", "id"])
    op.create_index("ix_runs_cancelled", "runs", ["id"], sqlite_where=_CANCELLED, postgresql_where=_CANCELLED)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_runs_cancelled", "runs")
    op.drop_index("ix_tasks_owner_created", "tasks")
