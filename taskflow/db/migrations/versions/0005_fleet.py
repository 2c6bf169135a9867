"""nodes on other machines: how far their boot is, tokens that are renewed, re-runs, projects and quotas, sweeps' back-off"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ZERO = sa.text("0")
_COLUMNS: tuple[tuple[str, sa.Column[Any]], ...] = (
    ("nodes", sa.Column("boot_stage", sa.String(32), nullable=True)),
    ("nodes", sa.Column("boot_stage_at", sa.Double(), nullable=True)),
    ("nodes", sa.Column("kept", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("tokens", sa.Column("generation", sa.Integer(), nullable=False, server_default=_ZERO)),
    ("tasks", sa.Column("project", sa.String(64), nullable=False, server_default=sa.text("''"))),
    ("tasks", sa.Column("node_loss_reruns_max", sa.Integer(), nullable=False, server_default=_ZERO)),
    ("tasks", sa.Column("node_loss_reruns", sa.Integer(), nullable=False, server_default=_ZERO)),
)


def upgrade() -> None:
    """Apply."""
    for table, column in _COLUMNS:
        op.add_column(table, column)
    op.create_table(
        "quotas",
        sa.Column("owner_id", sa.String(64), nullable=False),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("nodes_max", sa.Integer(), nullable=True),
        sa.Column("running_tasks_max", sa.Integer(), nullable=True),
        sa.Column("node_workspaces_max", sa.Integer(), nullable=True),
        sa.Column("vcpu_hours_max", sa.Double(), nullable=True),
        sa.Column("budget", sa.Double(), nullable=True),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_quotas_owner_id"),
        sa.PrimaryKeyConstraint("owner_id", "project", name="pk_quotas"),
    )
    op.create_table(
        "sweep_backoffs",
        sa.Column("sweep", sa.String(64), nullable=False),
        sa.Column("item", sa.String(200), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sweep", "item", name="pk_sweep_backoffs"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("sweep_backoffs")
    op.drop_table("quotas")
    for table, column in reversed(_COLUMNS):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column.name)
