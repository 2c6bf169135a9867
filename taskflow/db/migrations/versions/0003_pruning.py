"""what ended long ago is found by an index, and remembered once what belonged to it is deleted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TO_PRUNE = sa.text("finished_at IS NOT NULL AND pruned_at IS NULL")
_DONE = sa.text("done_at IS NOT NULL")
_ENDED = sa.text("completed_at IS NOT NULL")
_DESTROYED = sa.text("destroyed_at IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.add_column("runs", sa.Column("pruned_at", sa.Double(), nullable=True))
    op.create_index("ix_runs_to_prune", "runs", ["finished_at"], sqlite_where=_TO_PRUNE, postgresql_where=_TO_PRUNE)
    op.create_index("ix_outbox_done", "outbox", ["done_at"], sqlite_where=_DONE, postgresql_where=_DONE)
    op.create_index("ix_tasks_ended", "tasks", ["completed_at"], sqlite_where=_ENDED, postgresql_where=_ENDED)
    op.create_index(
        "ix_nodes_destroyed", "nodes", ["destroyed_at"], sqlite_where=_DESTROYED, postgresql_where=_DESTROYED
    )
    op.create_index("ix_workspaces_node", "workspaces", ["node_id"])
    op.create_index("ix_idempotency_keys_task", "idempotency_keys", ["task_id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_idempotency_keys_task", "idempotency_keys")
    op.drop_index("ix_workspaces_node", "workspaces")
    op.drop_index("ix_nodes_destroyed", "nodes")
    op.drop_index("ix_tasks_ended", "tasks")
    op.drop_index("ix_outbox_done", "outbox")
    op.drop_index("ix_runs_to_prune", "runs")
    op.drop_column("runs", "pruned_at")
