"""pages of tasks by status, node and project, and of failed attempts, found by an index"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PROJECT = sa.text("project <> ''")


def upgrade() -> None:
    """Apply. Two indexes give way to longer ones, so a change of a task writes one index more, and only with a project."""
    op.drop_index("ix_tasks_owner_status", "tasks")
    op.create_index("ix_tasks_owner_status", "tasks", ["owner_id", "status", "created_at", "id"])
    op.drop_index("ix_tasks_node_id", "tasks")
    op.create_index("ix_tasks_node", "tasks", ["node_id", "owner_id", "created_at", "id"])
    op.create_index(
        "ix_tasks_project", "tasks", ["owner_id", "project", "created_at", "id"], sqlite_where=_PROJECT,
        postgresql_where=_PROJECT,
    )  # fmt: skip
    op.create_index("ix_errors_owner", "errors", ["owner_id", "id"])


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_errors_owner", "errors")
    op.drop_index("ix_tasks_project", "tasks")
    op.drop_index("ix_tasks_node", "tasks")
    op.create_index("ix_tasks_node_id", "tasks", ["node_id"])
    op.drop_index("ix_tasks_owner_status", "tasks")
    op.create_index("ix_tasks_owner_status", "tasks", ["owner_id", "status", "id"])
