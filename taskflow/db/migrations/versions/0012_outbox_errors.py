"""promises say whom they are for, and why they failed last"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What is open already is given its owner."""
    op.add_column("outbox", sa.Column("owner_id", sa.String(64), nullable=True))
    op.add_column("outbox", sa.Column("error", sa.JSON(), nullable=True))
    outbox = sa.table(
        "outbox", sa.column("kind"), sa.column("payload", sa.JSON()), sa.column("done_at"), sa.column("owner_id")
    )
    tasks = sa.table("tasks", sa.column("id"), sa.column("owner_id"))
    of_task = sa.select(tasks.c.owner_id).where(tasks.c.id == outbox.c.payload["task_id"].as_string())
    for kind, owner_id in (
        ("rerun_task", of_task.scalar_subquery()), ("limits_changed", outbox.c.payload["owner_id"].as_string()),
    ):  # fmt: skip
        of_kind = sa.and_(outbox.c.kind == kind, outbox.c.done_at.is_(None))
        op.execute(sa.update(outbox).where(of_kind).values(owner_id=owner_id))


def downgrade() -> None:
    """Take back."""
    op.drop_column("outbox", "error")
    op.drop_column("outbox", "owner_id")
